"""The pictures of the docs, on light and on dark paper: drawn where the docs are built."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from mi_toolkit.app.example import FOLDER as EXAMPLE
from mi_toolkit.app.example import GENERATION, PIPELINE
from mi_toolkit.attribution.attribute import Attribution
from mi_toolkit.core.result import load_record
from mi_toolkit.draw import figures
from mi_toolkit.draw.figures.style import line_colours
from mi_toolkit.draw.primitives import LABELS
from mi_toolkit.heads.behaviours import BEHAVIOURS
from mi_toolkit.heads.kinds import MaskBehaviour
from mi_toolkit.heads.report import HeadReport
from mi_toolkit.text.generation import Generation
from mi_toolkit.text.pipeline import Pipeline
from pages.further import chance, further_pictures
from pages.made import Made
from pages.quoted import table
from pages.weights import weight_scores

DOCS = Path(__file__).parents[2] / "docs"
PATTERNS = DOCS / "data/smollm2_heads.safetensors"
FORMAT = "mi_toolkit docs patterns 1"
ATLAS = DOCS / "atlas/models/smollm2-135m-instruct/report.safetensors"
MASKS = ("previous_token", "current_token", "first_token", "duplicate_token", "induction")
LENGTHS = (8, 16, 32, 64, 128, 256, 512)
HAS_BOS = True
SIDE = 2.9
"""Of a pattern, in inches."""


def pictures() -> Iterator[Made]:
    """Each picture twice: `NAME-light.svg` and `NAME-dark.svg`."""
    drawn: dict[str, Callable[[], Figure]] = {
        "home": home,
        "chance": _chance,
        "power": _power,
        "labels_by_depth": lambda: _of(figures.labels_by_depth),
        "locality_histogram": lambda: _of(figures.locality_histogram),
        "head_map": lambda: _of(lambda report: figures.head_map(report, "induction")),
        **{name: _pair(name) for name in (*MASKS, "locality", "positional", "diffuse")},
        **further_pictures(),
        "weight_scores": weight_scores,
        "attribution": _attribution,
        "pipeline": lambda: figures.pipeline_figure(Pipeline.load(EXAMPLE / PIPELINE)),
        "generation": lambda: figures.generation_figure(Generation.load(EXAMPLE / GENERATION)),
    }
    for name, draw in drawn.items():
        for paper in ("light", "dark"):
            with figures.house_style(paper):
                svg = figures.as_svg(draw())
            yield Made(f"pictures/{name}-{paper}.svg", svg)


@cache
def _recorded() -> tuple[dict[str, Tensor], dict[str, Any]]:
    return load_record(PATTERNS, format=FORMAT, kind="recorded patterns")


@cache
def _report() -> HeadReport:
    return HeadReport.load(ATLAS)


def _of(draw: Callable[[HeadReport], Any]) -> Figure:
    figure: Figure = draw(_report()).figure
    return figure


def home() -> Figure:
    """An induction head on a sentence, and where the labelled heads of its model lie."""
    patterns, record = _recorded()
    figure = Figure(figsize=(10.4, 4.3))
    left = figure.add_axes((0.07, 0.24, SIDE / 10.4, SIDE / 4.3))
    name = f"{record['heads']['induction']}, an induction head"
    figures.pattern_map(patterns["induction"], record["tokens"], name, left)
    right = figure.add_axes((0.51, 0.24, 4.3 / 10.4, SIDE / 4.3))
    figures.labels_by_depth(_report(), right)
    return figure


def ideal(behaviour: str, ids: Tensor) -> Tensor:
    """The pattern of a head that does nothing else; where it has nothing to do, on the sink."""
    n = len(ids)
    query, key = torch.arange(n)[:, None], torch.arange(n)[None, :]
    found = BEHAVIOURS[behaviour]
    if isinstance(found, MaskBehaviour):
        marked = found.targets(ids, HAS_BOS)
    elif behaviour == "diffuse":
        marked = key <= query
    else:  # positional: the same rows whatever the text
        marked = (key == query - 2 - query % 3) & (key > 0)
    resting = ~marked.any(dim=-1)
    marked[resting, 0] = True
    return marked / marked.sum(dim=-1, keepdim=True)


def _power() -> Figure:
    """The share of heads that are labelled, by texts and true lift: the table of the concepts."""
    page = (DOCS / "concepts/heads.md").read_text(encoding="utf-8")
    header, _, *rows = table("Intervals and labels", page).split("\n")
    lifts = [name.split()[1 if name.startswith("lift") else 0] for name in _cells(header)[1:-1]]
    figure = Figure(figsize=(5.4, 2.9))
    ax = figure.add_axes((0.12, 0.17, 0.66, 0.72))
    for row, colour in zip(map(_cells, rows), line_colours(), strict=False):
        shares = list(map(float, row[1:-1]))
        ax.plot(list(map(float, lifts)), shares, "o-", color=colour, label=row[0])
    ax.set(xlabel="true lift", ylabel="share of heads labelled", ylim=(-0.03, 1.03))
    ax.set_title("What is found, by how many texts")
    ax.legend(title="texts", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.split("|")[1:-1]]


def _attribution() -> Figure:
    """What one choice rests on by two methods, each with its own scale of colours."""
    width, height, row = 10.4, 2.0, 0.58
    figure = Figure(figsize=(width, height))
    for index, method in enumerate(("integrated_gradients", "occlusion")):
        found = Attribution.load(DOCS / f"data/attribution_{method}.safetensors")
        bottom = 1 - (0.35 + 1.0 * index + row) / height
        ax = figure.add_axes((0, bottom, 1, row / height))
        figures.attribution_figure(found, ax)
        ax.set_title(f"{method}: {found.sum_text()}", x=0.015)
    return figure


def _pair(behaviour: str) -> Callable[[], Figure]:
    """An ideal head next to SmolLM2's strongest; for locality its farthest head."""

    def draw() -> Figure:
        _, record = _recorded()
        width, height = 2 * SIDE + 1.6, SIDE + 1.2
        figure = Figure(figsize=(width, height))
        size = (SIDE / width, SIDE / height)
        left = figure.add_axes((0.75 / width, 0.8 / height, *size))
        if behaviour == "locality":
            _draw_real("far", left)
        else:
            pattern = ideal(behaviour, torch.tensor(record["ids"]))
            figures.pattern_map(pattern, record["tokens"], "ideal", left)
        right = figure.add_axes(((1.0 + SIDE) / width, 0.8 / height, *size))
        _draw_real(behaviour, right)
        right.set_yticks([])
        return figure

    return draw


