"""The glossary of the docs, in place: each term where it is used, and all of them at the foot.

`glossary.md` next to this file is the one wording of each term; the docs show the same file.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources

import gradio as gr

from mi_toolkit.app.tools import drawing
from mi_toolkit.core.errors import unknown_name
from mi_toolkit.draw.page import content_style

SANS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"]
MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]

DARK = "() => { document.body.classList.toggle('dark'); }"
"""What the button for light and dark does."""


def theme() -> gr.themes.Base:
    """Gradio's default theme, without fonts from another host, its faint text made readable."""
    made = gr.themes.Default(
        primary_hue="blue",
        neutral_hue="slate",
        font=[gr.themes.Font(name) for name in SANS],
        font_mono=[gr.themes.Font(name) for name in MONO],
    )
    return made.set(
        body_text_color_subdued="*neutral_600",
        block_info_text_color="*neutral_600",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
    )


def style() -> str:
    """The page's own rules, and those of the library's pages within what it draws.

    Two classes before each of them: gradio's own rules for tables and borders have one.
    """
    return f"{asset('app.css')}\n.gradio-container .mi {{\n{content_style()}\n}}"


@cache
def asset(name: str) -> str:
    """A file of this package, as text."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


_ENTRY = re.compile(r"\*\*(.+?)\.\*\* (.+)", re.DOTALL)
_LINK_ALONE = re.compile(r"\s*\[[^\]]*\]\([^)]*\)\.")
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
_MARKED = re.compile(r"\{([^{}|]+)(?:\|([^{}]+))?\}([.,;:)]*)")


@dataclass(frozen=True, kw_only=True)
class Term:
    """One entry of the glossary."""

    name: str
    """As the glossary prints it; where it has several names, they stand between commas."""

    definition: str
    """What it means, as HTML, without the links to other pages of the docs."""

    @property
    def anchor(self) -> str:
        """The id of the element that shows it."""
        return "term-" + re.sub(r"\W+", "-", self.name.casefold())


@cache
def terms() -> dict[str, Term]:
    """Every term, under each of its names in small letters."""
    found: dict[str, Term] = {}
    for paragraph in asset("glossary.md").strip().split("\n\n")[1:]:
        entry = _ENTRY.fullmatch(paragraph)
        if entry is None:
            raise ValueError(f"No entry of the glossary: {paragraph!r}.")
        term = Term(name=entry[1], definition=_as_html(entry[2]))
        found |= {name.casefold(): term for name in entry[1].split(", ")}
    return found


def explained(term: str, shown: str | None = None) -> str:
    """A term within HTML: a button that opens what it means.

    Args:
        term: one of the glossary's, whatever its capitals.
        shown: what the text says instead; None for the term itself.

    Raises:
        UnknownNameError: the glossary does not have it.

    Example:
        >>> explained("lift")
        '<button type="button" class="term" popovertarget="term-lift">lift</button>'
    """
    known = terms()
    if term.casefold() not in known:
        raise unknown_name("term of the glossary", term, known)
    anchor = known[term.casefold()].anchor
    return (
        f'<button type="button" class="term" popovertarget="{anchor}">'
        f"{html.escape(shown or term)}</button>"
    )


def with_terms(text: str) -> str:
    """Plain text as HTML, each `{term}` in it explained; `{shown|term}` where it is inflected.

    >>> with_terms("{Heads|head} & all")[-30:]
    'head">Heads</button> &amp; all'
    """

    def button(marked: re.Match[str]) -> str:
        made = explained(marked[2] or marked[1], marked[1])
        # A line may break after a button, even before a full stop.
        return f'<span class="whole">{made}{marked[3]}</span>' if marked[3] else made

    return _MARKED.sub(button, html.escape(text, quote=False))


def help_text(text: str) -> gr.HTML:
    """A line at the head of a panel: what it shows and what to do, with its terms explained.

    >>> line = help_text("Every head's {lift}, with its {95% interval|interval}.")
    """
    return drawing(f'<p class="help">{with_terms(text)}</p>')


def definitions() -> str:
    """What `explained` opens: each term's definition, hidden until then. Once to a page."""
    return "".join(
        f'<div popover id="{term.anchor}" class="definition"><b>{html.escape(term.name)}.</b> '
        f"{term.definition}</div>"
        for term in dict.fromkeys(terms().values())
    )


def glossary_section() -> None:
    """All terms at the foot of the page, folded."""
    rows = "".join(
        f"<dt>{html.escape(term.name)}</dt><dd>{term.definition}</dd>"
        for term in dict.fromkeys(terms().values())
    )
    with gr.Accordion("Glossary", open=False, elem_id="glossary"):
        drawing(f'<dl class="glossary">{rows}</dl>')


def _as_html(markdown: str) -> str:
    plain = _LINK.sub(r"\1", _LINK_ALONE.sub("", " ".join(markdown.split())))
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(plain))
