"""Families by their folder, with a tokenizer and without (`claims.verified` loads every one)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import mi_toolkit as mi
from mi_toolkit.core.errors import PromptError, UnsupportedModelError
from mi_toolkit.core.passes import logits_and_activations
from tests.families.claims import LENGTH, assert_close
from tests.families.zoo import ROWS, build
from tests.tiny_models import tiny_tokenizer

IDS = torch.randint(3, 300, (2, LENGTH), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("name", ["gpt_neox", "falcon, new decoder", "deepseek_v3", "mamba2"])
def test_a_folder_with_a_tokenizer_reads_text(name: str, tmp_path: Path) -> None:
    build(ROWS[name]).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    model = mi.load_model(tmp_path)
    reference = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    found = logits_and_activations(model, IDS, [], lambda *_: None)
    with torch.no_grad():
        assert_close(found, reference.eval()(IDS, use_cache=False).logits)
    assert len(mi.generate(model, "hello world", max_new_tokens=2).text) > 0


@pytest.fixture(scope="module")
def wordless(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("wordless") / "mine"
    build(ROWS["qwen3"]).save_pretrained(folder)
    return mi.load_model(folder)


TEXT: dict[str, Callable[[Any], object]] = {
    "generate": lambda model: mi.generate(model, "hello"),
    "classify_heads": lambda model: mi.classify_heads(model, "hello"),
    "record": lambda model: mi.record(model, ["hello"], "z"),
    "attribute": lambda model: mi.attribute(model, [5, 6, 7], " Paris"),
    "trace_pipeline": lambda model: mi.trace_pipeline(model, "hello"),
    "ioi_prompts": lambda model: mi.core.ioi_prompts(model, n_prompts=2),
    "needle_prompts": lambda model: mi.core.needle_prompts(model, n_sequences=2),
    "score_weights": lambda model: mi.score_weights(model, ["hello world"]),
    "record_to_disk": lambda model: mi.record_to_disk(model, ["hello"], "z", "store"),
    "length_sweep": lambda model: mi.length_sweep(model, lengths=[16]),
}


@pytest.mark.parametrize("verb", TEXT)
def test_what_needs_text_says_how_to_give_a_tokenizer(
    verb: str, wordless: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PromptError, match=r"mine has no tokenizer, so it cannot read") as raised:
        TEXT[verb](wordless)
    assert "load_model(..., tokenizer=...)" in str(raised.value)
    assert "`tokenizer.save_pretrained`" in str(raised.value)


def test_what_needs_ids_alone_works_without_a_tokenizer(wordless: Any) -> None:
    assert mi.generate(wordless, IDS[0], max_new_tokens=2).sequences[0].ids.shape == (2,)
    report = mi.classify_heads(wordless, behaviours=["induction", "successor"])
    assert report.score[report.index("induction")].isfinite().all()
    assert report.score[report.index("successor")].isnan().all()


RECURRENT: dict[str, Callable[[Any], object]] = {
    "classify_heads": lambda model: mi.classify_heads(model, IDS),
    "trace_pipeline": lambda model: mi.trace_pipeline(model, IDS[0]),
    "ablating": lambda model: mi.ablating(model, "L0H0").__enter__(),
    "ablating neurons": lambda model: mi.ablating(model, "L0N1").__enter__(),
    "score_weights": lambda model: mi.score_weights(model, IDS),
    "direct_logit_attribution": lambda model: mi.direct_logit_attribution(model, IDS[0], target=7),
}


@pytest.mark.parametrize("name", ["mamba", "mamba2", "rwkv"])
def test_a_model_without_attention_does_what_needs_no_heads(name: str) -> None:
    model = mi.load_model("tiny", hf_model=build(ROWS[name]), tokenizer=tiny_tokenizer())
    whole, cached = (
        mi.generate(model, "hello", max_new_tokens=3, num_beams=2, use_cache=use).sequences[0].ids
        for use in (False, True)
    )
    assert torch.equal(whole, cached)
    assert "blocks.1.hook_resid_post" in mi.record(model, IDS, "resid_post")
    assert mi.attribute(model, "hello world").scores.isfinite().all()
    for verb in RECURRENT.values():
        with pytest.raises(UnsupportedModelError):
            verb(model)


@pytest.mark.parametrize("name", ["mpt", "falcon, alibi"])
def test_what_is_kept_of_alibi_counts_while_heads_are_ablated(name: str) -> None:
    model = mi.load_model("tiny", hf_model=build(ROWS[name]), tokenizer=tiny_tokenizer())
    with mi.ablating(model, ["L0H1"]):
        whole, cached = (
            mi.generate(model, "hello world", max_new_tokens=6, use_cache=use).sequences[0].ids
            for use in (False, True)
        )
    assert torch.equal(whole, cached)


@pytest.mark.parametrize("name", ["opt", "lfm2", "glm4_moe", "gpt2"])
def test_a_neuron_is_what_w_out_reads(name: str) -> None:
    model = mi.load_model("tiny", hf_model=build(ROWS[name]), tokenizer=tiny_tokenizer())
    with mi.ablating(model, "L0.mlp"):
        seen = mi.record(model, IDS, ["blocks.0.hook_mlp_out"])["blocks.0.hook_mlp_out"]
    assert_close(seen, seen[:1, :1].expand_as(seen))  # the projection's own bias


@pytest.mark.parametrize("name", ["mixtral", "llama4_text", "gpt_oss"])
def test_the_output_of_experts_is_no_neuron(name: str) -> None:
    model = mi.load_model("tiny", hf_model=build(ROWS[name]), tokenizer=tiny_tokenizer())
    for named in ("L0N1", "L0.mlp"):
        with (
            pytest.raises(UnsupportedModelError, match="or a mixture of experts"),
            mi.ablating(model, named),
        ):
            pass
