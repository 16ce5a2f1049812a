"""Sweeps that are interrupted: killed for real, gone on with, and equal bit for bit."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mi_toolkit.core import resumable
from mi_toolkit.core.errors import ReportError
from mi_toolkit.core.tokens import from_sequences
from mi_toolkit.heads import copying, plan, stimulus_run
from mi_toolkit.heads import copying as copy_queries
from mi_toolkit.heads.classify import classify_heads
from mi_toolkit.heads.report import FIGURES, HeadReport
from mi_toolkit.heads.stimulus_run import Batch, make_batches
from tests.models_here import loaded

PROMPTS = [
    f"{name} and Mary went {how} to the store, {name} gave"
    for name in ("John", "Tom", "Anna", "Paul", "Lisa", "Max")
    for how in ("out", "home and then back", "by")
]

SWEEP = """
import sys
import torch
import mi_toolkit as mi
from tests.heads.test_resume import PROMPTS
torch.set_num_threads(1)
mi.classify_heads(mi.load_model("toy-gpt2"), PROMPTS * 4, batch_size=2, resume=sys.argv[1])
"""


def assert_same_bits(here: HeadReport, there: HeadReport) -> None:
    for name in (*FIGURES, "head_queries", "coverage", "scope"):
        a, b = getattr(here, name), getattr(there, name)
        assert torch.equal(a.nan_to_num(-9), b.nan_to_num(-9)), name
    assert torch.equal(here.labels, there.labels)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the system cannot kill a process so")
def test_a_killed_sweep_goes_on_and_ends_with_the_same_bits(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "sweep.safetensors"
    process = subprocess.Popen(
        [sys.executable, "-c", SWEEP, str(path)],
        cwd=repository,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(repository), *sys.path])},
    )
    deadline = time.monotonic() + 240
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was done before it could be killed"

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        measured: list[Batch] = []
        measure = stimulus_run.StimulusRun.measure

        def counting(run: stimulus_run.StimulusRun, batch: Batch) -> None:
            measured.append(batch)
            measure(run, batch)

        monkeypatch.setattr(stimulus_run.StimulusRun, "measure", counting)
        model, prompts = loaded("toy-gpt2"), PROMPTS * 4
        resumed = classify_heads(model, prompts, batch_size=2, resume=path)
        assert 0 < len(measured) < len(prompts) / 2, "it went on, and did not begin anew"
        whole = classify_heads(model, prompts, batch_size=2)
        assert_same_bits(resumed, whole)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("behaviours", [None, ["induction", "diffuse"]])
def test_an_interrupted_sweep_goes_on_where_it_stood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behaviours: list[str] | None
) -> None:
    model, path = loaded("toy-qwen2"), tmp_path / "sweep.safetensors"
    monkeypatch.setattr(resumable, "PAUSE", 0)
    measure, measured = stimulus_run.StimulusRun.measure, []

    def interrupted(run: stimulus_run.StimulusRun, batch: Batch) -> None:
        if len(measured) == 3:
            measure(run, batch)  # what it added is lost: it was not saved
            raise KeyboardInterrupt
        measured.append(batch)
        measure(run, batch)

    asked = {"behaviours": behaviours, "batch_size": 4}
    with monkeypatch.context() as patched:
        patched.setattr(stimulus_run.StimulusRun, "measure", interrupted)
        with pytest.raises(KeyboardInterrupt):
            classify_heads(model, PROMPTS, resume=path, **asked)
    resumed = classify_heads(model, PROMPTS, resume=path, **asked)
    assert_same_bits(resumed, classify_heads(model, PROMPTS, **asked))

    with monkeypatch.context() as patched:
        patched.setattr(stimulus_run.StimulusRun, "measure", lambda *_: pytest.fail("measured"))
        assert_same_bits(classify_heads(model, PROMPTS, resume=path, **asked), resumed)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"behaviours": ["induction"]}, r"behaviours\.previous_token was .* and is not there"),
        ({"prompt": PROMPTS[:-1]}, "prompts was"),
        ({"model": "toy-opt"}, "model.name was 'toy-gpt2' and is 'toy-opt'"),
        ({"batch_size": 7}, "batch_size was None and is 7"),
    ],
)
def test_the_file_of_another_run_is_a_clear_error(tmp_path: Path, change: dict, named: str) -> None:
    path = tmp_path / "sweep.safetensors"
    classify_heads(loaded("toy-gpt2"), PROMPTS[:6], resume=path)
    asked = {"prompt": PROMPTS[:6], "model": "toy-gpt2"} | change
    model = loaded(asked.pop("model"))
    with pytest.raises(
        ReportError, match=f"holds another sweep: .*{named}.*or delete it to begin anew"
    ):
        classify_heads(model, resume=path, **asked)


def test_a_file_that_holds_no_sweep_is_a_clear_error(tmp_path: Path) -> None:
    model, path = loaded("toy-gpt2"), tmp_path / "sweep.safetensors"
    classify_heads(model, PROMPTS[0]).save(path)
    with pytest.raises(ReportError, match="holds no sweep of this version"):
        classify_heads(model, PROMPTS[:2], resume=path)
    path.write_text("nothing of the kind")
    with pytest.raises(ReportError, match="is no safetensors file, or is damaged"):
        classify_heads(model, PROMPTS[:2], resume=path)


def batches(lengths: list[int], **asked: object) -> list[Batch]:
    batch = from_sequences([[1] * length for length in lengths], 0)
    given = {"n_heads": 4, "whole_patterns": False, "pads": True, "batch_size": None, "room": 2**30}
    return make_batches(batch, **given | asked)


def test_sequences_run_sorted_by_length_each_once_with_little_padding() -> None:
    lengths = [5, 300, 40, 7, 280, 38, 6]
    cut = batches(lengths, compared=())
    assert [batch.sequences for batch in cut] == [(1, 4), (2, 5), (3, 6, 0)]
    assert all(batch.n_fresh == len(batch.sequences) for batch in cut)


def test_what_is_compared_runs_in_that_order_and_shows_the_others_once_more() -> None:
    circle = [2, 0, 1, 3, 4]  # the last is compared with the first; 5 is a second copy of one
    compared = [*zip(circle, [*circle[1:], circle[0]], strict=True)]
    cut = batches([50] * 6, compared=compared, batch_size=3)
    assert [batch.sequences for batch in cut] == [(2, 0, 1, 3), (3, 4, 5, 2)]
    assert [batch.n_fresh for batch in cut] == [3, 3]
    assert [batch.places_of(compared) for batch in cut] == [
        [(0, 1), (1, 2), (2, 3)],
        [(0, 1), (1, 3)],
    ]


def test_batches_shrink_with_the_room_that_there_is() -> None:
    whole = {"compared": (), "whole_patterns": True}
    sizes = [
        max(len(batch.sequences) for batch in batches([100] * 40, room=room, **whole))
        for room in (2**20, 2**24, 2**30)
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] == 1
    assert sizes[0] < sizes[-1]


def bytes_held() -> int:
    """Of all tensors that are alive."""
    gc.collect()
    # By class: objects that proxy attributes are not asked for theirs.
    storages = [each.untyped_storage() for each in gc.get_objects() if type(each) is torch.Tensor]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


@pytest.fixture
def weighed_anew() -> Iterator[None]:
    """What there is before is not looked through each time that tensors are weighed."""
    loaded("toy-gpt2")
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.slow
@pytest.mark.usefixtures("weighed_anew")
def test_a_long_sweep_holds_the_sums_of_its_prompts_and_nothing_else_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, held = loaded("toy-gpt2"), []
    measure = stimulus_run.StimulusRun.measure

    def weighing(run: stimulus_run.StimulusRun, batch: Batch) -> None:
        measure(run, batch)
        held.append(bytes_held())

    monkeypatch.setattr(stimulus_run.StimulusRun, "measure", weighing)
    # Bounds that the few prompts reach too.
    monkeypatch.setattr(plan, "KEPT_TOKENS", 256)
    monkeypatch.setattr(copy_queries, "HELD_TARGETS", 256)
    monkeypatch.setattr(copying, "KEPT_SEQUENCES", 8)
    ids = torch.randint(20, 900, (144, 12), generator=torch.Generator().manual_seed(0))
    classify_heads(model, ids.repeat(1, 2)[:48], batch_size=12)
    few, held = max(held), []
    classify_heads(model, ids.repeat(1, 2), batch_size=12)
    # Ids, eligible queries and sums; the targets alone would be 8 KB, the outputs to copy 24 KB.
    assert (max(held) - few) / 96 < 4000


@pytest.mark.parametrize("n_prompts", [18, 6])
def test_effects_made_along_the_way_are_those_made_at_the_end(
    n_prompts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded("toy-gpt2")
    ids = torch.randint(20, 900, (n_prompts, 12), generator=torch.Generator().manual_seed(0))
    prompts = ids.repeat(1, 2)
    at_the_end = classify_heads(model, prompts, batch_size=2)
    assert at_the_end.copying.isfinite().any()
    monkeypatch.setattr(copying, "KEPT_SEQUENCES", 2)
    assert_same_bits(classify_heads(model, prompts, batch_size=2), at_the_end)
    # And where the effects come back from a file.
    measure, path = stimulus_run.StimulusRun.measure, tmp_path / "sweep.safetensors"
    monkeypatch.setattr(resumable, "PAUSE", 0)
    asked = 0

    def interrupted(run: stimulus_run.StimulusRun, batch: Batch) -> None:
        nonlocal asked
        asked += 1
        if asked == 3:
            raise KeyboardInterrupt
        measure(run, batch)

    monkeypatch.setattr(stimulus_run.StimulusRun, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        classify_heads(model, prompts, batch_size=2, resume=path)
    assert_same_bits(classify_heads(model, prompts, batch_size=2, resume=path), at_the_end)
