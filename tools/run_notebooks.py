"""Run every notebook, offline on the bundled models, and write it with its outputs to a folder.

python tools/run_notebooks.py build/notebooks
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import nbformat

from pages.notebooks import run

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def main(folder: Path) -> None:
    """Run them one after the other."""
    os.environ["TOY_TRAINING"] = str(NOTEBOOKS.parent / "tests" / "data" / "toy-training")
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        with tempfile.TemporaryDirectory() as scratch:
            nbformat.write(run(path, Path(scratch)), folder / path.name)
        print(path.name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
