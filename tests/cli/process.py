"""The command line as its users run it: a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = [str(Path(sys.executable).with_name("mi-toolkit"))]
MODULE = [sys.executable, "-m", "mi_toolkit"]


def finished(
    *arguments: str, command: list[str] = SCRIPT, columns: int | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """`mi-toolkit` with `arguments`, its output caught, not on a terminal."""
    inherited = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    sized = {} if columns is None else {"COLUMNS": str(columns)}
    return subprocess.run(
        [*command, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env=inherited | sized | environment,
        check=False,
    )
