from __future__ import annotations

from pathlib import Path

import huggingface_hub.constants
import pytest
import torch

import mi_toolkit as mi
from mi_toolkit.core.errors import (
    ActivationsError,
    DtypeError,
    HookError,
    PromptError,
    ReportError,
    UnknownNameError,
)
from mi_toolkit.core.tokens import from_sequences, tokenise
from mi_toolkit.models.specs import MODELS
from tests.hooked_transformer import needs_hooked_transformer
from tests.hub_cache import hub_config, lay_out, shrunk
from tests.models_here import TOYS, loaded, untouched
from tests.tiny_models import tiny_tokenizer

TEXTS = ["When Mary and John went to the store, John gave", "one two", "The cat sat. The cat"]
IN_ALL_FAMILIES = [
    "embed", "resid_pre", "resid_post", "attn_out", "mlp_out", "q", "k", "v", "z", "pattern",
    "pre", "post", "ln_final",
]  # fmt: skip
NO_SCORES = ("neo", "opt")


@pytest.mark.parametrize("name", TOYS)
def test_every_short_form_equals_run_with_cache(name: str) -> None:
    model = loaded(name)
    ids = tokenise(model, TEXTS[0]).ids
    scores = [] if name.endswith(NO_SCORES) else ["attn_scores"]
    recorded = mi.record(model, ids, IN_ALL_FAMILIES + scores)
    _, cache = model.run_with_cache(ids, attention_mask=torch.ones_like(ids))
    assert len(recorded) == (11 + len(scores)) * model.cfg.n_layers + 2
    for hook, tensor in recorded.items():
        torch.testing.assert_close(tensor, cache[hook].detach(), rtol=0, atol=0)


@pytest.mark.parametrize("name", TOYS)
def test_residual_streams_equal_hugging_faces_hidden_states(name: str) -> None:
    model, hf_model = loaded(name), untouched(name)
    ids = tokenise(model, TEXTS[0]).ids
    with torch.no_grad():
        hidden = hf_model(ids, output_hidden_states=True).hidden_states
    recorded = mi.record(model, ids, ["resid_pre", "resid_post", "ln_final.hook_out"])
    *streams, last = hidden
    for layer, stream in enumerate(streams):
        torch.testing.assert_close(recorded["resid_pre", layer], stream, rtol=1e-5, atol=1e-5)
        if layer:
            torch.testing.assert_close(recorded["resid_post", layer - 1], stream)
    torch.testing.assert_close(recorded["ln_final.hook_out"], last, rtol=1e-5, atol=1e-5)


