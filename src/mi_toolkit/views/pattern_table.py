"""One attention pattern, large: a table of its values, or a picture where there are many tokens."""

from __future__ import annotations

import html
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from mi_toolkit.views.colours import SEQUENTIAL, ink_on, shade
from mi_toolkit.views.pixels import pixel_image
from mi_toolkit.views.tokens import visible

MOST_WRITTEN = 24
"""Tokens up to which every value is written out."""

CELL, SMALLEST_CELL, PICTURE = 13, 1, 780
"""Pixels: of a cell of a picture, of the smallest one, and of a picture that has to be fitted."""

LABEL_LENGTH = 14

STRONGEST, LEAST = 3, 0.005
"""Keys listed of each query, and the least attention that is."""


def pattern_html(pattern: Float[Tensor, "query key"], tokens: Sequence[str], name: str) -> str:
    """A pattern with its tokens: queries downwards, keys across.

    Up to 24 tokens every value stands in its cell, in percent; beyond, pixels stand for them, and
    the strongest keys of every query are listed beneath.

    Args:
        pattern: attention from each query to each key, in [0, 1].
        tokens: the text of each position, as the model reads it.
        name: the head's.
    """
    labels = [visible(token, longest=LABEL_LENGTH) for token in tokens]
    drawn = (
        _table(pattern, labels, name)
        if len(labels) <= MOST_WRITTEN
        else _picture(pattern, labels, name) + _strongest(pattern, labels)
    )
    stops = ",".join(SEQUENTIAL)
    return (
        f'{drawn}<div class="legend"><span>attention 0<i class="ramp" '
        f'style="background:linear-gradient(90deg,{stops})"></i>100%</span>'
        "<span>down: the token that looks (query); across: the token looked at (key)</span></div>"
    )


def _table(pattern: Float[Tensor, "query key"], labels: Sequence[str], name: str) -> str:
    over = "".join(f'<th scope="col"><span>{html.escape(label)}</span></th>' for label in labels)
    rows = []
    for query, values in enumerate(pattern.tolist()):
        cells = "".join(
            _cell(value, f"{labels[query]} → {labels[key]}")
            for key, value in enumerate(values[: query + 1])
        )
        future = f'<td class="nothing" colspan="{len(labels) - query - 1}"></td>'
        rows.append(
            f'<tr><th scope="row">{html.escape(labels[query])}</th>{cells}'
            f"{future if query + 1 < len(labels) else ''}</tr>"
        )
    return (
        f'<div class="wide"><table class="pattern"><caption>Attention of {html.escape(name)} in '
        f"percent</caption><tr><td></td>{over}</tr>{''.join(rows)}</table></div>"
    )


def _cell(value: float, where: str) -> str:
    colour = shade(value, SEQUENTIAL)
    return (
        f'<td style="background:{colour};color:{ink_on(colour)}" '
        f'title="{html.escape(where)}: {value:.4f}">{value * 100:.0f}</td>'
    )


def _picture(pattern: Float[Tensor, "query key"], labels: Sequence[str], name: str) -> str:
    n_tokens = len(labels)
    cell = min(CELL, max(SMALLEST_CELL, PICTURE // n_tokens))
    step = -(-CELL // cell)
    over, left = [], []
    for place in range(0, n_tokens, step):
        span = min(step, n_tokens - place)
        label = html.escape(labels[place])
        over.append(
            f'<span class="over" style="grid-column:{place + 2}/span {span}">{label}</span>'
        )
        left.append(f'<span class="left" style="grid-row:{place + 2}/span {span}">{label}</span>')
    side = cell * n_tokens
    image = pixel_image(
        pattern, said=f"Attention pattern of {name} on {n_tokens} tokens", width=side, height=side
    )
    return (
        f'<div class="wide"><div class="pattern-pixels" style="--cell:{cell}px;--n:{n_tokens}">'
        f"{''.join(over)}{''.join(left)}{image}</div></div>"
    )


def _strongest(pattern: Float[Tensor, "query key"], labels: Sequence[str]) -> str:
    top = pattern.topk(min(STRONGEST, len(labels)), dim=-1)
    rows = "".join(
        f'<tr><th scope="row">{query} {html.escape(labels[query])}</th><td>'
        + html.escape(
            ", ".join(
                f"{labels[key]} {value:.0%}"
                for key, value in zip(keys, values, strict=True)
                if key <= query and value >= LEAST
            )
        )
        + "</td></tr>"
        for query, (keys, values) in enumerate(
            zip(top.indices.tolist(), top.values.tolist(), strict=True)
        )
    )
    return (
        "<details><summary>Where each token looks most</summary>"
        f'<div class="wide"><table>{rows}</table></div></details>'
    )
