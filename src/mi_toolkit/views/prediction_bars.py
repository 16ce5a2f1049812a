"""The most probable next tokens as a table with bars."""

from __future__ import annotations

import html
from collections.abc import Sequence

from mi_toolkit.predictions import Prediction
from mi_toolkit.views.colours import LINES
from mi_toolkit.views.tokens import visible


def bars_html(
    title: str,
    predictions: Sequence[Prediction],
    *,
    target: Prediction | None = None,
    colour: str = LINES[0],
) -> str:
    """Rank, token and probability, a bar behind each; the target's row is marked.

    A target that is not among them comes last, with its own rank.
    """
    ranked = list(enumerate(predictions, start=1))
    if target is not None and all(each.token != target.token for each in predictions):
        ranked.append((target.rank, target))
    rows = "".join(_row(rank, each, target, colour) for rank, each in ranked)
    head = "<tr><th>rank</th><th>token</th><th>probability</th></tr>"
    return (
        f'<figure class="bars"><figcaption>{html.escape(title)}</figcaption>'
        f"<table>{head}{rows}</table></figure>"
    )


def _row(rank: int, shown: Prediction, target: Prediction | None, colour: str) -> str:
    marked = ' class="target"' if target is not None and shown.token == target.token else ""
    share = shown.probability
    return (
        f"<tr{marked}><td>{rank:,}</td>"
        f'<td title="id {shown.token}">{html.escape(visible(shown.text))}</td>'
        f'<td><i style="width:{share * 100:.1f}%;background:{colour}"></i>'
        f"<span>{share:.1%}</span></td></tr>"
    )
