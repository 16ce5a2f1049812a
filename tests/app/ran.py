"""What a panel's code gives, and what its files hold."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from mi_toolkit.app.tools import Saveable


def ran(code: str) -> Any:
    """The value of the last line of a panel's code, run as a script."""
    *lines, last = code.splitlines()
    with TemporaryDirectory() as folder:
        script = Path(folder) / "panel.py"
        script.write_text("\n".join([*lines, f"given = {last}"]), encoding="utf-8")
        return runpy.run_path(str(script))["given"]


def check_files(saveable: Saveable, folder: Path, *, said: str) -> None:
    """Every form loads, and has the same rows; the page says `said`, which is escaped HTML."""
    table = saveable.table()
    for ending in ("html", "png", "csv", "json"):
        saveable.save(folder / f"kept.{ending}")
    page = (folder / "kept.html").read_text(encoding="utf-8")
    assert said in page
    assert "<img src=x" not in page
    assert (folder / "kept.png").read_bytes().startswith(b"\x89PNG")
    read = pd.read_csv(folder / "kept.csv", keep_default_na=False)
    assert list(read.columns) == list(table.columns)
    assert len(read) == len(table)
    kept = json.loads((folder / "kept.json").read_text(encoding="utf-8"))
    assert len(kept["rows"]) == len(table)
    assert set(kept["rows"][0]) == set(table.columns)
    assert kept["prompt"]
