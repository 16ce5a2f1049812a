"""HTML of ours on the page, with parts that can be chosen."""

from __future__ import annotations

from typing import Any

import gradio as gr

PICKS = """
element.addEventListener("click", (event) => {
  const chosen = event.target.closest("[data-pick]");
  if (chosen && element.contains(chosen)) trigger("pick", { pick: chosen.dataset.pick });
});
"""


def drawing(
    value: str = "", *, elem_id: str | None = None, visible: bool = True, more_js: str = ""
) -> gr.HTML:
    """A place for HTML, in the look of the library's own pages.

    `value` stands for `${value}` in gradio's template and is not read as one: braces in a prompt
    stay braces. What a `<button data-pick="…">` in it stands for is told to `.pick(…)`. `more_js`
    runs once, with the drawing as `element`.
    """
    return gr.HTML(
        value,
        html_template='<div class="mi">${value}</div>',
        js_on_load=PICKS + more_js,
        apply_default_css=False,
        elem_id=elem_id,
        visible=visible,
    )


def picked(event: gr.EventData) -> str:
    """What was chosen."""
    chosen: Any = event.pick
    return str(chosen)
