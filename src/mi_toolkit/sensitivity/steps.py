"""The steps of a sensitivity run, each done or read back from the run's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.sensitivity.blockwise import check_in_parts, groups_of, scores_in
from mi_toolkit.sensitivity.fidelity import score_fidelity
from mi_toolkit.sensitivity.parameters import weight_matrices
from mi_toolkit.sensitivity.perturbation_test import perturbation_test
from mi_toolkit.sensitivity.run_folder import RunFolder, doses_of, table_writers
from mi_toolkit.sensitivity.scope import select
from mi_toolkit.sensitivity.score import score_weights
from mi_toolkit.sensitivity.settings import Settings
from mi_toolkit.sensitivity.stability import ranking_stability
from mi_toolkit.sensitivity.weight_scores import WeightScores
from mi_toolkit.tables import joined, read_table, table_of

if TYPE_CHECKING:
    from pandas import DataFrame

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
            return read_table(self.run.path / f"{file}.parquet")
        table = scores.top(k, self.settings.per)
        self.run.put(file, settings, table_writers(file, table))
        return table

    def perturbation(self, scores: Mapping[str, WeightScores]) -> tuple[DataFrame, DataFrame]:
        """Every changed set, and the top's effect beside the controls'."""
        settings = {**self.scope, **self.test, "metrics": list(scores)}
        path = self.run.path
        if self._done("perturbation", settings):
            return read_table(path / "perturbation.parquet"), read_table(path / "effects.parquet")
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
            return read_table(path / "fidelity.parquet"), read_table(path / "trust.parquet")
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
            return read_table(self.run.path / "stability.parquet")
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
