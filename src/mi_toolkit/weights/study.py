"""One run: score by several metrics, list the top weights, test them, check their stability.

Scoring and testing texts are two halves that share no text. Each step is a part of a `RunFolder`;
where no folder is given, of one that is gone afterwards.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mi_toolkit.core.evaluation import evaluation_passages, halves, text_digest
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.provenance import installed_versions
from mi_toolkit.core.tables import joined, read_parquet, table_of
from mi_toolkit.weights.evaluate_scores import CONTROLS, perturbation_test
from mi_toolkit.weights.fidelity import score_fidelity
from mi_toolkit.weights.parameters import select, weight_matrices
from mi_toolkit.weights.run_folder import RunFolder, doses_of, table_writers
from mi_toolkit.weights.score import check_in_parts, groups_of, score_weights, scores_in
from mi_toolkit.weights.stability import ranking_stability
from mi_toolkit.weights.weight_scores import WeightScores

if TYPE_CHECKING:
    from mi_toolkit.core.tables import DataFrame


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a run does. Everything in it is in the manifest."""

    metrics: tuple[str, ...] = ("grad_x_weight",)
    topk: tuple[int, ...] = (100,)
    per: str = "model"
    layers: tuple[int, ...] | None = None
    components: tuple[str, ...] | None = None
    batch_size: int = 8
    max_length: int | None = None
    eval_limit: int | None = None
    perturb: tuple[str, ...] = ("zero",)
    perturb_scale: float = 1.0
    controls: tuple[str, ...] = CONTROLS
    ratios: tuple[float, ...] = ()
    """Doses as shares of all scored weights; without them the doses are `topk`."""
    n_random: int = 20
    fast: bool = False
    """Whether to test on 8 texts and with 5 random draws."""
    fidelity: int = 40
    """Single weights that are removed one by one; 0 for none."""
    seeds: tuple[int, ...] = ()
    """Resampled sets of texts for stability; none: no stability over data."""
    blocks_at_once: int | None = None
    """Blocks whose gradients are held together; None for all. It changes figures by rounding
    only."""


FAST_TEXTS = 8
"""Texts of a fast perturbation test, of its baseline, too; and of the removals one by one."""


class Steps:
    """The steps of one run on one model."""

    def __init__(
        self,
        model: HookedModel,
        settings: Settings,
        run: RunFolder,
        scoring: Sequence[str],
        held_out: Sequence[str],
        progress: bool | None,
    ) -> None:
        self.model, self.settings, self.run = model, settings, run
        self.scoring, self.held_out, self.progress = scoring, held_out, progress
        self.reused: list[str] = []
        chosen = asdict(settings)
        names = ("layers", "components", "batch_size", "max_length", "eval_limit")
        self.scope: dict[str, Any] = {name: chosen[name] for name in names}
        tested = ("perturb", "perturb_scale", "controls", "ratios", "n_random", "fast", "topk")
        self.test: dict[str, Any] = {name: chosen[name] for name in tested}

    def scores(self, metric: str) -> WeightScores:
        """Of one metric, all at once or a few blocks at a time."""
        if self.settings.blocks_at_once is not None:
            return self._blockwise(metric, self.settings.blocks_at_once)
        name, file = f"scores of {metric}", f"scores_{metric}.safetensors"
        if self._done(name, self.scope):
            return WeightScores.load(self.run.path / file, self.model)
        scores = score_weights(self.model, list(self.scoring), metric, **self.scope)
        self.run.put(name, self.scope, {file: scores.save})
        return scores

    def _blockwise(self, metric: str, blocks_at_once: int) -> WeightScores:
        check_in_parts(metric)
        of_texts = {n: self.scope[n] for n in ("batch_size", "max_length", "eval_limit")}
        scope = {name: self.scope[name] for name in ("layers", "components")}
        files = []
        places = select(weight_matrices(self.model), **scope)
        for label, parameters in groups_of(places, blocks_at_once).items():
            name, file = f"scores of {metric}, {label}", f"scores_{metric}_{label}.safetensors"
            files.append(self.run.path / file)
            settings = {**of_texts, "parameters": parameters}
            if not self._done(name, settings):
                part = score_weights(self.model, list(self.scoring), metric, **settings)
                self.run.put(name, settings, {file: part.save})
        return scores_in(files, self.model)

    def top(self, scores: WeightScores, k: int) -> DataFrame:
        """The `k` highest of one metric."""
        file = f"top_weights_{scores.metric}_{k}"
        settings = {**self.scope, "per": self.settings.per}
        if self._done(file, settings):
            return read_parquet(self.run.path / f"{file}.parquet")
        table = scores.top(k, self.settings.per)
        self.run.put(file, settings, table_writers(file, table))
        return table

    def perturbation(self, scores: Mapping[str, WeightScores]) -> tuple[DataFrame, DataFrame]:
        """Every changed set, and the top's effect next to the controls'."""
        settings = {**self.scope, **self.test, "metrics": list(scores)}
        path = self.run.path
        if self._done("perturbation", settings):
            return read_parquet(path / "perturbation.parquet"), read_parquet(
                path / "effects.parquet"
            )
        chosen = self.settings
        tests = [
            perturbation_test(
                self.model,
                each,
                list(self.held_out),
                kinds=chosen.perturb,
                k=doses_of(chosen.ratios, each.size) if chosen.ratios else chosen.topk,
                controls=chosen.controls,
                n_random=min(5, chosen.n_random) if chosen.fast else chosen.n_random,
                scale=chosen.perturb_scale,
                batch_size=chosen.batch_size,
                max_length=chosen.max_length,
                eval_limit=self._at_most(FAST_TEXTS) if chosen.fast else chosen.eval_limit,
                progress=self.progress,
            )
            for each in scores.values()
        ]
        table = joined([test.to_pandas() for test in tests])
        effects = joined([test.summary() for test in tests])
        files = {**table_writers("perturbation", table), **table_writers("effects", effects)}
        self.run.put("perturbation", settings, files)
        return table, effects

    def fidelity(self, scores: Mapping[str, WeightScores]) -> tuple[DataFrame, DataFrame]:
        """Single weights removed one by one, and what that says about each metric."""
        chosen, path = self.settings, self.run.path
        settings = {**self.scope, "metrics": list(scores), "n": chosen.fidelity}
        if self._done("fidelity", settings):
            return read_parquet(path / "fidelity.parquet"), read_parquet(path / "trust.parquet")
        found = [
            score_fidelity(
                self.model,
                each,
                list(self.held_out),
                n=chosen.fidelity,
                batch_size=chosen.batch_size,
                max_length=chosen.max_length,
                eval_limit=self._at_most(FAST_TEXTS),
                progress=self.progress,
            )
            for each in scores.values()
        ]
        removed = joined([each.to_pandas() for each in found])
        trust = table_of([each.summary() for each in found])
        files = {**table_writers("fidelity", removed), **table_writers("trust", trust)}
        self.run.put("fidelity", settings, files)
        return removed, trust

    def _at_most(self, n_texts: int) -> int:
        return min(n_texts, self.settings.eval_limit or n_texts)

    def stability(self) -> DataFrame:
        """Agreement of rankings over resampled texts and over metrics."""
        chosen = self.settings
        settings = {**self.scope, "metrics": chosen.metrics, "topk": chosen.topk}
        settings["seeds"] = chosen.seeds
        if self._done("stability", settings):
            return read_parquet(self.run.path / "stability.parquet")
        table = ranking_stability(
            self.model,
            list(self.scoring),
            metrics=chosen.metrics,
            k=chosen.topk,
            seeds=chosen.seeds,
            blocks_at_once=chosen.blocks_at_once,
            **self.scope,
        ).to_pandas()
        self.run.put("stability", settings, table_writers("stability", table))
        return table

    def _done(self, name: str, settings: Mapping[str, Any]) -> bool:
        done = self.run.has(name, settings)
        if done:
            self.reused.append(name)
        return done


@dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """The tables of a run."""

    top: Mapping[tuple[str, int], DataFrame]
    """Per metric and k: the top weights."""

    layers: DataFrame
    """Per metric and parameter: sums and shares."""

    heads: DataFrame | None
    """Per metric and head; None where no attention was scored."""

    perturbation: DataFrame | None
    """Every changed set, None without a test."""

    effects: DataFrame | None
    """Per metric, kind and k: the top's effect next to the controls'."""

    fidelity: DataFrame | None
    """Every weight that was removed alone: its score and what its removal did."""

    trust: DataFrame | None
    """Per metric: how far the score orders weights as their removal does."""

    stability: DataFrame | None
    """Agreement of rankings, None where it was not asked for."""

    reused: tuple[str, ...]
    """Parts that were there already."""


def run_study(
    model: HookedModel,
    settings: Settings,
    *,
    texts: Sequence[str] | None = None,
    folder: Path | None = None,
    perturbing: bool = True,
    progress: bool | None = None,
) -> Study:
    """Run what is not done yet and give all of it.

    Args:
        model: any hooked model.
        settings: what to do.
        texts: texts to be split into a scoring and a testing half; None for the bundled ones.
        folder: where the parts are kept; None for nowhere.
        perturbing: whether to test the top weights.
        progress: show a bar; None where somebody looks.

    Raises:
        PromptError: no text, or one text, which cannot be split.
        WeightError, UnknownNameError: as the steps do.
        ReportError: the folder holds something else.
    """
    scoring, held_out = halves(evaluation_passages() if texts is None else list(texts))
    with tempfile.TemporaryDirectory() as scratch:
        run = RunFolder(
            Path(scratch) if folder is None else folder, about(model, scoring, held_out)
        )
        steps = Steps(model, settings, run, scoring, held_out, progress)
        scores = {metric: steps.scores(metric) for metric in settings.metrics}
        top = {
            (metric, k): steps.top(scores[metric], k)
            for metric in settings.metrics
            for k in settings.topk
        }
        layers = joined([each.by_layer() for each in scores.values()])
        has_heads = any(place.unit == "head" for each in scores.values() for place in each.places)
        heads = joined([each.by_head() for each in scores.values()]) if has_heads else None
        perturbation = effects = fidelity = trust = None
        if perturbing:
            perturbation, effects = steps.perturbation(scores)
        if perturbing and settings.fidelity:
            fidelity, trust = steps.fidelity(scores)
        stable = len(settings.seeds) > 1
        return Study(
            top=top,
            layers=layers,
            heads=heads,
            perturbation=perturbation,
            effects=effects,
            fidelity=fidelity,
            trust=trust,
            stability=steps.stability() if stable else None,
            reused=tuple(steps.reused),
        )


def about(model: HookedModel, scoring: Sequence[str], held_out: Sequence[str]) -> dict[str, Any]:
    """What every part of a run rests on: an allow-list."""
    whole: Any = model
    return {
        "model": str(model.cfg.model_name),
        "revision": getattr(model.cfg, "revision", None),
        "backend": type(model).__name__,
        "dtype": str(next(whole.parameters()).dtype).removeprefix("torch."),
        "n_layers": int(model.cfg.n_layers),
        "n_parameters": sum(parameter.numel() for parameter in whole.parameters()),
        "texts": {
            "scoring": {"n": len(scoring), "sha256": text_digest(scoring)},
            "held_out": {"n": len(held_out), "sha256": text_digest(held_out)},
        },
        "versions": installed_versions(),
    }
