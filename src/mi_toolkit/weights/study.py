"""One run: score by several metrics, list the top weights, test them, check their stability.

Scoring and testing texts are two halves that share no text. Each step is a part of the run's
folder, which a later run takes if it was made with the same settings; where no folder is given, of
one that is gone afterwards. The folder's manifest is an allow-list: settings, versions and digests
of weights and texts, nothing about the user or the machine.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mi_toolkit.core.io import atomic_write
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.provenance import installed_versions
from mi_toolkit.core.resumable import ResumableFolder
from mi_toolkit.core.stimuli import evaluation_passages, halves, text_digest
from mi_toolkit.core.tables import joined, read_parquet, table_of, write_parquet
from mi_toolkit.heads.classify import heads_named
from mi_toolkit.models.describe import model_identity
from mi_toolkit.models.memory_use import n_parameters
from mi_toolkit.weights.evaluate_scores import CONTROLS, perturbation_test
from mi_toolkit.weights.fidelity import score_fidelity
from mi_toolkit.weights.parameters import select, weight_matrices
from mi_toolkit.weights.score import check_in_parts, groups_of, score_weights, scores_in
from mi_toolkit.weights.stability import ranking_stability
from mi_toolkit.weights.weight_scores import WeightScores

if TYPE_CHECKING:
    from mi_toolkit.core.tables import DataFrame


FORMAT, KIND = "mi_toolkit sensitivity run 2", "sensitivity run"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a run does."""

    metrics: tuple[str, ...] = ("grad_x_weight",)
    topk: tuple[int, ...] = (100,)
    per: str = "model"
    layers: tuple[int, ...] | None = None
    components: tuple[str, ...] | None = None
    heads: tuple[str, ...] | None = None
    """Only what these heads own: names, or `label:induction`; None for all."""
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


