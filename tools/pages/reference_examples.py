"""Doctests of docstrings as code on the reference page: griffe knows them under `Examples:`."""

from __future__ import annotations

import re
from textwrap import indent
from typing import Any

import griffe


class CodeOfExamples(griffe.Extension):
    """Reads `Example:`, and doctests under no heading, which would be prose, as `Examples:`."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename the sections before the docstring is parsed."""
        if obj.docstring is not None:
            obj.docstring.value = with_examples(obj.docstring.value)


def with_examples(text: str) -> str:
    """A docstring whose doctests all stand under `Examples:`."""
    named = re.sub(r"^Example:$", "Examples:", text, flags=re.M)
    return "\n\n".join(
        "Examples:\n" + indent(part, "    ") if part.startswith(">>> ") else part
        for part in named.split("\n\n")
    )
