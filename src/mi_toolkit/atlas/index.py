"""The page that an atlas begins at, as HTML and as Markdown."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mi_toolkit.atlas.folder import INDEX, PAGE, PICTURE, SUMMARY, TABLE, HeadAtlas, folder_name
from mi_toolkit.comparison.profile import LabelProfile, profile
from mi_toolkit.files import written_whole
from mi_toolkit.heads.report import HeadReport
from mi_toolkit.views.colours import SEQUENTIAL, ink_on, shade
from mi_toolkit.views.head_maps import label_map
from mi_toolkit.views.page import Page
from mi_toolkit.views.section import Section
from mi_toolkit.views.svg import map_figure

NOTHING = "\N{EN DASH}"
READING = (
    "Each model read the same protocol: random tokens given twice, and natural passages. A cell "
    "counts the heads that carry a label, with their share of the model's heads. A label is a "
    "hypothesis from attention: the lower end of a 95% interval clears a bar."
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """What the index tells of one model."""

    model: str
    facts: Mapping[str, Any]
    report: HeadReport

    @property
    def folder(self) -> str:
        """Where its files are, from the index."""
        return f"models/{folder_name(self.model)}"

    @property
    def size(self) -> str:
        """`4 × 4 heads, 0.79M parameters`."""
        n = self.facts["parameters"]
        count = f"{n / 1e6:.2g}M" if n < 10**7 else f"{n / 1e6:,.0f}M"
        return f"{self.facts['n_layers']} × {self.facts['n_heads']} heads, {count} parameters"


@dataclass(frozen=True, eq=False)
class AtlasView:
    """All models of an atlas: a table of counts, and a map of labels of each."""

    entries: Sequence[Entry]

    def section(self) -> Section:
        """The view's part of a page."""
        maps = "".join(_card(entry) for entry in self.entries)
        return Section(
            title=f"Head atlas: {_count(self.entries)}",
            caption=READING,
            body=(
                f"{_table(self.entries)}<h3>Which head carries which label</h3>"
                "<p>Layers run downwards, heads across; a cell has a strip of colour for each "
                "label of the head. Rest the mouse on it to read them.</p>"
                f'<div class="figures">{maps}</div>'
                f'<p class="facts">All figures of all heads: <a href="{TABLE}">{TABLE}</a>. '
                "Parameters are those of attention and MLPs, without embeddings.</p>"
            ),
        )


def write_index(atlas: HeadAtlas) -> None:
    """Write `index.html` and `summary.md` from the reports in the folder."""
    entries = [
        Entry(model=name, facts=atlas.provenance(name)["facts"], report=atlas.report(name))
        for name in atlas.models
    ]
    Page([AtlasView(entries)]).save_html(atlas.folder / INDEX)
    with written_whole(atlas.folder / SUMMARY) as draft:
        draft.write_text(summary(entries), encoding="utf-8")


def summary(entries: Sequence[Entry]) -> str:
    """The atlas as Markdown: the counts, and a picture of each model's labels."""
    lines = [
        "# Head atlas",
        "",
        READING,
        "",
        f"[The atlas as a page]({INDEX}) has every model's report; [{TABLE}]({TABLE}) all figures.",
        "",
        *_markdown_table(entries),
    ]
    for entry in entries:
        lines += [
            "",
            f"## {entry.model}",
            "",
            f"{entry.facts['family']}, {entry.size}. [Report]({entry.folder}/{PAGE})",
            "",
            f"![Labels of the heads of {entry.model}]({entry.folder}/{PICTURE})",
        ]
    return "\n".join([*lines, ""])


def _markdown_table(entries: Sequence[Entry]) -> list[str]:
    """Models by labels, the more numerous of them downwards: a page is higher than wide."""
    labels = _labels(entries)
    rows = [["", *(f"`{label}`" for label in labels)]]
    for entry in entries:
        shown = {p.label: p for p in profile(entry.report)}
        link = f"[{entry.model}]({entry.folder}/{PAGE})"
        rows.append([link, *(_cell(shown.get(label)) for label in labels)])
    if len(labels) > len(entries):
        rows = [list(column) for column in zip(*rows, strict=True)]
    header, *body = ("| " + " | ".join(row) + " |" for row in rows)
    return [header, "|---|" + "---:|" * (len(rows[0]) - 1), *body]


def _count(entries: Sequence[Entry]) -> str:
    heads = sum(entry.report.scope.numel() for entry in entries)
    return f"{heads:,} heads of {len(entries)} model{'s' if len(entries) != 1 else ''}"


def _labels(entries: Sequence[Entry]) -> list[str]:
    """All labels, without `global` and `undetermined`: with `local` told, the rest is theirs."""
    names = dict.fromkeys(shown.label for entry in entries for shown in profile(entry.report))
    return [name for name in names if name not in ("global", "undetermined")]


def _cell(shown: LabelProfile | None) -> str:
    if shown is None or not shown.applicable:
        return "n/a"
    return f"{shown.count} ({shown.share:.0%})" if shown.count else NOTHING


def _table(entries: Sequence[Entry]) -> str:
    labels = _labels(entries)
    names = (html.escape(name).replace("_", "_<wbr>") for name in ("model", *labels))
    head = "".join(f"<th>{name}</th>" for name in names)
    rows = []
    for entry in entries:
        shown = {p.label: p for p in profile(entry.report)}
        link = f'<a href="{html.escape(entry.folder)}/{PAGE}">{html.escape(entry.model)}</a>'
        cells = "".join(_shaded(shown.get(label)) for label in labels)
        rows.append(
            f"<tr><th>{link}<small>{html.escape(str(entry.facts['family']))}, "
            f"{html.escape(entry.size)}</small></th>{cells}</tr>"
        )
    return f'<div class="wide counts"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _shaded(shown: LabelProfile | None) -> str:
    if shown is None or not shown.applicable or not shown.count:
        return f"<td>{_cell(shown)}</td>"
    colour = shade(shown.share, SEQUENTIAL)
    style = f"background:{colour};color:{ink_on(colour)}"
    strongest = f' title="strongest: {shown.strongest}"' if shown.strongest else ""
    return f'<td style="{style}"{strongest}>{_cell(shown)}</td>'


def _card(entry: Entry) -> str:
    link = f'<a href="{html.escape(entry.folder)}/{PAGE}">{html.escape(entry.model)}</a>'
    return (
        f'<div class="card"><h3>{link}</h3><p class="facts">'
        f"{html.escape(str(entry.facts['family']))}, {html.escape(entry.size)}</p>"
        f"{map_figure(label_map(entry.report))}</div>"
    )
