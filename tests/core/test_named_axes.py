"""Every tensor of a result is indexed by what its axes stand for."""

from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

import mi_toolkit as mi
from mi_toolkit.core.errors import UnknownNameError
from mi_toolkit.core.named_axes import Axis, named
from tests.every_job import CLEAN, CORRUPTED
from tests.models_here import loaded

BEHAVIOURS = ["previous_token", "induction", "locality"]
BY_BEHAVIOUR = (
    "score null lift ci_low ci_high p head_queries copying copying_low copying_high borderline"
).split()


@pytest.fixture(scope="module")
def report() -> mi.HeadReport:
    return mi.classify_heads(loaded("toy-gpt2"), behaviours=BEHAVIOURS)


def same(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.float().nan_to_num(7.0), other.float().nan_to_num(7.0))


@pytest.mark.parametrize("field", BY_BEHAVIOUR)
def test_names_choose_what_numbers_do_in_every_tensor_of_a_report(
    report: mi.HeadReport, field: str
) -> None:
    figures, plain = getattr(report, field), getattr(report, field).as_subclass(Tensor)
    assert same(figures["induction"], plain[1])
    assert same(figures["induction", "L2H3"], plain[1, 2, 3])
    assert same(figures["induction"]["L2H3"], plain[1, 2, 3])
    assert same(figures["induction", 2], plain[1, 2])
    assert same(figures["L2H3"], plain[:, 2, 3])
    assert same(figures[mi.Head(2, 3)], plain[:, 2, 3])
    assert same(figures["locality", "H3"], plain[2, :, 3])
    assert same(
        figures["induction", ["L0H1", (2, 3)]], torch.stack([plain[1, 0, 1], plain[1, 2, 3]])
    )
    assert same(figures[["locality", "induction"]]["induction"], plain[1])
    assert same(figures[1:]["locality"], plain[2])


def test_labels_scope_and_coverage_take_names_too(report: mi.HeadReport) -> None:
    (head,) = report.heads("induction")
    assert bool(report.labels["induction", head])
    assert int(report.scope[str(head)]) == int(report.scope.as_subclass(Tensor)[head])
    assert same(report.coverage["L1H1"], report.coverage.as_subclass(Tensor)[1, 1])
    assert not report.not_finite["L1H1"]


def test_a_report_is_indexed_as_its_tensors_are(report: mi.HeadReport) -> None:
    assert list(report) == BEHAVIOURS
    assert "induction" in report
    assert same(report["induction"], report.lift[1])
    assert same(report["locality", "L0H0"], report.score[2, 0, 0])
    judged = torch.stack([report.lift[0, 0, 0], report.lift[1, 0, 0], report.score[2, 0, 0]])
    assert same(report["L0H0"], judged)
    heads = report.heads("previous_token")
    assert same(report["previous_token"][heads], report["previous_token", heads])


def test_what_other_results_hold_per_head_takes_names(report: mi.HeadReport) -> None:
    model = loaded("toy-gpt2")
    traced = mi.trace_pipeline(model, CLEAN).attention
    assert same(traced.patterns["L1H2"], traced.pattern("L1H2"))
    swept = mi.ablation_sweep(model, CLEAN)
    assert same(swept.kl["L1H2"], swept["kl"][1, 2])
    direct = mi.direct_logit_attribution(model, CLEAN)
    assert same(direct.mlps["L1"], direct.mlps[1])
    patched = mi.activation_patching(model, CLEAN, CORRUPTED, target=" the")
    assert same(patched.recovered["L2", patched.places[1]], patched.recovered[2, 1])


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda r: r.score["inducton"], "Did you mean 'induction'?"),
        (lambda r: r.score["L9H0"], "No behaviour, layer or head is called 'L9H0'"),
        (lambda r: r["induction"]["L0H4"], "Known: L0H0 to L3H3."),
        (lambda r: r["induction"]["induction"], "No layer or head is called 'induction'"),
        (lambda r: r["induction", "L0H0", "L1"], "No named axis that is left is called 'L1'"),
        (lambda r: r.score[["induction", "L0H0"]], "names of one axis in a list"),
        (lambda r: r.labels_of("L9H0"), "has no head L9H0: its layers are 0 to 3 and its heads"),
        (lambda r: r.kv_head((0, 4)), "has no head L0H4"),
        (lambda r: r.labels_of(3), "3 names no head. Write 'L5H1'"),
        (lambda r: mi.Head("5"), "'5' names no head"),
        (lambda r: mi.Head(5), "5 names no head"),
    ],
)
def test_a_name_that_is_not_there_says_what_there_is(
    report: mi.HeadReport, ask: object, message: str
) -> None:
    assert callable(ask)
    with pytest.raises(UnknownNameError, match=re.escape(message)):
        ask(report)


def test_what_is_computed_is_a_plain_tensor_and_copies_keep_their_names(
    report: mi.HeadReport, tmp_path: Path
) -> None:
    assert type(report.lift * 2) is Tensor
    assert type(report.lift[report.lift > 0.5]) is Tensor
    assert repr(report.lift["L0H0"]).startswith("tensor(")
    report.save(tmp_path / "report")
    for again in (
        copy.deepcopy(report),
        pickle.loads(pickle.dumps(report)),  # noqa: S301 (our own bytes)
        mi.HeadReport.load(tmp_path / "report"),
    ):
        assert same(again.lift["induction", "L2H3"], report.lift[1, 2, 3])
        assert same(again["induction", "L2H3"], report.lift[1, 2, 3])


def test_a_name_stays_at_its_entry_when_an_axis_is_cut() -> None:
    figures = named(torch.arange(3), [Axis("label", ("a", "b", "c"))])
    assert int(figures[1:]["c"]) == 2
    assert int(figures[0:3:2]["c"]) == 2


def test_a_head_is_made_of_its_name_or_its_numbers() -> None:
    assert mi.Head("L5H1") == mi.Head(5, 1) == (5, 1)
    assert copy.deepcopy(mi.Head(5, 1)) == mi.Head(5, 1)
