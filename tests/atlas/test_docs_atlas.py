"""The atlas that the docs ship."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import mi_toolkit as mi
from mi_toolkit.core.errors import ReportError
from mi_toolkit.core.io import file_digest
from tests.models_here import TOYS, loaded

MOST_BYTES = 3 * 10**6


def test_it_is_small_and_whole(repository: Path) -> None:
    folder = repository / "docs" / "atlas"
    atlas = mi.atlas.HeadAtlas.load(folder)
    assert atlas.models == (*TOYS, "smollm2-135m-instruct")
    assert len(atlas.report("smollm2-135m-instruct").heads("previous_token")) > 5
    assert set(atlas.to_pandas()["model"]) == set(atlas.models)
    for name in atlas.models:
        for file, digest in atlas.provenance(name)["files"].items():
            assert file_digest(atlas.model_folder(name) / file) == digest, f"{name}: {file}"
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES
    assert not [path for path in files if path.name.startswith(".")]


@pytest.mark.slow
@pytest.mark.parametrize("name", TOYS)
def test_its_labels_are_what_the_library_finds_now(name: str, repository: Path) -> None:
    kept = mi.atlas.HeadAtlas.load(repository / "docs" / "atlas").report(name)
    now = mi.classify_heads(loaded(name))
    for label in kept.label_names:
        assert kept.heads(label) == now.heads(label), label


def test_a_report_that_is_not_what_was_written_is_refused(repository: Path, tmp_path: Path) -> None:
    shutil.copytree(repository / "docs" / "atlas", tmp_path / "atlas")
    atlas = mi.atlas.HeadAtlas.load(tmp_path / "atlas")
    report = atlas.model_folder("toy-gpt2") / "report.safetensors"
    content = report.read_bytes()
    report.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    with pytest.raises(ReportError, match=r"report\.safetensors is damaged: build the atlas again"):
        atlas.report("toy-gpt2")
