"""Files are written whole; links stay links, and what is no file is passed what was written."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from mi_toolkit.core.io import atomic_write


def test_a_link_stays_one_and_the_file_that_it_leads_to_is_written(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    real, link = tmp_path / "there" / "table.csv", tmp_path / "link.csv"
    real.write_text("before")
    link.symlink_to(real)
    with pytest.raises(ZeroDivisionError), atomic_write(link) as draft:
        draft.write_text(f"half {1 / 0}")
    assert real.read_text() == "before"
    with atomic_write(link) as draft:
        draft.write_text("after")
    assert link.is_symlink()
    assert real.read_text() == "after"
    dangling = tmp_path / "dangling.csv"
    dangling.symlink_to(tmp_path / "new" / "table.csv")
    with atomic_write(dangling) as draft:
        draft.write_text("made")
    assert (tmp_path / "new" / "table.csv").read_text() == "made"
    assert not [path for path in tmp_path.rglob("*") if "draft" in path.name]


def test_a_pipe_gets_what_was_written_and_stays_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    with atomic_write(pipe) as draft:
        draft.write_text("a,b\n")
    reader.join(timeout=30)
    assert read == ["a,b\n"]
    assert pipe.is_fifo()


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no files in memory here")
def test_a_file_in_memory_is_a_file_like_any_other() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder) / "table.csv"
        for text in ("a long table\n", "short\n"):
            with atomic_write(path) as draft:
                draft.write_text(text)
            assert path.read_text() == text


@pytest.mark.parametrize("is_file", [False, True])
@pytest.mark.parametrize("path", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_standard_output_by_its_path_is_written_to(
    tmp_path: Path, path: str, is_file: bool
) -> None:
    code = (
        "from mi_toolkit.core.io import atomic_write\n"
        f"with atomic_write({path!r}) as draft: draft.write_text('a,b')"
    )
    command = [sys.executable, "-c", code]
    if is_file:
        with (tmp_path / "out").open("w") as out:
            subprocess.run(command, stdout=out, check=True)
        assert (tmp_path / "out").read_text() == "a,b"
    else:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout == "a,b"
    assert Path("/dev/stdout").is_symlink()
