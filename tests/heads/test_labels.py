"""Labels and scopes from intervals, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mi_toolkit.core.errors import UnknownNameError
from mi_toolkit.core.head import Head
from mi_toolkit.heads.behaviours import BEHAVIOURS
from mi_toolkit.heads.kinds import BehaviourSpec
from mi_toolkit.heads.labels import (
    SCOPE_NAMES,
    BarFigures,
    bar_of,
    behaviour_of,
    borderline_heads,
    label_heads,
    label_names,
    scope_of_heads,
)


def grid(*values: float) -> torch.Tensor:
    return torch.tensor([values])


def facts_of(*names: str) -> dict[str, BehaviourSpec]:
    return {name: BEHAVIOURS[name].facts for name in names}


def bars(
    ci_low: dict[str, torch.Tensor], score: dict[str, torch.Tensor] | None = None
) -> dict[str, BarFigures]:
    nowhere = torch.full_like(next(iter(ci_low.values())), torch.nan)
    return {
        name: BarFigures(low if score is None else score[name], low, low + 0.1, nowhere)
        for name, low in ci_low.items()
    }


def labels_of(ci_low: dict[str, torch.Tensor], score: dict[str, torch.Tensor]) -> torch.Tensor:
    unknown = torch.full_like(next(iter(ci_low.values())), torch.nan)
    copying = dict.fromkeys(ci_low, (unknown, unknown))
    figures = bars(ci_low, score)
    return label_heads(figures, copying, facts_of(*ci_low), min_lift=0.3, fdr=None)


def test_a_mask_label_needs_the_lower_end_at_the_bar() -> None:
    low = {"induction": grid(0.29, 0.3, torch.nan)}
    assert labels_of(low, low).tolist() == [[[False, True, False]], [[False, False, False]]]


def test_a_head_that_lowers_what_it_finds_is_labelled_so_instead() -> None:
    low = {"induction": grid(0.9, 0.9, 0.9, 0.1)}
    copying = {"induction": (grid(0.5, -0.9, -0.1, -0.9), grid(0.8, -0.2, 0.1, -0.2))}
    facts = facts_of("induction")
    assert label_names(facts) == ("induction", "prefix_suppression")
    copies, lowers = label_heads(bars(low), copying, facts, min_lift=0.3, fdr=None)
    assert copies.tolist() == [[True, False, True, False]]
    assert lowers.tolist() == [[False, True, False, False]]
    asked = label_heads(bars(low), copying, facts, min_lift=0.3, fdr=None, require_copying=True)
    assert asked.tolist() == [[[True, False, False, False]], [[False, True, False, False]]]
    needy = {"induction": replace(facts["induction"], needs_copying=True)}
    copies, lowers = label_heads(bars(low), copying, needy, min_lift=0.3, fdr=None)
    assert copies.tolist() == [[True, False, False, False]]
    assert lowers.tolist() == [[False, True, False, False]]


def test_a_positional_head_must_not_be_diffuse() -> None:
    low = {"positional": grid(0.7, 0.7, 0.5), "diffuse": grid(0.1, 0.1, 0.1)}
    score = {"positional": grid(0.8, 0.8, 0.8), "diffuse": grid(0.5, 0.9, 0.5)}
    positional, diffuse = labels_of(low, score)
    assert positional.tolist() == [[True, False, False]]
    assert not diffuse.any()


def test_false_discoveries_are_held_over_all_heads_and_behaviours() -> None:
    # By hand: of five tests (NaN is none) the adjusted p are .005, .05, .05, .05 and .9 at most.
    p = {"induction": grid(0.001, 0.02, 0.9), "first_token": grid(0.03, 0.04, torch.nan)}
    far = torch.zeros(1, 3)
    figures = {name: BarFigures(far, far - 1, far + 1, own) for name, own in p.items()}
    copying = {"induction": (far, far + 1)}
    facts = facts_of(*p)

    def labelled(fdr: float | None) -> list[list[bool]]:
        found = label_heads(figures, copying, facts, min_lift=0.3, fdr=fdr)
        return [found[0, 0].tolist(), found[2, 0].tolist()]

    assert labelled(0.05) == [[True, True, False], [True, True, False]]
    assert labelled(0.04) == [[True, False, False], [False, False, False]]
    assert labelled(None) == [[False] * 3, [False] * 3]  # by the lower ends, all under the bar


def test_a_head_whose_interval_reaches_beyond_the_bar_unproven_is_borderline() -> None:
    facts = facts_of("first_token", "locality")
    low, high = grid(0.2, 0.1, 0.35, 0.2), grid(0.4, 0.25, 0.5, 0.4)
    p = grid(0.2, 0.9, 0.001, 0.001)
    figures = dict.fromkeys(facts, BarFigures(low, low, high, p))
    found = borderline_heads(figures, facts, min_lift=0.3, fdr=0.05)
    assert found["first_token"].tolist() == [[True, False, False, False]]
    assert not found["locality"].any()  # a scope has no label
    alone = borderline_heads(figures, facts, min_lift=0.3, fdr=None)
    assert alone["first_token"].tolist() == [[True, False, False, True]]


def test_locality_is_a_scope_and_no_label() -> None:
    assert label_names(facts_of("first_token", "locality", "diffuse")) == ("first_token", "diffuse")


def test_without_a_behaviour_to_label_every_head_is_there_and_unlabelled() -> None:
    low = {"locality": grid(0.7, 0.1)}
    assert labels_of(low, low).shape == (0, 1, 2)
    assert labels_of(low, low).dtype == torch.bool


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


def test_bars_are_met_at_them() -> None:
    low, high = grid(0.5, 0.4, 0.5), grid(0.6, 0.5, 0.6)
    scope = scope_of_heads(low, high, grid(1.0, 1.0, 0.1))[0].tolist()
    assert [SCOPE_NAMES[index] for index in scope] == ["local", "undetermined", "local"]
    facts = facts_of("first_token")
    at_bar = {"first_token": BarFigures(*[grid(0.25)] * 2, grid(0.5), grid(0.9))}
    assert not borderline_heads(at_bar, facts, min_lift=0.5, fdr=0.05)["first_token"].any()
    assert borderline_heads(at_bar, facts, min_lift=0.49, fdr=0.05)["first_token"].all()


def test_a_label_of_suppressing_rests_on_the_behaviour_that_has_it() -> None:
    facts = facts_of("induction", "first_token", "name_mover")
    assert behaviour_of("prefix_suppression", facts) == "induction"
    assert behaviour_of("negative_name_mover", facts) == "name_mover"
    assert behaviour_of("first_token", facts) == "first_token"
    assert bar_of(facts["induction"], 0.7) == 0.7
    assert bar_of(BEHAVIOURS["positional"].facts, 0.7) == 0.6


def test_a_positional_head_that_spreads_evenly_is_not_borderline_either() -> None:
    facts = facts_of("positional", "diffuse")
    low, high = grid(0.3, 0.3), grid(0.9, 0.9)
    spread = BarFigures(grid(0.84, 0.85), low, high, grid(0.5, 0.5))
    figures = {"positional": BarFigures(grid(0.7, 0.7), low, high, grid(0.5, 0.5))}
    alone = borderline_heads(figures, facts_of("positional"), min_lift=0.3, fdr=0.05)
    assert alone["positional"].tolist() == [[False, False]]  # nobody knows whether they do
    beside = borderline_heads(figures | {"diffuse": spread}, facts, min_lift=0.3, fdr=0.05)
    assert beside["positional"].tolist() == [[True, False]]
    below = {"positional": figures["positional"]._replace(ci_high=grid(0.5, 0.5))}
    far = borderline_heads(below | {"diffuse": spread}, facts, min_lift=0.3, fdr=0.05)
    assert not far["positional"].any()


def test_an_effect_of_zero_neither_raises_nor_lowers() -> None:
    low = {"induction": grid(0.9, 0.9)}
    copying = {"induction": (grid(-0.5, 0.0), grid(0.0, 0.5))}
    facts = facts_of("induction")
    copies, lowers = label_heads(bars(low), copying, facts, min_lift=0.3, fdr=None)
    assert (copies.tolist(), lowers.tolist()) == ([[True, True]], [[False, False]])
    asked = label_heads(bars(low), copying, facts, min_lift=0.3, fdr=None, require_copying=True)
    assert not asked.any()
