"""Heads over training: when something began, on made figures and on a model's checkpoints."""

from __future__ import annotations

import csv
import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from transformers import TrainerState

import mi_toolkit as mi
from mi_toolkit.cli.app import run
from mi_toolkit.core.errors import ModelLoadError, SweepError, UnknownNameError
from mi_toolkit.sweeps.onsets import change_point, course, rise_and_fall
from mi_toolkit.sweeps.training import HeadDynamics, checkpoints_of

TRAINING = Path(__file__).parents[1] / "data" / "toy-training"
LABELS = ["previous_token", "induction", "first_token"]


@pytest.fixture(scope="module")
def followed() -> HeadDynamics:
    """The bundled checkpoints, by what their heads look at."""
    return mi.dynamics(TRAINING, "all", behaviours=LABELS)


def test_a_step_is_found_where_it_is() -> None:
    for at in range(1, 12):
        values = np.where(np.arange(12) < at, 0.1, 0.9)
        found = change_point(values, np.full(12, 0.01))
        assert (found.at, found.low, found.high) == (at, at - 1, at)
        fallen = change_point(1 - values, np.full(12, 0.01), rises=False)
        assert fallen == found
        assert change_point(1 - values, np.full(12, 0.01)) is None


def test_the_interval_of_a_step_in_noise_covers_it() -> None:
    random, covered = np.random.default_rng(0), 0
    for _ in range(400):
        at = int(random.integers(3, 13))
        values = np.where(np.arange(16) < at, 0.0, 0.6) + random.normal(0, 0.25, 16)
        found = change_point(values, np.full(16, 0.25))
        covered += found is not None and found.low < at <= found.high
    assert 0.9 <= covered / 400 <= 1.0


def test_what_rises_slowly_has_a_wide_interval() -> None:
    sudden = change_point(np.where(np.arange(16) < 8, 0.0, 0.9), np.full(16, 0.02))
    slow = change_point(np.linspace(0, 0.9, 16), np.full(16, 0.02))
    assert slow.high - slow.low > 2 * (sudden.high - sudden.low)


@pytest.mark.parametrize(
    ("values", "state", "onset", "end"),
    [
        ([0.0, 0.0, 0.0, 0.8, 0.9, 0.9], "formed", 3, None),
        ([0.0, 0.0, 0.7, 0.8, 0.1, 0.0], "no longer", 2, 4),
        ([0.0, 0.1, 0.0, 0.1, 0.2, 0.1], "not yet", None, None),
        ([0.0, 0.0, 0.5, 0.0, 0.0, 0.1], "not yet", None, None),  # once, by chance
        ([0.8, 0.8, 0.9, 0.8, 0.9, 0.9], "formed", None, None),  # from the first on
        ([0.8, 0.8, 0.9, 0.1, 0.0, 0.0], "no longer", None, 3),
    ],
)
def test_not_yet_is_told_from_no_longer(
    values: list[float], state: str, onset: int | None, end: int | None
) -> None:
    figure = np.array(values)
    found = course(figure, np.full(6, 0.02), figure > 0.3)
    assert found.state == state
    assert (found.onset.at if found.onset else None) == onset
    assert (found.end.at if found.end else None) == end


def test_a_label_that_comes_without_a_rise_was_not_there_from_the_first() -> None:
    """Intervals narrowed: the label came, while the figure fell."""
    values = np.array([0.60, 0.58, 0.55, 0.52])
    found = course(values, np.full(4, 0.02), np.array([False, False, True, True]))
    assert (found.state, found.onset, found.from_the_first) == ("formed", None, False)
    found = course(values + 0.3, np.full(4, 0.02), np.full(4, True))
    assert (found.state, found.onset, found.from_the_first) == ("formed", None, True)


def test_a_trainer_that_was_not_told_to_count_says_nothing_of_tokens(tmp_path: Path) -> None:
    for step in (100, 200):
        (tmp_path / f"checkpoint-{step}").mkdir()
        state = TrainerState(global_step=step)
        state.save_to_json(str(tmp_path / f"checkpoint-{step}" / "trainer_state.json"))
    assert [each.tokens for each in checkpoints_of(str(tmp_path), "all", None)] == [None, None]
    assert checkpoints_of(str(TRAINING), "all", None)[-1].tokens > 0


def test_a_checkpoint_without_a_figure_is_passed_over() -> None:
    values = np.array([0.0, np.nan, 0.0, np.nan, 0.9, 0.9])
    found = course(values, np.full(6, 0.02), np.nan_to_num(values) > 0.3)
    assert (found.onset.at, found.onset.low, found.onset.high) == (4, 2, 4)