def _draw_real(behaviour: str, ax: Axes) -> None:
    patterns, record = _recorded()
    name = f"SmolLM2 {record['heads'][behaviour]}: {record['figures'][behaviour]:.2f}"
    figures.pattern_map(patterns[behaviour], record["tokens"], name, ax)


def _chance() -> Figure:
    """What uniform attention scores on random tokens given twice, by length."""
    figure = Figure(figsize=(5.4, 2.9))
    ax = figure.add_axes((0.12, 0.17, 0.56, 0.72))
    generator = torch.Generator().manual_seed(0)
    for behaviour in MASKS:
        found = BEHAVIOURS[behaviour]
        assert isinstance(found, MaskBehaviour)
        nulls = []
        for length in LENGTHS:
            half = torch.randperm(50_000, generator=generator)[: length // 2] + 1
            ids = torch.cat([torch.tensor([0]), half, half])
            nulls.append(chance(found, ids))
        dashed = behaviour in ("current_token", "induction")  # equal to the one before
        ax.plot(LENGTHS, nulls, "o--" if dashed else "s-", color=LABELS[behaviour], label=behaviour)
    ax.set_xscale("log", base=2)
    ax.set_xticks(LENGTHS, map(str, LENGTHS))
    ax.set(xlabel="tokens", ylabel="score of uniform attention", ylim=(0, None))
    ax.set_title("Chance by length, on random tokens given twice")
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure
