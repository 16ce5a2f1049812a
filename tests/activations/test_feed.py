from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mi_toolkit.activations.batcher import START, Batcher, Cursor, documents, feeding
from mi_toolkit.core.errors import PromptError, StoreError
from mi_toolkit.core.progress import Watcher, watching
from tests.models_here import loaded

TEXTS = ["one two", "", "a form\x0cfeed", "Zoë"]


def fed(texts, *, max_length=None, overlong="split", bos=None, batch_size=2, start=None):
    model = loaded("toy-gpt2")
    how = feeding(model, bos, max_length, overlong)
    feed = Batcher(model, texts, how, "text", **({} if start is None else {"start": start}))
    return list(feed.batches(batch_size)), feed


def test_every_source_gives_the_same_documents(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("".join(f"{text}\n" for text in TEXTS), encoding="utf-8")
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in TEXTS))
    (tmp_path / "b.jsonl").write_text("\n".join(json.dumps(t) for t in TEXTS))
    pq.write_table(pa.table({"text": TEXTS, "n": [1, 2, 3, 4]}), tmp_path / "a.parquet")
    records = [{"text": text} for text in TEXTS]
    files = [tmp_path / name for name in ("a.txt", "a.jsonl", "b.jsonl", "a.parquet")]
    for source in (TEXTS, iter(TEXTS), records, *files, str(files[0])):
        assert list(documents(source)) == TEXTS


def test_datasets_of_hugging_face_are_read_streaming_or_not() -> None:
    datasets = pytest.importorskip("datasets")
    whole = datasets.Dataset.from_dict({"text": TEXTS, "n": [1, 2, 3, 4]})
    assert list(documents(whole)) == TEXTS
    assert list(documents(whole.to_iterable_dataset())) == TEXTS


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("The cat sat.", "read as the path of a file, and none of .txt"),
        ("missing.parquet", "There is no file missing.parquet"),
        ([{"body": "x"}], "Document 0 has no field 'text': it has body"),
        (["x", 3.5], "Document 1 is of type float"),
        ([[1, 2], ["a"]], "Document 1 is of type list"),
    ],
)
def test_what_is_no_document_is_an_error(texts, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        list(documents(texts))


def test_a_damaged_file_is_an_error_that_says_where(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('"one"\n{"text": \n')
    with pytest.raises(PromptError, match=r"Line 2 of .*a\.jsonl is no JSON"):
        list(documents(tmp_path / "a.jsonl"))
    (tmp_path / "a.parquet").write_text("none")
    with pytest.raises(PromptError, match="is no Parquet file"):
        list(documents(tmp_path / "a.parquet"))
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "b.parquet")
    with pytest.raises(PromptError, match="has no column 'text': it has body"):
        list(documents(tmp_path / "b.parquet"))
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PromptError, match="is not UTF-8"):
        list(documents(tmp_path / "a.txt"))


def test_a_long_document_is_split_cut_or_refused() -> None:
    ids = list(range(10, 20))
    split, feed = fed([ids, "x"], max_length=4, batch_size=1)
    assert [batch.batch.sequence(0).tolist() for batch in split[:3]] == [
        ids[0:4],
        ids[4:8],
        ids[8:],
    ]
    assert [batch.chunk for batch in split[:3]] == [(0,), (1,), (2,)]
    assert feed.end.overlong == 1
    cut, feed = fed([ids], max_length=4, overlong="truncate")
    assert cut[0].batch.ids.tolist() == [ids[:4]]
    assert feed.end.overlong == 1
    with pytest.raises(PromptError, match=r"Document 0 has 10 tokens.*more than 4"):
        fed([ids], max_length=4, overlong="error")


def test_each_piece_of_a_text_begins_with_the_bos() -> None:
    model = loaded("toy-gpt2")
    text = "The cat sat on the mat and looked at the store."
    batches, _ = fed([text], max_length=5, batch_size=8)
    batch = batches[0].batch
    ids = model.tokenizer.encode(text)
    assert batch.has_bos.all()
    pieces = [batch.sequence(index).tolist()[1:] for index in range(len(batch))]
    assert [token for piece in pieces for token in piece] == ids
    without, _ = fed([text], max_length=5, batch_size=8, bos=False)
    assert without[0].batch.sequence(0).tolist() == ids[:5]


def test_empty_documents_are_counted_and_keep_the_numbers_of_the_others() -> None:
    batches, feed = fed(["", "one", "", "", "two", ""], batch_size=1)
    assert [batch.document for batch in batches] == [(1,), (4,)]
    assert (feed.end.documents, feed.end.empty) == (6, 4)
    assert fed([])[0] == []
    assert fed([])[1].end.documents == 0


def test_a_feed_goes_on_from_any_of_its_places() -> None:
    texts = ["", list(range(5, 25)), "one two", "", "x", [7], ""]
    whole, feed = fed(texts, max_length=6, batch_size=2)
    for number, batch in enumerate(whole):
        rest, again = fed(iter(texts), max_length=6, batch_size=2, start=batch.place)
        assert again.end == feed.end
        assert len(rest) == len(whole) - number - 1
        for here, there in zip(rest, whole[number + 1 :], strict=True):
            assert torch.equal(here.batch.ids, there.batch.ids)
            assert (here.document, here.chunk, here.place) == (
                there.document,
                there.chunk,
                there.place,
            )


def test_other_texts_before_the_place_are_refused() -> None:
    whole, _ = fed(["one", "two", "three"], batch_size=1)
    place = whole[1].place
    with pytest.raises(StoreError, match="The first 2 documents are not those"):
        fed(["one", "too", "three"], start=place)
    with pytest.raises(StoreError, match="end after 1 documents, but 2 were recorded"):
        fed(["one"], start=place)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 1}, "max_length=1: toy-gpt2 takes 2 to"),
        ({"max_length": 10**6}, "max_length=1000000"),
        ({"overlong": "drop"}, "overlong='drop'"),
    ],
)
def test_a_way_to_feed_that_does_not_exist_is_an_error(options, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        fed(["x"], **options)


def test_progress_counts_documents_also_where_they_are_split() -> None:
    class Seen(Watcher):
        done: ClassVar[list[tuple[int, int | None]]] = []

        def report(self, label: str, done: int, total: int | None) -> None:
            self.done.append((done, total))

    model = loaded("toy-gpt2")
    texts = ["one two three four five six", "seven", "eight nine ten eleven"]

    def feed(start: Cursor = START) -> Batcher:
        return Batcher(model, texts, feeding(model, None, 4, "split"), "text", start)

    batches = list(feed().batches(1))
    assert len(batches) > len(texts)
    done = [batch.documents_done for batch in batches]
    assert done == sorted(done)
    assert done[-1] == len(texts)
    assert 0 < done[0] < 1
    with watching(Seen()):
        again = list(feed().tracked(1, label="reading", show=None))
        list(feed(batches[-2].place).tracked(1, label="reading", show=None))
    assert [batch.place for batch in again] == [batch.place for batch in batches]
    assert Seen.done[0] == (0, 3)
    assert all(done <= total for done, total in Seen.done if total is not None)
    assert [done for done, _ in Seen.done[: len(batches)]] == [0, *map(int, done[:-1])]
