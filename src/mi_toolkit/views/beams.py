"""A tree of beams as SVG, written by hand: every token can tell its figures."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence

from mi_toolkit.generation.generation import Generation
from mi_toolkit.views.beam_layout import PlacedNode, placed_nodes
from mi_toolkit.views.colours import FRAME, SEQUENTIAL, ink_on, shade
from mi_toolkit.views.tokens import visible

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
        f'<svg role="img" aria-label="beams behind {html.escape(prompt)}" width="{width:.0f}" '
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
