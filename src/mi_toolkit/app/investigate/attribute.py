"""Which tokens the prediction rests on: what the panel runs, shows, writes as code and saves."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

from mi_toolkit.app.analysis import Analysis
from mi_toolkit.app.code import opening
from mi_toolkit.app.investigate.experiment import call
from mi_toolkit.app.tools import Saveable
from mi_toolkit.attribution.attribute import attribute
from mi_toolkit.attribution.attribution import Attribution
from mi_toolkit.attribution.methods import METHODS
from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.views.attribution import attribution_html, caption, view_attribution

NO_OTHER = -1
"""Stands for no second token."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Attributed:
    """An attribution on the analyzed prompt."""

    analysis: Analysis
    """What it began with."""

    attribution: Attribution
    """What each token counts for."""

    baseline: str | None
    """What was asked for as no information; None where the method has none."""


def run_attribution(
    model: HookedModel,
    found: Analysis,
    *,
    method: str,
    target: int,
    other: int = NO_OTHER,
    objective: str,
    baseline: str,
) -> Attributed:
    """Score the prompt's tokens for one predicted token, or for one rather than another.

    Raises:
        MIToolkitError: as `attribute` does.
    """
    given = baseline if METHODS[method].has_baseline else None
    why = attribute(
        model,
        found.prompt,
        target if other == NO_OTHER else (target, other),
        method,
        objective=objective,
        baseline=given,
    )
    return Attributed(analysis=found, attribution=why, baseline=given)


def attributed_html(done: Attributed) -> str:
    """The prompt with every token coloured by its score, and the figures."""
    why = done.attribution
    title = f"{why.title()}, by {why.method.replace('_', ' ')}"
    return (
        f'<p role="status"><b>{html.escape(title)}</b></p><p>{html.escape(caption(why))}</p>'
        f"{attribution_html(why)}"
    )


def attributed_code(done: Attributed) -> str:
    """The same in Python."""
    found, why = done.analysis, done.attribution
    ids = tuple(each.token for each in why.target)
    options: dict[str, Any] = {
        "target": ids if len(ids) == 2 else ids[0],
        "method": why.method,
        "objective": why.objective,
    }
    if done.baseline is not None:
        options["baseline"] = done.baseline
    asked = call("why = mi.attribute", "model", "prompt", **options)
    return f"{opening(found.model, found.prompt)}\n{asked}\nwhy.to_pandas()"


def attributed_saveable(done: Attributed) -> Saveable:
    """The attribution in files."""
    found, why = done.analysis, done.attribution
    return Saveable(
        name="attribution",
        view=view_attribution(why),
        table=why.to_pandas,
        about={
            "model": found.model,
            "prompt": found.prompt,
            "target": [{"id": each.token, "text": each.text} for each in why.target],
            "method": why.method,
            "objective": why.objective,
            "baseline": why.baseline,
            "value": why.value,
            "baseline_value": why.baseline_value if why.is_signed else None,
            "completeness_error": why.completeness_error if why.is_signed else None,
            "steps": why.steps,
            "n_passes": why.n_passes,
        },
    )
