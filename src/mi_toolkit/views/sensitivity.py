"""A page of a sensitivity run: dose curves with the band of the controls, and where scores lie."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mi_toolkit.views.page import Page
from mi_toolkit.views.picture import PictureView, wide_table
from mi_toolkit.views.section import Section
from mi_toolkit.views.sensitivity_pictures import (
    Row,
    dose_pictures,
    fidelity_pictures,
    head_pictures,
    layer_pictures,
)

if TYPE_CHECKING:
    from mi_toolkit.sensitivity.study import Study

COLUMNS = ("rank", "parameter", "row", "column", "head", "kv_head", "neuron", "weight", "score")
_SHOWN = 20


@dataclass(frozen=True)
class _Part:
    """One section as a view."""

    content: Section

    def section(self) -> Section:
        """It."""
        return self.content


def view_study(study: Study, title: str) -> Page:
    """Dose curves, how far to trust them, scores by layer, component and head, the top weights.

    Args:
        study: of `run_study`.
        title: the page's heading.
    """
    parts: list[PictureView | _Part] = [*dose_pictures(study).values(), *fidelity_pictures(study)]
    layers, heads = layer_pictures(study), head_pictures(study)
    for metric in dict.fromkeys(study.layers["metric"]):
        parts += [pictures[metric] for pictures in (layers, heads) if metric in pictures]
    largest = max(k for _, k in study.top)
    for (metric, k), table in study.top.items():
        if k == largest:
            rows = table.head(_SHOWN).to_dict("records")
            parts.append(_Part(_top(metric, k, rows, table.attrs.get("warning"))))
    return Page(parts, title=title)


def _top(metric: str, k: int, rows: Sequence[Row], warning: str | None) -> Section:
    estimated = ("standard_error",) if "standard_error" in rows[0] else ()
    columns = (*COLUMNS, *estimated)
    header = [name.replace("kv_head", "key-value head").replace("_", " ") for name in columns]
    cells = [[_text(row[name]) for name in columns] for row in rows]
    caption = f"The first {len(rows)}. Rows and columns are canonical, [in, out]."
    return Section(
        title=f"{metric}: the top {k:,}",
        caption=caption if warning is None else f"{caption} Warning: {warning}",
        body=wide_table(header, cells),
        height=90 + 24 * len(rows),
    )


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else ""
    return "" if value is None or str(value) == "<NA>" else str(value)
