"""Pictures of the further behaviours: an ideal head next to SmolLM2's strongest."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from mi_toolkit.core.result import load_record
from mi_toolkit.draw import figures
from mi_toolkit.draw.figures.grids import draw_values
from mi_toolkit.draw.figures.style import colour_map
from mi_toolkit.draw.primitives import FRAME, LABELS, SEQUENTIAL
from mi_toolkit.draw.primitives import visible as shown
from mi_toolkit.heads.behaviours import BEHAVIOURS
from mi_toolkit.heads.kinds import MaskBehaviour

PATTERNS = Path(__file__).parents[2] / "docs/data/smollm2_further.safetensors"
FORMAT = "mi_toolkit docs further patterns 1"
LOOKED_AT = {"name_mover": "io", "negative_name_mover": "io", "s_inhibition": "s2"}
HAS_BOS = True
LENGTHS = (16, 32, 64, 128, 256, 512)
SIDE = 2.9
"""Of a pattern, in inches."""


def further_pictures() -> dict[str, Callable[[], Figure]]:
    """By name, what draws each."""
    pairs = {name: partial(_pair, name) for name in ("offset_3", *LOOKED_AT)}
    return {**pairs, "retrieval": _retrieval, "successor": _successor, "chance_further": _chance}


@cache
def _recorded() -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, record = load_record(PATTERNS, format=FORMAT, kind="recorded patterns")
    return tensors, record["heads"]


def _pair(behaviour: str) -> Figure:
    """Patterns side by side; the cell that decides is framed, where there is one."""
    tensors, about = _recorded()
    facts = about[behaviour]
    width, height = 2 * SIDE + 1.6, SIDE + 1.2
    figure = Figure(figsize=(width, height))
    size = (SIDE / width, SIDE / height)
    left = figure.add_axes((0.75 / width, 0.8 / height, *size))
    right = figure.add_axes(((1.0 + SIDE) / width, 0.8 / height, *size))
    tokens = [shown(text, longest=10) for text in facts["tokens"]]
    figures.pattern_map(_ideal(behaviour, facts), tokens, _named_ideal(facts), left)
    figures.pattern_map(tensors[behaviour], tokens, _named(facts), right)
    right.set_yticks([])
    if behaviour in LOOKED_AT:
        query, key = (facts["roles"][role][0] for role in ("end", LOOKED_AT[behaviour]))
        for ax in (left, right):
            _frame(ax, key, query)
    return figure


def _ideal(behaviour: str, facts: dict[str, Any]) -> Tensor:
    """Rests on the first token; looks where it should at the queries that count."""
    n = len(facts["ids"])
    if behaviour not in LOOKED_AT:
        found = BEHAVIOURS[behaviour]
        assert isinstance(found, MaskBehaviour)
        looked = found.targets(torch.tensor(facts["ids"]), HAS_BOS).float()
    else:
        looked = torch.zeros(n, n)
        looked[facts["roles"]["end"][0], facts["roles"][LOOKED_AT[behaviour]][0]] = 1.0
    looked[looked.sum(dim=-1) == 0, 0] = 1.0
    return looked


def _named(facts: dict[str, Any]) -> str:
    told = f"SmolLM2 {facts['head']}: {facts['lift']:.2f}"
    return told if facts["copying"] is None else f"{told}, effect {facts['copying']:+.1f}"


def _named_ideal(facts: dict[str, Any]) -> str:
    if facts["copying"] is None:
        return "ideal"
    return f"ideal, effect {'above' if facts['copying'] > 0 else 'below'} 0"


def _frame(ax: Axes, key: int, query: int) -> None:
    ax.add_patch(
        Rectangle((key - 0.5, query - 0.5), 1, 1, fill=False, edgecolor=FRAME, linewidth=1.6)
    )


def _retrieval() -> Figure:
    """The queries that predict the answer, over all of the text; hidden tokens are framed."""
    tensors, about = _recorded()
    facts = about["retrieval"]
    needle, answer = (range(*facts["roles"][role]) for role in ("needle", "answer"))
    queries = [place - 1 for place in answer]
    ideal = torch.zeros(len(queries), len(facts["ids"]))
    for row, hidden in enumerate(needle):
        ideal[row, hidden] = 1.0
    figure = Figure(figsize=(8.2, 3.4))
    rows = [f"→{shown(facts['tokens'][place])}" for place in answer]
    for place, (name, pattern) in enumerate(
        {"ideal": ideal, _named(facts): tensors["retrieval"][queries]}.items()
    ):
        ax = figure.add_axes((0.13, 0.62 - 0.44 * place, 0.84, 0.27))
        ax.imshow(pattern.numpy(), cmap=colour_map(SEQUENTIAL), vmin=0, vmax=1, aspect="auto")
        ax.set_title(name)
        ax.set_yticks(range(len(rows)), rows, fontsize=7, parse_math=False)
        at = [0, *(needle[:1]), len(facts["ids"]) - 1]
        ax.set_xticks(at, ["first", "the hidden words", "last"], fontsize=7)
        for row, hidden in enumerate(needle):
            _frame(ax, hidden, row)
    return figure


def _successor() -> Figure:
    """What each month's embedding does to the logit of each month."""
    tensors, about = _recorded()
    facts = about["successor"]
    names = [text.strip()[:3] for text in facts["tokens"]]
    n = len(names)
    ideal = torch.roll(torch.eye(n), 1, dims=1)
    ideal = (ideal - ideal.mean(dim=-1, keepdim=True)) / ideal.std(dim=-1, keepdim=True)
    figure = Figure(figsize=(9.4, 4.0))
    for place, (name, values) in enumerate(
        {"ideal": ideal, _named(facts): tensors["successor"]}.items()
    ):
        ax = figure.add_axes((0.07 + 0.48 * place, 0.14, 0.36, 0.74))
        draw_values(
            ax,
            values,
            title=name,
            rows=names,
            columns=names,
            across="what it raises",
            down="" if place else "what it reads",
        )
        for row in range(n):
            ax.add_patch(
                Rectangle(((row + 1) % n, row), 1, 1, fill=False, edgecolor=FRAME, linewidth=1.2)
            )
    return figure


def chance(behaviour: MaskBehaviour, ids: Tensor) -> float:
    """What uniform attention scores, in a layer without a window."""
    share = behaviour.targets(ids, HAS_BOS).sum(dim=-1) / torch.arange(1, len(ids) + 1)
    return float(share[share > 0].mean())


def _chance() -> Figure:
    """What uniform attention scores by length: over all queries, and from a text's last ones."""
    figure = Figure(figsize=(6.6, 2.9))
    ax = figure.add_axes((0.1, 0.17, 0.5, 0.72))
    offset = BEHAVIOURS["offset_3"]
    assert isinstance(offset, MaskBehaviour)
    ids = [torch.arange(length) for length in LENGTHS]
    nulls = [chance(offset, each) for each in ids]
    ax.plot(LENGTHS, nulls, "s-", label="offset_3")
    last = [1 / length for length in LENGTHS]
    name = "one key, from the last query:\nname_mover, s_inhibition, retrieval"
    ax.plot(LENGTHS, last, "o-", color=LABELS["name_mover"], label=name)
    ax.set_xscale("log", base=2)
    ax.set_xticks(LENGTHS, map(str, LENGTHS))
    ax.set(xlabel="tokens", ylabel="score of uniform attention", ylim=(0, None))
    ax.set_title("Chance by length")
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure
