"""Buttons for pages that listen: what a click stands for is the button's `data-pick`."""

from __future__ import annotations

import html


def pick_button(
    pick: str,
    content: str,
    *,
    is_chosen: bool | None = None,
    is_in_reach: bool | None = None,
    tip: str = "",
    kind: str = "",
    style: str = "",
) -> str:
    """A button.

    Args:
        pick: what it stands for.
        content: HTML.
        is_chosen: whether it is the one of its group; None where nothing stays chosen.
        is_in_reach: whether the tabulator comes to it; False: only arrow keys do.
        tip: said for it, and where the mouse rests on it; plain text.
        kind: its classes.
        style: its style.

    >>> pick_button("L0H1", "<b>0</b>", is_chosen=True)
    '<button type="button" data-pick="L0H1" aria-pressed="true"><b>0</b></button>'
    """
    attributes = {
        "data-pick": pick,
        "aria-pressed": None if is_chosen is None else str(is_chosen).lower(),
        "tabindex": None if is_in_reach is None else "0" if is_in_reach else "-1",
        "aria-label": tip or None,
        "title": tip or None,
        "class": kind or None,
        "style": style or None,
    }
    written = "".join(
        f' {name}="{html.escape(value)}"' for name, value in attributes.items() if value is not None
    )
    return f'<button type="button"{written}>{content}</button>'
