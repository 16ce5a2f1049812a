"""The pictures of a sensitivity run, as files and as parts of its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mi_toolkit.views.picture import PictureView

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from mi_toolkit.sensitivity.fidelity import ScoreFidelity
    from mi_toolkit.sensitivity.study import Study

Row = Mapping[Any, Any]


def view_fidelity(fidelity: ScoreFidelity) -> PictureView:
    """A calibration plot: the size of each score against what removing the weight did.

    Args:
        fidelity: of `score_fidelity`.

    Example:
        >>> import mi_toolkit as mi
        >>> model = mi.load_model("toy-gpt2")
        >>> texts = ["The cat sat on the mat.", "Two plus two is four."]
        >>> scores = mi.score_weights(model, texts)
        >>> mi.view_fidelity(mi.score_fidelity(model, scores, texts, n=10)).title
        'grad_x_weight: how far to trust it'
    """
    return _fidelity_picture(fidelity.to_pandas().to_dict("records"), fidelity.summary())


def save_pictures(study: Study, folder: Path) -> list[Path]:
    """Write every picture of a run as a PNG file, and say where they are.

    `dose_curve_METRIC_KIND`, `fidelity_METRIC`, `layers_METRIC`, `heads_METRIC`, and no other name.
    """
    from mi_toolkit.views.figures import dose_figure, head_figure, layer_figure, save_figure

    figures: dict[str, Figure] = {}
    if study.effects is not None:
        rows = study.effects.to_dict("records")
        for metric, kind in dict.fromkeys((row["metric"], row["kind"]) for row in rows):
            chosen = [row for row in rows if (row["metric"], row["kind"]) == (metric, kind)]
            figures[f"dose_curve_{metric}_{kind}"] = dose_figure(chosen, metric, kind)
    for picture, name in zip(fidelity_pictures(study), _metrics(study.trust), strict=True):
        figures[f"fidelity_{name}"] = picture.draw()
    # Embeddings and the final norm have no layer.
    of_layers = study.layers.dropna(subset="layer").to_dict("records")
    for metric in _metrics(study.layers):
        chosen = [row for row in of_layers if row["metric"] == metric]
        if chosen:
            figures[f"layers_{metric}"] = layer_figure(chosen, metric)
    for metric in _metrics(study.heads):
        assert study.heads is not None  # else it has no metrics
        chosen = [row for row in study.heads.to_dict("records") if row["metric"] == metric]
        figures[f"heads_{metric}"] = head_figure(chosen, metric)
    for name, figure in figures.items():
        save_figure(figure, folder / f"{name}.png")
    return [folder / f"{name}.png" for name in figures]


def _metrics(table: DataFrame | None) -> list[str]:
    return [] if table is None else list(dict.fromkeys(table["metric"]))


def fidelity_pictures(study: Study) -> list[PictureView]:
    """One view per metric: scores against what single removals did."""
    if study.fidelity is None or study.trust is None:
        return []
    removed, trusts = (table.to_dict("records") for table in (study.fidelity, study.trust))
    return [_fidelity_picture(removed, trust) for trust in trusts]


def _fidelity_picture(removed: Sequence[Row], trust: Row) -> PictureView:
    rows = [row for row in removed if row["metric"] == trust["metric"]]

    def draw() -> Figure:
        from mi_toolkit.views.figures import fidelity_figure

        return fidelity_figure(rows, trust)

    return PictureView(
        title=f"{trust['metric']}: how far to trust it",
        caption=(
            "Single weights removed one by one on held-out text: the size of each score against the"
            " size of what its removal did. Large dots are medians by place in the ranking; the "
            "line is where the two are equal, for scores in nats."
        ),
        draw=draw,
    )
