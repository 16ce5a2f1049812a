from __future__ import annotations

from pathlib import Path

import pytest
import torch

import mi_toolkit as mi
from mi_toolkit.core.errors import ReportError
from mi_toolkit.core.result import load_record, save_record
from tests.models_here import loaded


def test_equal_results_are_equal_files(tmp_path: Path) -> None:
    tensors = {"b": torch.arange(5.0), "a": torch.tensor([True, False])}
    record = {"ü": 'é\x01\n"x/', "none": None}
    for index in range(20):  # safetensors alone writes one of two orders, at random
        save_record(tmp_path / str(index), format="f 1", tensors=tensors, record=record)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    found, kept = load_record(tmp_path / "0", format="f 1", kind="thing")
    assert kept == record
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize(
    ("name", "writer"),
    [("report.png", "save_png"), ("report.HTML", "save_html"), ("report.csv", "to_csv")],
)
def test_a_name_of_another_kind_of_file_is_refused_with_what_writes_it(
    name: str, writer: str, tmp_path: Path
) -> None:
    report = mi.classify_heads(loaded("toy-gpt2"), "one two one two")
    for result in (report, mi.compare.compare_stimuli({"one": report, "other": report})):
        with pytest.raises(ReportError, match=f"names another kind: .*{writer} writes that"):
            result.save(tmp_path / name)
    assert not list(tmp_path.iterdir())
