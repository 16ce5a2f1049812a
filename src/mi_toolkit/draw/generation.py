"""What a model wrote, as part of a page: its sequences, the tree of beams, the alternatives."""

from __future__ import annotations

import html
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mi_toolkit.draw import figures
from mi_toolkit.draw.page import Page, Section, pick_button
from mi_toolkit.draw.picture import wide_table
from mi_toolkit.draw.primitives import (
    FRAME,
    SEQUENTIAL,
    GridCell,
    TokenGrid,
    grid_html,
    ink_on,
    percent,
    shade,
    visible,
)
from mi_toolkit.text.generation import HEADER, PROMPT, GeneratedSequence, Generation


@dataclass(frozen=True, kw_only=True)
class PlacedNode:
    """One token of the drawing."""

    column: int
    """Its step."""

    lane: int
    """Its row; the best sequence keeps to row 0."""

    parent: tuple[int, int] | None
    """Column and lane of the node before it; None after the prompt."""

    text: str
    """Its token, in a form in which nothing is invisible."""

    probability: float
    """After its parent, in [0, 1]."""

    tip: str
    """What is told where the mouse rests on it, as plain text."""

    sequence: int | None
    """The best sequence that it is part of; None where all beams through it were dropped."""

    outcome: str
    """After the last token of a sequence: its place and its score; elsewhere empty."""

    ended: bool
    """Whether it ended its sequence."""


def placed_nodes(generation: Generation) -> list[PlacedNode]:
    """The drawing of a generation's tree; branches take the nearest free row below."""
    tree = generation.tree
    of_sequence: dict[int, int] = {}
    outcomes: dict[int, str] = {}
    for index, sequence in enumerate(generation.sequences):
        for node in tree.path(sequence.leaf):
            of_sequence.setdefault(node, index)
        outcomes[sequence.leaf] = f"{index + 1}: {sequence.score:.3f}"
    lanes = _lanes(tree.parents.tolist(), tree.steps.tolist(), of_sequence)
    placed = []
    for node in range(len(tree)):
        parent, step = int(tree.parents[node]), int(tree.steps[node])
        text = generation.texts[int(tree.ids[node])]
        probability = math.exp(float(tree.log_probs[node]))
        said = [
            repr(text),
            f"probability {percent(probability)}",
            f"log-probability so far {float(tree.totals[node]):.2f}",
            *(["ends here"] if bool(tree.ended[node]) else []),
            *(["dropped"] if node not in of_sequence else []),
        ]
        placed.append(
            PlacedNode(
                column=step,
                lane=lanes[node],
                parent=None if parent == PROMPT else (step - 1, lanes[parent]),
                text=visible(text, longest=12),
                probability=probability,
                tip=", ".join(said),
                sequence=of_sequence.get(node),
                outcome=outcomes.get(node, ""),
                ended=bool(tree.ended[node]),
            )
        )
    return placed


def _lanes(
    parents: Sequence[int], steps: Sequence[int], of_sequence: Mapping[int, int]
) -> dict[int, int]:
    """A row for each node: a child goes on in its parent's, its siblings branch off below."""
    children: dict[int, list[int]] = {}
    depth = dict(enumerate(steps))
    for node in range(len(parents) - 1, -1, -1):
        children.setdefault(parents[node], []).insert(0, node)
        if parents[node] != PROMPT:
            depth[parents[node]] = max(depth[parents[node]], depth[node])

    def order(node: int) -> tuple[int, int]:
        return (of_sequence.get(node, len(parents)), -depth[node])

    lanes: dict[int, int] = {}
    taken: dict[int, list[range]] = {}
    roots = sorted(children.get(PROMPT, []), key=order)
    waiting = [(child, 0) for child in reversed(roots)]
    while waiting:
        first, lowest = waiting.pop()
        chain = [first]
        while children.get(chain[-1]):
            chain.append(min(children[chain[-1]], key=order))
        room = range(steps[first] - 1, steps[chain[-1]] + 2)
        lane = lowest
        while any(_meet(room, each) for each in taken.get(lane, [])):
            lane += 1
        taken.setdefault(lane, []).append(room)
        lanes |= dict.fromkeys(chain, lane)
        # The last to be put in is the first to be placed: late branches stay near.
        for node in chain:
            others = sorted(children.get(node, []), key=order)[1:]
            waiting += [(other, lane + 1) for other in reversed(others)]
    return lanes


