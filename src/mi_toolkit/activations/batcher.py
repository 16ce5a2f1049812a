"""Documents on their way into the model: read, cut into sequences, batched the same every time.

1. A document becomes ids, with a BOS in front by the policy; one that is longer than `max_length`
   is split, cut or refused, as was asked.
2. Consecutive sequences make a batch: what it holds depends on what comes before, on nothing else.
3. Each batch knows the place in the stream that it ends at, and a feed can start at such a place.

Documents of a text collection, one after the other, from wherever they are.

| given | a document is |
|---|---|
| a list or an iterator | each text, sequence of ids or `input_ids`; the field of each record |
| `datasets.Dataset`, streaming too | the field of each record |
| `.txt` | each line, its newline left out; an empty line is an empty document |
| `.jsonl` | each line: a string, or the field of an object |
| `.parquet` | each value of the column |

They are numbered from 0 in the order in which they come. None is held longer than it is needed.
Files are read here and not by `datasets`: its reader of JSON takes neither a line that is a string
nor fields that differ from line to line, and importing it takes 0.7 s.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mi_toolkit.core.errors import PromptError, StoreError, in_one_line
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.parquet import column
from mi_toolkit.core.progress import track
from mi_toolkit.core.tokenizer import Beginning, text_beginning
from mi_toolkit.core.tokens import (
    TokenBatch,
    check_fits,
    from_sequences,
    one_sequence_of_ids,
    refuse_table,
)
from mi_toolkit.core.vocabulary import require_tokenizer

Texts = Iterable[Any] | str | os.PathLike[str]
"""Documents, or the path of a file of them."""

Document = str | list[int]
"""A text, or token ids that are used as given."""


def documents(texts: Texts, field: str = "text") -> Iterator[Document]:
    """The documents of `texts`.

    Raises:
        PromptError: something is no document, or a file cannot be read as its name says.
    """
    refuse_table(texts)
    if isinstance(texts, Mapping):
        raise PromptError(
            "A mapping is no list of texts: give its values, as in list(texts.values())."
        )
    source = _lines_or_records(texts, field) if isinstance(texts, str | os.PathLike) else texts
    for number, entry in enumerate(source):
        yield _document(entry, number, field)


@dataclass(frozen=True, kw_only=True)
class NamedDataset:
    """The records of a data set of the hub, or of one in a folder, as they come.

    Nothing of it is downloaded but what is read, and none of its code is run. It can be read again.
    """

    name: str
    """As `datasets` names it."""

    config: str | None = None
    """Its configuration, where it has several."""

    split: str = "train"
    """Its split."""

    n_documents: int | None = None
    """The first so many of its records; None for all."""

    def __iter__(self) -> Iterator[Any]:
        """Its records.

        Raises:
            PromptError: there is none, it has no such configuration or split, or it cannot be read.
        """
        from datasets import load_dataset
        from datasets.exceptions import DatasetGenerationError

        try:
            records = load_dataset(self.name, self.config, split=self.split, streaming=True)
            yield from itertools.islice(records, self.n_documents)
        except (OSError, ValueError, RuntimeError, DatasetGenerationError) as error:
            raise PromptError(
                f"The data set {self.name!r} (configuration {self.config or 'default'}, split "
                f"{self.split}) cannot be read: {in_one_line(error)}. A file of texts needs no "
                "data set: .txt, .jsonl or .parquet."
            ) from error


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
            f"Document {number} is of type {type(entry).__name__}: a document is a text, or a "
            "sequence of token ids."
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


Overlong = str
"""What becomes of a document that is too long: `split`, `truncate` or `error`."""


@dataclass(frozen=True, kw_only=True)
class Feeding:
    """How documents become sequences."""

    beginning: Beginning
    """What is in front of each sequence of a text."""

    max_length: int
    """Tokens of the longest sequence, BOS included."""

    overlong: Overlong
    """What becomes of a longer document."""

    @property
    def settings(self) -> dict[str, Any]:
        """The same as plain values: what makes one recording another than the next."""
        return {
            "bos": list(self.beginning.ids),
            "max_length": self.max_length,
            "overlong": self.overlong,
        }


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """A place in a stream of documents: all before it has been fed, nothing after it."""

    documents: int = 0
    """Documents read."""

    chunks: int = 0
    """Sequences fed of the last of them."""

    empty: int = 0
    """Documents without a token among them."""

    overlong: int = 0
    """Documents among them that were split or cut."""

    digest: str = ""
    """SHA-256 over the documents read, each chained to those before it."""


START = Cursor()


@dataclass(frozen=True, kw_only=True, eq=False)
class FedBatch:
    """Some sequences to run together."""

    batch: TokenBatch
    """Their ids."""

    document: tuple[int, ...]
    """The document that each belongs to."""

    chunk: tuple[int, ...]
    """Which piece of its document each is."""

    place: Cursor
    """Where the stream is after them."""

    documents_done: float
    """How many documents are done after them, the done part of the last one included."""


def feeding(
    model: HookedModel, prepend_bos: bool | None, max_length: int | None, overlong: Overlong
) -> Feeding:
    """How documents are fed to `model`.

    Raises:
        PromptError: the model has no such context, or its tokenizer no BOS.
    """
    context = int(model.cfg.n_ctx)
    beginning = text_beginning(model, prepend_bos)
    if max_length is not None and not 2 <= max_length <= context:
        raise PromptError(
            f"max_length={max_length}: {model.cfg.model_name} takes 2 to {context} tokens."
        )
    if overlong not in ("split", "truncate", "error"):
        raise PromptError(f"overlong={overlong!r}: give 'split', 'truncate' or 'error'.")
    return Feeding(beginning=beginning, max_length=max_length or context, overlong=overlong)


class Batcher:
    """The sequences of a stream of documents, from `start` on."""

    def __init__(
        self, model: HookedModel, texts: Texts, how: Feeding, field: str, start: Cursor = START
    ) -> None:
        self.model, self.texts, self.how, self.field, self.start = model, texts, how, field, start
        self.end = start
        """Where the stream is, once it has been fed: after the last document."""

    def batches(self, batch_size: int) -> Iterator[FedBatch]:
        """Consecutive sequences, `batch_size` at a time.

        Raises:
            PromptError: a document cannot be fed.
            StoreError: the documents before `start` are not those that were read.
        """
        sequences = self._sequences()
        while taken := list(itertools.islice(sequences, batch_size)):
            batch = from_sequences([ids for ids, *_ in taken], self.how.beginning.bos_id)
            check_fits(self.model, batch)
            yield FedBatch(
                batch=batch,
                document=tuple(place.documents - 1 for _, place, _ in taken),
                chunk=tuple(place.chunks - 1 for _, place, _ in taken),
                place=taken[-1][1],
                documents_done=taken[-1][2],
            )

    def tracked(
        self, batch_size: int, *, label: str, show: bool | None, at_rest: Any = None
    ) -> Iterator[FedBatch]:
        """`batches`, with how many of the documents are done for whoever looks (`track`)."""
        total, before = n_documents(self.texts), self.start.documents
        return track(
            self.batches(batch_size),
            total=None if total is None else max(0, total - before),
            label=label,
            unit="document",
            show=show,
            at_rest=at_rest,
            done_after=lambda fed: max(0.0, fed.documents_done - before),
        )

    def _sequences(self) -> Iterator[tuple[list[int], Cursor, float]]:
        """Each sequence, the place after it, and how many documents are done there."""
        place = replace(self.start, documents=0, chunks=0, digest="")
        for number, document in enumerate(documents(self.texts, self.field), start=1):
            digest = _chained(place.digest, document)
            place = replace(place, documents=number, chunks=0, digest=digest)
            if number < self.start.documents:
                continue
            pieces, overlong = self._pieces(document, number - 1)
            fed = 0
            if number == self.start.documents:
                self._check(place)
                fed = self.start.chunks
            else:
                place = replace(
                    place,
                    empty=place.empty + (not pieces),
                    overlong=place.overlong + overlong,
                )
            place = replace(place, chunks=fed)
            self.end = place
            for chunk, ids in enumerate(pieces[fed:], start=fed + 1):
                place = replace(place, chunks=chunk)
                self.end = place
                yield ids, place, number - 1 + chunk / len(pieces)
        if place.documents < self.start.documents:
            raise StoreError(
                f"The texts end after {place.documents} documents, but {self.start.documents} were "
                "recorded: they are not the same texts. An iterator has to start over to resume."
            )

    def _check(self, place: Cursor) -> None:
        if place.digest != self.start.digest:
            raise StoreError(
                f"The first {place.documents} documents are not those that were recorded: resume "
                "with the same texts in the same order (an iterator from its beginning), or record "
                "to another folder."
            )

    def _pieces(self, document: Document, number: int) -> tuple[list[list[int]], bool]:
        """A document's sequences, and whether it was too long for one."""
        head: list[int] = []
        if isinstance(document, str):
            tokenizer = require_tokenizer(self.model)
            head = list(self.how.beginning.ids)
            ids: list[int] = tokenizer.encode(document, add_special_tokens=False, verbose=False)
            # A text that begins with its BOS already: it is the one of the first sequence.
            ids = ids[len(head) :] if head and ids[: len(head)] == head else ids
        else:
            ids = document
        room = self.how.max_length - len(head)
        if len(ids) > room and self.how.overlong == "error":
            raise PromptError(
                f"Document {number} has {len(ids) + len(head)} tokens (BOS included), more than "
                f"{self.how.max_length}: pass overlong='split' or 'truncate'."
            )
        starts = range(0, len(ids), room)
        if self.how.overlong == "truncate":
            starts = starts[:1]
        return [[*head, *ids[start : start + room]] for start in starts], len(ids) > room


def _chained(digest: str, document: Document) -> str:
    """The digest of all documents up to this one."""
    text = document if isinstance(document, str) else ",".join(map(str, document))
    kind = "text" if isinstance(document, str) else "ids"
    sha = hashlib.sha256(f"{digest}:{kind}:".encode())
    sha.update(text.encode("utf-8", "surrogatepass"))
    return sha.hexdigest()
