"""Untrained twins to look at: how high their strongest heads score, beside the model's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mi_toolkit.views.picture import PictureView, wide_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mi_toolkit.heads.control import UntrainedControl
    from mi_toolkit.heads.report import HeadReport


def view_untrained(control: UntrainedControl, report: HeadReport | None = None) -> PictureView:
    """The strongest heads of untrained twins, beside the labelled heads of the model.

    Args:
        control: of `untrained_control`.
        report: of the model, measured as the twins were; None for the twins alone.

    Raises:
        ReportError: the report is of another model, or was measured on other texts.

    Example:
        >>> import mi_toolkit as mi
        >>> model = mi.load_model("toy-gpt2")
        >>> text = "one two three one two three"
        >>> mi.view_untrained(mi.untrained_control(model, text, n=2))
        PictureView of 2 untrained twins of toy-gpt2
    """
    if report is not None:
        control.check(report)

    def draw() -> Figure:
        from mi_toolkit.views.figures import sheet_of, untrained_figure

        return sheet_of(untrained_figure(control, report))

    table = control.text_table()
    return PictureView(
        title=f"{control.n} untrained twins of {control.provenance.model}",
        caption=(
            "Models of the same config with fresh weights, measured by the same protocol. Grey: "
            "the strongest head of each. Diamonds: the model's labelled heads. A label whose heads "
            "lie among the grey dots is no sign of training."
        ),
        draw=draw,
        body=wide_table(table.header, table.rows),
    )