def test_an_end_comes_after_its_onset_and_a_dip_is_no_onset() -> None:
    errors = np.full(7, 0.02)
    twice = np.array([0.0, 0.8, 0.8, 0.0, 0.0, 0.9, 0.0])
    found = course(twice, errors, twice > 0.3)
    assert (found.state, found.onset.at, found.end.at) == ("no longer", 1, 3)
    dip = np.array([0.9, 0.9, 0.9, 0.1, 0.95, 0.95, 0.95])
    found = course(dip, errors, dip > 0.3)
    assert (found.state, found.onset, found.end) == ("formed", None, None)
    ended = np.array([0.9, 0.9, 0.9, 0.1, 0.1, 0.1, 0.1])
    found = course(ended, errors, ended > 0.3)
    assert (found.state, found.onset, found.end.at) == ("no longer", None, 3)
    random = np.random.default_rng(1)
    for _ in range(200):
        values = random.uniform(0, 1, 8)
        found = course(values, np.full(8, 0.05), values > 0.4)
        if found.onset and found.end:
            assert found.onset.at < found.end.at


def test_a_rise_and_its_fall_are_those_of_every_pair_tried() -> None:
    random = np.random.default_rng(2)
    for n in range(6):
        assert rise_and_fall(np.zeros(n), np.zeros(n)) is None
    for _ in range(50):
        values = random.normal(0, 1, 9)
        left = {}
        for start in range(1, 8):
            for stop in range(start + 1, 9):
                parts = values[:start], values[start:stop], values[stop:]
                if parts[1].mean() > max(parts[0].mean(), parts[2].mean()):
                    rest = sum(((each - each.mean()) ** 2).sum() for each in parts)
                    left[start, stop] = 9 / 2 * np.log(max(rest / 9, 0.01))
        found = rise_and_fall(values, np.full(9, 0.1))
        if not left:
            assert found is None
            continue
        came, went = found
        least = min(left.values())
        assert left[came.at, went.at] == pytest.approx(least)
        kept = [pair for pair, value in left.items() if value <= least + 1.92]
        assert (came.low + 1, came.high) == (min(kept)[0], max(pair[0] for pair in kept))
        stops = [pair[1] for pair in kept]
        assert (went.low + 1, went.high) == (min(stops), max(stops))


def test_the_intervals_of_a_rise_and_its_fall_cover_them() -> None:
    random, covered = np.random.default_rng(0), np.zeros(2)
    for _ in range(400):
        start, stop = int(random.integers(3, 8)), int(random.integers(11, 16))
        levels = np.zeros(19)
        levels[start:stop] = 0.6
        came, went = rise_and_fall(levels + random.normal(0, 0.2, 19), np.full(19, 0.2))
        covered += [came.low < start <= came.high, went.low < stop <= went.high]
    assert (covered / 400 >= 0.9).all()


def test_a_label_that_its_figure_alone_does_not_decide_begins_where_heads_carry_it(
    followed: HeadDynamics,
) -> None:
    labels = followed.labels.clone()
    labels[:, 0], labels[5:, 0, 1, 1] = False, True
    made = dataclasses.replace(followed, labels=labels, by_lift=(False, *followed.by_lift[1:]))
    told = made.course(followed.label_names[0])
    assert (told.onset.low, told.onset.at, told.onset.high) == (4, 5, 5)


def test_checkpoints_of_the_hub_and_of_a_folder(tmp_path: Path) -> None:
    of_pythia = checkpoints_of("pythia-160m", "log", None)
    assert (of_pythia[0].step, of_pythia[-1].step) == (0, 143_000)
    assert 15 <= len(of_pythia) <= 22
    assert of_pythia[-1].tokens == 143_000 * 2_097_152
    assert of_pythia[-1].revision == "step143000"
    named = checkpoints_of("org/other", ["step512", 1000], tokens_per_step=10)
    assert [(each.step, each.tokens) for each in named] == [(512, 5120), (1000, 10_000)]
    here = checkpoints_of(str(TRAINING), [0, "checkpoint-64"], None)
    assert [each.step for each in here] == [0, 64]
    assert here[1].tokens > 64 * 1000
    with pytest.raises(SweepError, match="no checkpoint of step 65: there are 0, 16"):
        checkpoints_of(str(TRAINING), [65], None)
    with pytest.raises(SweepError, match="'latest' names no step"):
        checkpoints_of("org/other", ["latest"], None)
    with pytest.raises(UnknownNameError, match="Did you mean 'log'"):
        checkpoints_of("org/other", "logs", None)
    with pytest.raises(SweepError, match="has no checkpoints: folders in it such as"):
        checkpoints_of(str(tmp_path), "all", None)
    with pytest.raises(SweepError, match="two checkpoints or more"):
        mi.dynamics(TRAINING, [64])
    with pytest.raises(SweepError, match="confirm_at=65 is none of the checkpoints"):
        mi.dynamics(TRAINING, [0, 64], confirm_at=[65])
    with pytest.raises(SweepError, match="toy-gpt2 is one model without its checkpoints"):
        mi.dynamics("toy-gpt2")
    with pytest.raises(UnknownNameError, match="'nope'"):
        mi.dynamics("nope")


