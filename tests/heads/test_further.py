"""Behaviours beyond the standard ones: targets by hand, known heads, and the choice of stimuli."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import mi_toolkit as mi
from mi_toolkit.core.errors import BehaviourError
from mi_toolkit.core.stimuli import needle_prompts
from mi_toolkit.core.tokens import TokenBatch
from mi_toolkit.heads.behaviours import BEHAVIOURS
from mi_toolkit.heads.kinds import MaskBehaviour
from tests.ideal_patterns import even_pattern, figures, pattern_of_mask, sink_pattern
from tests.models_here import loaded

FURTHER = ["name_mover", "s_inhibition", "retrieval", "successor"]


def named(name: str) -> MaskBehaviour:
    behaviour = BEHAVIOURS[name]
    assert isinstance(behaviour, MaskBehaviour)
    return behaviour


def targets(name: str, ids: list[int], **roles: range) -> list[list[int]]:
    return named(name).marked(torch.tensor(ids), True, roles).nonzero().tolist()


def masks_of(name: str, batch: TokenBatch) -> torch.Tensor:
    """The behaviour's own mask of each sequence, padded."""
    n = int(batch.lengths.max())
    padded = torch.zeros(len(batch), n, n, dtype=torch.bool)
    for index in range(len(batch)):
        mask = named(name).marked(batch.sequence(index), True, batch.roles_of(index))
        padded[index, : len(mask), : len(mask)] = mask
    return padded


def test_a_name_mover_looks_from_the_end_at_the_indirect_object() -> None:
    roles = {"io": range(1, 2), "s2": range(4, 5), "end": range(6, 7)}
    assert targets("name_mover", [0, 5, 6, 7, 6, 8, 9], **roles) == [[6, 1]]
    assert targets("s_inhibition", [0, 5, 6, 7, 6, 8, 9], **roles) == [[6, 4]]


def test_retrieval_is_judged_where_a_hidden_token_is_predicted() -> None:
    ids = [0, 3, 21, 22, 4, 5, 21, 22]
    found = targets("retrieval", ids, needle=range(2, 4), answer=range(6, 8))
    assert found == [[5, 2], [6, 3]]


def test_a_token_twice_in_the_needle_may_be_copied_from_either_place() -> None:
    ids = [0, 21, 21, 4, 21, 21]
    found = targets("retrieval", ids, needle=range(1, 3), answer=range(4, 6))
    assert found == [[3, 1], [3, 2], [4, 1], [4, 2]]


@pytest.mark.parametrize("name", ["name_mover", "s_inhibition", "retrieval"])
def test_a_sequence_without_the_roles_has_no_target(name: str) -> None:
    assert targets(name, [0, 1, 2]) == []
    assert targets(name, [0, 1, 2], **dict.fromkeys(named(name).roles, range(0))) == []


@pytest.mark.parametrize("name", ["name_mover", "s_inhibition", "retrieval"])
def test_a_perfect_head_has_lift_one_and_an_even_one_zero(name: str) -> None:
    model = loaded("toy-gpt2")
    batch = (
        needle_prompts(model, n_tokens=120) if name == "retrieval" else mi.core.ioi_prompts(model)
    )
    n = int(batch.lengths.max())
    perfect = torch.stack([pattern_of_mask(mask) for mask in masks_of(name, batch)])
    heads = [
        perfect,
        even_pattern(n).expand(len(batch), n, n),
        sink_pattern(n).expand(len(batch), n, n),
    ]
    found = figures(named(name), batch, heads)
    assert found.lift[0, 0].tolist()[:2] == pytest.approx([1, 0], abs=1e-5)
    assert float(found.score[0, 0, 2]) == 0
    assert 0.9 < float(found.ci_low[0, 0, 0]) < 1  # texts unlike these are allowed for
    assert float(found.p[0, 0, 0]) < 1e-4


def test_copy_paste_is_counted_by_the_key_attended_most() -> None:
    batch = needle_prompts(loaded("toy-gpt2"), n_tokens=120)
    mask = masks_of("retrieval", batch)
    n = mask.shape[-1]
    rest = even_pattern(n).expand(len(batch), n, n)
    ideal = torch.stack([pattern_of_mask(each) for each in mask])
    just_most, just_short = 0.1 * ideal + 0.9 * rest, rest.clone()
    # Most of the attention on the sink, and the target second: no copy is counted.
    just_short = 0.5 * sink_pattern(n) + 0.4 * ideal + 0.1 * rest
    found = figures(named("retrieval"), batch, [just_most, just_short])
    assert found.score[0, 0].tolist() == [1, 0]


