"""How a report reads: pure text, from reports with known figures."""

from __future__ import annotations

import re

import pytest

from mi_toolkit.cli.output import columns, packed
from mi_toolkit.cli.report_text import report_lines
from mi_toolkit.heads.classify import classify_heads
from mi_toolkit.heads.report import HeadReport
from tests.models_here import loaded


@pytest.fixture(scope="module")
def standard() -> HeadReport:
    return classify_heads(loaded("toy-gpt-neo"))


def text_of(report: HeadReport, width: int = 10_000) -> str:
    return "\n".join(report_lines(report, width=width, emphasise=str))


@pytest.mark.parametrize("width", [60, 80, 140])
def test_no_line_is_wider_than_the_terminal(standard: HeadReport, width: int) -> None:
    lines = text_of(standard, width).splitlines()
    assert max(map(len, lines)) <= width


def test_each_label_lists_its_heads_with_figures_strongest_first(standard: HeadReport) -> None:
    text = text_of(standard)
    for name in standard.label_names:
        row = next(line for line in text.splitlines() if line.startswith(f"{name} "))
        listed = re.findall(r"(L\d+H\d+) +(-?\d\.\d\d) \[", row)
        heads = standard.heads(name)
        if not heads:
            own = standard.behaviour_of(name) == name
            assert ("none; highest L" if own else "none") in row
            continue
        assert [head for head, _ in listed] == [str(head) for head in heads]
        assert float(listed[0][1]) == pytest.approx(float(standard[name][heads[0]]), abs=0.006)


def test_the_stimulus_of_each_group_is_said(standard: HeadReport) -> None:
    text = text_of(standard)
    assert "Lift over chance on random tokens given twice (32 × 129 tokens, BOS first)" in text
    assert "Value on natural text (64 × 129 tokens, BOS first)" in text


def test_a_window_and_its_chance_levels_are_said(standard: HeadReport) -> None:
    text = text_of(standard)
    assert "Attention by design: global, and local (32 tokens) in layers 1, 3" in text
    assert re.search(r"^previous_token +0\.03–0\.04 ", text, re.MULTILINE)


def test_scopes_and_heads_without_a_label_are_counted(standard: HeadReport) -> None:
    text = text_of(standard)
    scopes = [f"{len(standard.heads(scope))} {scope}" for scope in standard.scope_names]
    assert re.search(rf"^scope +{', '.join(scopes)}$", text, re.MULTILINE)
    bare = len(standard.heads("unclassified"))
    assert re.search(rf"^unclassified +{bare} of 16", text, re.MULTILINE)


def test_a_behaviour_that_cannot_show_says_what_would_trigger_it() -> None:
    text = text_of(classify_heads(loaded("toy-gpt2"), "Mary"))
    row = next(line for line in text.splitlines() if line.startswith("induction "))
    assert "not applicable here: needs a prompt in which a token occurs twice" in row


def test_too_few_queries_are_called_that() -> None:
    text = text_of(classify_heads(loaded("toy-gpt2"), "Mary and John and"))
    row = next(line for line in text.splitlines() if line.startswith("duplicate_token "))
    assert re.search(r"too few queries for an interval \(\d\): a longer prompt gives more", row)


def test_a_long_list_is_cut_with_its_count() -> None:
    text, left_out = packed([f"L{layer}H0 0.5" for layer in range(100)], width=40, most_lines=2)
    assert left_out == 94
    assert len(columns([["x", text]], width=43)) == 2


def test_items_that_two_spaces_set_apart_are_not_broken() -> None:
    named = "L0H0 of one 0.1  L2H0 of two 0.2  a longer item than any column"
    lines = columns([["near", named]], width=26)
    assert lines == [
        "near  L0H0 of one 0.1",
        "      L2H0 of two 0.2  a",
        "      longer item than any",
        "      column",
    ]


def test_columns_stay_readable_in_a_very_narrow_terminal() -> None:
    lines = columns([["a very long first cell", "one two three four five six seven"]], width=10)
    assert lines == [
        "a very long first cell  one two three four",
        "                        five six seven",
    ]


def test_a_cell_that_is_too_wide_does_not_widen_its_column() -> None:
    assert columns([["a", "x"], ["much too wide", "y"]], width=40, widest=5) == [
        "a  x",
        "much too wide",
        "   y",
    ]


def test_what_a_head_does_to_what_it_sees_stands_beside_its_figure(standard: HeadReport) -> None:
    row = next(line for line in text_of(standard, 100).splitlines() if line.startswith("induction"))
    assert re.search(r"L2H0 0\.97 \[0\.96, 0\.98\] copies \+3\.3", row)
