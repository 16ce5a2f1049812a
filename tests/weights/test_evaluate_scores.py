"""The dose curve and its controls, on trained models."""

from __future__ import annotations

import gc
import math
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from mi_toolkit.core.errors import UnknownNameError, WeightError
from mi_toolkit.core.random_sets import random_control
from mi_toolkit.core.stimuli import evaluation_passages, halves, loss_batch
from mi_toolkit.models.load import load_model
from mi_toolkit.weights.evaluate_scores import bottom, magnitude_matched, perturbation_test
from mi_toolkit.weights.evaluation import qualities
from mi_toolkit.weights.parameters import weight_matrices
from mi_toolkit.weights.perturb import Change, Edit, perturbed, planned
from mi_toolkit.weights.score import score_weights
from tests.models_here import TOYS, loaded, untouched
from tests.weights.test_scorers import TEXTS, ids_of
from tests.weights.toy_text import TOY_TEXT


def test_quality_equals_hugging_faces_text_by_text_whatever_the_batch() -> None:
    model, hf_model = loaded("toy-pythia"), untouched("toy-pythia")
    weights = [("blocks.1.attn.W_V", 3, 40), ("blocks.2.mlp.W_out", 100, 3)]
    edits = planned(weight_matrices(model), weights, "scale", scale=30.0)
    found = [
        qualities(model, loss_batch(model, TEXTS), [edits, edits], batch_size=size)
        for size in (1, 3)
    ]
    (baseline, (changed, again)), (other, (other_changed, _)) = found
    assert changed == again
    assert other.loss == pytest.approx(baseline.loss, rel=1e-5)
    assert other_changed.kl == pytest.approx(changed.kl, rel=1e-4)
    clean = rows_of(hf_model, ids_of(model))
    at = {"blocks.1.attn.W_V": (1 * 96 + 64 + 8, 3), "blocks.2.mlp.W_out": (3, 100)}
    for name, index in at.items():
        matrix = next(m for m in weight_matrices(model) if m.name == name)
        with torch.no_grad():
            hf_model.get_parameter(matrix.hf.name)[index] *= 30
    edited = rows_of(hf_model, ids_of(model))
    targets = torch.cat([torch.tensor(ids[1:]) for ids in ids_of(model)])
    for quality, rows in ((baseline, clean), (changed, edited)):
        loss = -rows[range(len(targets)), targets].mean()
        assert quality.loss == pytest.approx(float(loss), rel=1e-5)
        assert quality.accuracy == float((rows.argmax(dim=1) == targets).double().mean())
        assert quality.perplexity == math.exp(quality.loss)
    kl = (clean.exp() * (clean - edited)).sum(dim=1).mean()
    assert changed.kl == pytest.approx(float(kl), rel=1e-3)
    assert changed.kl > 1e-4
    assert baseline.kl == 0


def rows_of(hf_model: Any, texts: list[list[int]]) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat(
            [hf_model(torch.tensor([ids])).logits[0, :-1].log_softmax(dim=-1) for ids in texts]
        )


def test_controls_have_the_same_count_in_every_matrix_and_none_of_the_top() -> None:
    scores = score_weights(loaded("toy-gpt2"), TEXTS)
    top = scores.ranking(60).keys()
    weights = {
        name: matrix.value() for name, matrix in scores.matrices_in(loaded("toy-gpt2")).items()
    }
    shapes = {place.name: place.shape for place in scores.places}
    drawn = random_control(top, shapes, torch.Generator().manual_seed(0))
    matched, lowest = magnitude_matched(top, weights), bottom(top, scores.scores)
    for control in (drawn, matched, lowest):
        assert sorted(name for name, _, _ in control) == sorted(name for name, _, _ in top)
        assert len(set(control)) == 60
    assert not set(matched) & set(top)
    for (name, row, column), (_, other_row, other_column) in zip(
        sorted(top, key=lambda at: list(weights).index(at[0])),
        sorted(matched, key=lambda at: list(weights).index(at[0])),
        strict=True,
    ):
        size, other = weights[name][row, column].abs(), weights[name][other_row, other_column].abs()
        assert abs(float(size - other)) < 0.1
    for name in {name for name, _, _ in lowest}:
        found = sorted(float(scores.scores[name][r, c]) for n, r, c in lowest if n == name)
        positive = scores.scores[name][scores.scores[name] > 0].sort().values
        assert found == positive[: len(found)].tolist()