def _meet(one: range, other: range) -> bool:
    return one.start < other.stop and other.start < one.stop


SIGN, PADDING, GAP = 7.5, 12.0, 26.0
BOX, LANE, MARGIN = 22, 30, 6
OUTCOME = 90


def tree_html(generation: Generation) -> str:
    """The tree with its legend, as an HTML `<figure>` that scrolls sideways."""
    placed = placed_nodes(generation)
    start = visible(generation.texts[int(generation.prompt_ids[-1])], longest=12)
    drawn = "".join(_svg(placed, f"…{start}", generation.prompt))
    stops = ",".join(SEQUENTIAL)
    legend = (
        f'<span>probability 0<i class="ramp" style="background:linear-gradient(90deg,{stops})">'
        f'</i>1</span><span><i class="framed" style="border-color:{FRAME}"></i>best sequence</span>'
        "<span>grey: dropped</span><span>right of a last token: place and score</span>"
    )
    return (
        f'<figure class="tree"><div class="wide">{drawn}</div>'
        f'<div class="legend">{legend}</div></figure>'
    )


def lefts_and_widths(
    placed: Sequence[PlacedNode], first: str, *, sign: float, padding: float, gap: float
) -> tuple[list[float], list[float]]:
    """Where each column begins and how wide it is, the prompt's first; as wide as its tokens."""
    n_columns = 1 + max(node.column for node in placed)
    longest = [1] * n_columns
    for node in placed:
        longest[node.column] = max(longest[node.column], len(node.text))
    widths = [length * sign + padding for length in (len(first), *longest)]
    lefts = [0.0]
    for width in widths[:-1]:
        lefts.append(lefts[-1] + width + gap)
    return lefts, widths


def _svg(placed: Sequence[PlacedNode], first: str, prompt: str) -> Iterator[str]:
    lefts, widths = lefts_and_widths(placed, first, sign=SIGN, padding=PADDING, gap=GAP)
    width = lefts[-1] + widths[-1] + OUTCOME + 2 * MARGIN
    height = (1 + max(node.lane for node in placed)) * LANE + 2 * MARGIN
    yield (
        f'<svg role="img" aria-label="beams after {html.escape(prompt)}" width="{width:.0f}" '
        f'height="{height}" viewBox="0 0 {width:.0f} {height}">'
        f'<g transform="translate({MARGIN} {MARGIN})">'
    )
    for node in reversed(placed):
        yield _edge(node, lefts, widths)
    yield (
        f'<g class="root"><rect x="0" y="0" width="{widths[0]:.0f}" height="{BOX}" rx="3"/>'
        f'<text x="{widths[0] / 2:.0f}" y="15">{html.escape(first)}</text>'
        f"<title>{html.escape(prompt)}</title></g>"
    )
    for node in placed:
        yield _box(node, lefts[node.column + 1], widths[node.column + 1])
    yield "</g></svg>"


def _edge(node: PlacedNode, lefts: Sequence[float], widths: Sequence[float]) -> str:
    column, lane = node.parent or (-1, 0)
    x, y = lefts[column + 1] + widths[column + 1], lane * LANE + BOX / 2
    end, down = lefts[node.column + 1], node.lane * LANE + BOX / 2
    middle = (x + end) / 2
    return (
        f'<path class="{_kind(node)}" d="M{x:.0f} {y:.0f}C{middle:.0f} {y:.0f} {middle:.0f} '
        f'{down:.0f} {end:.0f} {down:.0f}"/>'
    )


def _box(node: PlacedNode, left: float, width: float) -> str:
    colour = shade(node.probability, SEQUENTIAL)
    y = node.lane * LANE
    kind = f"{_kind(node)} end" if node.ended else _kind(node)
    outcome = ""
    if node.outcome:
        outcome = (
            f'<text class="outcome" x="{left + width + 6:.0f}" y="{y + 15}">{node.outcome}</text>'
        )
    return (
        f'<g class="{kind}"><rect x="{left:.0f}" y="{y}" width="{width:.0f}" height="{BOX}" '
        f'rx="3" fill="{colour}"/><text x="{left + width / 2:.0f}" y="{y + 15}" '
        f'fill="{ink_on(colour)}">{html.escape(node.text)}</text>'
        f"<title>{html.escape(node.tip)}</title></g>{outcome}"
    )


def _kind(node: PlacedNode) -> str:
    if node.sequence is None:
        return "dropped"
    return "best" if node.sequence == 0 else "kept"


