"""A page of a sensitivity run: dose curves with the band of the controls, and where scores lie."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
    trusted = zip(fidelity_pictures(study), _metrics(study.trust), strict=True)
    pictures |= {f"fidelity_{metric}": picture for picture, metric in trusted}
    pictures |= {f"layers_{metric}": each for metric, each in layer_pictures(study).items()}
    pictures |= {f"heads_{metric}": each for metric, each in head_pictures(study).items()}
    for name, picture in pictures.items():
        picture.save_png(folder / f"{name}.png")
    return [folder / f"{name}.png" for name in pictures]


def dose_pictures(study: Study) -> dict[tuple[str, str], ResultView]:
    """By metric and kind of change: what changing the top weights does, next to the controls."""
    if study.perturbation is None:
        return {}
    rows = study.perturbation.to_dict("records")
    curves = dict.fromkeys((row["metric"], row["kind"]) for row in rows if row["k"])
    return {curve: _dose_picture(rows, *curve) for curve in curves}


def _dose_picture(rows: Sequence[Row], metric: str, kind: str) -> ResultView:
    return ResultView(
        title=f"Dose curve of {metric}, {kind}",
        caption=(
            "Rise of the loss on held-out text, in nats per token, by how many weights are changed."
            " Orange: the top. Grey dots: random weights of the same matrices, draw by draw, and a "
            "band of two standard deviations about their mean. Blue: weights of the same size. "
            "Green: the lowest scores."
        ),
        draw=lambda: figures.sheet_of(figures.dose_figure(rows, metric, kind)),
    )


def layer_pictures(study: Study) -> dict[str, ResultView]:
    """By metric: scores by layer and component. Embeddings and the final norm have no layer."""
    rows = study.layers.dropna(subset="layer").to_dict("records")
    return {metric: _layer_picture(_of(rows, metric), metric) for metric in _named(rows)}


def _layer_picture(rows: Sequence[Row], metric: str) -> ResultView:
    return ResultView(
        title=f"{metric}: layer by component",
        caption="Mean score of a weight. Colour is on a logarithmic scale, dark where it is high.",
        draw=lambda: figures.sheet_of(figures.layer_figure(rows, metric)),
    )


def head_pictures(study: Study) -> dict[str, ResultView]:
    """By metric: scores by head."""
    rows = [] if study.heads is None else study.heads.to_dict("records")
    return {metric: _head_picture(_of(rows, metric), metric) for metric in _named(rows)}


def _head_picture(rows: Sequence[Row], metric: str) -> ResultView:
    return ResultView(
        title=f"{metric}: heads",
        caption=(
            "Sum of a head's scores, layers downwards, heads across, colour on a logarithmic scale."
            " What heads share is divided among them."
        ),
        draw=lambda: figures.sheet_of(figures.head_figure(rows, metric)),
    )


def fidelity_pictures(study: Study) -> list[ResultView]:
    """One view per metric: scores against what single removals did."""
    if study.fidelity is None or study.trust is None:
        return []
    removed, trusts = (table.to_dict("records") for table in (study.fidelity, study.trust))
    return [_fidelity_picture(removed, trust) for trust in trusts]


def _metrics(table: DataFrame | None) -> list[str]:
    return [] if table is None else list(dict.fromkeys(table["metric"]))


def _named(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["metric"] for row in rows))


def _of(rows: Sequence[Row], metric: str) -> list[Row]:
    return [row for row in rows if row["metric"] == metric]


def _fidelity_picture(removed: Sequence[Row], trust: Row) -> ResultView:
    rows = [row for row in removed if row["metric"] == trust["metric"]]

    return ResultView(
        title=f"{trust['metric']}: how far to trust it",
        caption=(
            "Single weights removed one by one on held-out text: the size of each score against the"
            " size of what its removal did. Large dots are medians by place in the ranking; the "
            "line is where the two are equal, for scores in nats."
        ),
        draw=lambda: figures.sheet_of(figures.fidelity_figure(rows, trust)),
    )


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
    parts: list[View] = [*dose_pictures(study).values(), *fidelity_pictures(study)]
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
