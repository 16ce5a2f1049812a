"""Where a model is chosen from a list, or its id is typed or pasted.

Not gradio's dropdown: it narrows its list some time after the typing, and Enter takes whatever it
highlights by then, so that a pasted id became another model.
"""

from __future__ import annotations

from pathlib import Path

import gradio as gr
from markupsafe import Markup

from mi_toolkit.app.settings import Settings
from mi_toolkit.app.tools import drawing
from mi_toolkit.core.display import human_count
from mi_toolkit.models.sources import cached_snapshot, find_source
from mi_toolkit.models.specs import MODELS

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
    """A field for a model's name, its list of the offered models under it."""
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
