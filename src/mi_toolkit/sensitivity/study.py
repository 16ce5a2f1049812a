"""One run: score by several metrics, list the top weights, test them, check their stability.

Scoring and testing texts are two halves that share no text. Each step is a part of a `RunFolder`;
where no folder is given, of one that is gone afterwards.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.prompts.evaluation import evaluation_passages, halves, text_digest
from mi_toolkit.provenance import installed_versions
from mi_toolkit.sensitivity.run_folder import RunFolder
from mi_toolkit.sensitivity.settings import Settings
from mi_toolkit.sensitivity.steps import Steps
from mi_toolkit.tables import joined

if TYPE_CHECKING:
    from pandas import DataFrame


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
