"""The glossary of the docs, in place: each term where it is used, and all of them at the foot.

`glossary.md` next to this file is the one wording of each term; the docs show the same file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib import resources

import gradio as gr
from markupsafe import Markup, escape

from mi_toolkit.app.tools import drawing
from mi_toolkit.core.errors import unknown_name
from mi_toolkit.draw.page import content_style

SANS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"]
MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]

DARK = "() => window.miTheme()"
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

    definition: Markup
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


def explained(term: str, shown: str | None = None) -> Markup:
    """A term within HTML: a button that opens what it means.

    Args:
        term: one of the glossary's, whatever its capitals.
        shown: what the text says instead; None for the term itself.

    Raises:
        UnknownNameError: the glossary does not have it.

    Example:
        >>> print(explained("lift"))
        <button type="button" class="term" popovertarget="term-lift">lift</button>
    """
    known = terms()
    if term.casefold() not in known:
        raise unknown_name("term of the glossary", term, known)
    return Markup('<button type="button" class="term" popovertarget="{}">{}</button>').format(
        known[term.casefold()].anchor, shown or term
    )


def with_terms(text: str) -> Markup:
    """Plain text as HTML, each `{term}` in it explained; `{shown|term}` where it is inflected.

    >>> print(with_terms("{Heads|head} & all")[-30:])
    head">Heads</button> &amp; all
    """
    shown, end = Markup(""), 0
    for marked in _MARKED.finditer(text):
        made = explained(marked[2] or marked[1], marked[1])
        if marked[3]:
            # A line may break after a button, even before a full stop.
            made = Markup('<span class="whole">{}{}</span>').format(made, marked[3])
        shown += escape(text[end : marked.start()]) + made
        end = marked.end()
    return shown + escape(text[end:])


def help_text(text: str) -> gr.HTML:
    """A line at the head of a panel: what it shows and what to do, with its terms explained.

    >>> line = help_text("Every head's {lift}, with its {95% interval|interval}.")
    """
    return drawing(Markup('<p class="help">{}</p>').format(with_terms(text)))


def _each_term(template: str) -> Markup:
    every = dict.fromkeys(terms().values())
    return Markup("").join(
        Markup(template).format(anchor=term.anchor, name=term.name, definition=term.definition)
        for term in every
    )


def definitions() -> Markup:
    """What `explained` opens: each term's definition, hidden until then. Once to a page."""
    return _each_term(
        '<div popover id="{anchor}" class="definition"><b>{name}.</b> {definition}</div>'
    )


def glossary_section() -> None:
    """All terms at the foot of the page, folded."""
    rows = _each_term("<dt>{name}</dt><dd>{definition}</dd>")
    with gr.Accordion("Glossary", open=False, elem_id="glossary"):
        drawing(Markup('<dl class="glossary">{}</dl>').format(rows))


def _as_html(markdown: str) -> Markup:
    plain = _LINK.sub(r"\1", _LINK_ALONE.sub("", " ".join(markdown.split())))
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(plain))))
