"""HTML of ours on the page, with parts that can be chosen."""

from __future__ import annotations

from typing import Any

import gradio as gr

PICKS = """
let last = null;
element.addEventListener("click", (event) => {
  const chosen = event.target.closest("[data-pick]");
  if (!chosen || !element.contains(chosen)) return;
  last = chosen.dataset.pick;
  trigger("pick", { pick: last });
});
element.addEventListener("keydown", (event) => {
  const group = event.target.closest("[data-across]");
  if (!group) return;
  const across = Number(group.dataset.across);
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across };
  const buttons = [...group.querySelectorAll("[data-pick]")];
  const next = buttons[buttons.indexOf(event.target) + steps[event.key]];
  if (!next) return;
  event.preventDefault();
  for (const each of buttons) each.tabIndex = each === next ? 0 : -1;
  next.focus();
});
watch("value", () => {
  if (last === null || document.activeElement !== document.body) return;
  element.querySelector(`[data-pick="${CSS.escape(last)}"]`)?.focus({ preventScroll: true });
});
"""
"""A click tells what was picked; arrow keys move within `data-across="n"`, n buttons to a row; the
focus stays where it was when the HTML comes anew."""


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
