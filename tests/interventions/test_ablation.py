"""Ablation against weights zeroed by hand, plain arithmetic, and its own promises."""

from __future__ import annotations

import pytest
import torch

import mi_toolkit as mi
from mi_toolkit.core.errors import HookError, PromptError, UnknownNameError, UnsupportedModelError
from mi_toolkit.core.head import Head
from mi_toolkit.core.model import z_hook
from mi_toolkit.core.passes import logits_and_activations, patterns_of
from mi_toolkit.core.tokens import from_sequences
from mi_toolkit.interventions.ablation import KINDS, ablating, in_place, mean_outputs
from mi_toolkit.interventions.components import Component, checked_components, targets_of
from tests.families.claims import subject_of
from tests.families.zoo import ROWS
from tests.hooked_transformer import (
    HookedTransformer,
    HookedTransformerConfig,
    needs_hooked_transformer,
)
from tests.models_here import TOYS, loaded, untouched

IDS = torch.randint(1, 900, (2, 24), generator=torch.Generator().manual_seed(0))
BATCH = from_sequences(IDS.tolist(), 0)

OUTPUT_PROJECTION = {
    "toy-gpt2": ("transformer.h.{}.attn.c_proj.weight", 0),
    "toy-gpt-neo": ("transformer.h.{}.attn.attention.out_proj.weight", 1),
    "toy-pythia": ("gpt_neox.layers.{}.attention.dense.weight", 1),
    "toy-opt": ("model.decoder.layers.{}.self_attn.out_proj.weight", 1),
    "toy-qwen2": ("model.layers.{}.self_attn.o_proj.weight", 1),
    "smollm2-135m-instruct": ("model.layers.{}.self_attn.o_proj.weight", 1),
}
SMOLLM2 = pytest.param("smollm2-135m-instruct", marks=pytest.mark.smollm2)

MLP_PROJECTION = {
    "toy-gpt2": ("transformer.h.{}.mlp.c_proj.weight", 0),
    "toy-gpt-neo": ("transformer.h.{}.mlp.c_proj.weight", 1),
    "toy-pythia": ("gpt_neox.layers.{}.mlp.dense_4h_to_h.weight", 1),
    "toy-opt": ("model.decoder.layers.{}.fc2.weight", 1),
    "toy-qwen2": ("model.layers.{}.mlp.down_proj.weight", 1),
}


def outputs(model, ids: torch.Tensor, layer: int) -> torch.Tensor:
    seen: list[torch.Tensor] = []
    with model.hooks(fwd_hooks=[(z_hook(layer), lambda z, hook: seen.append(z.clone()))]):
        model(ids)
    return seen[0]


@pytest.mark.parametrize("name", [*TOYS, SMOLLM2])
def test_zero_ablation_equals_zeroing_the_heads_part_of_the_output_projection(name: str) -> None:
    model, hf_model = loaded(name), untouched(name)
    pattern, dim = OUTPUT_PROJECTION[name]
    d_head = model.cfg.d_head
    for head in (Head(1, 2), Head(3, 0)):
        weight = hf_model.get_parameter(pattern.format(head.layer))
        with torch.no_grad():
            weight.narrow(dim, head.head * d_head, d_head).zero_()
    with torch.no_grad(), ablating(model, ["L1H2", (3, 0)]):
        ablated = model(IDS)
    with torch.no_grad():
        torch.testing.assert_close(ablated, hf_model(IDS).logits, atol=2e-4, rtol=1e-4)
    assert not torch.allclose(ablated, model(IDS), atol=1e-2)


@pytest.mark.parametrize("name", TOYS)
def test_zero_ablation_of_neurons_and_whole_parts_equals_zeroing_what_reads_them(name: str) -> None:
    model, hf_model = loaded(name), untouched(name)
    (mlp, neuron_dim), (attention, _) = MLP_PROJECTION[name], OUTPUT_PROJECTION[name]
    with torch.no_grad():
        for neuron in (3, 300):
            hf_model.get_parameter(mlp.format(1)).narrow(neuron_dim, neuron, 1).zero_()
        hf_model.get_parameter(attention.format(0)).zero_()
        hf_model.get_parameter(mlp.format(2)).zero_()
        for whole in (attention, mlp):
            hf_model.get_parameter(whole.format(3)).zero_()
        expected = hf_model(IDS).logits
        with ablating(model, ["L1N3", "L1N300", "L0.attn", "L2.mlp", "L3"]):
            ablated = model(IDS)
        one_by_one = [*((0, head) for head in range(4)), "L1N3", "L1N300", "L2.mlp", "L3.attn"]
        one_by_one += [f"L3N{neuron}" for neuron in range(model.cfg.d_mlp)]
        with ablating(model, one_by_one):
            added_up = model(IDS)
    torch.testing.assert_close(ablated, expected, atol=2e-4, rtol=1e-4)
    assert torch.equal(ablated, added_up)


