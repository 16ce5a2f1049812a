"""Labels and scopes from intervals, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mi_toolkit.errors import UnknownNameError
from mi_toolkit.heads.behaviours import BEHAVIOURS
from mi_toolkit.heads.head import Head
from mi_toolkit.heads.kinds import BehaviourFacts
from mi_toolkit.heads.labels import SCOPE_NAMES, label_heads, label_names, scope_of_heads


def grid(*values: float) -> torch.Tensor:
    return torch.tensor([values])


def facts_of(*names: str) -> dict[str, BehaviourFacts]:
    return {name: BEHAVIOURS[name].facts for name in names}


def labels_of(ci_low: dict[str, torch.Tensor], score: dict[str, torch.Tensor]) -> torch.Tensor:
    unknown = torch.full_like(next(iter(ci_low.values())), torch.nan)
    copying = dict.fromkeys(ci_low, (unknown, unknown))
    return label_heads(score, ci_low, copying, facts_of(*ci_low), min_lift=0.3)


def test_a_mask_label_needs_the_lower_end_at_the_bar() -> None:
    low = {"induction": grid(0.29, 0.3, torch.nan)}
    assert labels_of(low, low).tolist() == [[[False, True, False]], [[False, False, False]]]


def test_a_head_that_lowers_what_it_finds_is_labelled_so_instead() -> None:
    low = {"induction": grid(0.9, 0.9, 0.9, 0.1)}
    copying = {"induction": (grid(0.5, -0.9, -0.1, -0.9), grid(0.8, -0.2, 0.1, -0.2))}
    facts = facts_of("induction")
    assert label_names(facts) == ("induction", "prefix_suppression")
    copies, lowers = label_heads(low, low, copying, facts, min_lift=0.3)
    assert copies.tolist() == [[True, False, True, False]]
    assert lowers.tolist() == [[False, True, False, False]]
    needy = {"induction": replace(facts["induction"], needs_copying=True)}
    copies, lowers = label_heads(low, low, copying, needy, min_lift=0.3)
    assert copies.tolist() == [[True, False, False, False]]
    assert lowers.tolist() == [[False, True, False, False]]


def test_a_positional_head_must_not_be_diffuse() -> None:
    low = {"positional": grid(0.7, 0.7, 0.5), "diffuse": grid(0.1, 0.1, 0.1)}
    score = {"positional": grid(0.8, 0.8, 0.8), "diffuse": grid(0.5, 0.9, 0.5)}
    positional, diffuse = labels_of(low, score)
    assert positional.tolist() == [[True, False, False]]
    assert not diffuse.any()


def test_locality_is_a_scope_and_no_label() -> None:
    assert label_names(facts_of("first_token", "locality", "diffuse")) == ("first_token", "diffuse")


def test_without_a_behaviour_to_label_every_head_is_there_and_unlabelled() -> None:
    low = {"locality": grid(0.7, 0.1)}
    assert labels_of(low, low).shape == (0, 1, 2)


def test_a_scope_is_told_only_by_an_interval_on_one_side_and_enough_rows() -> None:
    low = grid(0.6, 0.2, 0.4, 0.6, torch.nan)
    high = grid(0.8, 0.4, 0.6, 0.8, torch.nan)
    coverage = grid(1.0, 1.0, 1.0, 0.09, 1.0)
    scope = scope_of_heads(low, high, coverage)[0].tolist()
    assert [SCOPE_NAMES[index] for index in scope] == [
        "local",
        "global",
        "undetermined",
        "undetermined",
        "undetermined",
    ]


@pytest.mark.parametrize("name", ["L5H11", "5.11", "a5.h11", "l5h11", "5,11", (5, 11)])
def test_a_head_answers_to_all_its_names(name: str | tuple[int, int]) -> None:
    assert Head.of(name) == Head(5, 11)
    assert str(Head.of(name)) == "L5H11"


@pytest.mark.parametrize("name", ["511", "L5", "H5L1", "", "5.1.1", "five.one"])
def test_what_names_no_head_is_an_error(name: str) -> None:
    with pytest.raises(UnknownNameError, match=r"names no head. Write 'L5H1'"):
        Head.of(name)
