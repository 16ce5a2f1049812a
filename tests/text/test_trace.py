"""Each stage of a traced prompt against Hugging Face's own modules and plain arithmetic."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from mi_toolkit.core.errors import PromptError, ReportError, UnknownNameError, UnsupportedModelError
from mi_toolkit.heads.classify import classify_heads
from mi_toolkit.interventions.ablation import ablating
from mi_toolkit.text.pipeline import Pipeline
from mi_toolkit.text.trace import (
    attention_spread,
    output_stage,
    trace_and_classify,
    trace_pipeline,
)
from tests.hooked_transformer import FAMILIES, small_hooked
from tests.ideal_patterns import even_pattern
from tests.models_here import TOYS, loaded, untouched

PROMPT = "When Mary and John went to the store, John gave a drink to Mary"

EMBEDDINGS = {
    "toy-gpt2": ("transformer.wte", "transformer.wpe"),
    "toy-gpt-neo": ("transformer.wte", "transformer.wpe"),
    "toy-pythia": ("gpt_neox.embed_in", None),
    "toy-opt": ("model.decoder.embed_tokens", "model.decoder.embed_positions"),
    "toy-qwen2": ("model.embed_tokens", None),
}
NEURONS = {
    "toy-gpt2": ("transformer.h.{}.mlp", "c_proj"),
    "toy-gpt-neo": ("transformer.h.{}.mlp", "c_proj"),
    "toy-pythia": ("gpt_neox.layers.{}.mlp", "dense_4h_to_h"),
    "toy-opt": ("model.decoder.layers.{}", "fc2"),
    "toy-qwen2": ("model.layers.{}.mlp", "down_proj"),
}

traced = cache(lambda name: trace_pipeline(loaded(name), PROMPT))


@cache
def in_hugging_face(name: str) -> dict[str, torch.Tensor]:
    """What the unwrapped model's own modules are given and give, and its output."""
    model, seen = untouched(name), {}

    def keep(key: str, *, given: bool):
        def hook(module, arguments, output):
            activation = arguments[0] if given else output
            seen[key] = activation.reshape(-1, activation.shape[-1])

        return hook

    place, projection = NEURONS[name]
    for layer in range(4):
        module = model.get_submodule(f"{place.format(layer)}.{projection}")
        module.register_forward_hook(keep(f"neurons {layer}", given=True))
        module.register_forward_hook(keep(f"mlp {layer}", given=False))
    for key, module in zip(("token", "position"), EMBEDDINGS[name], strict=True):
        if module is not None:
            model.get_submodule(module).register_forward_hook(keep(key, given=False))
    with torch.no_grad():
        out = model(traced(name).tokens.ids[None], output_attentions=True, use_cache=False)
    seen["logits"], seen["attention"] = out.logits[0], torch.stack(out.attentions)[:, 0]
    return seen


@pytest.mark.parametrize("name", TOYS)
def test_tokens_and_embeddings_are_the_models(name: str) -> None:
    found, own = traced(name), in_hugging_face(name)
    assert "".join(found.tokens.texts[found.tokens.has_bos :]) == PROMPT
    stage = found.embedding
    torch.testing.assert_close(stage.token_norms, own["token"].norm(dim=-1))
    if "position" in own:
        torch.testing.assert_close(stage.position_norms, own["position"].norm(dim=-1))
        both = own["token"] + own["position"]
        torch.testing.assert_close(stage.input_norms, both.norm(dim=-1))
    else:
        assert stage.position_norms is None
        torch.testing.assert_close(stage.input_norms, stage.token_norms)
    table = untouched(name).get_input_embeddings().weight.detach()
    position = 2
    cosines = torch.cosine_similarity(table[found.tokens.ids[position]], table, dim=-1)
    cosines[found.tokens.ids[position]] = -2
    best = cosines.topk(5)
    torch.testing.assert_close(stage.nearest_cosines[position], best.values)
    assert torch.equal(stage.nearest_ids[position], best.indices)


@pytest.mark.parametrize("name", TOYS)
def test_attention_is_hugging_faces_and_labels_are_those_of_the_prompt(name: str) -> None:
    found = traced(name)
    stage = found.attention
    torch.testing.assert_close(
        stage.patterns, in_hugging_face(name)["attention"], atol=1e-5, rtol=1e-4
    )
    report = classify_heads(loaded(name), PROMPT)
    assert stage.labelled_on == "this prompt"
    for layer in range(4):
        for head in range(4):
            assert list(stage.labels_of((layer, head))) == report.labels_of((layer, head))


