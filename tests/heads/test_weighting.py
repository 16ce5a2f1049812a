"""Texts of unequal length: each counts alike, or each query does, held against plain Python."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

import mi_toolkit as mi
from mi_toolkit.cli.app import run
from mi_toolkit.core import resumable
from mi_toolkit.core.errors import ReportError, UnknownNameError
from mi_toolkit.core.stats import EDGE, UNSEEN, UNSEEN_SHARE
from mi_toolkit.core.tokens import TokenBatch
from mi_toolkit.heads import stimulus_run
from mi_toolkit.heads.report import HeadReport
from mi_toolkit.heads.stimulus_run import Batch
from tests import reference
from tests.models_here import loaded, untouched
from tests.prompts_made import prompts_with_repeats
from tests.report_against_reference import MASKS, hf_patterns

LENGTHS = [70, 7, 30, 12]
"""Of which 7 is too short for `diffuse`."""

WINDOWED = "toy-gpt-neo"
WEIGHTINGS = ["prompts", "queries"]


def batch_of(name: str, lengths: list[int]) -> TokenBatch:
    return prompts_with_repeats(loaded(name).cfg.d_vocab, 0, lengths)


def weighed(values: list[list[float]], weighting: str) -> tuple[list[float], list[float]]:
    """What each text adds to the sums above and below: its mean once, or all its queries."""
    held = [text for text in values if text]
    if weighting == "queries":
        return [math.fsum(text) for text in held], [float(len(text)) for text in held]
    return [math.fsum(text) / len(text) for text in held], [1.0] * len(held)


def interval(above: np.ndarray, below: np.ndarray, low: float) -> tuple[float, float]:
    """The jackknife on the logit of a ratio's place in `[low, 1]`, from the module's docstring."""

    def place(over: float, under: float) -> float:
        share = min(max((over / under - low) / (1 - low), EDGE), 1 - EDGE)
        return math.log(share / (1 - share))

    n, total, mass = len(above), float(above.sum()), float(below.sum())
    without = [place(total - a, mass - b) for a, b in zip(above, below, strict=True)]
    variance = (n - 1) / n * sum((each - np.mean(without)) ** 2 for each in without)
    unseen = min(UNSEEN, (1 - UNSEEN_SHARE) ** n)
    for end in (low, 1.0):
        moved = place(total + end * mass / n, mass + mass / n) - place(total, mass)
        variance += unseen * moved**2
    half = stats.t.ppf(0.975, n - 1) * math.sqrt(variance)
    value = total / mass
    at = (value - low) / (1 - low)
    share = [1 / (1 + math.exp(-(place(total, mass) + sign * half))) for sign in (-1, 1)]
    share = [0.0 if at <= EDGE else share[0], 1.0 if at >= 1 - EDGE else share[1]]
    ends = [low + (1 - low) * each for each in share]
    return min(ends[0], value), max(ends[1], value)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_score_chance_and_interval_equal_the_sums_written_out(weighting: str) -> None:
    model, batch = loaded(WINDOWED), batch_of(WINDOWED, LENGTHS)
    report = mi.classify_heads(model, batch, batch_size=2, weighting=weighting)
    patterns = hf_patterns(untouched(WINDOWED), batch)
    tokens = [batch.sequence(index).tolist() for index in range(len(batch))]
    for layer, window in enumerate(report.windows):
        for head in range(report.scope.shape[1]):
            rows = [pattern[layer, head] for pattern in patterns]
            for name in MASKS:
                cell = report.index(name), layer, head
                attended, chance = reference.attended_by_query(
                    name, rows, tokens, batch.bos_id, window
                )
                if not any(attended):
                    assert report.score[cell].isnan()
                    continue
                above, below = map(np.array, weighed(attended, weighting))
                null, _ = map(np.array, weighed(chance, weighting))
                score, by_chance = above.sum() / below.sum(), null.sum() / below.sum()
                assert float(report.score[cell]) == pytest.approx(score, abs=1e-5), (name, cell)
                assert float(report.null[cell]) == pytest.approx(by_chance, abs=1e-6), (name, cell)
                if len(above) >= 3:
                    low = -by_chance / (1 - by_chance)
                    ends = interval(above - null, below - null, low)
                    found = float(report.ci_low[cell]), float(report.ci_high[cell])
                    assert found == pytest.approx(ends, abs=1e-4), (name, cell)
            pooled = weighting == "queries"
            wanted = {
                "locality": reference.locality(rows)[0],
                "positional": reference.positional(rows, pooled=pooled),
                "diffuse": reference.diffuse(rows, window, pooled=pooled),
            }
            for name, value in wanted.items():
                cell = report.index(name), layer, head
                found = float(report.score[cell])
                assert found == pytest.approx(value, abs=1e-4, nan_ok=True), (name, cell)


def test_copying_follows() -> None:
    model, batch = loaded("toy-gpt2"), batch_of("toy-gpt2", [24, 90, 40])
    alone = [mi.classify_heads(model, batch.chosen([index])) for index in range(len(batch))]
    row, head = alone[0].index("induction"), (2, 0)
    effects = np.array([float(report.copying[row][head]) for report in alone])
    queries = np.array([report.n_queries["induction"] for report in alone])
    assert len(set(queries)) == 3
    for weighting, weights in (("prompts", np.ones(3)), ("queries", queries)):
        for chosen in ([0, 1, 2], [0, 1]):
            report = mi.classify_heads(model, batch.chosen(chosen), weighting=weighting)
            mean = np.average(effects[chosen], weights=weights[chosen])
            assert float(report.copying[row][head]) == pytest.approx(mean, abs=1e-4)
            low, high = report.copying_low[row][head], report.copying_high[row][head]
            assert low < mean < high


def test_a_long_text_outweighs_a_short_one_by_its_queries_alone() -> None:
    model, batch = loaded("toy-gpt2"), batch_of("toy-gpt2", [7, 105])
    alone = [mi.classify_heads(model, batch.chosen([index])) for index in range(2)]
    by_text, by_query = (
        mi.classify_heads(model, batch, weighting=weighting) for weighting in WEIGHTINGS
    )
    row = by_text.index("first_token")
    short, long = (report.score[row] for report in alone)
    assert torch.allclose(by_text.score[row], (short + long) / 2, atol=1e-5)
    assert torch.allclose(by_query.score[row], (6 * short + 104 * long) / 110, atol=1e-5)
    for report in (by_text, by_query):  # intervals over the queries of two texts hold the figure
        assert report.interval["first_token"] == "jackknife over queries of this prompt"
        assert (report.ci_low[row] <= report.lift[row]).all()
        assert (report.lift[row] <= report.ci_high[row]).all()


@pytest.mark.parametrize(("lengths", "behaviours"), [([40], None), ([24, 24, 24], MASKS)])
def test_one_text_and_texts_of_one_length_know_no_difference(
    lengths: list[int], behaviours: list[str] | None
) -> None:
    model, batch = loaded("toy-pythia"), batch_of("toy-pythia", lengths)
    here, there = (
        mi.classify_heads(model, batch, weighting=each, behaviours=behaviours)
        for each in WEIGHTINGS
    )
    for field in ("score", "null", "lift", "ci_low", "ci_high", "p", "copying", "coverage"):
        kept, other = getattr(here, field), getattr(there, field)
        assert torch.allclose(kept, other, atol=1e-5, equal_nan=True), field
    assert torch.equal(here.labels, there.labels)


def test_a_file_of_sums_is_gone_on_with_by_its_own_weighting_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, path = loaded("toy-gpt2"), tmp_path / "sums.safetensors"
    batch = batch_of("toy-gpt2", [40, 30, 20, 12, 9])
    asked = {"weighting": "queries", "batch_size": 1}
    monkeypatch.setattr(resumable, "PAUSE", 0)
    measure, measured = stimulus_run.StimulusRun.measure, []

    def interrupted(run: stimulus_run.StimulusRun, part: Batch) -> None:
        if len(measured) == 2:
            raise KeyboardInterrupt
        measured.append(part)
        measure(run, part)

    with monkeypatch.context() as patched:
        patched.setattr(stimulus_run.StimulusRun, "measure", interrupted)
        with pytest.raises(KeyboardInterrupt):
            mi.classify_heads(model, batch, resume=path, **asked)
    with pytest.raises(ReportError, match="weighting was 'queries' and is 'prompts'"):
        mi.classify_heads(model, batch, resume=path, batch_size=1)
    resumed = mi.classify_heads(model, batch, resume=path, **asked)
    whole = mi.classify_heads(model, batch, **asked)
    for field in ("score", "null", "ci_low", "ci_high", "p", "copying"):
        kept, other = getattr(resumed, field), getattr(whole, field)
        assert torch.equal(kept.nan_to_num(7), other.nan_to_num(7)), field


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_every_form_of_a_report_says_which(weighting: str, tmp_path: Path) -> None:
    report = mi.classify_heads(loaded("toy-gpt2"), ["a b c", "d e f g"], weighting=weighting)
    report.save(tmp_path / "report.safetensors")
    loaded_again = HeadReport.load(tmp_path / "report.safetensors")
    sentence = {
        "prompts": "prompts: every text counts alike, a short one as much as a long one; of "
        "locality, every query",
        "queries": "queries: every query counts alike, so a long text counts more than a short one",
    }[weighting]
    for each in (report, loaded_again):
        assert each.weighting == weighting
        assert sentence in str(each)
        assert sentence in mi.view(each).section().body
        assert set(each.to_pandas()["weighting"]) == {weighting}


def test_what_has_no_texts_does_not_speak_of_them() -> None:
    lines = dict(mi.classify_heads(loaded("toy-gpt2"), behaviours=["successor"]).summary())
    assert not {"weighting", "BOS"} & set(lines)


def test_a_report_from_before_there_was_a_choice_weighs_prompts() -> None:
    report = mi.classify_heads(loaded("toy-gpt2"), "a b c", weighting="queries")
    record, tensors = report.taken_apart()
    del record["weighting"]
    assert HeadReport.put_together(record, tensors).weighting == "prompts"


def test_untrained_twins_are_weighed_as_the_report_is() -> None:
    model, texts = loaded("toy-gpt2"), ["one two three four one", "five six"]
    asked = {"behaviours": ["first_token"], "weighting": "queries"}
    report = mi.classify_heads(model, texts, **asked)
    control = mi.untrained_control(model, texts, n=1, **asked)
    assert report.against(control).untrained is control
    plain = mi.untrained_control(model, texts, n=1, behaviours=["first_token"])
    with pytest.raises(ReportError, match="call untrained_control with weighting='queries'"):
        report.against(plain)


@pytest.mark.parametrize("asked", [{"min_lift": 0.1}, {"fdr": None}])
def test_untrained_twins_are_labelled_as_the_report_is(asked: dict[str, Any]) -> None:
    model, texts = loaded("toy-gpt2"), ["one two three four one", "five six", "a b c d"]
    report = mi.classify_heads(model, texts, behaviours=["diffuse"], **asked)
    control = mi.untrained_control(model, texts, n=1, behaviours=["diffuse"], **asked)
    assert report.against(control).untrained is control
    plain = mi.untrained_control(model, texts, n=1, behaviours=["diffuse"])
    (name,) = asked
    with pytest.raises(ReportError, match=f"call untrained_control with {name}={asked[name]}"):
        report.against(plain)


def test_untrained_twins_have_to_copy_where_the_report_s_heads_have_to() -> None:
    model, texts = loaded("toy-gpt2"), ["one two three one two three"] * 3
    report = mi.classify_heads(model, texts, behaviours=["induction"])
    asked: dict[str, Any] = {"n": 1, "behaviours": ["induction"]}
    plain = mi.untrained_control(model, texts, **asked)
    copying = mi.untrained_control(model, texts, require_copying=True, **asked)
    strict = report.label(require_copying=True)
    assert strict.against(copying).label(require_copying=True).untrained is copying
    said = "call untrained_control with require_copying="
    with pytest.raises(ReportError, match=f"{said}True"):
        strict.against(plain)
    with pytest.raises(ReportError, match=f"{said}True"):
        report.against(plain).label(require_copying=True)
    with pytest.raises(ReportError, match=f"{said}False"):
        report.against(copying)


@pytest.mark.parametrize(
    ("command", "file"),
    [
        (["classify", "one two three", "four five", "-m", "toy-gpt2"], "report"),
        (["sweep", "-m", "toy-gpt2", "--lengths", "8", "--sequences", "2"], "natural-8"),
        (["compare", "toy-gpt2", "toy-opt", "a b a"], "toy-opt"),
        (["stimuli", "one two one two", "-m", "toy-gpt2"], "prompt"),
        (["atlas", "toy-gpt2"], "models/toy-gpt2/report"),
    ],
)
def test_every_command_that_makes_a_report_takes_it(
    command: list[str], file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = [] if command[0] == "atlas" else ["--behaviours", "first_token"]
    asked = [*command, *few, "--weighting", "queries", "--output", str(tmp_path), "--json"]
    assert run(asked) == 0
    record = json.loads(capsys.readouterr().out)
    if command[0] == "classify":
        assert record["weighting"] == "queries"
    if command[0] == "stimuli":
        comparison = mi.compare.StimulusComparison.load(tmp_path / "stimuli.safetensors")
        report = comparison.reports[file]
    elif command[0] == "compare":
        comparison = mi.compare.ModelComparison.load(tmp_path)
        report = comparison.reports[file]
        assert set(comparison.to_pandas()["weighting"]) == {"queries"}
    else:
        report = HeadReport.load(tmp_path / f"{file}.safetensors")
    if command[0] == "atlas":
        protocol = mi.atlas.HeadAtlas.load(tmp_path).provenance("toy-gpt2")["protocol"]
        assert protocol["weighting"] == "queries"
    assert report.weighting == "queries"


def test_another_word_is_a_clear_error() -> None:
    with pytest.raises(UnknownNameError, match=r"No weighting is called 'tokens'.*prompts, quer"):
        mi.classify_heads(loaded("toy-gpt2"), "a b", weighting="tokens")
