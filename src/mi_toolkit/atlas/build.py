"""Build an atlas of heads, and the pages that it is opened with.

1. A model whose files are whole, of this protocol and its weights as they are, is done.
2. Every other model is loaded, alone in memory: report, page, picture, and last its provenance.
3. From all reports: the table, the index page, the summary.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from mi_toolkit.atlas.folder import (
    FORMAT,
    HEADVIS,
    INDEX,
    KIND,
    MEASURED,
    PAGE,
    PICTURE,
    PROFILES,
    PROVENANCE,
    RECORD,
    REPORT,
    SUMMARY,
    TABLE,
    HeadAtlas,
    protocol_of,
)
from mi_toolkit.atlas.headvis import export_headvis
from mi_toolkit.cards.profile import profile_heads
from mi_toolkit.compare.model_comparison import LabelProfile, profile
from mi_toolkit.compare.stimuli import compare_stimuli
from mi_toolkit.core.errors import ComparisonError, ReportError
from mi_toolkit.core.io import atomic_write, folder_name, read_json, remove_drafts
from mi_toolkit.core.memory import own_garbage
from mi_toolkit.core.process_state import one_job
from mi_toolkit.core.progress import track
from mi_toolkit.core.resumable import ResumableFolder
from mi_toolkit.core.tables import joined, write_parquet
from mi_toolkit.draw import figures
from mi_toolkit.draw.comparison import view_stimuli
from mi_toolkit.draw.head_maps import label_map, map_figure
from mi_toolkit.draw.markup import render
from mi_toolkit.draw.page import Page, Section
from mi_toolkit.draw.report import view_report
from mi_toolkit.heads.classify import classify_heads
from mi_toolkit.heads.kinds import Weighting
from mi_toolkit.heads.labels import DEFAULT_MIN_LIFT
from mi_toolkit.heads.report import HeadReport
from mi_toolkit.models.describe import describe_model
from mi_toolkit.models.load import load_model
from mi_toolkit.models.sources import Source, find_source, weights_of

if TYPE_CHECKING:
    from mi_toolkit.core.tables import DataFrame


@dataclass(frozen=True)
class Links:
    """Links to files that stand next to the page."""

    title: str
    targets: Sequence[tuple[str, str]]
    """Where each leads, and what it is called."""

    def section(self) -> Section:
        """The view's part of a page."""
        link = Markup('<a href="{}">{}</a>')
        items = Markup(" · ").join(link.format(*target) for target in self.targets)
        body = Markup("<p>{}</p>").format(items)
        return Section(title=self.title, caption="", body=body, height=90)


def model_page(report: HeadReport) -> Page:
    """The report, its stimuli against each other where it has several, and links to the files."""
    links = Links(
        "Files",
        [
            ("report.safetensors", "the report, for HeadReport.load"),
            ("provenance.json", "provenance"),
            ("../../index.html", "all models of the atlas"),
        ],
    )
    against = [view_stimuli(compare_stimuli(report))] if len(report.parts) > 1 else []
    return Page([view_report(report), *against, links])


def save_label_map(report: HeadReport, path: str | os.PathLike[str]) -> None:
    """Write the map of a report's labels as a PNG file."""
    figures.save_figure(figures.label_picture(report), path)


logger = logging.getLogger("mi_toolkit")

