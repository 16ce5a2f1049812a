"""Notebooks as pages: text and code as they are, outputs where they were run for it."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pages.made import Made

FRAMED = re.compile(r'^<iframe data-mi-toolkit .*?height:(\d+)px.*? srcdoc="(.*?)"></iframe>', re.S)


def notebook_files(notebook: Any, name: str) -> Iterator[Made]:
    """The page of a notebook, and the pictures and views that it shows as files next to it.

    Args:
        notebook: as nbformat reads it; what it was run to is shown, if it was run.
        name: the page's name, such as `01_first_look`.
    """
    parts: list[str] = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(_fenced(cell.source, "python"))
        for output in cell.outputs:
            made, shown = _shown(output, f"{name}-{len(parts)}")
            yield from made
            parts.append(shown)
    # As in a notebook: gives frames their height, and a picture where they are out of sight.
    parts.append('<script src="../frame.js"></script>')
    yield Made(f"notebooks/{name}.md", "\n\n".join(part for part in parts if part) + "\n")


def run(path: Path, folder: Path) -> Any:
    """The notebook run from top to bottom in a folder of its own."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=600, resources=resources).execute()
    return notebook


def _shown(output: Any, name: str) -> tuple[list[Made], str]:
    """Files that an output needs, and what the page says for it. Progress bars are left out."""
    if output.output_type == "stream":
        return [], _fenced(output.text, "text") if output.name == "stdout" else ""
    data = output.get("data", {})
    if "image/png" in data:
        picture = Made(f"notebooks/{name}.png", base64.b64decode(data["image/png"]))
        return [picture], f"![]({name}.png)"
    if "text/html" not in data:
        return [], _fenced(data.get("text/plain", ""), "text")
    if not data["text/html"]:  # a progress bar whose work is done
        return [], ""
    framed = FRAMED.match(data["text/html"])
    if framed is None:
        return [], f'<div class="output">{_one_line(data["text/html"])}</div>'
    height, document = framed[1], html.unescape(framed[2])
    frame = (
        f'<iframe data-mi-toolkit src="../{name}.html" sandbox="allow-scripts" '
        f'title="mi_toolkit view" style="width:100%;height:{height}px;border:0"></iframe>'
    )
    return [Made(f"notebooks/{name}.html", document)], f'<div class="output">{frame}</div>'


def _one_line(document: str) -> str:
    """HTML that Markdown takes as one block: pandas' tables, without their style."""
    bare = re.sub(r"<style.*?</style>", "", document, flags=re.S)
    return " ".join(bare.split())


def _fenced(text: str, language: str) -> str:
    return f"```{language}\n{text.rstrip()}\n```" if text.strip() else ""
