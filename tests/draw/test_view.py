"""`view` draws every result that a function gives, and says the way for what it cannot draw."""

from __future__ import annotations

import inspect
from typing import Any, get_args, get_overloads

import pytest

import mi_toolkit as mi
from mi_toolkit.core.errors import UnknownNameError
from mi_toolkit.draw.view import _view, view
from tests.models_here import loaded

PROMPT = "one two three one two"


def test_a_result_is_drawn_by_the_view_of_its_kind() -> None:
    model = loaded("toy-gpt2")
    traced = mi.trace_pipeline(model, PROMPT)
    assert repr(view(traced)).startswith("View of From text to prediction")
    assert "after token 1," in view(traced, 1, top_k=2).title
    assert repr(view(mi.direct_logit_attribution(model, PROMPT))).startswith("View of What writes")
    scores = mi.score_weights(model, PROMPT)
    assert len(view(scores, k=3).top) == 3


def test_every_type_that_the_overloads_name_is_registered() -> None:
    def flat(hint: Any) -> set[Any]:
        return {part for each in get_args(hint) for part in flat(each)} or {hint}

    named = set()
    for overload in get_overloads(view):
        parameter = next(iter(inspect.signature(overload, eval_str=True).parameters.values()))
        named |= flat(parameter.annotation)
    assert len(named) == 24
    assert named == set(_view.registry) - {object}


@pytest.mark.parametrize(
    ("thing", "way"),
    [
        (lambda: loaded("toy-gpt2"), r"mi\.view\(mi\.classify_heads\(model\)\)"),
        (
            lambda: mi.heads.copying_scores(loaded("toy-gpt2")),
            "CopyingScores is a table: .*to_pandas",
        ),
        (lambda: mi.text.trace_and_classify(loaded("toy-gpt2"), PROMPT), "2 results: .*mi.Page"),
        (lambda: [1, 2], "There is no view of what is of type list: .*view_attention"),
    ],
)
def test_what_is_no_result_is_refused_with_the_way_out(thing: Any, way: str) -> None:
    with pytest.raises(UnknownNameError, match=way):
        view(thing())