def test_half_of_the_tokens_copied_are_half_the_score() -> None:
    batch = needle_prompts(loaded("toy-gpt2"), n_tokens=120)
    mask = masks_of("retrieval", batch)
    for each in mask:
        queries = each.any(dim=-1).nonzero().flatten()
        each[queries[::2]] = False
    pattern = torch.stack([pattern_of_mask(each) for each in mask])
    n_answer = batch.roles["answer"].diff(dim=1).flatten()
    wanted = ((n_answer // 2) / n_answer).mean()
    assert float(figures(named("retrieval"), batch, [pattern]).score[0, 0]) == pytest.approx(
        float(wanted)
    )


def test_further_behaviours_run_on_their_own_stimuli_when_they_are_named() -> None:
    report = mi.classify_heads(loaded("toy-qwen2"), behaviours=[*FURTHER, "offset_3"])
    assert list(report.tokens) == ["repeated_random", "ioi", "needle", "weights"]
    assert report.stimulus == {
        "name_mover": "ioi",
        "s_inhibition": "ioi",
        "retrieval": "needle",
        "successor": "weights",
        "offset_3": "repeated_random",
    }
    assert all(report.applicable.values())
    assert report.heads("retrieval")
    needles = report.on("needle")
    assert torch.equal(needles["retrieval"], report["retrieval"])
    assert needles["name_mover"].isnan().all()
    assert "needs prompts with the roles end and io" in (
        needles.not_applicable_reason("name_mover") or ""
    )
    assert needles.not_applicable_reason("successor") == (
        "not measured on needle: it is read off the weights (give no prompt)"
    )


def test_they_mix_with_the_standard_ones_which_stay_what_they_are(tmp_path: Path) -> None:
    model = loaded("toy-gpt2")
    mixed = mi.classify_heads(model, behaviours=["successor", "name_mover", "induction"])
    plain = mi.classify_heads(model, behaviours=["induction"])
    assert mixed.behaviours == ("induction", "name_mover", "successor")
    assert list(plain.tokens) == ["repeated_random", "natural"]
    for field in ("score", "null", "lift", "ci_low", "ci_high"):
        for stimulus in plain.tokens:
            row = getattr(mixed.on(stimulus), field)[0]
            assert torch.equal(row, getattr(plain.on(stimulus), field)[0])
    mixed.save(tmp_path / "mixed.safetensors")
    again = mi.HeadReport.load(tmp_path / "mixed.safetensors")
    assert repr(again) == repr(mixed)
    assert again.to_pandas().equals(mixed.to_pandas())
    assert again.tokens["ioi"].roles_of(3) == mixed.tokens["ioi"].roles_of(3)
    assert "name_mover" in mi.view(again).section().body


def test_ones_own_prompt_without_the_roles_shows_why_and_what_would() -> None:
    report = mi.classify_heads(
        loaded("toy-gpt2"), "Mary and John", behaviours=["name_mover", "successor", "first_token"]
    )
    assert report.applicable == {"first_token": True, "name_mover": False, "successor": False}
    assert "ioi_prompts(model) makes" in (report.not_applicable_reason("name_mover") or "")
    assert "read off the weights" in (report.not_applicable_reason("successor") or "")
    alone = mi.classify_heads(loaded("toy-gpt2"), "Mary and John", behaviours=["successor"])
    assert alone.score.isnan().all()


def test_ones_own_prompt_may_bring_its_roles() -> None:
    model = loaded("toy-gpt2")
    batch = mi.core.ioi_prompts(model, n_prompts=64)
    own = mi.classify_heads(model, batch, behaviours=["name_mover"])
    home = mi.classify_heads(model, behaviours=["name_mover"])
    assert torch.equal(own["name_mover"], home["name_mover"])


def test_a_home_that_is_no_stimulus_is_told() -> None:
    odd = MaskBehaviour(
        name="odd", meaning="", trigger="", targets=named("induction").targets, home="ioo"
    )
    with pytest.raises(BehaviourError, match=r"home of the behaviour 'odd': .*Did you mean 'ioi'"):
        mi.classify_heads(loaded("toy-gpt2"), behaviours=[odd])
