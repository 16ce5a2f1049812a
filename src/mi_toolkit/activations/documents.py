"""Documents of a text collection, one after the other, from wherever they are.

| given | a document is |
|---|---|
| a list or an iterator | each text, sequence of ids or `input_ids`; the field of each record |
| `datasets.Dataset`, streaming too | the field of each record |
| `.txt` | each line, its newline left out; an empty line is an empty document |
| `.jsonl` | each line: a string, or the field of an object |
| `.parquet` | each value of the column |

They are numbered from 0 in the order in which they come. None is held longer than it is needed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mi_toolkit.errors import PromptError
from mi_toolkit.parquet import column
from mi_toolkit.prompts.tokens import one_sequence_of_ids

Texts = Iterable[Any] | str | os.PathLike[str]
"""Documents, or the path of a file of them."""

Document = str | list[int]
"""A text, or token ids that are used as given."""


def documents(texts: Texts, field: str = "text") -> Iterator[Document]:
    """The documents of `texts`.

    Raises:
        PromptError: something is no document, or a file cannot be read as its name says.
    """
    source = _lines_or_records(texts, field) if isinstance(texts, str | os.PathLike) else texts
    for number, entry in enumerate(source):
        yield _document(entry, number, field)


def n_documents(texts: Texts) -> int | None:
    """How many documents there are, where that is known without reading them."""
    if isinstance(texts, str | os.PathLike) or not hasattr(texts, "__len__"):
        return None
    return len(texts)  # type: ignore[arg-type]


def _document(entry: Any, number: int, field: str) -> Document:
    if isinstance(entry, Mapping) and not (field not in entry and "input_ids" in entry):
        if field not in entry:
            known = ", ".join(map(str, entry))
            raise PromptError(f"Document {number} has no field {field!r}: it has {known}.")
        entry = entry[field]
    if isinstance(entry, str):
        return entry
    if isinstance(entry, Sequence) and not entry:
        return []
    ids = one_sequence_of_ids(entry)
    if ids is None:
        raise PromptError(
            f"Document {number} is a {type(entry).__name__}: a document is a text, or a sequence "
            "of token ids."
        )
    return ids


def _lines_or_records(path: str | os.PathLike[str], field: str) -> Iterator[Any]:
    file = Path(path)
    kinds = {".txt": _lines, ".jsonl": _json_lines, ".ndjson": _json_lines}
    if file.suffix == ".parquet" and file.is_file():
        return column(file, field)
    if file.suffix not in kinds and file.suffix != ".parquet":
        raise PromptError(
            f"{str(path)[:80]!r} is read as the path of a file, and none of .txt, .jsonl or "
            ".parquet: put texts into a list."
        )
    if not file.is_file():
        raise PromptError(f"There is no file {file}.")
    return kinds[file.suffix](file)


def _lines(file: Path) -> Iterator[str]:
    # newline="\n": a form feed or a separator sign inside a text ends no line.
    with file.open(encoding="utf-8", newline="\n") as lines:
        try:
            for line in lines:
                yield line.removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise PromptError(f"{file} is not UTF-8 text: {error}.") from error


def _json_lines(file: Path) -> Iterator[Any]:
    for number, line in enumerate(_lines(file), start=1):
        try:
            yield json.loads(line)
        except json.JSONDecodeError as error:
            raise PromptError(f"Line {number} of {file} is no JSON: {error}.") from error
