"""The page's look: fonts that are there already, the library's own colours, light and dark."""

from __future__ import annotations

from functools import cache
from importlib import resources

import gradio as gr

from mi_toolkit.views.page import content_style

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
