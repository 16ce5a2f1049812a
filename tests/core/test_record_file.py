from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mi_toolkit.core.errors import ReportError
from mi_toolkit.core.result import load_record, save_record


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
    with pytest.raises(ReportError, match=f"names another kind: .*{writer} writes that"):
        save_record(tmp_path / name, format="f 1", tensors={}, record={})
    assert not list(tmp_path.iterdir())
