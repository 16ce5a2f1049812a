"""A page of a sensitivity run: dose curves with the band of the controls, and where scores lie."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mi_toolkit.draw import figures
from mi_toolkit.draw.markup import wide_table
from mi_toolkit.draw.page import Page, ResultView, Section, View

if TYPE_CHECKING:
    from mi_toolkit.core.tables import DataFrame
    from mi_toolkit.weights.fidelity import ScoreFidelity
    from mi_toolkit.weights.study import Study


Row = Mapping[Any, Any]


def view_fidelity(fidelity: ScoreFidelity) -> ResultView:
    """A calibration plot: the size of each score against what removing the weight did.

    Args:
        fidelity: of `score_fidelity`.

    Example:
        >>> import mi_toolkit as mi
        >>> model = mi.load_model("toy-gpt2")
        >>> texts = ["The cat sat on the mat.", "Two plus two is four."]
        >>> scores = mi.score_weights(model, texts)
        >>> mi.view(mi.weights.score_fidelity(model, scores, texts, n=10)).title
        'grad_x_weight: how far to trust it'
    """
    return _fidelity_picture(fidelity.to_pandas().to_dict("records"), fidelity.summary())


def save_pictures(study: Study, folder: Path) -> list[Path]:
    """Write every picture of a run as a PNG file, and say where they are.

    `dose_curve_METRIC_KIND`, `fidelity_METRIC`, `layers_METRIC`, `heads_METRIC`, and no other name.
    """
    pictures = {
        f"dose_curve_{metric}_{kind}": picture
        for (metric, kind), picture in dose_pictures(study).items()
    }
    for name, of_metric in (
        ("fidelity", fidelity_pictures(study)),
        ("layers", layer_pictures(study)),
        ("heads", head_pictures(study)),
    ):
        pictures |= {f"{name}_{metric}": picture for metric, picture in of_metric.items()}
    for name, picture in pictures.items():
        picture.save_png(folder / f"{name}.png")
    return [folder / f"{name}.png" for name in pictures]


def dose_pictures(study: Study) -> dict[tuple[str, str], ResultView]:
    """By metric and kind of change: what changing the top weights does, next to the controls."""
    rows = _rows(study.perturbation)
    return {
        (metric, kind): _picture(
            f"Dose curve of {metric}, {kind}",
            "Rise of the loss on held-out text, in nats per token, by how many weights are changed."
            " Orange: the top. Grey dots: random weights of the same matrices, draw by draw, and a "
            "band of two standard deviations about their mean. Blue: weights of the same size. "
            "Green: the lowest scores.",
            figures.dose_figure,
            rows,
            metric,
            kind,
        )
        for metric, kind in dict.fromkeys((row["metric"], row["kind"]) for row in rows if row["k"])
    }


def layer_pictures(study: Study) -> dict[str, ResultView]:
    """By metric: scores by layer and component. Embeddings and the final norm have no layer."""
    return {
        metric: _picture(
            f"{metric}: layer by component",
            "Mean score of a weight. Colour is on a logarithmic scale, dark where it is high.",
            figures.layer_figure,
            rows,
            metric,
        )
        for metric, rows in _by_metric(_rows(study.layers.dropna(subset="layer"))).items()
    }


def head_pictures(study: Study) -> dict[str, ResultView]:
    """By metric: scores by head."""
    return {
        metric: _picture(
            f"{metric}: heads",
            "Sum of a head's scores, layers downwards, heads across, colour on a logarithmic scale."
            " What heads share is divided among them.",
            figures.head_figure,
            rows,
            metric,
        )
        for metric, rows in _by_metric(_rows(study.heads)).items()
    }


def fidelity_pictures(study: Study) -> dict[str, ResultView]:
    """By metric: scores against what single removals did."""
    removed = _rows(study.fidelity)
    trusts = _rows(study.trust) if removed else []
    return {trust["metric"]: _fidelity_picture(removed, trust) for trust in trusts}


def _fidelity_picture(removed: Sequence[Row], trust: Row) -> ResultView:
    return _picture(
        f"{trust['metric']}: how far to trust it",
        "Single weights removed one by one on held-out text: the size of each score against the"
        " size of what its removal did. Large dots are medians by place in the ranking; the "
        "line is where the two are equal, for scores in nats.",
        figures.fidelity_figure,
        [row for row in removed if row["metric"] == trust["metric"]],
        trust,
    )


def _picture(title: str, caption: str, draw: Callable[..., Any], *shown: Any) -> ResultView:
    return ResultView(title=title, caption=caption, draw=lambda: figures.sheet_of(draw(*shown)))


def _rows(table: DataFrame | None) -> list[Row]:
    return [] if table is None else [dict(row) for row in table.to_dict("records")]


def _by_metric(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["metric"], []).append(row)
    return found


COLUMNS = ("rank", "parameter", "row", "column", "head", "kv_head", "neuron", "weight", "score")
_SHOWN = 20


@dataclass(frozen=True)
class _Part:
    """One section as a view."""

    content: Section

    def section(self) -> Section:
        """The section."""
        return self.content


def view_study(study: Study, title: str) -> Page:
    """Dose curves, how far to trust them, scores by layer, component and head, the top weights.

    Args:
        study: of `run_study`.
        title: the page's heading.
    """
    parts: list[View] = [*dose_pictures(study).values(), *fidelity_pictures(study).values()]
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
