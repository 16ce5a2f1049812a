"""What sections are made of: a box for a model, places for HTML, files of results, their code."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from markupsafe import Markup

from mi_toolkit.app.context import TOP_K, Analysis
from mi_toolkit.app.settings import Settings
from mi_toolkit.core.display import human_count
from mi_toolkit.core.io import atomic_write
from mi_toolkit.models.sources import cached_snapshot, find_source
from mi_toolkit.models.specs import MODELS

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


def opening_code(model: str, prompt: str) -> str:
    """The library, the model, the prompt.

    >>> print(opening_code("toy-gpt2", "Mary and John"))
    import mi_toolkit as mi
    <BLANKLINE>
    model = mi.load_model('toy-gpt2')
    prompt = 'Mary and John'
    """
    return f"import mi_toolkit as mi\n\nmodel = mi.load_model({model!r})\nprompt = {prompt!r}"


def traced_code(found: Analysis) -> str:
    """The same, and what Analyze did."""
    return (
        f"{opening_code(found.model, found.prompt)}\n"
        f"traced, report = mi.text.trace_and_classify(model, prompt, top_k={TOP_K})"
    )


def call(function: str, *arguments: str, **options: Any) -> str:
    """A call as one writes it, an option to a line.

    >>> print(call("mi.attribute", "model", "prompt", target=262))
    mi.attribute(
        model,
        prompt,
        target=262,
    )
    """
    given = [*arguments, *(f"{name}={value!r}" for name, value in options.items())]
    lines = "".join(f"    {each},\n" for each in given)
    return f"{function}(\n{lines})"


_OPTION = Markup(
    '<li role="option" id="{id}" data-value="{name}" aria-selected="false"><b>{name}</b> '
    "<small>{said}</small></li>"
)
_LIST = Markup(
    '<div class="model-list" data-for="{id}"><button type="button" class="clear" '
    'aria-label="Clear: {label}">×</button><ul role="listbox" id="{id}-list" aria-label="{label}" '
    "hidden>{options}</ul></div>"
)


def model_box(settings: Settings, value: str, *, label: str, info: str, elem_id: str) -> gr.Textbox:
    """A field for a model's name, its list of the offered models under it.

    Not gradio's dropdown: it narrows its list some time after the typing, and Enter takes whatever
    it highlights by then, so that a pasted id became another model.
    """
    field = gr.Textbox(value, label=label, info=info, max_lines=1, elem_id=elem_id)
    here = settings.here()
    options = Markup("").join(
        _OPTION.format(
            id=f"{elem_id}-option-{place}", name=name, said=described(name, is_here=name in here)
        )
        for place, name in enumerate(settings.offered)
    )
    drawing(_LIST.format(id=elem_id, label=label, options=options), elem_classes="model-box")
    return field


def described(name: str, *, is_here: bool) -> str:
    """What a model is, whether it is on this machine, and its size.

    >>> described("gpt2", is_here=False)
    'a download of up to 498 MB · GPT-2, 85M, 12 × 12 heads · ...'
    """
    spec = MODELS.get(name)
    if is_here:
        place = f"here, {_megabytes(_bytes_here(name))}"
    elif spec is None:
        place = "a download"
    else:
        # In float32, which no file exceeds; many are half of it.
        place = f"a download of up to {_megabytes(4 * spec.total_parameters)}"
    if spec is None:
        return place
    return (
        f"{place} · {spec.family}, {human_count(spec.parameters)}, {spec.n_layers} × "
        f"{spec.n_heads} heads · {spec.key_feature}"
    )


def _megabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:,.0f} MB"


def _bytes_here(name: str) -> int:
    source = find_source(name)
    folder = Path(source.location) if source.kind == "folder" else cached_snapshot(source.location)
    if folder is None:
        return 0
    files = [folder / source.gguf_file] if source.gguf_file else folder.iterdir()
    return sum(path.stat().st_size for path in files if path.is_file())
