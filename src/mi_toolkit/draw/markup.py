"""HTML from templates: jinja2 escapes all that is not marked as HTML already.

In a template a line break next to a tag or a brace means nothing, so that templates can be
indented where the page minds white space.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from itertools import zip_longest
from typing import Any

import torch
from jaxtyping import Float
from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image
from torch import Tensor

from mi_toolkit.core.display import TextTable, html_table
from mi_toolkit.core.predictions import Prediction
from mi_toolkit.draw import primitives
from mi_toolkit.draw.primitives import LINES, SEQUENTIAL, DotStrip, Stops, TokenGrid, shade

_BREAKS = re.compile(r"(?<=[>}])\s*\n\s*|\s*\n\s*(?=[<{])")


def render(template: str, **shown: Any) -> Markup:
    """A template of `draw/templates`, filled in."""
    return Markup(_templates().get_template(f"{template}.html").render(shown))


def part(name: str, *shown: Any, **further: Any) -> Markup:
    """A macro of `draw/templates/kit.html`, filled in."""
    return Markup(getattr(_templates().get_template("kit.html").module, name)(*shown, **further))


@cache
def asset(name: str) -> str:
    """A file of this package: a style or a script."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


@cache
def _templates() -> Environment:
    templates = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        loader=FunctionLoader(lambda name: _BREAKS.sub("", asset(f"templates/{name}"))),
    )
    templates.globals |= {
        "html_table": html_table,
        "part": part,
        "pick_button": pick_button,
        "pixel_image": pixel_image,
        "repr": repr,
        "zip": zip,
        "zip_longest": zip_longest,
        **{name: value for name, value in vars(primitives).items() if not name.startswith("_")},
    }
    return templates


def wide_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    """A table of plain text that scrolls within its page where it is wider."""
    return part("wide", header, rows)


def tables_html(*shown: TextTable | str, prompt: str | None = None, facts: str = "") -> Markup:
    """Tables with their titles, paragraphs between them, the prompt above and the facts below."""
    return render("tables", shown=shown, prompt=prompt, facts=facts)


def grid_html(grid: TokenGrid) -> Markup:
    """The grid as an HTML table that scrolls sideways."""
    return part("token_grid", grid)


def bars_html(
    title: str,
    predictions: Sequence[Prediction],
    *,
    target: Prediction | None = None,
    colour: str = LINES[0],
) -> Markup:
    """Rank, token and probability, a bar after each; the target's row is marked.

    A target that is not among them comes last, with its own rank.
    """
    ranked = [(each.rank, each) for each in predictions]
    if target is not None and all(each.token != target.token for each in predictions):
        ranked.append((target.rank, target))
    return part("bars", title, ranked, None if target is None else target.token, colour)


STRIP_MARGIN = 8


def strip_svg(
    strip: DotStrip, span: tuple[float, float] | None = None, *, width: int, height: int
) -> Markup:
    """A dot strip from the lowest to the highest of `span`; None: of its own values and zero."""
    low, high = strip.span if span is None else span

    def at(value: float) -> str:
        share = (value - low) / (high - low) if high > low else 0.5
        return f"{STRIP_MARGIN + share * (width - 2 * STRIP_MARGIN):.1f}"

    return part("dot_strip", strip, at, width, height, STRIP_MARGIN)


def pick_button(
    pick: str,
    content: str,
    *,
    is_chosen: bool | None = None,
    is_in_reach: bool | None = None,
    tip: str = "",
    kind: str = "",
    style: str = "",
) -> Markup:
    """A button.

    Args:
        pick: what it stands for.
        content: what it says: plain text, or HTML as `Markup`.
        is_chosen: whether it is the one of its group; None where nothing stays chosen.
        is_in_reach: whether the tabulator comes to it; False: only arrow keys do.
        tip: said for it, and where the mouse rests on it; plain text.
        kind: its classes.
        style: its style.

    >>> pick_button("L0H1", "0 < 1", is_chosen=True)
    Markup('<button type="button" data-pick="L0H1" aria-pressed="true">0 &lt; 1</button>')
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
    return part("button", attributes, content)


_LEVELS = 256


def pixel_image(
    values: Float[Tensor, "row column"],
    *,
    said: str,
    width: int,
    height: int,
    stops: Stops = SEQUENTIAL,
) -> Markup:
    """An `<img>` of values in [0, 1] on a scale of colours; what lies outside has an end's colour.

    `said` stands in for the picture where it is not seen, and is shown where the mouse rests on it.
    """
    levels = (values.clamp(0, 1) * (_LEVELS - 1)).round().to(torch.uint8)
    picture = Image.fromarray(levels.numpy(), "L")
    picture.putpalette(
        b"".join(bytes.fromhex(shade(at / (_LEVELS - 1), stops)[1:]) for at in range(_LEVELS))
    )
    written = io.BytesIO()
    picture.save(written, "PNG", optimize=True)
    source = base64.b64encode(written.getvalue()).decode()
    return part("pixels", source, said, width, height)


def value_grid(
    values: Float[Tensor, "row column"],
    *,
    down: Sequence[str],
    across: Sequence[str],
    said: str,
    cell: int,
    between: str = "\N{RIGHTWARDS ARROW}",
) -> Markup:
    """A picture of values in [0, 1] with its axes, and the values, for pages that read them out.

    Args:
        values: what is shown.
        down: a label for each row.
        across: a label for each column.
        said: what it is, in words.
        cell: pixels of a value.
        between: what stands between row and column where a value is read out.
    """
    width, height = cell * len(across), cell * len(down)
    counts = (values.clamp(0, 1) * VALUE_SCALE).round().to(torch.int16).contiguous()
    return part(
        "value_grid",
        pixel_image(values, said=said, width=width, height=height),
        base64.b64encode(counts.numpy().astype("<u2").tobytes()).decode(),
        down,
        across,
        said,
        cell,
        json.dumps([f"{label} {between}" for label in down]),
        json.dumps(list(across)),
    )


VALUE_SCALE = 10_000
"""What a value of 1 is written as, in two bytes."""
