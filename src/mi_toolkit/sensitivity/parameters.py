"""The canonical parameters of a hooked model: one list for both of TransformerLens' classes.

1. `parts` finds the live tensors, block by block.
2. A parameter's name and the head or neuron of its rows or columns follow from its place.
3. Names in the checkpoint come from TransformerLens' own table of each architecture; how a fused
   projection is laid out is in the two sets below.
"""

from __future__ import annotations

from typing import Any

import torch

from mi_toolkit.errors import UnsupportedModelError
from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.sensitivity.coordinates import HFPlace, Live, Unit, WeightMatrix
from mi_toolkit.sensitivity.parts import CONV1D, MLP, Part, bridge_parts, hooked_parts
from mi_toolkit.transformer_lens_door import checkpoint_path

FUSED_PER_HEAD = frozenset({"GPTNeoXForCausalLM", "BloomForCausalLM"})
"""Architectures whose fused QKV goes head by head: q, k and v of head 0, then of head 1."""

FUSED_IN_A_ROW = frozenset({"GPT2LMHeadModel"})
"""Architectures whose fused QKV has all of Q, then all of K, then all of V."""

_POSITION_OFFSET = {"OPTForCausalLM": 2}


def weight_matrices(model: HookedModel) -> list[WeightMatrix]:
    """Every parameter of the model that text runs through, in the order of the forward pass.

    Not among them: the bias of an unembedding, and, in a `HookedTransformer`, biases that are all
    zero, which it invents where the checkpoint has none.

    Raises:
        UnsupportedModelError: a block without separate Q, K, V, O and MLP matrices (a mixture of
            experts, a recurrent block), or a fused layout that is not known.
    """
    is_bridge = hasattr(model, "original_model")
    parts = list(bridge_parts(model) if is_bridge else hooked_parts(model))
    embeddings = [part for part in parts if part.place in ("embed", "unembed")]
    if len(embeddings) == 2 and _is_tied(*(part.live for part in embeddings)):
        # Scored once, with both gradients; where it is two parameters, written to both.
        first, second = embeddings
        same = first.live.parameter is second.live.parameter
        places = (first.live,) if same else (first.live, _flipped(second.live))
        parts.remove(second)
        return [_named(model, part, places if part is first else (part.live,)) for part in parts]
    return [_named(model, part, (part.live,)) for part in parts]


def _is_tied(embedding: Live, unembedding: Live) -> bool:
    if embedding.parameter is unembedding.parameter:
        return True
    into = embedding.matrix(embedding.parameter.detach())
    out = unembedding.matrix(unembedding.parameter.detach()).mT
    return into.shape == out.shape and torch.equal(into, out)


def _flipped(live: Live) -> Live:
    """An unembedding `[d_model, token]` in the coordinates of the embedding it is tied to."""
    return Live(parameter=live.parameter, arrange=lambda tensor: live.arrange(tensor).mT)


def _named(model: HookedModel, part: Part, places: tuple[Live, ...]) -> WeightMatrix:
    owner, _, last = part.place.rpartition(".")
    block = owner.split(".")
    kind = "b" if part.is_bias else "W"
    if "ln" in last:
        component, prefix = kind.lower(), f"{part.place}."
    elif last in ("embed", "unembed", "pos_embed"):
        component = {"embed": "W_E", "unembed": "W_U", "pos_embed": "W_pos"}[last]
        prefix = f"{last}."
    else:
        component = f"{kind}_{last if last in MLP else last.upper()}"
        prefix = f"{owner}."
    shape = places[0].matrix(places[0].parameter.detach()).shape
    unit, axis, size = _unit(model, component, shape[1])
    return WeightMatrix(
        name=prefix + component,
        layer=int(block[1]) if len(block) > 1 else None,
        component=component,
        shape=(shape[0], shape[1]),
        live=places,
        hf=_hf_place(model, part, shape[1]),
        tap=part.tap,
        unit=unit,
        unit_axis=axis,
        unit_size=size,
    )


def _unit(model: HookedModel, component: str, n_columns: int) -> tuple[Unit | None, int, int]:
    """What a parameter's rows or columns belong to, their axis, and how many belong to one."""
    d_head = int(model.cfg.d_head)
    if component in ("W_Q", "b_Q"):
        return "head", 1, d_head
    if component in ("W_K", "W_V", "b_K", "b_V"):
        shared = n_columns // d_head < model.cfg.n_heads
        return ("kv_head" if shared else "head"), 1, d_head
    if component == "W_O":
        return "head", 0, d_head
    if component in ("W_in", "W_gate", "b_in", "b_gate"):
        return "neuron", 1, 1
    return ("neuron", 0, 1) if component == "W_out" else (None, 1, 1)


def _hf_place(model: HookedModel, part: Part, n_columns: int) -> HFPlace:
    suffix = ".bias" if part.is_bias else ".weight"
    architecture = _architecture(model)
    owner, _, last = part.place.rpartition(".")
    fused = checkpoint_path(model, f"{owner}.qkv") if last in ("q", "k", "v") else None
    if fused is None:
        path = checkpoint_path(model, part.place)
        if path is None:
            raise UnsupportedModelError(
                f"TransformerLens does not say where {architecture} keeps {part.place}, so its "
                "weights have no Hugging Face coordinates."
            )
        return HFPlace(
            name=path + suffix,
            is_vector=part.is_bias or "ln" in last,
            is_transposed=part.is_transposed,
            group=n_columns,
            stride=n_columns,
            row_offset=_POSITION_OFFSET.get(architecture, 0) if last == "pos_embed" else 0,
        )
    number, d_head = "qkv".index(last), int(model.cfg.d_head)
    if architecture in FUSED_PER_HEAD:
        group, stride, offset = d_head, 3 * d_head, number * d_head
    elif architecture in FUSED_IN_A_ROW:
        group, stride, offset = n_columns, n_columns, number * n_columns
    else:
        raise UnsupportedModelError(
            f"The layout of the fused {fused} of {architecture} is not known, so its weights have "
            f"no Hugging Face coordinates. Known: {', '.join(FUSED_IN_A_ROW | FUSED_PER_HEAD)}."
        )
    return HFPlace(
        name=fused + suffix,
        is_vector=part.is_bias,
        is_transposed=architecture not in CONV1D,
        group=group,
        stride=stride,
        offset=offset,
    )


def _architecture(model: Any) -> str:
    original = getattr(model, "original_model", None)
    return type(original).__name__ if original else str(model.cfg.original_architecture)