def test_matched_weights_are_the_nearest_by_size() -> None:
    weights = {"m": torch.tensor([[1.0, -1.1, 3.0], [0.9, 5.0, -3.4]])}
    assert magnitude_matched([("m", 0, 0)], weights) == [("m", 0, 1)] or magnitude_matched(
        [("m", 0, 0)], weights
    ) == [("m", 1, 0)]
    assert magnitude_matched([("m", 1, 1), ("m", 0, 2)], weights) == [("m", 1, 2), ("m", 0, 1)]
    with pytest.raises(WeightError, match="m has no 4 weights next to the top"):
        magnitude_matched([("m", 0, 0), ("m", 0, 1), ("m", 0, 2), ("m", 1, 0)], weights)


HELD_OUT = TOY_TEXT[24:]


def top_thousand(name: str, metric: str) -> tuple[Any, Any]:
    """The dose of 1,000 on text like that of training, and the scores; the model comes back."""
    model: Any = load_model(name)
    before = [parameter.clone() for parameter in model.parameters()]
    scores = score_weights(model, TOY_TEXT[:24], metric, batch_size=24)
    test = perturbation_test(model, scores, HELD_OUT, k=[1000], batch_size=24, progress=False)
    assert all(map(torch.equal, before, model.parameters()))
    (row,) = test.summary().itertuples()
    return row, scores


def assert_hurts_most(row: Any) -> None:
    assert row.top > row.random_mean + 5 * row.random_sd
    assert row.top > row.magnitude_matched
    assert row.top > row.bottom
    assert row.p == pytest.approx(1 / 21)


@pytest.mark.parametrize("name", TOYS)
def test_the_top_thousand_by_signed_score_hurt_more_than_random_and_matched_ones(name: str) -> None:
    assert_hurts_most(top_thousand(name, "signed_grad_x_weight")[0])


@pytest.mark.parametrize("name", [name for name in TOYS if name != "toy-qwen2"])
def test_the_top_thousand_hurt_more_than_random_and_matched_weights(name: str) -> None:
    assert_hurts_most(top_thousand(name, "grad_x_weight")[0])


def test_a_top_thousand_that_does_not_hurt_is_two_halves_that_cancel() -> None:
    row, scores = top_thousand("toy-qwen2", "grad_x_weight")
    bar = row.random_mean + 5 * row.random_sd
    assert row.top < bar
    # By the sign of the score, half of them push the loss up and half down: without either half the
    # model is far off, and without both the two errors undo each other.
    model = loaded("toy-qwen2")
    signed = score_weights(model, TOY_TEXT[:24], "signed_grad_x_weight", batch_size=24)
    top = scores.ranking(1000).first(1000).keys()
    predicted = {at: float(signed.scores[at[0]][at[1], at[2]]) for at in top}
    halves_of_it = [
        [at for at, change in predicted.items() if change > 0],
        [at for at, change in predicted.items() if change < 0],
    ]
    assert all(400 < len(half) < 600 for half in halves_of_it)
    batch = loss_batch(model, HELD_OUT)
    changes = [planned(weight_matrices(model), half) for half in halves_of_it]
    baseline, alone = qualities(model, batch, changes, batch_size=24)
    assert all(quality.loss - baseline.loss > 5 * bar for quality in alone)


def counted(model: Any, seen: Callable[[], None]) -> Any:
    """Call `seen` at each forward pass."""
    return model.embed.register_forward_pre_hook(lambda *_: seen())


