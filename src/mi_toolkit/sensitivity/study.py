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

from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.prompts.evaluation import evaluation_passages, halves, text_digest
from mi_toolkit.provenance import installed_versions
from mi_toolkit.sensitivity.perturbation_test import CONTROLS, perturbation_test
from mi_toolkit.sensitivity.run_folder import RunFolder, doses_of, table_writers
from mi_toolkit.sensitivity.score import score_weights
from mi_toolkit.sensitivity.stability import ranking_stability
from mi_toolkit.sensitivity.weight_scores import WeightScores
from mi_toolkit.tables import joined, read_table

if TYPE_CHECKING:
    from pandas import DataFrame

FAST_TEXTS = 8
"""Texts of a fast perturbation test: of its baseline, too."""


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
    seeds: tuple[int, ...] = ()
    """Resampled sets of texts for stability; none: no stability over data."""


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
    """Per metric, kind and k: the top's effect beside the controls'."""

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
        steps = _Steps(model, settings, run, scoring, held_out, progress)
        scores = {metric: steps.scores(metric) for metric in settings.metrics}
        top = {
            (metric, k): steps.top(scores[metric], k)
            for metric in settings.metrics
            for k in settings.topk
        }
        layers = joined([each.by_layer() for each in scores.values()])
        has_heads = any(place.unit == "head" for each in scores.values() for place in each.places)
        heads = joined([each.by_head() for each in scores.values()]) if has_heads else None
        perturbation = effects = None
        if perturbing:
            perturbation, effects = steps.perturbation(scores)
        stable = len(settings.seeds) > 1
        return Study(
            top=top,
            layers=layers,
            heads=heads,
            perturbation=perturbation,
            effects=effects,
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
        "n_parameters": sum(parameter.numel() for parameter in whole.parameters()),
        "texts": {
            "scoring": {"n": len(scoring), "sha256": text_digest(scoring)},
            "held_out": {"n": len(held_out), "sha256": text_digest(held_out)},
        },
        "versions": installed_versions(),
    }


class _Steps:
    """The steps of one run, each done or read back."""

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
        name, file = f"scores of {metric}", f"scores_{metric}.safetensors"
        if self._done(name, self.scope):
            return WeightScores.load(self.run.path / file, self.model)
        scores = score_weights(self.model, list(self.scoring), metric, **self.scope)
        self.run.put(name, self.scope, {file: scores.save})
        return scores

    def top(self, scores: WeightScores, k: int) -> DataFrame:
        file = f"top_weights_{scores.metric}_{k}"
        settings = {**self.scope, "per": self.settings.per}
        if self._done(file, settings):
            return read_table(self.run.path / f"{file}.parquet")
        table = scores.top(k, self.settings.per)
        self.run.put(file, settings, table_writers(file, table))
        return table

    def perturbation(self, scores: Mapping[str, WeightScores]) -> tuple[DataFrame, DataFrame]:
        settings = {**self.scope, **self.test, "metrics": list(scores)}
        path = self.run.path
        if self._done("perturbation", settings):
            return read_table(path / "perturbation.parquet"), read_table(path / "effects.parquet")
        chosen = self.settings
        limit = (
            min(FAST_TEXTS, chosen.eval_limit or FAST_TEXTS) if chosen.fast else chosen.eval_limit
        )
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
                eval_limit=limit,
                progress=self.progress,
            )
            for each in scores.values()
        ]
        table = joined([test.to_pandas() for test in tests])
        effects = joined([test.summary() for test in tests])
        files = {**table_writers("perturbation", table), **table_writers("effects", effects)}
        self.run.put("perturbation", settings, files)
        return table, effects

    def stability(self) -> DataFrame:
        chosen = self.settings
        settings = {**self.scope, "metrics": chosen.metrics, "topk": chosen.topk}
        settings["seeds"] = chosen.seeds
        if self._done("stability", settings):
            return read_table(self.run.path / "stability.parquet")
        table = ranking_stability(
            self.model,
            list(self.scoring),
            metrics=chosen.metrics,
            k=chosen.topk,
            seeds=chosen.seeds,
            **self.scope,
        ).to_pandas()
        self.run.put("stability", settings, table_writers("stability", table))
        return table

    def _done(self, name: str, settings: Mapping[str, Any]) -> bool:
        done = self.run.has(name, settings)
        if done:
            self.reused.append(name)
        return done
