"""What name movers look at once a head is taken out."""

from __future__ import annotations

import pytest
import scipy.stats
import torch

import mi_toolkit as mi
from mi_toolkit.core.errors import PromptError
from mi_toolkit.core.passes import patterns_of
from mi_toolkit.core.tokens import tokenise
from mi_toolkit.interventions.inhibition import s_inhibition_effects
from tests.models_here import loaded


def preference(pattern: torch.Tensor, roles: dict[str, range]) -> float:
    end, io, s1, s2 = (roles[role].start for role in ("end", "io", "s1", "s2"))
    return float(pattern[end, io] - pattern[end, s1] - pattern[end, s2])


@pytest.mark.parametrize("name", ["toy-gpt2", "toy-opt", "toy-qwen2"])
def test_the_effect_is_the_preference_lost_prompt_by_prompt(name: str) -> None:
    model = loaded(name)
    prompts = mi.core.ioi_prompts(model, n_prompts=8)
    movers = [(2, 0), (3, 1)]
    found = s_inhibition_effects(model, ["L1H3"], movers, prompts=prompts, how="zero")
    lost = []
    for index in range(8):
        ids, roles = prompts.sequence(index)[None], prompts.roles_of(index)
        clean = patterns_of(model, ids, [2, 3])
        with mi.ablating(model, ["L1H3"], "zero"):
            without = patterns_of(model, ids, [2, 3])
        per_mover = [
            preference(clean[layer][0, head], roles) - preference(without[layer][0, head], roles)
            for layer, head in movers
        ]
        lost.append(sum(per_mover) / 2)
    assert float(found.effect[0]) == pytest.approx(sum(lost) / 8, abs=1e-5)
    assert float(found.effect[0]) != 0
    low, high = scipy.stats.t.interval(0.95, 7, loc=sum(lost) / 8, scale=scipy.stats.sem(lost))
    assert float(found.ci_low[0]) == pytest.approx(low, abs=1e-5)
    assert float(found.ci_high[0]) == pytest.approx(high, abs=1e-5)


def test_resampled_a_prompt_takes_what_the_next_one_has() -> None:
    model = loaded("toy-gpt2")
    every = mi.core.ioi_prompts(model, n_prompts=40)
    usual = every.lengths.mode().values
    prompts = every.chosen([row for row in range(40) if every.lengths[row] == usual])
    found = s_inhibition_effects(model, ["L1H3"], ["L2H0"], prompts=prompts, how="resample")
    lost = []
    for row in range(len(prompts)):
        ids, roles = prompts.sequence(row)[None], prompts.roles_of(row)
        other = prompts.sequence((row + 1) % len(prompts))
        clean = preference(patterns_of(model, ids, [2])[2][0, 0], roles)
        with mi.ablating(model, ["L1H3"], "resample", other):
            lost.append(clean - preference(patterns_of(model, ids, [2])[2][0, 0], roles))
    assert float(found.effect[0]) == pytest.approx(sum(lost) / len(lost), abs=1e-5)
    assert float(found.effect[0]) != 0
    with pytest.raises(PromptError, match="these are of different lengths"):
        s_inhibition_effects(model, ["L1H3"], ["L2H0"], prompts=every, how="resample")
    with pytest.raises(PromptError, match="keeps the patterns that are measured here"):
        s_inhibition_effects(model, ["L1H3"], ["L2H0"], prompts=prompts, how="pattern_preserving")
    with pytest.raises(PromptError, match="give two or more"):
        s_inhibition_effects(model, ["L1H3"], ["L2H0"], prompts=prompts.part(0, 1), how="resample")


def test_only_name_movers_behind_a_head_can_lose_by_it() -> None:
    model = loaded("toy-gpt2")
    prompts = mi.core.ioi_prompts(model, n_prompts=8)
    both = s_inhibition_effects(model, ["L2H1", "L3H0"], ["L2H0", "L3H1"], prompts=prompts)
    late = s_inhibition_effects(model, ["L2H1"], ["L3H1"], prompts=prompts)
    assert float(both.effect[0]) == pytest.approx(float(late.effect[0]), abs=1e-6)
    assert both.effect[1].isnan()
    assert "L3H0  no name mover stands after it" in repr(both)


def test_a_head_that_always_writes_the_same_is_not_missed_where_its_mean_stays() -> None:
    model = mi.load_model("toy-gpt2")
    model.blocks[1].attn.W_V.data[2] = 0
    found = s_inhibition_effects(model, ["L1H2"], ["L2H0"])
    assert float(found.effect[0]) == pytest.approx(0, abs=1e-6)
    assert found.n_prompts == 64


def test_without_roles_or_name_movers_it_says_what_is_missing() -> None:
    model = loaded("toy-gpt2")
    with pytest.raises(PromptError, match="do not say where end, io, s1, s2 are: ioi_prompts"):
        s_inhibition_effects(model, ["L1H0"], ["L2H0"], prompts=tokenise(model, "Mary and John"))
    with pytest.raises(PromptError, match="no name mover to measure"):
        s_inhibition_effects(model, ["L1H0"], [])
    assert s_inhibition_effects(model, [], ["L2H0"]).effect.shape == (0,)


@pytest.mark.smollm2
def test_a_trained_head_that_looks_at_the_subject_keeps_name_movers_off_it() -> None:
    model = loaded("smollm2-135m-instruct")
    prompts = mi.core.ioi_prompts(model, n_prompts=24)
    report = mi.classify_heads(model, prompts, behaviours=["name_mover", "s_inhibition"])
    assert {(23, 0), (23, 1)} <= set(report.heads("name_mover"))
    assert (24, 4) in report.heads("negative_name_mover")
    assert (20, 0) in report.heads("s_inhibition")
    movers = report.heads("name_mover")
    found = s_inhibition_effects(model, [(20, 0), (20, 1)], movers, prompts=prompts)
    assert float(found.ci_low[0]) > 0.1
    assert abs(float(found.effect[1])) < 0.05
