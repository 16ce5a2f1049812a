"""The tree of beams on searches small enough to do by hand."""

from __future__ import annotations

import pytest
import torch

from mi_toolkit.text.generation import Step, beam_tree

# Two beams over the tokens 0 to 3, of which 3 ends. After the prompt 1 and 2 are the best; 1 goes
# on with 3 (the end) or 0, and 2 with 0 or 1.
FIRST = Step(
    new_ids=torch.zeros(2, 0, dtype=torch.long),
    top_ids=torch.tensor([[1, 2, 0, 3]] * 2),
    top_log_probs=torch.tensor([[-0.5, -1.0, -4.0, -9.0]] * 2),
)
SECOND = Step(
    new_ids=torch.tensor([[1], [2]]),
    top_ids=torch.tensor([[3, 0, 1, 2], [0, 1, 2, 3]]),
    top_log_probs=torch.tensor([[-0.1, -2.0, -5.0, -6.0], [-0.2, -3.0, -5.0, -6.0]]),
)
THIRD = Step(
    new_ids=torch.tensor([[2, 0], [1, 0]]),
    top_ids=torch.tensor([[2, 3], [2, 3]]),
    top_log_probs=torch.tensor([[-0.5, -0.9], [-0.5, -3.0]]),
)


def test_what_ends_is_a_leaf_and_what_is_kept_goes_on() -> None:
    tree = beam_tree([FIRST, SECOND, THIRD], num_beams=2, eos_ids=[3])
    nodes = {tuple(tree.ids[tree.path(node)].tolist()): node for node in range(len(tree))}
    expected = {
        (1,): (-0.5, False),
        (2,): (-1.0, False),
        (2, 0): (-1.2, False),
        (1, 0): (-2.5, False),
        (1, 3): (-0.6, True),
        (2, 0, 2): (-1.7, False),
        (2, 0, 3): (-2.1, True),
    }
    assert set(nodes) == set(expected)
    for ids, (total, ended) in expected.items():
        assert float(tree.totals[nodes[ids]]) == pytest.approx(total)
        assert bool(tree.ended[nodes[ids]]) == ended
        assert tree.find(ids) == nodes[ids]
    with pytest.raises(KeyError):
        tree.find([0])


def test_an_end_outside_the_best_of_all_beams_does_not_count() -> None:
    second = Step(
        new_ids=SECOND.new_ids,
        top_ids=SECOND.top_ids,
        # The end after 1 is overtaken by two continuations that go on.
        top_log_probs=torch.tensor([[-4.0, -4.1, -5.0, -6.0], [-0.2, -0.3, -5.0, -6.0]]),
    )
    tree = beam_tree([FIRST, second], num_beams=2, eos_ids=[3])
    assert not tree.ended.any()
    assert len(tree) == 4


def test_a_step_that_ran_behind_an_end_adds_nothing() -> None:
    # Where a device tells late that all sequences ended, a step more is run.
    ending = Step(
        new_ids=torch.zeros(1, 0, dtype=torch.long),
        top_ids=torch.tensor([[3, 1]]),
        top_log_probs=torch.tensor([[-0.5, -1.0]]),
    )
    late = Step(
        new_ids=torch.tensor([[3]]),
        top_ids=torch.tensor([[2, 1]]),
        top_log_probs=torch.tensor([[-0.5, -1.0]]),
    )
    tree = beam_tree([ending, late], num_beams=1, eos_ids=[3])
    assert tree.ids.tolist() == [3]
