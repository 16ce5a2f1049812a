"""Models in which some layers have no attention: heads that are not there are not counted."""

from __future__ import annotations

import math
from functools import cache

import pytest

import mi_toolkit as mi
from mi_toolkit.cli.report_text import report_lines
from mi_toolkit.compare.model_comparison import profile
from mi_toolkit.compare.stimuli import compare_stimuli
from mi_toolkit.core.model import HookedModel
from mi_toolkit.heads.report import HeadReport
from tests.models_here import loaded
from tests.tiny_models import tiny_model, tiny_tokenizer

KINDS = ["conv", "full_attention", "conv", "full_attention"]


@cache
def hybrid() -> HookedModel:
    made = tiny_model("lfm2", layer_types=KINDS)
    return mi.load_model("tiny/lfm", hf_model=made, tokenizer=tiny_tokenizer())


@cache
def report() -> HeadReport:
    return mi.classify_heads(hybrid())


def test_only_heads_that_are_there_are_listed_and_counted() -> None:
    found = report()
    assert found.attention_layers == (1, 3)
    assert len(found.all_heads) == 8
    named = {head for label in (*found.scope_names, "unclassified") for head in found.heads(label)}
    assert {head.layer for head in named} <= {1, 3}
    counts = [len(found.heads(scope)) for scope in found.scope_names]
    assert sum(counts) == 8
    said = dict(found.summary())["scope"]
    assert said == ", ".join(f"{n} {c}" for n, c in zip(found.scope_names, counts, strict=True))
    lines = "\n".join(report_lines(found, width=100, emphasise=str))
    assert "of 8" in lines
    assert "of 16" not in lines


def test_tables_have_a_row_for_each_head_that_is_there() -> None:
    table = report().to_pandas().query("home and behaviour == 'induction'")
    assert sorted(set(table["layer"])) == [1, 3]
    assert len(table) == 8


def test_shares_are_of_the_heads_that_are_there() -> None:
    found = {each.label: each for each in profile(report())}
    scopes = [found[name] for name in report().scope_names]
    assert sum(each.share for each in scopes) == pytest.approx(1)
    assert sum(each.count for each in scopes) == 8
    assert found["unclassified"].count == len(report().heads("unclassified"))


def test_kappa_is_over_the_heads_that_are_there() -> None:
    """All of them diffuse on both: nothing is told by their agreement."""
    pairs = {each.behaviour: each for each in compare_stimuli(report()).pairs}
    assert (pairs["diffuse"].labelled, pairs["diffuse"].other_labelled) == (8, 8)
    assert math.isnan(pairs["diffuse"].kappa)


def test_untrained_twins_have_as_many_heads() -> None:
    control = mi.untrained_control(hybrid(), "one two three one two three", n=1)
    assert control.n_heads == 8


def test_a_report_from_before_they_were_kept_has_heads_in_every_layer() -> None:
    record, tensors = report().taken_apart()
    del record["attention_layers"]
    assert len(HeadReport.put_together(record, tensors).all_heads) == 16


def test_where_nothing_applies_every_head_counts() -> None:
    found = mi.classify_heads(loaded("toy-gpt2"), "A", behaviours=["induction"])
    assert len(found.heads("unclassified")) == 16
    assert {each.label: each.count for each in profile(found)}["unclassified"] == 16
