"""`attribute`: what it promises of its scores, its targets, its model and its mistakes."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from mi_toolkit import attribute, load_model
from mi_toolkit.attribution.attribute import Attribution
from mi_toolkit.attribution.methods import METHODS
from mi_toolkit.attribution.question import embeddings_of, replaced_embeddings
from mi_toolkit.core.errors import (
    AttributionError,
    HookError,
    NotFiniteError,
    PromptError,
    ReportError,
    UnknownNameError,
)
from tests.hooked_transformer import FAMILIES, small_hooked
from tests.models_here import TOYS, loaded
from tests.tiny_models import tiny_model, tiny_tokenizer

PROMPT = "When Mary and John went to the store, John gave a drink to"
NAMES = (" Mary", " John")
STEPS: dict[str, Any] = {"steps": 8, "allow_incomplete": True}


def counting(model: Any, ran: list[tuple[int, int]]) -> ExitStack:
    """Inside, rows that any block ran and positions that were unembedded are counted by hooks."""
    hooks = ExitStack()
    for module, axis in ((model.blocks[0], 0), (model.unembed, 1)):
        handle = module.register_forward_hook(
            lambda _, __, output, axis=axis: ran.append(
                (axis, (output[0] if isinstance(output, tuple) else output).shape[axis])
            )
        )
        hooks.callback(handle.remove)
    return hooks


@pytest.mark.parametrize("name", TOYS)
def test_the_default_adds_up_within_one_percent_and_120_passes(name: str) -> None:
    for target in (None, NAMES):
        ran: list[tuple[int, int]] = []
        with counting(loaded(name), ran):
            found = attribute(loaded(name), PROMPT, target)
        assert sum(rows for axis, rows in ran if axis == 0) == found.n_passes <= 120
        assert {positions for axis, positions in ran if axis == 1} == {1}
        assert len(ran) < found.n_passes, "two entries a call: points run in batches"
        assert found.baseline == "mean"
        assert found.is_complete
        assert found.completeness_error <= 0.01
        total = float(found.scores.double().sum())
        assert abs(total - (found.value - found.baseline_value)) <= 0.011 * abs(
            found.value - found.baseline_value
        )
        assert 17 <= found.steps <= found.n_passes - 3
        assert f"{found.steps} steps, {found.n_passes} passes of the prompt." in repr(found)
        assert "NOT" not in repr(found)


def test_steps_that_do_not_suffice_are_refused_and_given_where_they_are_asked_for() -> None:
    model = loaded("toy-qwen2")
    said = r"with 2 steps, 5 passes .*: NOT within 1%. .* raise max_steps .*, or take occlusion"
    with pytest.raises(AttributionError, match=said + ".* allow_incomplete=True") as of_two:
        attribute(model, PROMPT, NAMES, max_steps=2)
    with pytest.raises(AttributionError, match="ask a contrast of two tokens") as of_one:
        attribute(model, PROMPT, NAMES[0], max_steps=1)
    assert "contrast" not in str(of_two.value)
    assert "with 1 step, " in str(of_one.value)
    with pytest.raises(PromptError, match=r"tolerance=1e-06: logits are float32"):
        attribute(model, PROMPT, NAMES, tolerance=1e-6)
    found = attribute(model, PROMPT, NAMES, max_steps=2, allow_incomplete=True)
    assert (found.steps, found.is_complete, found.jump) == (2, False, None)
    assert re.search(said, repr(found))
    assert attribute(model, PROMPT, NAMES, steps=3, allow_incomplete=True).steps == 3
    loose = attribute(model, PROMPT, NAMES, tolerance=10.0)
    assert (loose.steps, loose.is_complete) == (17, True)


def test_a_jump_at_the_baseline_ends_the_integral_at_once_and_names_a_better_one() -> None:
    """RMSNorm with next to no epsilon: any length but 0 becomes 1, so F jumps after zero."""
    model = rms_norms(n_layers=2)
    ids = torch.tensor([3, 7, 11])
    ran: list[tuple[int, int]] = []
    message = (
        r"NOT within 1%. .* no number of steps mends it, as F jumps by [+-]\d.* right after the "
        r"baseline 'zero': take baseline='mean'"
    )
    with counting(model, ran), pytest.raises(AttributionError, match=message):
        attribute(model, ids, 5, baseline="zero")
    # One for the target, F at both ends, 17 points, the probe; three to try the mean.
    assert sum(rows for axis, rows in ran if axis == 0) == 1 + 2 + 17 + 1 + 3
    asked = attribute(model, ids, 5, baseline="zero", allow_incomplete=True)
    assert (asked.steps, asked.better_baseline) == (17, "mean")
    # The jump itself, from a model that nothing hooks.
    with torch.no_grad():
        rows = model.original_model.get_input_embeddings()(ids)[None]
        close, at = (
            model.original_model(inputs_embeds=rows * share).logits[0, -1, 5]
            for share in (2.0**-14, 0.0)
        )
    assert asked.jump == pytest.approx(float(close - at), rel=1e-3)
    assert attribute(model, ids, 5).is_complete


def test_gradients_that_are_no_numbers_are_refused_with_a_better_baseline() -> None:
    model, ids = rms_norms(n_layers=6, epsilon=1e-18), torch.tensor([3, 7, 11])
    message = (
        "NaN or infinite in rms, from .* 'zero', where F jumps by .* Take baseline='(mean|eos)'"
    )
    with pytest.raises(AttributionError, match=message):
        attribute(model, ids, 5, baseline="zero", allow_incomplete=True)


def test_what_is_no_number_is_refused() -> None:
    model = loaded("toy-gpt2")
    hook = [("blocks.1.hook_resid_pre", lambda found, hook: found / 0.0)]
    with model.hooks(fwd_hooks=hook), pytest.raises(NotFiniteError, match="first in layer 1"):
        attribute(model, PROMPT, 5, "occlusion")


def rms_norms(n_layers: int, epsilon: float = 1e-10) -> Any:
    hf_model = tiny_model("llama", num_hidden_layers=n_layers, rms_norm_eps=epsilon)
    return load_model("rms", hf_model=hf_model, tokenizer=tiny_tokenizer())


@pytest.mark.parametrize("method", [name for name in METHODS if METHODS[name].has_baseline])
def test_a_contrast_turned_round_turns_every_score_round(method: str) -> None:
    this, that = (
        attribute(loaded("toy-gpt-neo"), PROMPT, target, method, **STEPS)
        for target in (NAMES, NAMES[::-1])
    )
    torch.testing.assert_close(this.scores, -that.scores, atol=1e-4, rtol=1e-4)
    log_probs = attribute(
        loaded("toy-gpt-neo"), PROMPT, NAMES, method, **STEPS, objective="log_prob"
    )
    torch.testing.assert_close(this.scores, log_probs.scores, atol=1e-4, rtol=1e-4)


def test_a_target_is_the_most_probable_token_an_id_or_an_exact_text() -> None:
    model = loaded("toy-gpt2")
    best = attribute(model, PROMPT, method="gradient_norm")
    assert best.target[0].rank == 1
    by_id, by_text = (
        attribute(model, PROMPT, target, "gradient_norm")
        for target in (best.target[0].token, best.target[0].text)
    )
    assert torch.equal(best.scores, by_id.scores)
    assert torch.equal(best.scores, by_text.scores)
    assert best.value == pytest.approx(best.target[0].logit, abs=1e-4)
    log_prob = attribute(model, PROMPT, method="gradient_norm", objective="log_prob")
    assert log_prob.value == pytest.approx(best.target[0].log_prob, abs=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_equal_calls_give_equal_scores_and_batches_change_them_by_rounding(method: str) -> None:
    model = loaded("toy-pythia")
    first, again, one_by_one = (
        attribute(model, PROMPT, NAMES, method, **STEPS, batch_size=size) for size in (4, 4, 1)
    )
    assert torch.equal(first.scores, again.scores)
    torch.testing.assert_close(first.scores, one_by_one.scores, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_the_model_comes_back_as_it_was(method: str) -> None:
    model: Any = load_model("toy-opt")
    model(torch.tensor([[1, 2]]))  # a bridge hooks itself in its first run
    model.train()
    parameters = list(model.original_model.parameters())
    parameters[3].requires_grad_(True)
    weights = [parameter.detach().clone() for parameter in parameters]
    hooks = [len(m._forward_hooks) + len(m._backward_hooks) for m in model.modules()]
    with torch.no_grad():
        attribute(model, PROMPT, method=method, **STEPS)
        assert not torch.is_grad_enabled()
    assert all(map(torch.equal, weights, parameters))
    assert [index for index, p in enumerate(parameters) if p.requires_grad] == [3]
    assert all(p.grad is None for p in model.parameters())
    assert [len(m._forward_hooks) + len(m._backward_hooks) for m in model.modules()] == hooks
    assert model.training
    assert all(module.training for module in model.modules())


def test_gradients_are_had_inside_inference_mode() -> None:
    with torch.inference_mode():
        inside = attribute(loaded("toy-gpt2"), PROMPT, 5, "input_x_gradient")
    outside = attribute(loaded("toy-gpt2"), PROMPT, 5, "input_x_gradient")
    assert torch.equal(inside.scores, outside.scores)


def test_dropout_is_off_in_a_model_that_trains() -> None:
    model: Any = load_model("toy-gpt2")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    model.train()
    found = attribute(model, PROMPT, 5, "gradient_norm")
    expected = attribute(loaded("toy-gpt2"), PROMPT, 5, "gradient_norm")
    torch.testing.assert_close(found.scores, expected.scores)


def test_embeddings_narrower_than_the_model_are_taken_before_they_are_projected() -> None:
    hf_model = tiny_model("opt", word_embed_proj_dim=16, ffn_dim=48, pad_token_id=1)
    model = load_model("narrow", hf_model=hf_model, tokenizer=tiny_tokenizer())
    assert embeddings_of(model, torch.tensor([3, 4])).shape == (2, 16)
    found = attribute(model, "hello world", 7, baseline="mean")
    assert found.is_complete


@pytest.mark.parametrize("name", FAMILIES)
def test_hooked_transformer_and_bridge_agree(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooked, folder = small_hooked(name, tmp_path, monkeypatch)
    bridge = load_model(folder)
    ids = torch.randint(3, 250, (9,), generator=torch.Generator().manual_seed(1))
    for method in METHODS:
        for baseline in ("zero", "mean") if METHODS[method].has_baseline else (None,):
            ours, theirs = (
                attribute(model, ids, (5, 6), method, baseline=baseline, **STEPS).scores
                for model in (hooked, bridge)
            )
            torch.testing.assert_close(
                ours, theirs, atol=2e-4 * float(theirs.abs().max()) + 1e-5, rtol=1e-3, msg=method
            )


def test_a_baseline_can_be_a_special_token_by_its_name() -> None:
    model = loaded("toy-gpt2")
    by_name = attribute(model, PROMPT, 5, "input_x_gradient", baseline="eos")
    by_id = attribute(model, PROMPT, 5, "input_x_gradient", baseline=model.tokenizer.eos_token_id)
    by_text = attribute(model, PROMPT, 5, "input_x_gradient", baseline=" Mary")
    assert torch.equal(by_name.scores, by_id.scores)
    assert (by_name.baseline, by_id.baseline, by_text.baseline) == (
        "eos",
        repr(model.tokenizer.eos_token),
        " Mary",
    )
    assert by_text.scores[by_text.tokens.index(" Mary")] == 0


def test_an_attribution_is_the_same_read_back(tmp_path: Path) -> None:
    path = tmp_path / "attribution.safetensors"
    for method in ("integrated_gradients", "attention_rollout"):
        found = attribute(loaded("toy-gpt2"), PROMPT, NAMES, method)
        found.save(path)
        again = Attribution.load(path)
        assert torch.equal(again.scores, found.scores)
        assert repr(again) == repr(found)
        assert again.target == found.target
        assert again.provenance == found.provenance
        table = again.to_pandas()
        assert table["token"].tolist() == list(found.tokens)
        assert table.columns.tolist() == ["position", "id", "token", "score"]
    with pytest.raises(ReportError, match="No attribution at"):
        Attribution.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "Mary had"}, r"'Mary had' is not one token of toy-gpt2, but \d: "),
        ({"target": 10_000_000}, "Token id 10000000 is outside the vocabulary"),
        ({"target": (" Mary", " Mary")}, "A contrast of ' Mary' with itself is 0"),
        ({"target": (1, 2, 3)}, r"A contrast is of two tokens, .* has 3"),
        ({"method": "gradient_norm", "baseline": "zero"}, "gradient_norm has no baseline"),
        ({"baseline": "zeor"}, "No such baseline: 'zeor' is not one token .* mean, zero, bos"),
        ({"baseline": "unk"}, "The tokenizer of toy-gpt2 has no unk token"),
        ({"steps": 0}, "steps=0: it has to be 1 or more"),
        ({"batch_size": 0}, "batch_size=0: it has to be 1 or more"),
        ({"prompt": ["one", "two"]}, "attribute takes one prompt at a time, and 2 were given"),
        ({"prompt": ""}, "The prompt is empty"),
    ],
)
def test_a_mistake_is_told_with_its_way_out(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PromptError, match=message):
        attribute(loaded("toy-gpt2"), **{"prompt": PROMPT} | options)


def test_a_text_without_its_space_is_told_of_the_one_with_it() -> None:
    with pytest.raises(PromptError, match=r"'store' is not one token .* ' store' is one"):
        attribute(loaded("toy-gpt2"), PROMPT, "store")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "integrated_gradient"}, "No method of attribution .* Did you mean 'integrated"),
        ({"objective": "logits"}, "No objective is called 'logits'. Did you mean 'logit'"),
    ],
)
def test_an_unknown_name_is_told_with_the_nearest(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        attribute(loaded("toy-gpt2"), PROMPT, **options)


def test_a_pass_that_lets_no_gradient_through_is_an_error_and_occlusion_works() -> None:
    model = loaded("toy-gpt2")
    last = f"blocks.{model.cfg.n_layers - 1}.hook_out"
    with model.hooks(fwd_hooks=[(last, lambda found, hook: found.detach())]):
        with pytest.raises(HookError, match="No gradient reaches the embeddings of toy-gpt2"):
            attribute(model, PROMPT)
        assert attribute(model, PROMPT, method="occlusion").scores.any()


def test_embeddings_that_nothing_ran_on_are_an_error() -> None:
    with (
        pytest.raises(HookError, match="hook_embed of toy-gpt2 did not fire"),
        replaced_embeddings(loaded("toy-gpt2"), torch.zeros(1, 2, 3)),
    ):
        pass


@pytest.mark.parametrize("name", ["toy-gpt2", "toy-qwen2"])
def test_points_gathered_where_they_are_needed_give_what_a_thousand_even_ones_give(
    name: str,
) -> None:
    chosen = attribute(loaded(name), PROMPT, NAMES, tolerance=1e-3, max_steps=512)
    fine = attribute(loaded(name), PROMPT, NAMES, steps=512)
    assert chosen.steps < 256
    torch.testing.assert_close(
        chosen.scores, fine.scores, rtol=0, atol=0.02 * float(fine.scores.abs().max())
    )


def test_points_go_where_the_scores_do_not_add_up() -> None:
    """From zero a norm leaps at once: evenly spread, as many points miss what chosen ones find."""
    model = loaded("toy-qwen2")
    chosen = attribute(model, PROMPT, baseline="zero")
    even = attribute(model, PROMPT, baseline="zero", steps=chosen.steps, allow_incomplete=True)
    assert chosen.is_complete
    assert chosen.completeness_error < even.completeness_error


@pytest.mark.smollm2
def test_smollm2_adds_up_by_default_and_from_zero_says_why_not() -> None:
    """Thirty norms in a row: after zero F leaps; the mean takes fewer passes than 120."""
    model = loaded("smollm2-135m-instruct")
    prompt = "The capital of France is"
    found = attribute(model, prompt, " Paris")
    assert found.is_complete
    assert found.n_passes <= 120
    with pytest.raises(AttributionError, match=r"'zero', where F jumps by .* Take baseline='mean'"):
        attribute(model, prompt, " Paris", baseline="zero")