@needs_hooked_transformer
@pytest.mark.parametrize("name", MODELS)
def test_hooked_transformer_and_bridge_give_the_same_activations(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    lay_out(tmp_path, name, shrunk(hub_config(name)), tiny_tokenizer())
    batch = from_sequences([[0, 5, 6, 7, 8], [0, 9, 5]], 0)
    hooked, bridge = mi.load_model(name, backend="hooked"), mi.load_model(name)
    there, here = (mi.record(model, batch, IN_ALL_FAMILIES) for model in (hooked, bridge))
    assert list(there) == list(here)
    for hook in here:
        torch.testing.assert_close(here[hook], there[hook], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["toy-gpt-neo", "toy-opt"])
def test_scores_that_are_the_pattern_are_an_error(name: str) -> None:
    with pytest.raises(HookError, match="fires with the pattern, after the softmax"):
        mi.record(loaded(name), TEXTS, ("attn_scores", 0))


@pytest.mark.parametrize("name", TOYS)
def test_a_padded_batch_equals_one_by_one(name: str) -> None:
    model, wanted = loaded(name), ["resid_post", "pattern", "z"]
    together = mi.record(model, TEXTS, wanted)
    for prompt, text in enumerate(TEXTS):
        alone = mi.record(model, text, wanted)
        n = int(alone.batch.lengths)
        for hook, tensor in together.items():
            inside = tensor[prompt, :, :n, :n] if "pattern" in hook else tensor[prompt, :n]
            torch.testing.assert_close(inside, alone[hook][0], rtol=1e-3, atol=1e-4)
            outside = tensor[prompt, :, n:] if "pattern" in hook else tensor[prompt, n:]
            assert not outside.any()


def test_batches_of_any_size_give_the_same() -> None:
    model = loaded("toy-gpt2")
    whole = mi.record(model, TEXTS, ["resid_post", "pattern"], batch_size=3)
    for size in (1, 2):
        parts = mi.record(model, TEXTS, ["resid_post", "pattern"], batch_size=size)
        for hook in whole:
            torch.testing.assert_close(parts[hook], whole[hook], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("positions", ["last", 1, -2])
def test_one_position_is_that_row_of_all_of_them(positions) -> None:
    model = loaded("toy-qwen2")
    everything = mi.record(model, TEXTS, ["resid_post", "pattern"])
    chosen = mi.record(model, TEXTS, ["resid_post", "pattern"], positions=positions)
    lengths = everything.batch.lengths
    at = torch.full_like(lengths, -1 if positions == "last" else positions)
    at = torch.where(at < 0, at + lengths, at)
    every = torch.arange(len(TEXTS))
    torch.testing.assert_close(
        chosen["resid_post", 2], everything["resid_post", 2][every, at], rtol=0, atol=0
    )
    torch.testing.assert_close(
        chosen["pattern", 1], everything["pattern", 1][every, :, at], rtol=0, atol=0
    )
    assert list(chosen.axes(("pattern", 1))) == ["prompt", "head", "key"]
    assert list(chosen.axes(("resid_post", 1))) == ["prompt", "d_model"]


def test_positions_of_each_prompt_its_own() -> None:
    model = loaded("toy-gpt2")
    everything = mi.record(model, TEXTS, ("z", 1))
    chosen = mi.record(model, TEXTS, ("z", 1), positions=[[3, 0], [1], []])
    assert chosen.mask.tolist() == [[True, True], [True, False], [False, False]]
    assert torch.equal(chosen["z"][0], everything["z"][0, [3, 0]])
    assert torch.equal(chosen["z"][1, 0], everything["z"][1, 1])
    assert not chosen["z"][2].any()


def test_the_model_is_left_as_it_was_and_stops_behind_the_last_hook() -> None:
    model = loaded("toy-gpt2")
    model.train()
    reached = []

    def note(activation, hook):
        reached.append(hook)

    try:
        with model.hooks(fwd_hooks=[("blocks.2.hook_resid_post", note)]):
            mi.record(model, TEXTS, ("resid_post", 1))
        assert model.training
    finally:
        model.eval()
    assert not reached
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_values_are_kept_in_the_asked_precision() -> None:
    model = loaded("toy-gpt2")
    full = mi.record(model, TEXTS, "resid_post")
    half = mi.record(model, TEXTS, "resid_post", dtype="bfloat16")
    assert half.nbytes * 2 == full.nbytes
    assert torch.equal(half["resid_post", 3], full["resid_post", 3].bfloat16())
    with pytest.raises(DtypeError, match="not in int8"):
        mi.record(model, TEXTS, "resid_post", dtype="int8")
    with pytest.raises(DtypeError, match=r"not in torch\.int64"):
        mi.record(model, TEXTS, "resid_post", dtype=torch.int64)


def test_a_value_beyond_float16_is_an_error_and_not_infinite() -> None:
    model = loaded("toy-gpt2")

    def enlarge(activation, hook):
        return activation * 1e6

    with (
        model.hooks(fwd_hooks=[("blocks.0.hook_resid_post", enlarge)]),
        pytest.raises(DtypeError, match=r"beyond float16's largest.*bfloat16"),
    ):
        mi.record(model, TEXTS, ("resid_post", 0), dtype=torch.float16)
    # Masked scores are infinite by design.
    mi.record(model, TEXTS, ("attn_scores", 0), dtype=torch.float16)


@pytest.mark.parametrize("name", TOYS)
def test_a_glob_takes_what_fires_per_token(name: str) -> None:
    recorded = mi.record(loaded(name), TEXTS[:2], "blocks.*.attn.**")
    assert len(recorded) >= 8 * 4
    assert all(tensor.shape[0] == 2 for tensor in recorded.values())


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        ("resid_pots", UnknownNameError, "Did you mean 'resid_post'"),
        ("result", HookError, r"switched off: call model\.set_use_attn_result\(True\) first"),
        ("pos_embed", HookError, "hook_pos_embed of toy-pythia did not fire"),
        ("resid_mid", UnknownNameError, "toy-pythia has no activation that 'resid_mid' stands for"),
        ("embed.hook_in", HookError, "no value per token to record"),
        ("*.attn.qkv.hook_in", UnknownNameError, "No activation"),
        ("blocks.*.attn.qkv.*", HookError, "none fires"),
    ],
)
def test_a_name_that_gives_nothing_is_an_error(names, error, message: str) -> None:
    with pytest.raises(error, match=message):
        mi.record(loaded("toy-pythia"), TEXTS, names)


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ([], {}, "The list of prompts is empty"),
        (["one", ""], {}, "Prompt 1 of 2 is empty"),
        ("one", {"batch_size": 0}, "batch_size is the number of prompts"),
        ("one", {"positions": 99}, "Sequence 0 has no position 99"),
    ],
)
def test_prompts_that_cannot_be_fed_are_errors(prompts, options, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        mi.record(loaded("toy-gpt2"), prompts, "resid_post", **options)


def test_rows_are_the_real_tokens_prompt_by_prompt() -> None:
    model = loaded("toy-gpt2")
    recorded = mi.record(model, TEXTS, ["resid_post"], positions=slice(1, None))
    rows, table = recorded.rows(("resid_post", 0)), recorded.row_table()
    assert len(rows) == len(table) == int(recorded.batch.lengths.sum()) - 3
    assert "".join(table.token[table.prompt == 2]) == TEXTS[2]
    row = table.index[(table.prompt == 1) & (table.position == 2)][0]
    assert torch.equal(rows[row], recorded["resid_post", 0][1, 1])
    assert table.token_id[row] == int(recorded.batch.ids[1, 2])
    with pytest.raises(ActivationsError, match="no row per token"):
        mi.record(model, TEXTS, ("pattern", 0)).rows("pattern")


def test_tables_hold_the_values_where_they_belong() -> None:
    model = loaded("toy-gpt2")
    recorded = mi.record(model, TEXTS, [("z", 1), ("pattern", 2)])
    units = recorded.to_pandas(("z", 1))
    assert units.columns[:4].tolist() == ["prompt", "position", "token_id", "token"]
    assert units["3.7"].iloc[2] == pytest.approx(float(recorded["z", 1][0, 2, 3, 7]))
    long = recorded.to_pandas(("pattern", 2))
    row = long[(long.prompt == 2) & (long["head"] == 3) & (long["query"] == 4) & (long.key == 1)]
    assert row.value.item() == pytest.approx(float(recorded["pattern", 2][2, 3, 4, 1]))
    assert (long.key <= long["query"]).all()
    sums = long.groupby(["prompt", "head", "query"]).value.sum()
    torch.testing.assert_close(torch.tensor(sums.to_numpy()), torch.ones(len(sums)))


def test_lookup_by_any_name_and_an_error_where_several_fit() -> None:
    recorded = mi.record(loaded("toy-gpt2"), TEXTS, ["resid_post", ("z", 3)])
    assert recorded["z"] is recorded["blocks.3.attn.hook_z"] is recorded["z", -1]
    assert "z" in recorded
    assert "resid_post" not in recorded
    assert ("resid_post", 2) in recorded
    assert recorded.get("q") is None
    assert recorded.stacked("resid_post").shape[0] == 4
    assert torch.equal(recorded.stacked("resid_post")[2], recorded["resid_post2"])
    with pytest.raises(UnknownNameError, match=r"'resid_post' stands for 4 .*stacked"):
        recorded["resid_post"]
    with pytest.raises(UnknownNameError, match="this recording of toy-gpt2"):
        recorded["mlp_out", 0]
    with pytest.raises(TypeError, match="item assignment"):
        recorded["z"] = recorded["z"]


def test_the_repr_names_axes_and_sizes() -> None:
    lines = repr(mi.record(loaded("toy-qwen2"), TEXTS, ["resid_post", ("k", 0)])).splitlines()
    assert lines[0].startswith("Activations of toy-qwen2: 3 prompts, ")
    assert "blocks.*.hook_resid_post (all layers)  prompt 3, position" in lines[1]
    assert "head 2, d_head 32" in lines[2]
    assert lines[2].endswith("MB")


def test_saved_activations_come_back(tmp_path: Path) -> None:
    recorded = mi.record(loaded("toy-gpt2"), TEXTS, ["z", "pattern"], positions="last")
    recorded.save(tmp_path / "a.safetensors")
    back = mi.activations.Activations.load(tmp_path / "a.safetensors")
    assert repr(back) == repr(recorded)
    assert list(back) == list(recorded)
    assert all(torch.equal(back[hook], recorded[hook]) for hook in recorded)
    assert back.texts == recorded.texts
    assert torch.equal(back.positions, recorded.positions)
    with pytest.raises(ReportError, match="No recording of activations at"):
        mi.activations.Activations.load(tmp_path / "b.safetensors")


def test_to_and_from_transformerlens_cache() -> None:
    model = loaded("toy-gpt2")
    ids = tokenise(model, TEXTS[0]).ids
    _, cache = model.run_with_cache(ids)
    taken = mi.activations.Activations.from_cache(cache, model, ids)
    recorded = mi.record(model, ids, ["resid_post", "z", "pattern"])
    for hook, tensor in recorded.items():
        assert torch.equal(taken[hook], tensor)
    back = recorded.to_cache(model)
    assert torch.equal(back["resid_post", 2], cache["resid_post", 2])
    assert torch.equal(back["pattern", 1, "attn"], cache["pattern", 1, "attn"])
    flat = model.run_with_cache(ids, remove_batch_dim=True)[1]
    assert torch.equal(
        mi.activations.Activations.from_cache(flat, model, ids)["z", 0], recorded["z", 0]
    )
    with pytest.raises(ActivationsError, match="holds all positions"):
        mi.record(model, ids, "z", positions="last").to_cache(model)
    with pytest.raises(ActivationsError, match="nothing per token of 1 prompts of 2 tokens"):
        mi.activations.Activations.from_cache(cache, model, ids[:, :2])


def test_a_view_takes_recorded_patterns() -> None:
    model = loaded("toy-gpt2")
    recorded = mi.record(model, TEXTS, "pattern")
    of_recording = mi.view_attention(recorded, 1, heads=["L0H1", (2, 3)])
    of_model = mi.view_attention(model, TEXTS[1], heads=["L0H1", (2, 3)])
    assert of_recording.tokens == of_model.tokens
    torch.testing.assert_close(of_recording.patterns, of_model.patterns)
    with pytest.raises(PromptError, match="which of the 3 recorded prompts"):
        mi.view_attention(recorded, layer=0)
    with pytest.raises(PromptError, match="hold no whole pattern"):
        mi.view_attention(mi.record(model, TEXTS, "z"), 0, layer=0)
    with pytest.raises(PromptError, match="shows all queries"):
        mi.view_attention(mi.record(model, TEXTS, "pattern", positions=[1]), 0, layer=0)
    with pytest.raises(UnknownNameError, match="has no attention in layer 0"):
        mi.view_attention(mi.record(model, TEXTS, ("pattern", 1)), 0, layer=0)
    with pytest.raises(PromptError, match="what the model is to read"):
        mi.view_attention(model, layer=0)
