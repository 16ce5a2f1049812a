"""One model's page in an atlas, and its map of labels as a picture."""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from dataclasses import dataclass

from mi_toolkit.comparison.stimuli import compare_stimuli
from mi_toolkit.heads.report import HeadReport
from mi_toolkit.views.comparison import view_stimuli
from mi_toolkit.views.page import Page
from mi_toolkit.views.report import view_report
from mi_toolkit.views.section import Section


@dataclass(frozen=True)
class Links:
    """Links to files that stand beside the page."""

    title: str
    targets: Sequence[tuple[str, str]]
    """Where each leads, and what it is called."""

    def section(self) -> Section:
        """The view's part of a page."""
        items = " · ".join(
            f'<a href="{html.escape(target)}">{html.escape(name)}</a>'
            for target, name in self.targets
        )
        return Section(title=self.title, caption="", body=f"<p>{items}</p>", height=90)


def model_page(report: HeadReport) -> Page:
    """The report, the stimuli against each other, and links to the files and the atlas."""
    links = Links(
        "Files",
        [
            ("report.safetensors", "the report, for HeadReport.load"),
            ("provenance.json", "provenance"),
            ("../../index.html", "all models of the atlas"),
        ],
    )
    return Page([view_report(report), view_stimuli(compare_stimuli(report)), links])


def save_label_map(report: HeadReport, path: str | os.PathLike[str]) -> None:
    """Write the map of a report's labels as a PNG file."""
    from mi_toolkit.views.figures import label_picture, save_figure

    save_figure(label_picture(report), path)
