"""Patching and attribution to components against runs by hand, sums, and TransformerLens."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest
import torch

from mi_toolkit import activation_patching, direct_logit_attribution, load_model
from mi_toolkit.core.errors import PromptError, ReportError, UnknownNameError, UnsupportedModelError
from mi_toolkit.core.tokens import tokenise
from mi_toolkit.heads.copying_heads import copying_scores
from mi_toolkit.interventions.direct_attribution import DirectAttribution
from mi_toolkit.interventions.gradient_patching import (
    AttributionPatching,
    EdgeAttribution,
    attribution_patching,
    edge_attribution,
)
from mi_toolkit.interventions.patching import Patching
from tests.families.claims import subject_of
from tests.families.zoo import ROWS
from tests.hooked_transformer import (
    HookedTransformer,
    HookedTransformerConfig,
    needs_hooked_transformer,
)
from tests.hub_cache import hub_config, lay_out, shrunk
from tests.models_here import TOYS, loaded
from tests.tiny_models import tiny_tokenizer

CLEAN = "Mary and John went home, John gave a drink to"
CORRUPTED = "Mary and John went home, Mary gave a drink to"
ASKED = {"target": " Mary", "other": " John"}


def difference(model, logits: torch.Tensor) -> float:
    mary, john = (model.tokenizer.encode(t, add_special_tokens=False) for t in (" Mary", " John"))
    return float(logits[0, -1, mary[0]] - logits[0, -1, john[0]])


@pytest.mark.parametrize("name", TOYS)
def test_what_parts_write_adds_up_to_the_logit(name: str) -> None:
    model = loaded(name)
    found = direct_logit_attribution(model, CLEAN, **ASKED)
    assert abs(found.residue) < 1e-4
    assert sum(found.parts().values()) + found.residue == pytest.approx(found.logit, abs=1e-5)
    best = direct_logit_attribution(model, CLEAN)
    assert abs(best.residue) < 1e-4
    assert best.asked.startswith("logit of ")


@pytest.mark.parametrize("name", TOYS)
def test_an_mlp_writes_what_the_logit_loses_without_it_at_the_same_scale(name: str) -> None:
    model = loaded(name)
    last = int(model.cfg.n_layers) - 1
    found = direct_logit_attribution(model, CLEAN, **ASKED)
    kept: dict[str, torch.Tensor] = {}

    def keep(tensor: torch.Tensor, hook: object) -> None:
        kept["out"] = tensor.reshape(1, -1, tensor.shape[-1]).clone()

    ids = tokenise(model, CLEAN).ids
    with torch.no_grad(), model.hooks(fwd_hooks=[(f"blocks.{last}.hook_mlp_out", keep)]):
        model(ids)
    # Without the last MLP's write, and the norm's scale as it was.
    written = kept["out"]
    with torch.no_grad(), model.hooks(fwd_hooks=[(f"blocks.{last}.hook_resid_post", keep)]):
        logits = model(ids)
    whole = kept["out"]
    centred = name != "toy-qwen2"
    without = whole - written

    def scale(x: torch.Tensor) -> torch.Tensor:
        x = x - x.mean(dim=-1, keepdim=True) if centred else x
        return x.pow(2).mean(dim=-1, keepdim=True).sqrt()

    with torch.no_grad():
        nothing = model.ln_final(torch.zeros_like(without))
        read = (model.ln_final(without) - nothing) * scale(without) / scale(whole) + nothing
        less = read @ model.W_U
    lost = difference(model, logits) - difference(model, less)
    assert float(found.mlps[last]) == pytest.approx(lost, abs=2e-3)


@pytest.mark.parametrize("name", TOYS)
def test_patching_everything_brings_the_clean_run_back_and_nothing_leaves_the_other(
    name: str,
) -> None:
    model = loaded(name)
    found = activation_patching(model, CLEAN, CORRUPTED, **ASKED, progress=False)
    # The prompts differ at one position: its embedding is all the difference there is.
    place = found.places.index(" John / Mary")
    assert float(found.recovered[0, place]) == pytest.approx(1, abs=1e-3)
    assert float(found.values[0, place]) == pytest.approx(found.clean, abs=1e-4)
    # Before that position nothing differs; after the last layer only the last position counts.
    assert found.recovered[:, :place].abs().max() < 1e-3
    assert found.clean != found.corrupted


def test_patching_is_what_a_run_with_that_activation_gives() -> None:
    model = loaded("toy-qwen2")
    clean, corrupted = tokenise(model, CLEAN).ids, tokenise(model, CORRUPTED).ids
    for what, hook in (
        ("z", "attn.hook_z"),
        ("v", "attn.hook_v"),
        ("pattern", "attn.hook_pattern"),
    ):
        found = activation_patching(model, CLEAN, CORRUPTED, **ASKED, what=what, progress=False)
        kept: list[torch.Tensor] = []
        name = f"blocks.2.{hook}"
        with torch.no_grad():
            keep = [(name, lambda value, hook, into=kept: into.append(value.clone()))]
            with model.hooks(fwd_hooks=keep):
                model(clean)

            def put(value: torch.Tensor, hook: object, kept=kept, what=what) -> torch.Tensor:
                value = value.clone()
                where = (slice(None), 1) if what == "pattern" else (slice(None), slice(None), 1)
                value[where] = kept[0][where]
                return value

            with model.hooks(fwd_hooks=[(name, put)]):
                by_hand = difference(model, model(corrupted))
        assert float(found.values[2, 1]) == pytest.approx(by_hand, abs=1e-5)
        assert found.place == ("kv_head" if what == "v" else "head")


@pytest.mark.parametrize("name", TOYS)
def test_attribution_patching_is_the_gradient_towards_the_clean_run(name: str) -> None:
    model = loaded(name)
    found = attribution_patching(model, CLEAN, CORRUPTED, **ASKED)
    clean, corrupted = tokenise(model, CLEAN).ids, tokenise(model, CORRUPTED).ids
    steps = torch.tensor([-1.0, 1.0]) * 1e-2
    kept: list[torch.Tensor] = []
    hook = "blocks.2.attn.hook_z"
    with torch.no_grad():
        with model.hooks(fwd_hooks=[(hook, lambda z, hook: kept.append(z.clone()))]):
            model(clean)
            model(corrupted)
        towards = kept[0][:, -1, 1] - kept[1][:, -1, 1]
        metrics = []
        for step in steps:

            def push(z: torch.Tensor, hook: object, step=step) -> torch.Tensor:
                z = z.clone()
                z[:, -1, 1] += step * towards
                return z

            with model.hooks(fwd_hooks=[(hook, push)]):
                metrics.append(difference(model, model(corrupted)))
    slope = (metrics[1] - metrics[0]) / 2e-2
    assert float(found.heads[2, 1, -1]) == pytest.approx(slope, abs=5e-3, rel=0.05)
    # Nothing differs before the position where the prompts do.
    place = found.positions.index(" John / Mary")
    assert not found.heads[:, :, :place].abs().max() > 1e-4
    assert not any(p.requires_grad for p in model.original_model.parameters())


@pytest.mark.skipif(HookedTransformer is not None, reason="TransformerLens 3 knows no edges")
@pytest.mark.parametrize("name", ["toy-gpt2", "toy-pythia"])
def test_the_paths_from_a_part_add_up_to_its_own_estimate(name: str, tmp_path: Path) -> None:
    model = loaded(name)
    pair = ("Mary and John went to", "Mary and John went in")
    logits = model(torch.tensor([[5, 6, 7]]))
    edges = edge_attribution(model, *pair, target=" the")
    nodes = attribution_patching(model, *pair, target=" the")
    table = edges.to_pandas()
    sums = table.groupby(["writer", "position"]).estimate.sum()
    last = nodes.heads.shape[-1] - 1
    for layer, head in ((0, 3), (1, 0), (3, 2)):
        own = float(nodes.heads[layer, head, -1])
        assert sums[f"L{layer}H{head}", last] == pytest.approx(own, abs=1e-4)
    assert sums["L1.mlp", last] == pytest.approx(float(nodes.mlps[1, -1]), abs=1e-4)
    assert sums["embedding", last] == pytest.approx(float(nodes.embedding[-1]), abs=1e-4)
    edges.save(tmp_path / "edges.safetensors")
    again = EdgeAttribution.load(tmp_path / "edges.safetensors")
    assert repr(again) == repr(edges)
    assert all(" at " in place for _, _, place, _ in edges.top())
    assert torch.equal(model(torch.tensor([[5, 6, 7]])), logits)


def test_edges_say_why_transformer_lens_refuses_them() -> None:
    message = "refuses attribution patching of edges in toy-qwen2: .*" + (
        "not implemented" if HookedTransformer else "n_key_value_heads=2 for n_heads=4"
    )
    with pytest.raises(UnsupportedModelError, match=message):
        edge_attribution(loaded("toy-qwen2"), CLEAN, CORRUPTED, **ASKED)


def test_several_pairs_are_the_mean_of_each() -> None:
    model = loaded("toy-gpt2")
    ids = torch.randint(1, 900, (2, 6), generator=torch.Generator().manual_seed(0))
    others = ids.clone()
    others[:, 2] = 5
    options = {"what": "z", "progress": False}
    both = activation_patching(model, ids, others, target=[3, 4], other=7, **options)
    alone = [
        activation_patching(model, ids[[i]], others[[i]], target=3 + i, other=7, **options)
        for i in range(2)
    ]
    mean = (alone[0].values + alone[1].values) / 2
    torch.testing.assert_close(both.values, mean, atol=1e-4, rtol=1e-4)
    estimates = [
        attribution_patching(model, ids[[i]], others[[i]], target=3 + i, other=7) for i in range(2)
    ]
    together = attribution_patching(model, ids, others, target=[3, 4], other=7)
    mean = (estimates[0].heads + estimates[1].heads) / 2
    torch.testing.assert_close(together.heads, mean, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda m: activation_patching(m, CLEAN, CORRUPTED, **ASKED, what="zz"),
            UnknownNameError,
            "No activation to patch is called 'zz'",
        ),
        (
            lambda m: activation_patching(m, CLEAN, "Mary gave", target=" Mary"),
            PromptError,
            "all prompts must have one length in tokens; these have 13 and 3",
        ),
        (
            lambda m: activation_patching(m, CLEAN, CLEAN, target=" Mary"),
            PromptError,
            "no difference to carry over",
        ),
        (
            lambda m: activation_patching(m, [CLEAN, CLEAN], CORRUPTED, target=" Mary"),
            PromptError,
            "2 clean and 1 corrupted prompts are no pairs",
        ),
        (
            lambda m: attribution_patching(m, CLEAN, CORRUPTED, target=[" Mary", " John"]),
            PromptError,
            "2 tokens for 1 pairs: give one, or one for each",
        ),
        (
            lambda m: activation_patching(m, CLEAN, CORRUPTED, **ASKED, what="pattern"),
            UnsupportedModelError,
            "attention pattern of toy-opt cannot be patched",
        ),
    ],
)
def test_a_mistaken_call_says_what_to_do(call, error, message: str) -> None:
    with pytest.raises(error, match=message):
        call(loaded("toy-opt"))


@pytest.mark.parametrize(
    ("family", "call", "message"),
    [
        ("lfm2", direct_logit_attribution, "In layer 0 of tiny something writes into the residual"),
        (
            "deepseek_v3",
            activation_patching,
            "'z' of tiny cannot be patched: its values have anoth",
        ),
        (
            "deepseek_v3",
            attribution_patching,
            "'z' of tiny cannot be patched: its values have anot",
        ),
        ("lfm2", activation_patching, r"layers \[0\] have no blocks.0.attn.hook_z"),
    ],
)
def test_what_is_no_sum_over_heads_is_refused_by_name(family: str, call, message: str) -> None:
    subject = subject_of(ROWS[family])
    prompts = [subject.ids[0], subject.ids[1]]
    options = {"what": "z"} if call is activation_patching else {}
    if call is direct_logit_attribution:
        del prompts[1]
    with pytest.raises(UnsupportedModelError, match=message):
        call(subject.model, *prompts, target=5, **options)


def test_the_eigenvalues_of_a_latent_values_circuit_are_not_known() -> None:
    subject = subject_of(ROWS["deepseek_v3"])
    found = copying_scores(subject.model, progress=False)
    assert found.eigenvalue_ratio.isnan().all()
    assert found.effect.isfinite().all()


@pytest.mark.parametrize("name", ["toy-gpt2", "toy-qwen2"])
def test_half_precision_writes_are_those_of_full_precision_to_rounding(name: str) -> None:
    full = direct_logit_attribution(loaded(name), CLEAN, **ASKED)
    half = direct_logit_attribution(load_model(name, dtype="bfloat16"), CLEAN, **ASKED)
    scale = float(full.heads.abs().max())
    torch.testing.assert_close(half.heads, full.heads, atol=0.1 * scale, rtol=0)
    torch.testing.assert_close(half.mlps, full.mlps, atol=0.1 * scale, rtol=0)


@pytest.mark.filterwarnings("ignore:HookedTransformer is deprecated:DeprecationWarning")
@needs_hooked_transformer
@pytest.mark.parametrize("norm", [None, "LN", "RMS"])
def test_an_attention_only_model_of_ones_own_is_a_sum_over_heads(norm: str | None) -> None:
    torch.manual_seed(0)
    config = HookedTransformerConfig(
        n_layers=2,
        d_model=32,
        d_head=8,
        n_heads=4,
        n_ctx=64,
        d_vocab=50,
        attn_only=True,
        normalization_type=norm,
    )
    model = HookedTransformer(config)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    ids = torch.randint(1, 50, (12,))
    found = direct_logit_attribution(model, ids, target=3)
    assert abs(found.residue) < 1e-3
    assert not found.mlps.any()
    _, cache = model.run_with_cache(ids)
    if norm is None:
        for layer in range(2):
            z = cache["z", layer][0, -1]
            wanted = torch.stack(
                [z[h] @ model.blocks[layer].attn.W_O[h] @ model.W_U[:, 3] for h in range(4)]
            )
            torch.testing.assert_close(found.heads[layer], wanted, atol=1e-4, rtol=1e-4)


def test_results_come_back_from_disk_as_they_were(tmp_path: Path) -> None:
    model, path = loaded("toy-gpt2"), tmp_path / "kept.safetensors"
    patched = activation_patching(model, CLEAN, CORRUPTED, **ASKED, progress=False)
    estimated = attribution_patching(model, CLEAN, CORRUPTED, **ASKED)
    direct = direct_logit_attribution(model, CLEAN, **ASKED)
    for found, kind in (
        (patched, Patching),
        (estimated, AttributionPatching),
        (direct, DirectAttribution),
    ):
        found.save(path)
        again = kind.load(path)
        assert repr(again) == repr(found)
        assert again.to_pandas().equals(found.to_pandas())
        assert again.provenance == found.provenance
    # "and" and "Mary" stand there more than once: a place is told by its number.
    for found in (patched, estimated):
        for *_, place, _ in found.top(40):
            text, at = place.rsplit(" at ", 1)
            assert text == repr(estimated.positions[int(at)])
        assert f" {found.top(1)[0][-2]} " in repr(found)
    with pytest.raises(ReportError, match="holds no patching of this version"):
        Patching.load(path)
    assert len(patched.to_pandas()) == patched.values.numel()
    assert len(estimated.to_pandas()) == 13 * (1 + 4 * 5)


@needs_hooked_transformer
def test_direct_attribution_is_transformer_lens_own_where_that_can_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "EleutherAI/pythia-160m"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    lay_out(tmp_path, name, shrunk(hub_config(name)), tiny_tokenizer())
    ids = torch.randint(1, 250, (10,), generator=torch.Generator().manual_seed(1))
    bridge, hooked = load_model(name), load_model(name, backend="hooked")
    ours = direct_logit_attribution(bridge, ids, target=9, other=8)
    theirs = direct_logit_attribution(hooked, ids, target=9, other=8)
    torch.testing.assert_close(ours.heads, theirs.heads, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(ours.mlps, theirs.mlps, atol=1e-3, rtol=1e-3)
    others = ids.clone()
    others[4] = 77
    asked = {"target": 9, "other": 8}
    for what in ("z", "resid_pre", "pattern"):
        of_bridge, of_hooked = (
            activation_patching(model, ids, others, **asked, what=what, progress=False)
            for model in (bridge, hooked)
        )
        torch.testing.assert_close(of_hooked.values, of_bridge.values, atol=2e-3, rtol=1e-3)
    estimates = [attribution_patching(model, ids, others, **asked) for model in (bridge, hooked)]
    torch.testing.assert_close(estimates[0].heads, estimates[1].heads, atol=2e-3, rtol=1e-2)
    # TransformerLens' own needs the norm folded in, which it does to a model's weights for good.
    from transformer_lens.tools.analysis import direct_logit_attribution as of_transformer_lens

    hooked.load_and_process_state_dict(
        hooked.state_dict(),
        fold_ln=True,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,  # else they are no head's, but the attention bias'
    )
    own = of_transformer_lens(hooked, ids[None], answer_tokens=9, incorrect_tokens=8, unit="head")
    by_label = dict(zip(own.labels, own.attribution.flatten().tolist(), strict=True))
    for layer in range(2):
        for head in range(4):
            mine = float(theirs.heads[layer, head])
            assert by_label[f"L{layer}H{head}"] == pytest.approx(mine, abs=1e-3, rel=1e-3)