def test_twenty_random_controls_cost_twenty_evaluations_and_one_backup_at_a_time() -> None:
    model: Any = loaded("toy-gpt2")
    scores = score_weights(model, TEXTS)
    backed_up: list[int] = []

    def seen() -> None:
        edits = [each for each in gc.get_objects() if type(each) is Edit]
        backed_up.append(sum(len(edit.old) for edit in edits))

    handle = counted(model, seen)
    try:
        perturbation_test(model, scores, TEXTS, k=[100], controls=["random"], progress=False)
        assert len(backed_up) == 1 + 1 + 20  # unchanged, top, random
        assert backed_up == [0] + [100] * 21
        backed_up.clear()
        doses = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]
        perturbation_test(model, scores, TEXTS, k=doses, controls=[], progress=False)
        assert backed_up == [0, *doses]
    finally:
        handle.remove()


@contextmanager
def hooked_to_no_effect(model: Any) -> Iterator[None]:
    """A hook in the first block: every pass then is a whole one."""
    with model.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", lambda activation, hook: None)]):
        yield


def changes_of(model: Any, token: int) -> list[Change]:
    """In the third block, in the last norm, in the first and the third, in a token."""
    matrices = weight_matrices(model)
    sets = [
        [("blocks.2.attn.W_V", 3, 7), ("blocks.3.mlp.W_in", 1, 2)],
        [("ln_final.w", 0, 5)],
        [("blocks.0.mlp.W_out", 4, 4), ("blocks.2.attn.W_O", 1, 1)],
        [("embed.W_E", token, 3)],
    ]
    return [planned(matrices, weights, "scale", scale=20.0) for weights in sets]


@pytest.mark.parametrize("name", TOYS)
def test_blocks_before_the_changed_one_run_once_and_no_bit_differs(name: str) -> None:
    model: Any = loaded(name)
    batch = loss_batch(model, TEXTS[:2])
    changes = changes_of(model, int(batch.ids[0, 1]))
    runs = [0] * 4
    counters = [
        block.attn.register_forward_pre_hook(lambda *_, at=at: runs.__setitem__(at, runs[at] + 1))
        for at, block in enumerate(model.blocks)
    ]
    try:
        found = qualities(model, batch, changes, batch_size=2)
        # Unchanged, once more from the third block on to see that this can be done, and each
        # change from its first block on.
        assert runs == [3, 3, 5, 5]
        with hooked_to_no_effect(model):
            whole = qualities(model, batch, changes, batch_size=2)
        assert runs == [3 + 5, 3 + 5, 5 + 5, 5 + 5]
    finally:
        for counter in counters:
            counter.remove()
    assert found == whole
    assert all(each.kl > 0 for each in found[1])
    assert not any("forward" in vars(block) for block in model.blocks)


def test_a_block_that_reads_what_an_earlier_one_left_elsewhere_has_whole_passes() -> None:
    model: Any = loaded("toy-gpt2")
    left: list[torch.Tensor] = []

    def read(module: Any, arguments: Any, returned: torch.Tensor) -> torch.Tensor:
        return returned + (left.pop() if left else 0)

    leaving = model.blocks[0].mlp.register_forward_hook(
        lambda module, arguments, returned: left.append(returned)
    )
    reading = model.blocks[3].mlp.register_forward_hook(read)
    batch = loss_batch(model, TEXTS[:2])
    changes = [planned(weight_matrices(model), [("blocks.3.mlp.W_in", 1, 2)])]
    try:
        found = qualities(model, batch, changes, batch_size=1)
        with hooked_to_no_effect(model):
            whole = qualities(model, batch, changes, batch_size=1)
    finally:
        leaving.remove()
        reading.remove()
    assert found == whole


def test_ctrl_c_in_the_middle_of_a_test_restores_every_bit() -> None:
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    model: Any = load_model("toy-opt")
    before = [parameter.detach().clone() for parameter in model.parameters()]
    scores = score_weights(model, TEXTS)
    changed: list[bool] = []

    def seen() -> None:
        changed.append(not all(map(torch.equal, before, model.parameters())))
        if len(changed) == 5:
            os.kill(os.getpid(), signal.SIGINT)

    handle = counted(model, seen)
    try:
        with pytest.raises(KeyboardInterrupt):
            perturbation_test(model, scores, TEXTS, k=[100], progress=False)
    finally:
        handle.remove()
        signal.signal(signal.SIGINT, handler)
    assert changed == [False, True, True, True, True]
    assert all(map(torch.equal, before, model.parameters()))


