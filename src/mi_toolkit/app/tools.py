"""What sections are made of: results to keep as files, and places for HTML."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from mi_toolkit.core.io import atomic_write

if TYPE_CHECKING:
    from mi_toolkit.core.tables import DataFrame


FORMATS = ("html", "png", "csv", "json")


@dataclass(frozen=True, kw_only=True, eq=False)
class Saveable:
    """A result in every form that it can be kept in."""

    name: str
    """The files' name, without its ending."""

    view: Any
    """A view of the library: `save_html`, `save_png`."""

    table: Callable[[], DataFrame]
    """Its figures as a table."""

    about: dict[str, Any]
    """What the JSON says before the table: model, prompt, settings."""

    def save(self, path: Path) -> None:
        """Write the form that the file's ending names."""
        match path.suffix:
            case ".html":
                self.view.save_html(path)
            case ".png":
                self.view.save_png(path)
            case ".csv":
                with atomic_write(path) as draft:
                    self.table().to_csv(draft, index=False, float_format="%.6g")
            case _:
                rows = self.table().to_dict("records")
                text = json.dumps(
                    {**self.about, "rows": [_plain_row(row) for row in rows]},
                    ensure_ascii=False,
                    allow_nan=False,
                    indent=1,
                )
                with atomic_write(path) as draft:
                    draft.write_text(text, encoding="utf-8")


def _plain_row(row: dict[Any, Any]) -> dict[str, Any]:
    return {str(key): _plain(value) for key, value in row.items()}


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)


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
    value: str = "",
    *,
    elem_id: str | None = None,
    elem_classes: str | None = None,
    more_js: str = "",
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
        elem_classes=elem_classes,
    )
