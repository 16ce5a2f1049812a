"""`record` and `activations info`, run in this process."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

import mi_toolkit as mi
from mi_toolkit.cli.app import run
from mi_toolkit.cli.record import positions_in


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    file = tmp_path / "texts.txt"
    file.write_text("The cat sat on the mat.\n\nWhen Mary and John went to the store\n")
    return file


def test_record_writes_a_store_and_info_shows_it(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "made" / "store"
    arguments = ["record", "--data-file", str(texts), "--output", str(folder)]
    arguments += ["--names", "resid_post", "z1", "--positions", "1:", "--keep", "bfloat16"]
    assert run([*arguments, "--json"]) == 0
    recorded = json.loads(capsys.readouterr().out)
    assert recorded["documents"]["empty"] == 1
    assert recorded["settings"]["positions"] == "1::"
    store = mi.open_activations(folder)
    assert store.dtype == torch.bfloat16
    assert len(store.names) == 5
    assert recorded["rows"] == len(store) == 18
    assert run(["activations", "info", str(folder), "--verify"]) == 0
    shown = capsys.readouterr().out
    for line in (
        "model      toy-gpt2 in float32 as TransformerBridge",
        "texts      3 documents, 1 empty",
        "rows       18, positions 1::",
        "checksums  all as they were written",
        r"  blocks\.1\.attn\.hook_z +row 18, head 4, d_head 32 +bfloat16",
    ):
        assert re.search(f"^{line}", shown, re.MULTILINE)
    assert run(arguments) == 0
    assert run([*arguments, "--no-resume"]) == 1
    assert "holds a recording already" in capsys.readouterr().err


def test_a_damaged_store_is_told_in_one_line(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "store"
    assert run(["record", "--data-file", str(texts), "--names", "z0", "--output", str(folder)]) == 0
    shard = folder / "shards/00000.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    capsys.readouterr()
    assert run(["activations", "info", str(folder), "--verify"]) == 1
    error = capsys.readouterr().err
    assert re.fullmatch(r"mi-toolkit: [^\n]+00000\.safetensors is damaged[^\n]+\n", error)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--names", "resid_pots"], 2, "Did you mean 'resid_post'"),
        (["--names", "z", "--positions", "first"], 2, "--positions first: give last"),
        (["--names", "z", "--positions", "1:2:3:4"], 2, "or a range as 1:9"),
        (["--names"], 2, "--names"),
        (["--names", "z", "--data-file", "none.txt"], 2, r"There is no file none\.txt"),
        (["--names", "z", "--data-file", __file__], 1, r"none of \.txt, \.jsonl"),
        (["--names", "pattern"], 1, "cannot be recorded to disk"),
    ],
)
def test_a_recording_that_cannot_be_is_told_in_one_line(
    arguments: list[str],
    code: int,
    message: str,
    texts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ["--data-file", str(texts)] if "--data-file" not in arguments else []
    assert run(["record", *arguments, *given, "--output", str(tmp_path / "store")]) == code
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert re.fullmatch(r"mi-toolkit: [^\n]+\n", error)


def test_positions_are_read_as_people_write_them() -> None:
    assert positions_in(None) is None
    assert positions_in("-1") == -1
    assert positions_in("0,2") == [0, 2]
    assert positions_in(":8:2") == slice(None, 8, 2)