@pytest.mark.parametrize("name", TOYS)
def test_neurons_and_norms_are_those_at_the_output_projection(name: str) -> None:
    found, own = traced(name), in_hugging_face(name)
    stage = found.mlp
    start = int(found.tokens.has_bos)
    for row, layer in enumerate(stage.layers):
        torch.testing.assert_close(
            stage.norms[row], own[f"mlp {layer}"].norm(dim=-1), atol=1e-4, rtol=1e-4
        )
        neurons = own[f"neurons {layer}"][start:]
        peaks = neurons.abs().amax(dim=0).sort(descending=True)
        torch.testing.assert_close(
            stage.activations[row].abs(), peaks.values[:5], atol=1e-4, rtol=1e-4
        )
        assert stage.neurons[row].tolist() == peaks.indices[:5].tolist()
        at = neurons[stage.positions[row] - start, stage.neurons[row]]
        torch.testing.assert_close(stage.activations[row], at, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", TOYS)
def test_output_and_the_lens_behind_the_last_layer_are_the_logits(name: str) -> None:
    found, logits = traced(name), in_hugging_face(name)["logits"]
    log_probs = logits.log_softmax(dim=-1)
    stage, ids = found.output, found.tokens.ids
    torch.testing.assert_close(stage.top_log_probs, log_probs.topk(5).values, atol=1e-4, rtol=1e-4)
    assert torch.equal(stage.top_ids, log_probs.topk(5).indices)
    expected = log_probs[:-1].gather(-1, ids[1:, None])[:, 0]
    torch.testing.assert_close(stage.next_log_probs, expected, atol=1e-4, rtol=1e-4)
    ranks = (log_probs[:-1] > expected[:, None]).sum(dim=-1) + 1
    assert torch.equal(stage.next_ranks, ranks)
    assert stage.predictions[0].token == int(logits[-1].argmax())
    lens = stage.lens
    assert lens.names == ("embedding", "layer 0", "layer 1", "layer 2", "layer 3")
    torch.testing.assert_close(lens.top_log_probs[-1], stage.top_log_probs, atol=1e-4, rtol=1e-4)
    assert torch.equal(lens.top_ids[-1], stage.top_ids)
    assert lens.final_ranks[-1].unique().tolist() == [1]
    assert float(lens.divergences[-1].abs().max()) < 1e-5
    assert (lens.divergences[:-1] > -1e-6).all()


def test_the_lens_between_is_the_final_norm_and_the_unembedding() -> None:
    hf_model, found = untouched("toy-qwen2"), traced("toy-qwen2")
    with torch.no_grad():
        hidden = hf_model(
            found.tokens.ids[None], output_hidden_states=True, use_cache=False
        ).hidden_states[2]
        logits = hf_model.lm_head(hf_model.model.norm(hidden))[0]
    log_probs = logits.log_softmax(dim=-1).topk(5)
    lens = found.output.lens
    torch.testing.assert_close(lens.top_log_probs[2], log_probs.values, atol=1e-4, rtol=1e-4)
    assert torch.equal(lens.top_ids[2], log_probs.indices)


def test_a_lens_that_does_not_end_at_the_logits_is_an_error() -> None:
    model, ids = loaded("toy-gpt2"), torch.tensor([0, 5, 6])
    residuals = torch.randn(5, 3, 128, generator=torch.Generator().manual_seed(0))
    with pytest.raises(UnsupportedModelError, match="Trace it with lens=False"):
        output_stage(model, ids, model(ids[None])[0], residuals, 3)


def test_spread_is_1_for_even_attention_and_0_for_one_token() -> None:
    n = 5
    even = torch.ones(n, n).tril() / torch.arange(1, n + 1)[:, None]
    first = torch.zeros(n, n)
    first[:, 0] = 1
    spread = attention_spread(torch.stack([even, first])[None], [None])
    assert spread[0].tolist() == pytest.approx([1.0, 0.0])
    assert attention_spread(torch.ones(1, 1, 1, 1), [None]).isnan().all()
    windowed = even_pattern(12, window=3)[None, None]
    assert float(attention_spread(windowed, [3])) == pytest.approx(1)


def test_an_ablated_model_is_followed_as_it_runs_and_nothing_is_left_behind() -> None:
    model = loaded("toy-pythia")
    before = model(traced("toy-pythia").tokens.ids[None])
    with ablating(model, ["L1H0", "L1H1", "L1H2", "L1H3"]):
        ablated = trace_pipeline(model, PROMPT)
        direct = model(ablated.tokens.ids[None])[0].log_softmax(dim=-1)
    torch.testing.assert_close(
        ablated.output.top_log_probs, direct.topk(5).values, atol=1e-5, rtol=1e-5
    )
    assert not torch.allclose(
        ablated.output.top_log_probs, traced("toy-pythia").output.top_log_probs, atol=1e-3
    )
    assert torch.equal(model(ablated.tokens.ids[None]), before)
    assert all(hook.is_permanent for point in model.hook_dict.values() for hook in point.fwd_hooks)


def test_a_report_that_is_given_brings_its_labels() -> None:
    model = loaded("toy-gpt2")
    report = classify_heads(model, "one two one two one two one two one two")
    found = trace_pipeline(model, PROMPT, report=report)
    assert found.attention.labelled_on == next(iter(report.tokens))
    assert [str(head) for head, _ in found.attention.labels] == [
        f"L{layer}H{head}"
        for layer in range(4)
        for head in range(4)
        if report.labels_of((layer, head))
    ]


@pytest.mark.parametrize(
    ("prompt", "options", "error", "message"),
    [
        ("", {}, PromptError, "The prompt is empty"),
        (["a", "b"], {}, PromptError, "trace_pipeline takes one prompt .* and 2"),
        (torch.ones(513).long(), {}, PromptError, "513 tokens long"),
        ("a", {"top_k": 0}, PromptError, "top_k=0: it must be between 1 and 1024"),
        ("a", {"n_neurons": 513}, PromptError, "n_neurons=513: it must be between 1 and 512"),
        ("a", {"n_nearest": 1024}, PromptError, "n_nearest=1024: it must be between 1 and 1023"),
    ],
)
def test_a_mistaken_call_says_what_to_do(prompt, options, error, message: str) -> None:
    with pytest.raises(error, match=message):
        trace_pipeline(loaded("toy-gpt2"), prompt, **options)


def test_patterns_that_would_fill_the_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mi_toolkit.text.trace.MOST_BYTES", 16 * 4 * 20 * 20)
    with pytest.raises(PromptError, match="trace 20 tokens at most"):
        trace_pipeline(loaded("toy-gpt2"), torch.ones(21).long())


def test_it_is_kept_in_a_file_and_shown_as_tables(tmp_path) -> None:
    found = traced("toy-opt")
    paths = [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    found.save(paths[0])
    read = Pipeline.load(paths[0])
    read.save(paths[1])
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert repr(read) == repr(found)
    n = len(found.tokens.ids)
    sizes = {"tokens": n, "attention": 16, "mlp": 20, "output": 5 * n, "lens": 5 * n}
    assert {stage: len(read.to_pandas(stage)) for stage in sizes} == sizes
    assert read.attention.labels == found.attention.labels
    assert read.shapes == found.shapes
    with pytest.raises(UnknownNameError, match="Did you mean 'lens'"):
        found.to_pandas("len")
    with pytest.raises(ReportError, match="No pipeline at"):
        Pipeline.load(tmp_path / "none")
    without = trace_pipeline(loaded("toy-opt"), torch.tensor([5]), lens=False)
    without.save(paths[0])
    assert Pipeline.load(paths[0]).output.lens is None
    with pytest.raises(ReportError, match="trace it with lens=True"):
        without.to_pandas("lens")


@pytest.mark.smollm2
def test_smollm2_knows_the_capital_behind_its_last_layers() -> None:
    found = trace_pipeline(loaded("smollm2-135m-instruct"), "The capital of France is")
    assert found.output.predictions[0].text == " Paris"
    lens = found.output.lens
    assert int(lens.final_ranks[-1, -1]) == 1
    assert int(lens.final_ranks[0, -1]) > 1
    assert found.attention.patterns.shape[:2] == (30, 9)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_hooked_transformer_is_followed_to_hugging_faces_logits(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooked, folder = small_hooked(name, tmp_path, monkeypatch)
    ids = torch.tensor([5, 6, 7, 5, 6])
    found = trace_pipeline(hooked, ids)
    plain = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        out = plain(ids[None], output_attentions=True)
    torch.testing.assert_close(found.attention.patterns, torch.stack(out.attentions)[:, 0])
    stage, expected = found.output, out.logits[0].log_softmax(dim=-1)
    torch.testing.assert_close(stage.top_log_probs, expected.topk(5).values, atol=1e-4, rtol=1e-4)
    lens = stage.lens
    torch.testing.assert_close(lens.top_log_probs[-1], stage.top_log_probs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", TOYS)
def test_one_pass_gives_the_trace_and_the_report_of_its_heads(name: str) -> None:
    model, passes = loaded(name), list[int]()
    alone = classify_heads(model, PROMPT)
    count = model.blocks[0].register_forward_pre_hook(lambda *_: passes.append(1))
    both, report = trace_and_classify(model, PROMPT)
    count.remove()
    assert len(passes) == 1
    # The ends of an interval over queries magnify rounding, near 1 above all.
    close = dict.fromkeys(("score", "null", "lift", "copying"), 1e-4)
    for figures, tolerance in (close | dict.fromkeys(("ci_low", "ci_high"), 0.05)).items():
        given, wanted = getattr(report, figures), getattr(alone, figures)
        torch.testing.assert_close(given, wanted, equal_nan=True, rtol=1e-3, atol=tolerance)
    assert torch.equal(report.labels, alone.labels)
    assert both.attention.labels == traced(name).attention.labels
    assert torch.equal(both.output.lens.divergences, traced(name).output.lens.divergences)
