"""Work that goes on where it was: parts in a folder, tensors in a file, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mi_toolkit.core import resumable
from mi_toolkit.core.errors import ReportError, StoreError
from mi_toolkit.core.io import atomic_write
from mi_toolkit.core.resumable import Checkpoint, Manifest, ResumableFolder

ABOUT = {"model": {"name": "a", "layers": (1, 2)}, "versions": {"torch": "2"}}
FORMAT = "mi_toolkit example 1"


def opened(path: Path, about: object = ABOUT, **options: object) -> ResumableFolder:
    return ResumableFolder(path, about, format=FORMAT, kind="example", **options)


def with_part(path: Path) -> ResumableFolder:
    folder = opened(path)
    with atomic_write(path / "a.txt") as draft:
        draft.write_text("four")
    folder.enter("a", {"k": (1, 2)}, ["a.txt"], rows=3)
    return folder


def test_a_part_is_finished_when_it_is_entered_and_so_it_is_next_time(tmp_path: Path) -> None:
    folder = opened(tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert not folder.has("a", {"k": (1, 2)})
    with_part(tmp_path / "run")
    for again in (opened(tmp_path / "run"), opened(str(tmp_path / "run"))):
        assert again.has("a", {"k": (1, 2)})
        assert again.has("a", {"k": [1, 2]})
        assert not again.has("a", {"k": [1, 3]})
        assert not again.has("b", {})
        assert again.manifest.parts["a"].facts == {"rows": 3}


@pytest.mark.parametrize("now", [None, "fou", "five"])
def test_a_part_whose_file_is_gone_cut_or_changed_is_to_be_made_again(
    now: str | None, tmp_path: Path
) -> None:
    with_part(tmp_path)
    (tmp_path / "a.txt").unlink()
    if now is not None:
        (tmp_path / "a.txt").write_text(now)
    assert not opened(tmp_path).has("a", {"k": (1, 2)})


def test_a_part_whose_entry_cannot_be_written_is_not_finished(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    (tmp_path / "a.txt").write_text("four")
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(OSError, match="directory"):
        folder.enter("a", {}, ["a.txt"])
    assert not folder.has("a", {})


def test_a_part_that_was_written_and_not_entered_does_not_count(tmp_path: Path) -> None:
    with_part(tmp_path)
    (tmp_path / "b.txt").write_text("b")
    assert not opened(tmp_path).has("b", {})


@pytest.mark.parametrize(
    ("about", "named"),
    [
        ({**ABOUT, "model": {"name": "b", "layers": (1, 2)}}, "model.name was 'a' and is 'b'"),
        ({**ABOUT, "model": {"name": "a"}}, r"model.layers was \[1, 2\] and is not there"),
        ({**ABOUT, "texts": "c"}, "texts was not there and is 'c'"),
        ({f"n{i}": i for i in range(6)}, r"n3 was not there and is 3; and 5 more\. Give"),
    ],
)
def test_another_run_is_refused_with_each_difference_and_the_way_out(
    about: dict, named: str, tmp_path: Path
) -> None:
    with_part(tmp_path)
    before = (tmp_path / "manifest.json").read_bytes()
    told = rf"holds another example: .*{named}.*place, or delete it to begin anew\."
    with pytest.raises(StoreError, match=told):
        opened(tmp_path, about, error=StoreError)
    assert (tmp_path / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"manifest\.json is damaged: .* choose another folder"),
        ("[]", "is damaged: it holds no JSON object"),
        ('{"format": "mi_toolkit example 0"}', "is of no example, or of another version"),
        ('{"format": "mi_toolkit example 1", "parts": {}}', "fields do not fit: it is damaged"),
        ('{"format": "mi_toolkit example 1", "parts": []}', "fields do not fit: it is damaged"),
    ],
)
def test_a_manifest_of_something_else_is_refused(
    content: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ReportError, match=message):
        opened(tmp_path)


def test_a_folder_without_a_manifest_holds_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"holds no example: it has no manifest\.json"):
        Manifest.read(tmp_path / "manifest.json", format=FORMAT, kind="example")


def test_what_a_killed_run_left_half_written_is_removed_and_nothing_else(tmp_path: Path) -> None:
    with_part(tmp_path)
    (tmp_path / ".hidden.txt").write_text("the user's")
    killed = atomic_write(tmp_path / "b.txt")
    killed.__enter__()  # and the process was never there to leave it
    assert len(list(tmp_path.glob(".b.txt.draft-*"))) == 1
    opened(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {".hidden.txt", "a.txt", "manifest.json"}
    killed.gen.close()


def test_a_checkpoint_gives_back_what_was_saved_and_refuses_another_run(tmp_path: Path) -> None:
    path = tmp_path / "sums.safetensors"
    asked = {"seed": 0}
    first = Checkpoint(path, asked, format=FORMAT, kind="example")
    assert first.load() is None
    first.save({"sums": torch.arange(3)}, {"done": 2})
    kept = Checkpoint(path, asked, format=FORMAT, kind="example").load()
    assert kept is not None
    assert kept[0]["sums"].tolist() == [0, 1, 2]
    assert kept[1] == {"done": 2}
    with pytest.raises(ReportError, match=r"holds another example: seed was 0 and is 1\. Give"):
        Checkpoint(path, {"seed": 1}, format=FORMAT, kind="example").load()


def test_what_a_killed_save_left_goes_and_the_drafts_of_others_stay(tmp_path: Path) -> None:
    left, of_another = tmp_path / ".a.draft-x1y2", tmp_path / ".b.draft-x1y2"
    for draft in (left, of_another):
        draft.write_bytes(b"half")
    assert Checkpoint(tmp_path / "a", {}, format=FORMAT, kind="example").load() is None
    assert not left.exists()
    assert of_another.exists()


def test_saving_again_waits_until_it_is_cheap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = Checkpoint(tmp_path / "a", {}, format=FORMAT, kind="example")
    assert checkpoint.is_due
    monkeypatch.setattr(resumable, "PAUSE", 10**9)
    checkpoint.save({}, {})
    assert not checkpoint.is_due
    monkeypatch.setattr(resumable, "PAUSE", 0)
    checkpoint.save({}, {})
    assert checkpoint.is_due
