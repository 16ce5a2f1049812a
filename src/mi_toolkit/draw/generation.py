"""What a model wrote, as part of a page: its sequences, the tree of beams, the alternatives."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from mi_toolkit.draw import figures
from mi_toolkit.draw.markup import grid_html, render
from mi_toolkit.draw.page import ResultView
from mi_toolkit.draw.primitives import GridCell, TokenGrid, percent, visible
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
    """What is shown where the mouse rests on it, as plain text."""

    sequence: int | None
    """The best sequence that it is part of; None where all beams through it were dropped."""

    outcome: str
    """After the last token of a sequence: its place and its score; elsewhere empty."""

    ended: bool
    """Whether it ended its sequence."""

    @property
    def kind(self) -> str:
        """`dropped`, part of the `best` sequence, or `kept`."""
        if self.sequence is None:
            return "dropped"
        return "best" if self.sequence == 0 else "kept"


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


@dataclass(frozen=True, kw_only=True)
class TreeScale:
    """The sizes of a drawn tree, in whatever unit it is drawn in."""

    sign: float
    """Width of a sign of a token."""

    padding: float
    """Around a token, in its box."""

    gap: float
    """Between the columns."""

    box: float
    """Height of a box."""

    lane: float
    """From one row to the next."""

    outcome: float
    """Room for what a sequence came to, at the right."""


@dataclass(frozen=True)
class PlacedBox:
    """A token's box."""

    node: PlacedNode
    left: float
    top: float
    width: float
    edge: tuple[tuple[float, float], ...]
    """Four points of the curve that comes to it from its parent."""


@dataclass(frozen=True, kw_only=True)
class Tree:
    """Where all of a generation's tree is drawn."""

    first: str
    """The prompt's last token, in the first box, at 0, 0."""

    first_width: float
    boxes: Sequence[PlacedBox]
    width: float
    height: float


def placed_tree(generation: Generation, scale: TreeScale) -> Tree:
    """The tree's boxes and curves; columns are as wide as their tokens."""
    placed, first = placed_nodes(generation), prompt_end(generation)
    longest = [len(first)] + [1] * (1 + max(node.column for node in placed))
    for node in placed:
        longest[node.column + 1] = max(longest[node.column + 1], len(node.text))
    widths = [length * scale.sign + scale.padding for length in longest]
    lefts = [sum(widths[:column]) + column * scale.gap for column in range(len(widths))]

    def box(node: PlacedNode) -> PlacedBox:
        column, lane = node.parent or (-1, 0)
        left, top = lefts[node.column + 1], node.lane * scale.lane
        x, y = lefts[column + 1] + widths[column + 1], lane * scale.lane + scale.box / 2
        middle, down = (x + left) / 2, top + scale.box / 2
        edge = ((x, y), (middle, y), (middle, down), (left, down))
        return PlacedBox(node, left, top, widths[node.column + 1], edge)

    return Tree(
        first=first,
        first_width=widths[0],
        boxes=[box(node) for node in placed],
        width=lefts[-1] + widths[-1] + scale.outcome,
        height=(1 + max(node.lane for node in placed)) * scale.lane,
    )


PIXELS = TreeScale(sign=7.5, padding=12, gap=26, box=22, lane=30, outcome=90)


def tree_html(generation: Generation) -> Markup:
    """The tree with its legend, as an HTML `<figure>` that scrolls sideways."""
    tree = placed_tree(generation, PIXELS)
    return render("tree", tree=tree, prompt=generation.prompt, box=PIXELS.box)


def prompt_end(generation: Generation) -> str:
    """The last token of the prompt, where the tree begins."""
    return f"…{visible(generation.texts[int(generation.prompt_ids[-1])], longest=12)}"


def view_generation(generation: Generation) -> ResultView:
    """A generation to look at: in a notebook, as a page, as a picture.

    Example:
        >>> import mi_toolkit as mi
        >>> found = mi.generate(mi.load_model("toy-gpt2"), "Mary and John", num_beams=2)
        >>> mi.view(found)
        View of toy-gpt2 goes on (2 beams)
    """
    n_beams = generation.num_beams
    n_choices = int(generation.sequences[0].alternative_ids.shape[1])
    return ResultView(
        title=generation.title(),
        caption=(
            f"After {generation.prompt!r}. A score is the log-probability of a sequence over its "
            f"length to the power of {generation.length_penalty:g}."
        ),
        body=lambda: render(
            "generation",
            header=HEADER,
            rows=generation.cells(),
            hooks=", ".join(generation.hooks),
            tree=tree_html(generation) if n_beams > 1 else None,
            grids=[grid_html(alternatives_grid(generation, index)) for index in range(n_beams)],
        ),
        draw=lambda: figures.generation_figure(generation),
        height=420 + 34 * n_beams * (n_beams > 1) + 44 * n_choices,
    )


def beam_buttons(generation: Generation, chosen: int) -> Markup:
    """The texts, best first, each a button with its score: which one stands in `data-pick`."""
    return render("beams", generation=generation, chosen=chosen)


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