NOTHING = "\N{EN DASH}"
READING = (
    "Each model read the same protocol: random tokens given twice, and natural passages. A cell "
    "counts the heads that carry a label, with their share of the model's heads. A label is a "
    "hypothesis from attention: that a figure exceeds its bar, by a one-sided p that passes "
    "Benjamini and Hochberg over all heads and behaviours, at a false discovery rate of 5%."
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """What the index shows of one model."""

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
        labels = _labels(self.entries)
        body = render(
            "atlas",
            names=["model", *labels],
            rows=[(entry, _cells(entry, labels)) for entry in self.entries],
            maps=[(entry, map_figure(label_map(entry.report))) for entry in self.entries],
            page=PAGE,
            table=TABLE,
        )
        return Section(title=f"Head atlas: {_count(self.entries)}", caption=READING, body=body)


def write_index(atlas: HeadAtlas) -> None:
    """Write `index.html` and `summary.md` from the reports in the folder."""
    entries = [
        Entry(model=name, facts=atlas.provenance(name)["facts"], report=atlas.report(name))
        for name in atlas.models
    ]
    Page([AtlasView(entries)]).save_html(atlas.folder / INDEX)
    with atomic_write(atlas.folder / SUMMARY) as draft:
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
    heads = sum(len(entry.report.all_heads) for entry in entries)
    return f"{heads:,} heads of {len(entries)} model{'s' if len(entries) != 1 else ''}"


def _labels(entries: Sequence[Entry]) -> list[str]:
    """All labels, without `global` and `undetermined`: with `local` shown, the rest is theirs."""
    names = dict.fromkeys(shown.label for entry in entries for shown in profile(entry.report))
    return [name for name in names if name not in ("global", "undetermined")]


def _cell(shown: LabelProfile | None) -> str:
    if shown is None or not shown.applicable:
        return "n/a"
    return f"{shown.count} ({shown.share:.0%})" if shown.count else NOTHING


def _cells(entry: Entry, labels: Sequence[str]) -> list[tuple[str, float, str]]:
    """Of each label: what its cell says, the share that colours it, and the strongest head."""
    shown = {each.label: each for each in profile(entry.report)}
    cells = []
    for label in labels:
        here = shown.get(label)
        share = here.share if here is not None and here.applicable else 0.0
        strongest = str(here.strongest) if here is not None and here.strongest else ""
        cells.append((_cell(here), share, strongest))
    return cells


@one_job
def head_atlas(
    models: Sequence[str],
    out: str | os.PathLike[str],
    *,
    min_lift: float = DEFAULT_MIN_LIFT,
    weighting: Weighting = "prompts",
    seed: int = 0,
    batch_size: int | None = None,
    revisions: Sequence[str] | None = None,
    load: Mapping[str, Any] | None = None,
    headvis: bool = False,
    profiles: bool = False,
    progress: bool | None = None,
) -> HeadAtlas:
    """The standard protocol for each of `models`, in one folder with a page to begin at.

    An atlas is built model by model, and holds one in memory. Whenever it is interrupted, or
    killed, the same call goes on where it stopped: a model is done whose files are whole and of
    this protocol, these versions and these weights. Nothing in the folder says the
    time or the machine, so the same models and versions give the same files.

    Args:
        models: names as `load_model` takes them. Models that an earlier call put into the folder,
            and that are not among these, keep their files and leave the index.
        out: the folder; `HeadAtlas` says what is in it.
        min_lift: the lift that a mask behaviour's label says is exceeded: its one-sided p passes
            Benjamini and Hochberg over all heads and behaviours, at a false discovery rate of 5%.
        weighting: what counts alike in a figure, each text or each query (see `classify_heads`).
        seed: of the random stimulus.
        batch_size: sequences to a forward pass; it changes figures by rounding only.
        revisions: branches, tags or commits on the hub, such as the steps of a Pythia model. Each
            model is there once for each, called `EleutherAI/pythia-160m@step1000`.
        load: arguments to `load_model`, such as `{"dtype": "bfloat16"}`, the same for all.
        headvis: write each model's heads for HeadVis too, into `models/<name>/headvis`.
        profiles: keep what each model's heads move in the bundled passages, for
            `HeadAtlas.head_profiles`; a model without a tokenizer has none.
        progress: a progress bar; None: where somebody looks and it takes long.

    Raises:
        ComparisonError: no model, or two whose files would have one place, or revisions both here
            and in `load`.
        ReportError: a model's place holds the files of another one.
        MIToolkitError: as `load_model` and `classify_heads` do.

    Example:
        >>> import mi_toolkit as mi
        >>> atlas = mi.head_atlas(["toy-gpt2", "toy-opt"], "atlas")  # doctest: +SKIP
        >>> atlas.report("toy-opt").heads("induction")  # doctest: +SKIP
        [L2H0]
    """
    options = dict(load or {})
    asked = _asked(models, revisions, options.pop("revision", None))
    protocol = protocol_of(
        min_lift=min_lift,
        weighting=weighting,
        seed=seed,
        load=options,
        headvis=headvis,
        profiles=profiles,
    )
    measuring = {
        "min_lift": min_lift,
        "weighting": weighting,
        "seed": seed,
        "batch_size": batch_size,
    }
    place = Path(out)
    atlas = HeadAtlas(place, tuple(asked))
    remove_drafts(place)
    _say_who_leaves(place, atlas)
    for name, each in track(
        asked.items(), total=len(asked), label="building atlas", unit="model", show=progress
    ):
        folder = atlas.model_folder(name)
        kept = ResumableFolder(folder, {"model": name}, format=FORMAT, kind=KIND, file=PROVENANCE)
        settings = {"protocol": protocol, "weights": each.weights}
        if each.weights is not None and kept.has(MEASURED, settings):
            continue
        loading = {**options, "revision": each.revision}
        with own_garbage():
            facts = _measure(
                each.source.name, folder, loading, measuring, headvis=headvis, profiles=profiles
            )
        files = [REPORT, PAGE, PICTURE]
        if (folder / PROFILES).exists():
            files.append(PROFILES)
        if headvis:
            exported = folder.glob(f"{HEADVIS}/**/*.json")
            files += [path.relative_to(folder).as_posix() for path in exported]
        # Weights that were not on this machine are, now.
        settings["weights"] = each.weights
        kept.enter(MEASURED, settings, sorted(files), facts=facts)
    tables = (_rows(atlas.report(name), each.revision) for name, each in asked.items())
    write_parquet(joined(tables), place / TABLE)
    write_index(atlas)
    record = {"format": FORMAT, "models": list(atlas.models), "protocol": protocol}
    with atomic_write(place / RECORD) as draft:
        text = json.dumps(record, indent=1, ensure_ascii=False)
        draft.write_text(text + "\n", encoding="utf-8")
    return atlas


def _say_who_leaves(place: Path, atlas: HeadAtlas) -> None:
    """Name the models of an earlier call that are not of this one."""
    if not (place / RECORD).is_file():
        return
    before = read_json(place / RECORD, ReportError).get("models")
    left = [str(name) for name in before or () if name not in atlas.models]
    if left:
        logger.warning(
            "%s: %s of an earlier call keep their files and leave the index; name them as well to "
            "have them in it.",
            place,
            ", ".join(left),
        )


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """A model at a revision."""

    source: Source
    revision: str | None

    @property
    def weights(self) -> str | None:
        """What tells them from others; None where they are not on this machine."""
        return weights_of(self.source, self.revision)


def _asked(
    models: Sequence[str], revisions: Sequence[str] | None, of_all: str | None
) -> dict[str, _Asked]:
    """Where each model lies, by the name that results will call it; wrong names before any work."""
    models = [models] if isinstance(models, str) else models
    revisions = [revisions] if isinstance(revisions, str) else revisions
    if revisions is not None and of_all is not None:
        raise ComparisonError("Say revisions once: as `revisions`, or as one in `load`.")
    found: list[tuple[str, _Asked]] = []
    for model in models:
        for revision in [of_all] if revisions is None else revisions:
            source = find_source(model, revision=revision)
            name = source.name if revisions is None else f"{source.name}@{revision}"
            found.append((name, _Asked(source=source, revision=revision)))
    folders = [folder_name(name) for name, _ in found]
    twice = sorted({folder for folder in folders if folders.count(folder) > 1})
    if not found:
        raise ComparisonError("An atlas takes one model or more.")
    if twice:
        raise ComparisonError(
            f"Two of the models would be written to models/{twice[0]}: name each once."
        )
    return dict(found)


def _rows(report: HeadReport, revision: str | None) -> DataFrame:
    """A report's table, with the revision as it was asked for next to the model."""
    frame = report.to_pandas()
    frame.insert(1, "revision", revision or "")
    return frame


def _measure(
    name: str,
    folder: Path,
    options: Mapping[str, Any],
    measuring: Any,
    *,
    headvis: bool,
    profiles: bool,
) -> dict[str, Any]:
    """Load one model and write its files; its facts. The model is let go at the end."""
    model = load_model(name, **options)
    report = classify_heads(model, **measuring, progress=False)
    report.save(folder / REPORT)
    model_page(report).save_html(folder / PAGE)
    save_label_map(report, folder / PICTURE)
    if headvis:
        remove_drafts(folder / HEADVIS, and_below=True)  # whatever is there is entered
        export_headvis(model, report, folder / HEADVIS)
    (folder / PROFILES).unlink(missing_ok=True)
    if profiles and model.tokenizer is not None:
        profile_heads(model, seed=measuring["seed"], progress=False).save(folder / PROFILES)
    facts = describe_model(model)
    return {**facts.record(), "parameters": facts.parameters}