def test_text_that_the_model_predicts_worse_than_chance_is_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = loaded("toy-gpt2")
    scores = score_weights(model, TEXTS, "magnitude")
    for texts, warned in ((["zqj xkw vbq"], True), (TOY_TEXT[:2], False)):
        caplog.clear()
        perturbation_test(model, scores, texts, k=[1], controls=[], progress=False)
        assert ("worse than a uniform guess" in caplog.text) == warned
        assert ("give text that the model predicts well (texts=, or --d" in caplog.text) == warned


@pytest.mark.parametrize("name", TOYS)
def test_a_bundled_model_is_measured_on_text_that_it_knows_and_has_not_seen(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = loaded(name)
    scores = score_weights(model, metric="signed_grad_x_weight", eval_limit=8)
    test = perturbation_test(
        model, scores, k=[50], controls=["random"], n_random=3, eval_limit=8, progress=False
    )
    assert not caplog.text
    assert test.baseline.loss < 0.5 * math.log(model.cfg.d_vocab)
    # The highest weights matter: without them the loss rises, and more than without random ones.
    top, *random = [each.quality.loss - test.baseline.loss for each in test.outcomes]
    assert top > 0
    assert top > max(random)


def test_a_dose_curve_is_what_perturbing_by_hand_gives() -> None:
    model = loaded("toy-gpt-neo")
    scores = score_weights(model, TEXTS)
    test = perturbation_test(
        model, scores, TEXTS, kinds=["zero", "gaussian"], k=[5, 1], n_random=3, progress=False
    )
    batch = loss_batch(model, TEXTS)
    with perturbed(model, scores.ranking(5).first(5)):
        by_hand, _ = qualities(model, batch, [], batch_size=8)
    assert test.rise("zero", 5) == [pytest.approx(by_hand.loss - test.baseline.loss, abs=1e-6)]
    table = test.to_pandas()
    assert len(table) == 1 + 2 * 2 * (1 + 3 + 1 + 1)
    assert table.iloc[0]["group"] == "baseline"
    assert set(table.groupby(["kind", "k", "group"]).size()) == {1, 3}
    again = perturbation_test(
        model, scores, TEXTS, kinds=["zero", "gaussian"], k=[1, 5], n_random=3, progress=False
    )
    assert again.to_pandas().equals(table)
    assert test.provenance.prompts == {"held_out": batch.digest}


def test_scoring_and_held_out_texts_do_not_meet() -> None:
    model = loaded("toy-gpt2")
    for passages in (evaluation_passages(), evaluation_passages(model)):
        scoring, held_out = halves(passages)
        assert (len(scoring), len(held_out)) == (64, 64)
        assert not set(scoring) & set(held_out)
    scores = score_weights(model, metric="magnitude")
    test = perturbation_test(model, scores, k=[1], controls=[], eval_limit=2, progress=False)
    assert scores.provenance.prompts["scoring"] != test.provenance.prompts["held_out"]
    assert scores.provenance.prompts["scoring"] == loss_batch(model, scoring).digest
    assert math.isnan(test.p_value("zero", 1))


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"kinds": ["zer"]}, UnknownNameError, "No kind of perturbation is called 'zer'"),
        ({"controls": ["randm"]}, UnknownNameError, "No control is called 'randm'"),
        ({"k": []}, WeightError, "needs at least one kind and one k"),
        ({"k": [10_000_000]}, WeightError, "k must be between 1 and the number of weights"),
    ],
)
def test_a_mistaken_call_says_what_to_do(keywords: dict[str, Any], error, message: str) -> None:
    scores = score_weights(loaded("toy-gpt2"), TEXTS, "magnitude")
    with pytest.raises(error, match=message):
        perturbation_test(loaded("toy-gpt2"), scores, TEXTS, **keywords)
