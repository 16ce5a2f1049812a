"""What is said while work runs: in a terminal, a log, a notebook, and by which functions."""

from __future__ import annotations

import ast
import io
import logging
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import mi_toolkit as mi
from mi_toolkit.core import progress
from mi_toolkit.core.process_state import one_job
from mi_toolkit.core.progress import Watcher, part_done, track, watching, working
from tests.models_here import loaded

SHORT: Mapping[str, str] = {
    "compare_stimuli": "runs no model",
    "untrained_twin": "draws weights, runs no model",
    "read_prompt": "one pass over one prompt",
    "view_attention": "one pass over one prompt",
    "direct_logit_attribution": "one pass over one prompt",
    "load_model": "Hugging Face shows its downloads; a GGUF file's conversion has our bar",
    "load_source": "as load_model",
}
"""Jobs without `progress=`, and why they need none."""


def jobs() -> Iterator[ast.FunctionDef]:
    """Every public function of the package that runs as one job, as it is written."""
    for path in Path(mi.__file__).parent.rglob("*.py"):
        for each in ast.parse(path.read_text("utf-8")).body:
            if not isinstance(each, ast.FunctionDef) or each.name.startswith("_"):
                continue
            if "one_job" in map(ast.unparse, each.decorator_list):
                yield each


def test_every_job_that_can_take_long_has_progress() -> None:
    found = {each.name: each for each in jobs()}
    assert len(found) > 25
    for name, each in found.items():
        defaults = dict(zip(each.args.kwonlyargs, each.args.kw_defaults, strict=True))
        has = {one.arg: ast.unparse(value) for one, value in defaults.items() if value is not None}
        assert has.get("progress") == (None if name in SHORT else "None"), name
        assert ("        progress: " in str(ast.get_docstring(each, clean=False))) == (
            name not in SHORT
        ), name
    assert set(SHORT) < set(found)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is shown is shown soon, and often."""
    monkeypatch.setattr(progress, "PATIENCE", 0.02)
    for kind in (progress._Bar, progress._Lines, progress._Cell):
        monkeypatch.setattr(kind, "interval", 0.02)


def work(show: bool | None, *, n: int = 4, inner: int = 3) -> None:
    for _ in track(range(n), total=n, label="Scoring", unit="batch", show=show):
        for _ in track(range(inner), total=inner, label="Folding", unit="part", show=True):
            time.sleep(0.03)


@pytest.mark.usefixtures("at_once")
def test_lines_say_how_long_it_has_taken_and_how_long_it_will(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    work(True)
    lines = capsys.readouterr().err.splitlines()
    # One line of work: what is tracked inside an item is a share of it, and has no line.
    assert lines
    assert all(line.startswith("Scoring: ") for line in lines)
    assert re.fullmatch(r"Scoring: 0 of 4 \(batch\), \d+ s so far, about \d s to go", lines[1])
    for show in (None, False):
        work(show)
    assert capsys.readouterr().err == ""
    with caplog.at_level(logging.INFO, "mi_toolkit"):
        work(None)
    assert "about 0 s to go" in caplog.text
    with watching(Watcher()):
        work(None)
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("at_once")
def test_a_terminal_gets_one_bar_that_moves_within_an_item_and_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    work(None)
    drawn = [part for part in terminal.getvalue().split("\r") if part.strip()]
    assert all(part.startswith("Scoring:") for part in drawn)
    shares = [int(found[1]) for part in drawn if (found := re.search(r"(\d+)%", part))]
    assert shares == sorted(shares)
    assert set(shares) - {0, 25, 50, 75, 100}
    assert terminal.getvalue().rsplit("\r", 2)[1].strip() == ""
    for _ in track(range(4), total=None, label="Reading", unit="row", show=None):
        time.sleep(0.05)
    assert re.search(r"Reading: [123] row \[00:0\d\]", terminal.getvalue())


@pytest.mark.usefixtures("at_once")
def test_a_notebook_gets_one_output_that_is_emptied(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[str, str]] = []

    def show(self: progress._Cell, plain: str, page: str) -> None:
        self._shown = "a display"
        shown.append((plain, page))

    monkeypatch.setattr(progress._Cell, "_show", show)
    monkeypatch.setattr(progress, "_in_a_kernel", lambda: True)
    work(None)
    (plain, page), last = shown[1], shown[-1]
    assert re.fullmatch(r"Scoring: 0 of 4 \(batch\), \d+ s so far, about \d+ s to go", plain)
    assert re.fullmatch(rf'<progress value="0\.\d+"></progress> {re.escape(plain)}', page)
    assert last == ("", "")


def test_short_work_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    work(True, n=1)
    assert capsys.readouterr().err == ""


def test_steps_that_are_no_items_are_counted_and_told() -> None:
    told: list[tuple[str, int, int | None]] = []

    class Told(Watcher):
        def report(self, label: str, done: int, total: int | None) -> None:
            told.append((label, done, total))

    with (
        watching(Told()),
        working(total=2, label="Tracing", unit="pass", show=None) as done,
    ):
        done()
        done()
    assert told == [("Tracing", 0, 2), ("Tracing", 1, 2)]


def test_a_share_moves_the_work_around_it_and_an_error_leaves_nothing_under_way() -> None:
    outer = progress._Work("outer", "item", 2, None)
    token = progress._under_way.set(outer)
    for index in track(range(4), total=4, label="inner", unit="item", show=None):
        part_done(0.5)
        assert outer.part == pytest.approx((index + 0.5) / 4 / 2)
    progress._under_way.reset(token)

    @one_job
    def fails(_: str) -> None:
        items = track(range(2), total=2, label="lost", unit="item", show=None)
        for _ in items:
            raise ValueError("on the way")

    with pytest.raises(ValueError, match="on the way") as kept:
        fails("no model")
    assert kept.traceback  # and with it the frame that holds what was never finished
    assert progress._under_way.get() is None


@pytest.mark.usefixtures("at_once")
def test_scoring_weights_tells_the_time_to_go_before_the_first_batch_is_done(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = loaded("toy-gpt2")
    mi.score_weights(model, eval_limit=32, max_length=128, batch_size=32, progress=True)
    lines = capsys.readouterr().err
    assert re.search(r"Scoring 786,432 weights: 0 of 1 \(batch\), .* to go", lines), lines