def test_a_mean_ablated_mlp_writes_its_mean_and_a_resampled_one_what_it_wrote_elsewhere() -> None:
    model = loaded("toy-opt")
    written: list[torch.Tensor] = []

    def mlp_out(*components: str, how: str = "zero", reference=None) -> torch.Tensor:
        keep = [("blocks.1.hook_mlp_out", lambda out, hook: written.append(out.clone()))]
        with ablating(model, components, how, reference), model.hooks(fwd_hooks=keep):
            model(IDS)
        return written[-1].view(2, 24, -1)

    clean = mlp_out()
    reference = from_sequences(IDS.tolist(), None)
    averaged = mlp_out("L1.mlp", how="mean", reference=reference)
    mean = clean.mean(dim=(0, 1)).expand(2, 24, -1)
    torch.testing.assert_close(averaged, mean, atol=1e-4, rtol=1e-4)
    resampled = mlp_out("L1.mlp", how="resample")
    torch.testing.assert_close(resampled, clean.flip(0), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", TOYS)
def test_pattern_preserving_an_mlp_keeps_later_patterns_and_takes_its_output(name: str) -> None:
    model = loaded(name)
    clean = patterns_of(model, IDS, [2])[2]
    seen: dict[str, torch.Tensor] = {}
    keep = [
        (hook, lambda value, hook, name=hook: seen.update({name: value.clone()}))
        for hook in ("blocks.1.mlp.hook_post", "blocks.2.attn.hook_v")
    ]
    with (
        torch.no_grad(),
        ablating(model, ["L1.mlp"], "pattern_preserving", IDS),
        model.hooks(fwd_hooks=keep),
    ):
        later = outputs(model, IDS, 2)
    assert not seen["blocks.1.mlp.hook_post"].any()
    v = seen["blocks.2.attn.hook_v"]
    value = v.repeat_interleave(later.shape[2] // v.shape[2], dim=2)
    expected = torch.einsum("bhqk,bkhd->bqhd", clean, value)
    torch.testing.assert_close(later, expected, atol=1e-5, rtol=1e-4)


def test_components_print_as_they_are_written() -> None:
    names = ["L5H1", "L5N300", "L5.attn", "L5.mlp", "L5"]
    assert [str(Component.of(name)) for name in names] == names
    written = ["5.1", " l5n300", "L5attn", "a5.MLP", "l5"]
    assert [str(Component.of(name)) for name in written] == names
    assert Component.of(Head(5, 1)) == Component.of((5, 1)) == Component.of("a5.h1")
    model = loaded("toy-gpt2")
    assert checked_components(model, (1, 2)) == (Component(1, "head", 2),)
    assert checked_components(model, ["L1N2", "L1H2", (0, 3), "L1H2"]) == (
        Component(0, "head", 3),
        Component(1, "head", 2),
        Component(1, "neuron", 2),
    )


@pytest.mark.parametrize("how", KINDS)
def test_nothing_is_left_behind_and_nothing_ablated_changes_nothing(how: str) -> None:
    model = loaded("toy-pythia")
    before = model(IDS)
    hooks = {name: len(point._forward_hooks) for name, point in model.hook_dict.items()}
    with ablating(model, [], how, reference=IDS):
        assert torch.equal(model(IDS), before)
    with ablating(model, [(0, 1), "L1.mlp"], how, reference=IDS):
        changed = model(IDS)
    with pytest.raises(KeyboardInterrupt), ablating(model, [(0, 1)], how, reference=IDS):
        raise KeyboardInterrupt
    assert {name: len(point._forward_hooks) for name, point in model.hook_dict.items()} == hooks
    assert torch.equal(model(IDS), before)
    # On its own reference a resampled head is what it was; every other kind changes the logits.
    assert torch.allclose(changed, before, atol=1e-5) == (how == "resample")


@pytest.mark.parametrize("name", TOYS)
def test_contexts_nest(name: str) -> None:
    model = loaded(name)
    with ablating(model, ["L0H0", "L1H1"]):
        both = model(IDS)
    with ablating(model, ["L0H0"]):
        with ablating(model, ["L1H1"]):
            nested = model(IDS)
        outer = model(IDS)
    with ablating(model, ["L0H0"]):
        alone = model(IDS)
    assert torch.equal(both, nested)
    assert torch.equal(outer, alone)


def test_a_mean_ablated_head_writes_its_mean_over_the_reference() -> None:
    model = loaded("toy-qwen2")
    reference = from_sequences([[0, 5, 6, 7], [0, 9, 8]], 0)
    z = [outputs(model, reference.sequence(index)[None], 2)[0, 1:] for index in range(2)]
    mean = torch.cat(z).mean(dim=0)
    over_reference = mean_outputs(model, [z_hook(2)], reference)[z_hook(2)]
    torch.testing.assert_close(over_reference, mean, atol=1e-5, rtol=1e-4)
    with ablating(model, [(2, 3)], "mean", reference):
        ablated = outputs(model, IDS, 2)
    assert torch.allclose(ablated[:, :, 3], mean[3].expand(2, 24, -1), atol=1e-5)
    assert torch.equal(ablated[:, :, :3], outputs(model, IDS, 2)[:, :, :3])


def test_a_resampled_head_writes_what_it_wrote_on_the_other_sequence() -> None:
    model = loaded("toy-gpt2")
    clean = outputs(model, IDS, 1)
    with ablating(model, ["L1H0"], "resample"):
        ablated = outputs(model, IDS, 1)
    assert torch.equal(ablated[0, :, 0], clean[1, :, 0])
    assert torch.equal(ablated[1, :, 0], clean[0, :, 0])
    assert torch.equal(ablated[:, :, 1:], clean[:, :, 1:])
    with ablating(model, ["L1H0"], "resample", reference=IDS[1]):
        from_reference = outputs(model, IDS[:1], 1)
    torch.testing.assert_close(from_reference[0, :, 0], clean[1, :, 0], atol=1e-5, rtol=1e-4)
    three = torch.cat([IDS, IDS[:1].roll(3, dims=1)])  # of three the next is not the one before
    clean = outputs(model, three, 1)
    with ablating(model, ["L1H0"], "resample"):
        ablated = outputs(model, three, 1)
    assert torch.equal(ablated[:, :, 0], clean[[1, 2, 0], :, 0])


@pytest.mark.parametrize("reference", [None, IDS])
def test_functions_make_batches_of_their_own_so_rows_are_not_resampled_from_rows_in_them(
    reference: torch.Tensor | None,
) -> None:
    model = loaded("toy-gpt2")
    with ablating(model, ["L1H0"], "resample", reference):
        model(IDS)
        for function in (mi.classify_heads, lambda m, ids: mi.record(m, ids, "resid_post")):
            with pytest.raises(PromptError, match="give ablating a reference of one sequence"):
                function(model, IDS)
    with ablating(model, ["L1H0"], "resample", IDS[1]):
        one, other = (mi.record(model, IDS, "resid_post", batch_size=n) for n in (1, 2))
    assert torch.allclose(one["resid_post", 3], other["resid_post", 3], atol=1e-4)


@pytest.mark.parametrize("name", TOYS)
def test_pattern_preserving_keeps_later_patterns_and_takes_the_output(name: str) -> None:
    model = loaded(name)
    clean = patterns_of(model, IDS, [2])[2]
    values: list[torch.Tensor] = []
    keep = [("blocks.2.attn.hook_v", lambda v, hook: values.append(v.clone()))]
    with ablating(model, ["L1H1"], "pattern_preserving", reference=IDS):
        ablated = outputs(model, IDS, 1)
        with model.hooks(fwd_hooks=keep):
            later = outputs(model, IDS, 2)
    assert not ablated[:, :, 1].any()
    value = values[0].repeat_interleave(later.shape[2] // values[0].shape[2], dim=2)
    expected = torch.einsum("bhqk,bkhd->bqhd", clean, value)
    torch.testing.assert_close(later, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        ((["L0H9"],), UnknownNameError, "has no head L0H9: its layers are 0 to 3 and its heads 0"),
        ((["L9H0"],), UnknownNameError, "has no head L9H0"),
        ((["L0N512"],), UnknownNameError, "has no neuron L0N512: .* its neurons 0 to 511"),
        ((["L4.mlp"],), UnknownNameError, r"has no layer L4.mlp: its layers are 0 to 3\."),
        ((["L4"],), UnknownNameError, r"has no layer L4: "),
        ((["mlp"],), UnknownNameError, "'mlp' names no part of a model. Write 'L5H1' or"),
        ((["L0H0"], "men"), UnknownNameError, "Did you mean 'mean'"),
        ((["L0H0"], "pattern_preserving"), PromptError, "pass the ids that will run as reference="),
    ],
)
def test_a_mistaken_call_says_what_to_do(call, error, message: str) -> None:
    with pytest.raises(error, match=message), ablating(loaded("toy-gpt2"), *call):
        pytest.fail("nothing should run")


def test_an_ablation_that_never_happened_is_an_error() -> None:
    message = r"blocks.2.attn.hook_z .* did not fire inside ablating.* so heads \[0\] of layer 2"
    with pytest.raises(HookError, match=message), ablating(loaded("toy-gpt2"), [(2, 0)]):
        pass
    message = r"blocks.2.mlp.hook_post .* did not fire .* 512 neurons of layer 2 were not ablated"
    with pytest.raises(HookError, match=message), ablating(loaded("toy-gpt2"), "L2.mlp"):
        pass


@pytest.mark.parametrize(
    ("how", "reference", "message"),
    [
        ("resample", None, "one sequence ran: run a batch, or pass reference="),
        ("resample", IDS[:, :5], "but 1 of 24 ran"),
        ("pattern_preserving", IDS, r"of 2 × 24 tokens, but 1 × 24 ran"),
    ],
)
def test_a_reference_that_does_not_fit_what_runs_is_an_error(how, reference, message: str) -> None:
    model = loaded("toy-gpt2")
    with pytest.raises(PromptError, match=message), ablating(model, [(0, 0)], how, reference):
        model(IDS[:1])


@pytest.mark.parametrize("how", ["mean", "resample", "pattern_preserving"])
def test_what_a_nested_ablation_takes_from_a_reference_is_clean(how: str) -> None:
    model = loaded("toy-gpt2")
    other = IDS if how == "pattern_preserving" else IDS.flip(0)
    with ablating(model, ["L0H0", "L2H1"], how, other):
        both = model(IDS)
    # Of 2 × 24 tokens, the outer reference fits no other batch: it must not reach the inner one's.
    with ablating(model, ["L0H0"], how, other), ablating(model, ["L2H1"], how, other):
        nested = model(IDS)
    torch.testing.assert_close(nested, both, atol=1e-5, rtol=1e-4)
    with ablating(model, ["L0H0"], "resample", other), ablating(model, ["L2H1"], "mean"):
        model(IDS)


@pytest.mark.parametrize("how", KINDS)
@pytest.mark.parametrize("name", TOYS)
def test_rows_of_a_batch_with_heads_of_their_own_equal_one_ablation_after_the_other(
    name: str, how: str
) -> None:
    model, ids = loaded(name), IDS[:1]
    rows: list[tuple[Component | Head, ...]] = [
        (Head(1, 0),),
        (),
        (Head(1, 3), Component.of("L2.mlp")),
        (Head(0, 2), Component.of("L1N5"), Component.of("L3")),
    ]
    targets = targets_of(model, rows)
    reference = from_sequences(IDS[:1].tolist(), 0)
    if how == "resample":
        reference = from_sequences(IDS[1:].tolist(), 0)
    hooks = KINDS[how](model, targets, reference)(targets)
    with torch.no_grad(), in_place(model, targets, hooks):
        together = model(ids.expand(len(rows), -1))
    for row, heads in enumerate(rows):
        with torch.no_grad(), ablating(model, heads, how, reference):
            alone = model(ids)[0]
        torch.testing.assert_close(together[row], alone, atol=2e-5, rtol=1e-5)


def test_neurons_are_those_of_the_weights_not_of_a_config() -> None:
    """OPT with an `ffn_dim` of 48 at width 32: a bridge's config says 128."""
    subject = subject_of(ROWS["opt"])
    with ablating(subject.model, ["L0N47"]):
        found = logits_and_activations(subject.model, subject.ids, [], lambda *_: None)
    weight = subject.reference.model.decoder.layers[0].fc2.weight
    with torch.no_grad():
        weight[:, 47] = 0
        wanted = subject.reference(subject.ids, use_cache=False).logits
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    with pytest.raises(UnknownNameError, match=r"no neuron L0N48: .* neurons 0 to 47"):
        ablating(subject.model, ["L0N48"]).__enter__()


@needs_hooked_transformer
@pytest.mark.filterwarnings("ignore:HookedTransformer is deprecated:DeprecationWarning")
def test_a_mixture_of_experts_of_ones_own_has_no_neurons_to_ablate() -> None:
    config = HookedTransformerConfig(
        n_layers=1,
        d_model=32,
        d_head=8,
        n_ctx=32,
        d_vocab=50,
        act_fn="relu",
        num_experts=2,
        experts_per_token=1,
        gated_mlp=True,
    )
    model = HookedTransformer(config)
    with pytest.raises(UnsupportedModelError, match="neurons"):
        ablating(model, ["L0.mlp"]).__enter__()
