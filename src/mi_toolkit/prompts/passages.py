"""The bundled natural passages."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources


@cache
def passages() -> tuple[str, ...]:
    """The bundled natural passages: facts, dialogue, lists and code, written for this project."""
    lines = resources.files("mi_toolkit.prompts").joinpath("natural.jsonl").read_text("utf-8")
    return tuple(json.loads(line)["text"] for line in lines.splitlines())
