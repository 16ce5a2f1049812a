"""Results in words, in a terminal and in a notebook."""

from __future__ import annotations

import pytest

import mi_toolkit as mi
from mi_toolkit.core.display import TableRepr, TextTable
from tests.models_here import loaded

TABLE = TextTable(title="a <b>", header=("name", "n"), rows=[("long name", "1"), ("<i>", "22")])


def test_columns_are_aligned_under_the_title() -> None:
    assert str(TABLE) == "a <b>\n  name       n\n  long name  1\n  <i>        22"


def test_a_row_may_be_shorter_and_a_table_empty() -> None:
    assert str(TextTable(title="t", rows=[("a",), ("b", "c")])) == "t\n  a\n  b  c"
    assert str(TextTable(title="t", rows=[])) == "t"


def test_html_is_escaped() -> None:
    page = TABLE.html()
    assert "<i>" not in page
    assert "&lt;i&gt;" in page
    assert "a &lt;b&gt;" in page
    assert page.count("<tr>") == 3
    assert page.count("<th") == 2


@pytest.fixture(scope="module")
def results() -> list[TableRepr]:
    model = loaded("toy-gpt2")
    verse = mi.classify_heads(model, "one two three one two three one two three")
    prose = mi.classify_heads(model, "It was late, and the rain had not stopped.")
    few = {"n_sequences": 2}
    return [
        verse,
        mi.confirm_heads(model, {"induction": ["L2H0"]}, reference="a text", **few),
        mi.compare.compare_stimuli({"verse": verse, "prose": prose}),
        mi.length_sweep(model, lengths=(16, 32), n_sequences=2, behaviours=["induction"]),
        mi.record(model, "one two", ["resid_post"]),
        mi.activation_statistics(model, ["one two three"], ["resid_post"]),
        mi.describe_model(model),
    ]


def test_every_result_says_the_same_in_a_terminal_and_in_a_notebook(results) -> None:
    for result in results:
        title, *lines = repr(result).splitlines()
        page = result._repr_html_()
        assert "toy-gpt2" in title, title
        assert page.count("<tr>") == len(lines) > 0, title