def test_induction_begins_as_the_loss_on_repeats_falls(followed: HeadDynamics) -> None:
    """The trainer's own log says when that is: where half of the fall is done."""
    with (TRAINING / "loss.csv").open() as opened:
        rows = [(int(row["step"]), float(row["repeat"])) for row in csv.DictReader(opened)]
    first, last = rows[0][1], rows[-1][1]
    assert first > last + 4
    begun = next(step for step, loss in rows if loss < first - 0.1 * (first - last))
    half = next(step for step, loss in rows if loss < (first + last) / 2)
    found = followed.course("induction")
    assert found.state == "formed"
    assert followed.steps[found.onset.low] <= half
    assert followed.steps[found.onset.high] >= begun
    # The head that it is looked for in is the one that training pushed.
    assert "L2H0" in map(str, followed.heads("induction"))
    before = followed.labels[: found.onset.low, followed.index("induction")]
    assert not before.any()


def test_a_table_a_text_and_a_file_say_the_same(followed: HeadDynamics, tmp_path: Path) -> None:
    table = followed.to_pandas()
    assert len(table) == 16 * len(followed.label_names) * 12
    assert table["tokens"].iloc[-1] == followed.tokens[-1]
    assert "induction" in repr(followed)
    assert followed.title().startswith(f"Heads of {TRAINING.name} over training")
    followed.save(tmp_path / "dynamics")
    again = HeadDynamics.load(tmp_path / "dynamics")
    assert list(again.onset_rows()) == list(followed.onset_rows())
    assert followed.in_words(followed.course("induction")).startswith("formed at step ")


def test_what_one_head_loses_as_another_gains_is_a_handover(followed: HeadDynamics) -> None:
    figure, labels = followed.figure.clone(), followed.labels.clone()
    row = followed.index("induction")
    figure[:, row], labels[:, row] = 0.0, False
    figure[3:8, row, 0, 1], labels[3:8, row, 0, 1] = 0.9, True
    figure[8:, row, 1, 2], labels[8:, row, 1, 2] = 0.9, True
    figure[14:, row, 2, 2], labels[14:, row, 2, 2] = 0.9, True
    made = dataclasses.replace(followed, figure=figure, labels=labels)
    found = [each for each in made.handovers() if each.label == "induction"]
    assert [(str(each.loser), str(each.winner)) for each in found] == [("L0H1", "L1H2")]
    assert found[0].lost == found[0].won == followed.steps[8]
    assert made.heads("induction", "no longer") == [mi.Head(0, 1)]
    assert len(made.handovers(window=6)) == len(made.handovers()) + 1
    with pytest.raises(UnknownNameError, match="state of a head"):
        made.heads("induction", "gone")


def test_the_command_follows_confirms_and_draws(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (0, 128, 1010):
        shutil.copytree(TRAINING / f"checkpoint-{step}", tmp_path / "run" / f"step{step}")
    command = ["dynamics", str(tmp_path / "run"), "--behaviours", "induction", "previous_token"]
    files = ["--output", str(tmp_path / "out"), "--html", str(tmp_path / "page.html")]
    kept = ["--folder", str(tmp_path / "kept")]
    assert run([*command, *kept, *files, "--confirm-at", "1010"]) == 0
    out = capsys.readouterr().out
    assert "formed at step" in out
    assert HeadDynamics.load(tmp_path / "out" / "dynamics.safetensors").confirmed
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "When labels came and went" in page
    assert "Put to the test" in page
    assert (tmp_path / "out" / "dynamics.png").stat().st_size > 10_000
    assert len(mi.open_sweep(tmp_path / "kept").done) == 4


@pytest.mark.hub
def test_pythia_s_induction_begins_after_two_billion_tokens() -> None:
    """Known of the suite: induction heads form shortly after 2e9 tokens (arXiv 2407.10827)."""
    steps = [0, 128, 256, 512, 1000, 2000, 4000, 8000, 16000]
    found = mi.dynamics("EleutherAI/pythia-160m", steps, behaviours=["induction"])
    onset = found.course("induction").onset
    assert found.tokens[onset.low] <= 4e9
    assert found.tokens[onset.high] >= 1e9


@pytest.mark.hub
def test_a_name_mover_of_pythia_comes_and_goes() -> None:
    """Known of pythia-160m: L4H6 moves names from about 4e9 tokens to 3e10 (arXiv 2407.10827)."""
    steps = [512, 1000, 2000, 3000, 4000, 8000, 12000, 16000, 32000]
    found = mi.dynamics("EleutherAI/pythia-160m", steps, behaviours=["name_mover"])
    told = found.course("name_mover", "L4H6")
    assert told.state == "no longer"
    assert found.tokens[told.onset.low] <= 8e9
    assert found.tokens[told.end.high] <= 7e10


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    # As the hub's client raises it: of no kind of Python's own.
    kind = type("ConnectError", (Exception,), {"__module__": "httpx2"})

    def unreachable(repo: str) -> None:
        raise kind("Name or service not known")

    monkeypatch.setattr("mi_toolkit.sweeps.training.list_repo_refs", unreachable)
    with pytest.raises(ModelLoadError, match="The hub cannot be asked which revisions a/b has"):
        mi.dynamics("a/b")