@dataclass
class _Steps:
    """The steps of one run on one model, each a part of its folder."""

    model: HookedModel
    settings: Settings
    kept: ResumableFolder
    scoring: list[str]
    held_out: list[str]
    progress: bool | None

    def __post_init__(self) -> None:
        self.reused: list[str] = []
        self.scope = _chosen(self.settings, "layers", "components")
        if self.settings.heads is not None:
            self.scope["heads"] = list(map(str, heads_named(self.model, self.settings.heads)))
        self.reading = _chosen(self.settings, "batch_size", "max_length")
        self.of_texts = {**self.reading, "eval_limit": self.settings.eval_limit}

    def scores(self, metric: str) -> WeightScores:
        """Of one metric, all at once or a few blocks at a time."""
        blocks_at_once = self.settings.blocks_at_once
        if blocks_at_once is None:
            file = f"scores_{metric}.safetensors"
            self._score(f"scores of {metric}", file, metric, self.scope)
            return WeightScores.load(self.kept.path / file)
        check_in_parts(metric)
        files = []
        places = select(weight_matrices(self.model), **self.scope)
        for label, parameters in groups_of(places, blocks_at_once).items():
            file = f"scores_{metric}_{label}.safetensors"
            scope = {
                "parameters": parameters,
                **{k: v for k, v in self.scope.items() if k == "heads"},
            }
            self._score(f"scores of {metric}, {label}", file, metric, scope)
            files.append(self.kept.path / file)
        return scores_in(files)

    def _score(self, name: str, file: str, metric: str, scope: Mapping[str, Any]) -> None:
        settings = {**scope, **self.of_texts}
        if not self._has(name, settings):
            scores = score_weights(
                self.model, self.scoring, metric, progress=self.progress, **settings
            )
            scores.save(self.kept.path / file)
            self.kept.enter(name, settings, [file])

    def top(self, scores: WeightScores, k: int) -> DataFrame:
        """The `k` highest of one metric."""
        per, file = self.settings.per, f"top_weights_{scores.metric}_{k}"
        make = partial(scores.top, k, per, model=self.model)
        (table,) = self._tables(file, {"per": per}, [file], lambda: (make(),))
        return table

    def perturbation(self, scores: Mapping[str, WeightScores]) -> tuple[DataFrame, ...]:
        """Every changed set, and the top's effect next to the controls'."""
        chosen = self.settings
        tested = ("perturb", "perturb_scale", "controls", "ratios", "n_random", "fast", "topk")

        def make() -> tuple[DataFrame, ...]:
            tests = [
                perturbation_test(
                    self.model,
                    each,
                    self.held_out,
                    kinds=chosen.perturb,
                    k=doses_of(chosen.ratios, each.size) if chosen.ratios else chosen.topk,
                    controls=chosen.controls,
                    n_random=min(5, chosen.n_random) if chosen.fast else chosen.n_random,
                    scale=chosen.perturb_scale,
                    eval_limit=self._at_most(FAST_TEXTS) if chosen.fast else chosen.eval_limit,
                    progress=self.progress,
                    **self.reading,
                )
                for each in scores.values()
            ]
            return joined(t.to_pandas() for t in tests), joined(t.summary() for t in tests)

        settings = {**_chosen(chosen, *tested), "metrics": list(scores)}
        return self._tables("perturbation", settings, ["perturbation", "effects"], make)

    def fidelity(self, scores: Mapping[str, WeightScores]) -> tuple[DataFrame, ...]:
        """Single weights removed one by one, and what that says about each metric."""
        n = self.settings.fidelity

        def make() -> tuple[DataFrame, ...]:
            found = [
                score_fidelity(
                    self.model,
                    each,
                    self.held_out,
                    n=n,
                    eval_limit=self._at_most(FAST_TEXTS),
                    progress=self.progress,
                    **self.reading,
                )
                for each in scores.values()
            ]
            return joined(f.to_pandas() for f in found), table_of(f.summary() for f in found)

        settings = {"metrics": list(scores), "n": n}
        return self._tables("fidelity", settings, ["fidelity", "trust"], make)

    def stability(self) -> DataFrame:
        """Agreement of rankings over resampled texts and over metrics."""
        chosen = self.settings

        def make() -> tuple[DataFrame, ...]:
            found = ranking_stability(
                self.model,
                self.scoring,
                metrics=chosen.metrics,
                k=chosen.topk,
                seeds=chosen.seeds,
                blocks_at_once=chosen.blocks_at_once,
                progress=self.progress,
                **self.scope,
                **self.of_texts,
            )
            return (found.to_pandas(),)

        settings = _chosen(chosen, "metrics", "topk", "seeds")
        (table,) = self._tables("stability", settings, ["stability"], make)
        return table

    def _at_most(self, n_texts: int) -> int:
        return min(n_texts, self.settings.eval_limit or n_texts)

    def _tables(
        self,
        name: str,
        settings: Mapping[str, Any],
        files: Sequence[str],
        make: Callable[[], tuple[DataFrame, ...]],
    ) -> tuple[DataFrame, ...]:
        """The tables of one part: read back where they are there, else made and written."""
        settings = {**self.scope, **self.of_texts, **settings}
        if self._has(name, settings):
            return tuple(read_parquet(self.kept.path / f"{file}.parquet") for file in files)
        tables = make()
        for file, table in zip(files, tables, strict=True):
            with atomic_write(self.kept.path / f"{file}.csv") as draft:
                table.to_csv(draft, index=False)
            write_parquet(table, self.kept.path / f"{file}.parquet")
        written = [f"{file}.{kind}" for file in files for kind in ("csv", "parquet")]
        self.kept.enter(name, settings, written)
        return tables

    def _has(self, name: str, settings: Mapping[str, Any]) -> bool:
        done = self.kept.has(name, settings)
        if done:
            self.reused.append(name)
        return done


def _chosen(settings: Settings, *names: str) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in names}


def doses_of(ratios: Sequence[float], size: int) -> list[int]:
    """Numbers of weights for shares of all that are scored, at least one each.

    >>> doses_of([0.5, 0.0001], 1000)
    [1, 500]
    """
    return sorted({max(1, round(ratio * size)) for ratio in ratios})


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

    of_heads: tuple[str, ...]
    """The heads whose weights alone were scored; empty for all."""

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
        ReportError: the folder holds something else, or a run on another model or other texts.
    """
    scoring, held_out = halves(evaluation_passages(model) if texts is None else list(texts))
    identity = model_identity(model)
    about = {
        "model": identity.pop("name"),
        **identity,
        "n_layers": int(model.cfg.n_layers),
        "n_parameters": n_parameters(model),
        "texts": {
            name: {"n": len(half), "sha256": text_digest(half)}
            for name, half in (("scoring", scoring), ("held_out", held_out))
        },
        "versions": installed_versions(),
    }
    with tempfile.TemporaryDirectory() as scratch:
        kept = ResumableFolder(folder or scratch, about, format=FORMAT, kind=KIND)
        steps = _Steps(model, settings, kept, scoring, held_out, progress)
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
            of_heads=tuple(steps.scope.get("heads", ())),
            reused=tuple(steps.reused),
        )
