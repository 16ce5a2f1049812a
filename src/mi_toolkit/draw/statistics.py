"""Top examples of units as a page: each token in its text, marked by how strongly it excites."""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from dataclasses import dataclass

from mi_toolkit.activations.names import Name
from mi_toolkit.activations.statistics import ActivationStatistics
from mi_toolkit.core.errors import UnknownNameError
from mi_toolkit.draw.page import Page, Section
from mi_toolkit.draw.primitives import visible

CONTEXT_SIGNS = 200


@dataclass(frozen=True, eq=False, repr=False)
class StatisticsView:
    """Top examples that a notebook draws and a file keeps."""

    statistics: ActivationStatistics
    """What they come from."""

    hook: str
    """Which activation."""

    units: tuple[int, ...]
    """Which of its units, counted through in one axis."""

    def section(self) -> Section:
        """The view's part of a page."""
        figures = self.statistics.units[self.hook]
        return Section(
            title=f"What excites {self.hook} of {self.statistics.model}",
            caption=(
                "Each row is a text in which the unit has one of its largest values, at the token "
                "in bold; a dot (·) is a space. The extremes say little about the many tokens on "
                "which a unit is half on: its mean and density stand next to its number. "
                f"{figures.moments.count:,} tokens of {self.statistics.n_documents:,} documents."
            ),
            body="".join(self._unit_html(unit) for unit in self.units),
            height=160 + sum(90 + 30 * figures.top.values.shape[1] for _ in self.units),
        )

    def save_html(self, path: str | os.PathLike[str]) -> None:
        """Write a page of this view alone; `Page` puts several views on one."""
        Page([self]).save_html(path)

    def _unit_html(self, unit: int) -> str:
        moments = self.statistics.units[self.hook].moments
        index = self.statistics.unit_index(self.hook, unit)
        figures = (
            f"mean {float(moments.mean[index]):.3g}, standard deviation "
            f"{float(moments.std[index]):.3g}, above 0 on {float(moments.density[index]):.1%} of "
            "tokens"
        )
        rows = ["<tr><th>value</th><th>document</th><th>text</th></tr>"]
        for example in self.statistics.top(self.hook, index).itertuples():
            before = _shown(str(example.before)[-CONTEXT_SIGNS:])
            after = _shown(str(example.after)[:CONTEXT_SIGNS])
            token = html.escape(visible(str(example.token)))
            rows.append(
                f"<tr><td>{float(str(example.value)):.3g}</td><td>{example.document}</td>"
                f"<td>{before}<b>{token}</b>{after}</td></tr>"
            )
        name = ".".join(map(str, index))
        return (
            f"<h3>Unit {name}</h3><p>{html.escape(figures)}</p>"
            f'<div class="wide"><table>{"".join(rows)}</table></div>'
        )

    def __repr__(self) -> str:
        return f"StatisticsView of {self.hook}: {len(self.units)} units"

    def _repr_html_(self) -> str:
        return Page([self])._repr_html_()


def view_statistics(
    statistics: ActivationStatistics,
    name: Name,
    units: Sequence[int] | int | None = None,
) -> StatisticsView:
    """The top examples of some units, to look at.

    Args:
        statistics: from `activation_statistics`.
        name: which activation.
        units: their numbers, counted through where a unit has a head and a dimension; None for
            the eight whose largest value stands out most from their mean, in their deviations.

    Raises:
        UnknownNameError: there is no such activation or unit.

    Example:
        >>> import mi_toolkit as mi
        >>> texts = ["one two three", "When Mary and John went to the store"]
        >>> statistics = mi.activation_statistics(mi.load_model("toy-gpt2"), texts, "mlp_post")
        >>> mi.view(statistics, ("mlp_post", 1), [3, 5])
        StatisticsView of blocks.1.mlp.hook_post: 2 units
    """
    hook = statistics.one(name)
    moments = statistics.units[hook].moments
    n_units = moments.mean.numel()
    if units is None:
        outstanding = ((moments.maximum - moments.mean) / moments.std.clamp_min(1e-9)).flatten()
        chosen = outstanding.topk(min(8, n_units)).indices.tolist()
    else:
        chosen = [units] if isinstance(units, int) else list(units)
    for unit in chosen:
        if not 0 <= unit < n_units:
            raise UnknownNameError(f"{hook} has no unit {unit}: they are 0 to {n_units - 1}.")
    return StatisticsView(statistics, hook, tuple(chosen))


def _shown(text: str) -> str:
    return html.escape(visible(text, longest=CONTEXT_SIGNS))
