"""A run in a folder: interrupted and taken up again, on a full disk, block by block."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from mi_toolkit.cli.app import run
from mi_toolkit.core.errors import ReportError, WeightError
from mi_toolkit.models.load import load_model
from mi_toolkit.weights.evaluate_scores import perturbation_test
from mi_toolkit.weights.parameters import weight_matrices
from mi_toolkit.weights.score import groups_of, score_blockwise, score_weights
from mi_toolkit.weights.study import Settings, run_study
from tests.conftest import ROOT
from tests.hooked_transformer import small_hooked
from tests.models_here import loaded
from tests.weights.toy_text import TOY_TEXT

SMALL = Settings(topk=(5,), n_random=2, fidelity=10, max_length=16)
TEXTS = TOY_TEXT[:8]


def tables(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(folder.glob("*.csv"))}


def test_an_interrupted_run_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    model: Any = load_model("toy-gpt2")
    before = [parameter.detach().clone() for parameter in model.parameters()]
    passes: list[int] = []

    def seen(*_: object) -> None:
        passes.append(1)
        if len(passes) == 4:  # one scores; the third of the perturbation test
            os.kill(os.getpid(), signal.SIGINT)

    handle = model.embed.register_forward_pre_hook(seen)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_study(model, SMALL, texts=TEXTS, folder=tmp_path / "run", progress=False)
    finally:
        handle.remove()
        signal.signal(signal.SIGINT, handler)
    assert all((a == b).all() for a, b in zip(before, model.parameters(), strict=True))
    assert set(tables(tmp_path / "run")) == {"top_weights_grad_x_weight_5.csv"}
    assert not any(path.name.startswith(".") for path in (tmp_path / "run").iterdir())
    again = run_study(model, SMALL, texts=TEXTS, folder=tmp_path / "run", progress=False)
    assert again.reused == ("scores of grad_x_weight", "top_weights_grad_x_weight_5")
    run_study(model, SMALL, texts=TEXTS, folder=tmp_path / "whole", progress=False)
    assert tables(tmp_path / "run") == tables(tmp_path / "whole")


def test_a_part_whose_file_was_changed_is_made_again(tmp_path: Path) -> None:
    model, scoring = loaded("toy-gpt2"), Settings(topk=(5,), max_length=16)
    asked: dict[str, Any] = {"texts": TEXTS, "folder": tmp_path, "perturbing": False}
    run_study(model, scoring, **asked)
    before = tables(tmp_path)
    (tmp_path / "top_weights_grad_x_weight_5.csv").write_text("1,2,3")
    assert run_study(model, scoring, **asked).reused == ("scores of grad_x_weight",)
    assert tables(tmp_path) == before


def test_the_folder_of_a_run_on_another_model_texts_or_weights_is_refused(tmp_path: Path) -> None:
    some = Settings(metrics=("magnitude",), topk=(5,))
    asked: dict[str, Any] = {"texts": TEXTS, "folder": tmp_path, "perturbing": False}
    run_study(loaded("toy-gpt2"), some, **asked)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    tuned: Any = load_model("toy-gpt2")
    with torch.no_grad():
        next(iter(tuned.parameters())).mul_(1.5)
    for change, named in (
        ({"model": loaded("toy-opt")}, "model was 'toy-gpt2' and is 'toy-opt'"),
        ({"model": tuned}, "weights was"),
        ({"texts": TEXTS[:4]}, "texts.scoring.n was 4 and is 2"),
    ):
        told = f"holds another sensitivity run: .*{named}.* Give another place, or delete it"
        with pytest.raises(ReportError, match=told):
            run_study(settings=some, **{"model": loaded("toy-gpt2"), **asked, **change})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_full_disk_is_told_and_the_run_goes_on_when_there_is_room(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no small file system can be mounted here")
    text = str(ROOT / "tests" / "data" / "toy_text.txt")
    some = ["--data-file", text, "--eval-limit", "2", "--topk", "5", "--no-perturbation"]
    command = ["sensitivity", *some, "--output", str(disk / "run")]
    try:
        assert run(command) == 1
        error = capsys.readouterr().err
        assert "the disk is full" in error
        assert error.count("\n") == 1
        assert list((disk / "run").iterdir()) == []
        subprocess.run(["mount", "-o", "remount,size=20M", str(disk)], check=True)
        assert run(command) == 0
        assert (disk / "run" / "report.html").is_file()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("metric", ["grad_x_weight", "fisher", "wanda"])
def test_block_by_block_the_scores_are_the_same_and_on_disk(metric: str, tmp_path: Path) -> None:
    model = loaded("toy-qwen2")
    whole = score_weights(model, TEXTS, metric)
    parts = score_blockwise(model, TEXTS, metric, folder=tmp_path, blocks_at_once=3)
    expected = {f"scores_{metric}_{label}.safetensors" for label in ("0-2", "3-5")}
    assert {path.name for path in tmp_path.iterdir()} == expected
    assert list(parts.scores) == list(whole.scores)
    for name, score in whole.scores.items():
        assert (parts.scores[name] == score).all(), name
    assert parts.top(30).equals(whole.top(30))
    # A matrix read back lies otherwise in memory, so its sums are rounded otherwise.
    pd.testing.assert_frame_equal(parts.by_head(), whole.by_head(), rtol=1e-5)
    settings: dict[str, Any] = {"k": [20], "n_random": 1, "progress": False}
    ours, theirs = (perturbation_test(model, s, TEXTS, **settings) for s in (parts, whole))
    assert ours.to_pandas().equals(theirs.to_pandas())


def test_only_the_gradients_of_one_group_exist_at_a_time(tmp_path: Path) -> None:
    model: Any = loaded("toy-gpt2")
    matrices = weight_matrices(model)
    wanted: list[set[int | None]] = []

    def seen(*_: object) -> None:
        on = [m for m in matrices if any(live.parameter.requires_grad for live in m.live)]
        wanted.append({matrix.layer for matrix in on})

    handle = model.embed.register_forward_pre_hook(seen)
    try:
        score_blockwise(model, TEXTS, folder=tmp_path, layers=[0, 1, 3])
    finally:
        handle.remove()
    assert wanted == [{0}, {1}, {3}]


def test_what_has_no_block_is_a_group_of_its_own() -> None:
    places = score_weights(
        loaded("toy-gpt2"), TEXTS, "magnitude", components=["W_E", "W_Q", "W_pos"]
    ).places
    groups = groups_of(places, 4)
    assert list(groups) == ["embed.W_E", "pos_embed.W_pos", "0-3"]
    assert groups["0-3"] == [f"blocks.{layer}.attn.W_Q" for layer in range(4)]


def test_a_metric_that_rests_on_all_weights_cannot_be_taken_in_parts(tmp_path: Path) -> None:
    with pytest.raises(WeightError, match="hessian_diag cannot be taken a few blocks at a time"):
        score_blockwise(loaded("toy-gpt2"), TEXTS, "hessian_diag", folder=tmp_path)


def test_a_run_block_by_block_gives_the_same_tables(tmp_path: Path) -> None:
    model = loaded("toy-gpt2")
    in_parts = Settings(topk=(5,), n_random=2, fidelity=10, max_length=16, blocks_at_once=2)
    for name, settings in (("whole", SMALL), ("parts", in_parts)):
        run_study(model, settings, texts=TEXTS, folder=tmp_path / name, progress=False)
    assert tables(tmp_path / "parts") == tables(tmp_path / "whole")


@pytest.mark.backend
@pytest.mark.parametrize("name", ["gpt2", "Qwen/Qwen2.5-0.5B"])
def test_a_hooked_transformer_and_a_bridge_give_the_same_dose_curve(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooked, _ = small_hooked(name, tmp_path, monkeypatch)
    texts = ["hello world", "the capital of France is Paris"]
    found = []
    for model in (hooked, load_model(name)):
        scores = score_weights(model, texts)
        test = perturbation_test(model, scores, texts, k=[50], n_random=2, progress=False)
        found.append((test.rise("zero", 50)[0], test.rise("zero", 50, "bottom")[0]))
    assert found[0] == pytest.approx(found[1], abs=1e-5)
    assert abs(found[0][0]) > 1e-3
