"""Labels by size: what share of a model's heads carries each, from small models to large."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from mi_toolkit.comparison.model_comparison import ModelComparison
from mi_toolkit.errors import unknown_name
from mi_toolkit.views.colours import LABELS, SCOPES
from mi_toolkit.views.figures.sheet import new_axes
from mi_toolkit.views.figures.style import in_house_style, ink


@in_house_style
def scaling_figure(
    comparison: ModelComparison, labels: Sequence[str] | None = None, ax: Axes | None = None
) -> Axes:
    """The share of heads with each label by parameters (embeddings left out), a line per label.

    A line joins models of one family; families have marks of their own. A label that a model's
    text cannot show has no mark there.

    Args:
        comparison: of `compare_models`.
        labels: labels, scopes or `unclassified`; None for the labels that any model has.
        ax: axes to draw in; None for a figure of its own, which is `ax.figure`.

    Raises:
        UnknownNameError: a label that no report has.
    """
    shares = {
        name: {shown.label: shown.share for shown in comparison.profiles(name)}
        for name in comparison.models
    }
    known = list(dict.fromkeys(label for shown in shares.values() for label in shown))
    chosen = _carried(comparison) if labels is None else list(labels)
    for label in chosen:
        if label not in known:
            raise unknown_name("label of this comparison", label, known)
    if ax is None:
        ax = new_axes(3.4, 2.4, right=1.55)
    families = list(dict.fromkeys(comparison.facts[name].family for name in comparison.models))
    for label in chosen:
        for family, mark in zip(families, "oDs^v<>phX" * len(families), strict=False):
            models = [name for name in comparison.models if _family(comparison, name) == family]
            models.sort(key=lambda name: comparison.facts[name].parameters)
            ax.plot(
                [comparison.facts[name].parameters for name in models],
                [shares[name].get(label, float("nan")) for name in models],
                f"{mark}-",
                color={**SCOPES, **LABELS}.get(label, ink()),
                label=label if family == families[0] else None,
            )
    ax.set_xscale("log")
    ax.set(xlabel="parameters without embeddings", ylabel="share of heads")
    ax.set_ylim(bottom=0)
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    named = ", ".join(families) if len(families) < 4 else f"{len(families)} families"
    ax.set_title(f"Labels by size: {named}", parse_math=False)
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return ax


def _family(comparison: ModelComparison, name: str) -> str:
    return comparison.facts[name].family


def _carried(comparison: ModelComparison) -> list[str]:
    """The labels that any head of any model carries; neither scopes nor `unclassified`."""
    found: dict[str, None] = {}
    for report in comparison.reports.values():
        found.update(dict.fromkeys(name for name in report.label_names if report.heads(name)))
    return list(found)
