"""The head of the page: what it is, light or dark, the tour, and a way past it for the keyboard."""

from __future__ import annotations

import gradio as gr

from mi_toolkit.app.glossary import definitions
from mi_toolkit.app.look import DARK
from mi_toolkit.app.picking import drawing

HEADER = """<header class="top">
<a class="skip" href="#generator">To model and prompt</a>
<div><h1>mi_toolkit</h1>
<p>See what a language model does with your prompt, and what changes when you change the model.</p>
</div>
<nav aria-label="Page"><button type="button" id="dark">Light / dark</button>
<button type="button" id="tour-button">Tour</button></nav>
</header>"""


def header() -> gr.HTML:
    """The first thing on the page. It carries what the terms' buttons open."""
    return drawing(
        HEADER + definitions(),
        elem_id="header",
        more_js=f'element.querySelector("#dark").addEventListener("click", {DARK});',
    )
