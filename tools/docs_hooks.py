"""Hooks of mkdocs: what the docs show of the code is made from the code, where they are built.

Pages of the command line and the notebooks, and pictures of heads. The notebooks show their outputs
where `DOCS_NOTEBOOKS` names a folder with notebooks that were run, as
`python tools/run_notebooks.py FOLDER` leaves them (`make site` does both).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "src")]

from pages.command_line import command_line_page  # noqa: E402 the path comes first
from pages.made import Made  # noqa: E402
from pages.notebooks import notebook_files  # noqa: E402
from pages.pictures import pictures  # noqa: E402


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the generated pages and pictures."""
    for made in (command_line_page(), *_notebooks(), *pictures()):
        files.append(File.generated(config, made.path, content=made.content))
    return files


def _notebooks() -> Iterator[Made]:
    import nbformat

    from mi_toolkit.draw.markup import asset

    yield Made("notebooks/frame.js", asset("frame.js"))
    folder = Path(os.environ.get("DOCS_NOTEBOOKS", ROOT / "notebooks"))
    for path in sorted(folder.glob("*.ipynb")):
        yield from notebook_files(nbformat.read(path, as_version=4), path.stem)
