"""A model proves itself when it is loaded, and what does not is refused by name."""

from __future__ import annotations

import copy
import gc
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertLMHeadModel,
    LlamaForSequenceClassification,
    LlamaModel,
    T5Config,
    T5ForConditionalGeneration,
)

import mi_toolkit as mi
from mi_toolkit.core.errors import ModelLoadError, UnsupportedModelError
from mi_toolkit.models import probe
from tests.families.zoo import GPT, ROWS, Row, build, config_of
from tests.tiny_models import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
BERT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 320}


def load(hf_model: Any, **options: Any) -> Any:
    return mi.load_model("tiny", hf_model=hf_model, tokenizer=TOKENIZER, **options)


def gpt2(**fields: Any) -> Any:
    return build(Row(model_type="gpt2", fields={**GPT, **fields}))


class Quantised(torch.nn.Module):
    """As torch's own quantised linear layers: `weight` is a method."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.held = weight

    def weight(self) -> torch.Tensor:
        return self.held

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden @ self.held.T


class OptimizedModule(torch.nn.Module):
    """By its name what `torch.compile` gives, whose import takes ten seconds."""

    def __init__(self, inside: torch.nn.Module) -> None:
        super().__init__()
        self._orig_mod = inside


def checked(model: Any) -> bool | None:
    return mi.classify_heads(model, torch.arange(3, 20)).provenance.checked


def test_an_option_that_the_wrapper_overlooks_is_refused_with_its_name_and_the_layer() -> None:
    with pytest.raises(
        UnsupportedModelError,
        match=r"differ by 0\.\d+ .* from layer 0 on\. .*: scale_attn_weights=False\. .*check",
    ):
        load(gpt2(scale_attn_weights=False))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_in_half_precision_rounding_passes_and_an_overlooked_option_does_not(dtype: str) -> None:
    # Its logits part by 1.9 of 14 in bfloat16, with the order of the sums alone.
    assert mi.load_model("toy-gpt2", dtype=dtype).cfg.checked
    overlooked = gpt2(scale_attn_weights=False).to(getattr(torch, dtype))
    with pytest.raises(UnsupportedModelError, match="scale_attn_weights=False"):
        load(overlooked)


def test_the_difference_is_that_of_the_two_forwards() -> None:
    theirs = gpt2(scale_attn_weights=False)
    reference = copy.deepcopy(theirs)
    model = load(theirs, check=False)
    ids = probe._probe_ids(reference.config)
    found = model(ids, return_type="logits", attention_mask=torch.ones_like(ids))
    off = float((found - reference(ids).logits).abs().max())
    with pytest.raises(UnsupportedModelError, match=f"differ by {off:.2g} from"):
        load(gpt2(scale_attn_weights=False))


def test_the_first_layer_that_differs_is_named_whichever_it_is() -> None:
    theirs = gpt2()
    reference = probe.reference_pass("tiny", theirs)
    assert reference is not None
    model = load(theirs)
    probe.prove(model, reference, config=theirs.config)
    hook = ("blocks.1.hook_mlp_out", lambda written, hook: written * 1.1)
    with (
        model.hooks(fwd_hooks=[hook]),
        pytest.raises(UnsupportedModelError, match="from layer 1 on"),
    ):
        probe.prove(model, reference, config=theirs.config)


def test_attention_is_compared_as_well_as_logits() -> None:
    theirs = gpt2()
    reference = probe.reference_pass("tiny", theirs)
    assert reference is not None
    assert len(reference.patterns) == len(reference.layers) == 2
    model = load(theirs)
    reference.patterns[1][0, 0, 5, 3] += 0.01
    with pytest.raises(UnsupportedModelError, match=r"attention weights differ by 0\.01 "):
        probe.prove(model, reference, config=theirs.config)


def test_provenance_records_whether_the_model_was_checked() -> None:
    assert checked(load(gpt2())) is True
    assert checked(load(gpt2(), check=False)) is False


def test_the_check_is_two_passes_and_leaves_no_hook() -> None:
    theirs, shapes = gpt2(), []
    counting = theirs.lm_head.register_forward_hook(lambda *given: shapes.append(given[2].shape))
    load(theirs)
    counting.remove()
    assert shapes == [(2, 32, 320)] * 2
    assert not any(module._forward_hooks for module in theirs.transformer.h[0].modules())


def test_a_weight_that_is_no_number_is_named() -> None:
    theirs = gpt2()
    theirs.transformer.h[1].mlp.c_fc.weight[3, 4] = torch.nan
    with pytest.raises(ModelLoadError, match=r"h\.1\.mlp\.c_fc\.weight holds 1 of 4096 values"):
        load(theirs)
    assert checked(load(theirs, check=False)) is False


def test_finite_weights_whose_sum_overflows_are_whole() -> None:
    weight = torch.nn.Linear(4, 4, bias=False)
    weight.weight.data.fill_(3e38)
    probe.check_finite("tiny", weight)
    weight.weight.data[2, 2] = torch.inf
    with pytest.raises(ModelLoadError, match="holds 1 of 16"):
        probe.check_finite("tiny", weight)


def test_a_model_that_overflows_in_its_precision_is_told_from_damage() -> None:
    theirs = build(ROWS["llama"])
    theirs.model.layers[1].mlp.down_proj.weight.mul_(30_000)
    theirs.model.layers[1].mlp.up_proj.weight.mul_(300)
    with pytest.raises(ModelLoadError, match=r"NaN or infinity in float16, from layer 1 on"):
        load(theirs.half())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("openai-gpt", "logits differ by"),
        ("llama, not causal", r"from layer 0 on.*is_causal=False"),
        ("gemma3_text, capped", r"from layer 0 on.*attn_logit_softcapping"),
    ],
)
def test_what_transformerlens_cannot_run_is_one_line_with_its_cause(name: str, reason: str) -> None:
    with pytest.raises(UnsupportedModelError, match=reason) as raised:
        load(build(ROWS[name]))
    assert "\n" not in str(raised.value)


def test_quantised_modules_are_refused_with_the_way_out() -> None:
    theirs = build(ROWS["llama"])
    theirs.lm_head = Quantised(theirs.lm_head.weight)
    with pytest.raises(UnsupportedModelError, match="without quantised weights"):
        load(theirs)


def test_wrappers_are_refused_with_the_model_inside() -> None:
    theirs = gpt2()
    with pytest.raises(ModelLoadError, match=r"is a DataParallel.*give.*hf_model\.module"):
        load(torch.nn.DataParallel(theirs))
    with pytest.raises(ModelLoadError, match=r"is a OptimizedModule.*hf_model\._orig_mod"):
        load(OptimizedModule(theirs))
    with pytest.raises(ModelLoadError, match="is a hooked model already"):
        load(load(theirs))
    with pytest.raises(ModelLoadError, match="is a Linear, no Hugging Face model"):
        load(torch.nn.Linear(2, 2))


def test_one_model_given_twice_is_one_handle() -> None:
    theirs = gpt2()
    model = load(theirs)
    report = mi.classify_heads(model, torch.arange(3, 40))
    assert load(theirs) is model
    again = mi.classify_heads(model, torch.arange(3, 40))
    torch.testing.assert_close(again.score, report.score, rtol=0, atol=0, equal_nan=True)


def test_one_model_given_twice_otherwise_is_refused() -> None:
    theirs = gpt2()
    model = load(theirs)
    with pytest.raises(ModelLoadError, match=r"wrapped already.*load the weights anew"):
        load(theirs, revision="other")
    with pytest.raises(ModelLoadError, match="wrapped already"):
        load(copy.deepcopy(theirs))
    del model
    gc.collect()
    with pytest.raises(ModelLoadError, match="wrapped already"):
        load(theirs)


@pytest.mark.parametrize(
    "theirs",
    [
        lambda: BertForMaskedLM(BertConfig(**BERT)),
        lambda: BertLMHeadModel(BertConfig(**BERT)),
        lambda: LlamaModel(config_of(ROWS["llama"])),
        lambda: LlamaForSequenceClassification(config_of(ROWS["llama"])),
        lambda: T5ForConditionalGeneration(
            T5Config(d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4, vocab_size=320)
        ),
    ],
    ids=["masked", "encoder with a head", "no head", "classifier", "encoder-decoder"],
)
def test_what_is_no_causal_language_model_is_refused(theirs: Any) -> None:
    hf_model = theirs()
    kind = type(hf_model).__name__
    with pytest.raises(ModelLoadError, match=f"not a causal language model: hf_model is a {kind}"):
        load(hf_model)


def test_a_decoder_of_an_encoder_s_family_loads() -> None:
    theirs = BertLMHeadModel._from_config(
        BertConfig(**BERT, is_decoder=True), attn_implementation="eager"
    )
    assert checked(load(theirs)) is True