@dataclass(frozen=True, eq=False, repr=False)
class GenerationView:
    """A generation that a notebook draws and a file keeps."""

    generation: Generation
    """What is shown."""

    def section(self) -> Section:
        """The view's part of a page."""
        found = self.generation
        caption = (
            f"After {found.prompt!r}. A score is the log-probability of a sequence over its "
            f"length to the power of {found.length_penalty:g}."
        )
        grids = [grid_html(alternatives_grid(found, index)) for index in range(found.num_beams)]
        further = "".join(
            f"<details><summary>Alternatives of sequence {index + 2}</summary>{grid}</details>"
            for index, grid in enumerate(grids[1:])
        )
        tree = f"<h3>Beams</h3>{tree_html(found)}" if found.num_beams > 1 else ""
        table = wide_table(HEADER, found.cells())
        under = ""
        if found.hooks:
            named = html.escape(", ".join(found.hooks))
            under = f'<p class="facts">Hooks were active at {named}.</p>'
        return Section(
            title=found.title(),
            caption=caption,
            body=f"{table}{under}{tree}{grids[0]}{further}",
            height=420 + 34 * found.num_beams * (found.num_beams > 1) + 44 * self._n_choices(),
        )

    def _n_choices(self) -> int:
        return int(self.generation.sequences[0].alternative_ids.shape[1])

    def save_html(self, path: str | os.PathLike[str]) -> None:
        """Write a page of this view alone; `Page` puts several views on one."""
        Page([self]).save_html(path)

    def save_png(self, path: str | os.PathLike[str]) -> None:
        """Write it as one picture: the tree of beams and the best sequence's alternatives."""
        figures.save_figure(figures.generation_figure(self.generation), path)

    def _repr_html_(self) -> str:
        return Page([self])._repr_html_()

    def __repr__(self) -> str:
        return f"GenerationView({self.generation.title()})"


def view_generation(generation: Generation) -> GenerationView:
    """A generation to look at: in a notebook, as a page, as a picture.

    Example:
        >>> import mi_toolkit as mi
        >>> found = mi.generate(mi.load_model("toy-gpt2"), "Mary and John", num_beams=2)
        >>> mi.view(found)
        GenerationView(toy-gpt2 goes on (2 beams))
    """
    return GenerationView(generation)


def beam_buttons(generation: Generation, chosen: int) -> str:
    """The texts, best first, each a button with its score: which one stands in `data-pick`."""
    items = []
    for index, sequence in enumerate(generation.sequences):
        told = (
            f"score {sequence.score:.3f} · log-probability {float(sequence.log_probs.sum()):.2f} · "
            f"{len(sequence)} tokens{', ended by the model' if sequence.ended else ''}"
        )
        content = (
            f"<span>{html.escape(generation.prompt)}</span><b>{html.escape(sequence.text)}</b>"
            f"<small>{html.escape(told)}</small>"
        )
        button = pick_button(str(index), content, is_chosen=index == chosen)
        items.append(f"<li>{button}</li>")
    return f'<ol class="beams">{"".join(items)}</ol>'


def alternatives_grid(generation: Generation, index: int) -> TokenGrid:
    """The most probable tokens in the place of each token of one sequence."""
    sequence = generation.sequences[index]
    chosen = zip(generation.tokens(sequence.ids), sequence.log_probs.tolist(), strict=True)
    n_choices = sequence.alternative_ids.shape[1]
    return TokenGrid(
        title=f"Alternatives of sequence {index + 1}: {visible(sequence.text, longest=60)}",
        corner="rank",
        columns=tuple(
            (visible(text, longest=12), percent(math.exp(log_prob))) for text, log_prob in chosen
        ),
        rows=tuple(str(rank) for rank in range(1, n_choices + 1)),
        cells=tuple(_choices(generation, sequence, rank) for rank in range(n_choices)),
        framed="written",
    )


def _choices(
    generation: Generation, sequence: GeneratedSequence, rank: int
) -> tuple[GridCell, ...]:
    ids = sequence.alternative_ids[:, rank].tolist()
    log_probs = sequence.alternative_log_probs[:, rank].tolist()
    return tuple(
        GridCell(
            text=visible(generation.texts[token], longest=12),
            probability=math.exp(log_prob),
            tip=f"{generation.texts[token]!r}: {log_prob:.3f} nats",
            is_framed=token == own,
        )
        for token, log_prob, own in zip(ids, log_probs, sequence.ids.tolist(), strict=True)
    )
