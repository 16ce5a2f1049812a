"""The canonical parameters of a hooked model: one list for both of TransformerLens' classes.

1. `bridge_parts` and `parts` find the live tensors, block by block.
2. A parameter's name and the head or neuron of its rows or columns follow from its place.
3. Names in the checkpoint come from TransformerLens' own table of each architecture; how a fused
   projection is laid out is found out (`fused`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import torch

from mi_toolkit.core.blocks_on_disk import require_in_memory
from mi_toolkit.core.errors import (
    ModelTypeError,
    UnsupportedModelError,
    WeightError,
    unknown_name,
)
from mi_toolkit.core.head import Head, HeadName, one_or_several
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.tl_compat import checkpoint_path
from mi_toolkit.weights.coordinates import HFPlace, ParameterInfo, ParameterView, Unit, WeightMatrix
from mi_toolkit.weights.parts import MLP, Part, bridge_parts, hooked_parts

OF_MLP = (*MLP, "router", "shared_gate")
"""Names that stay as they are."""

_UNREAD = re.compile(r"\.qkv\.weight$|vision|visual|image|audio|multi_?modal")
"""What no text runs through: a bridge's fused projection, next to the Q, K and V that it was split
into, and what reads pictures and sounds."""

_POSITION_OFFSET = {"OPTForCausalLM": 2}


def weight_matrices(model: HookedModel) -> list[WeightMatrix]:
    """Every parameter of the model that text runs through, in the order of the forward pass.

    Not among them: the bias of an unembedding, and, in a `HookedTransformer`, biases that are all
    zero, which it invents where the checkpoint has none. A parameter that several blocks share is
    one parameter, named after the first of them. Nor are norms of which each head has its own.

    Raises:
        ModelTypeError: the name of a model.
        UnsupportedModelError: a block without Q, K, V, O and an MLP or experts (a recurrent block,
            latent attention), a matrix next to them (a state-space mixer), a weight that is not
            what its module applies (an adapter, a parametrisation, quantisation), or a layout that
            is not known; or the model's blocks are on disk.
    """
    if isinstance(model, str):
        raise ModelTypeError(
            f"Weights are read from a model, not from its name: model=mi.load_model({model!r})."
        )
    require_in_memory(model, "A table of the weights")
    is_bridge = hasattr(model, "original_model")
    parts = _once(bridge_parts(model) if is_bridge else hooked_parts(model))
    found = _matrices(model, parts)
    if is_bridge:
        _require_whole(model, found)
    return found


def _require_whole(model: Any, found: list[WeightMatrix]) -> None:
    """Nothing, where no matrix of the model is left out."""
    live = {id(place.parameter) for matrix in found for place in matrix.live}
    known = {matrix.hf.name for matrix in found if matrix.hf is not None}
    others = [
        name.replace("._original_component", "")
        for name, weight in model.original_model.named_parameters()
        if weight.ndim > 1 and id(weight) not in live
    ]
    left = [name for name in others if name not in known and not _UNREAD.search(name)]
    if left:
        more = f" (and {len(left) - 1} more)" if len(left) > 1 else ""
        raise UnsupportedModelError(
            f"{left[0]}{more} of {model.cfg.model_name} is none of the matrices that are scored: "
            "embeddings, Q, K, V and O, one MLP or experts. A ranking without it would not be of "
            "the whole model."
        )


def _matrices(model: HookedModel, parts: list[Part]) -> list[WeightMatrix]:
    embeddings = [part for part in parts if part.place in ("embed", "unembed")]
    if len(embeddings) == 2 and _is_tied(*(part.live for part in embeddings)):
        # Scored once, with both gradients; where it is two parameters, written to both.
        first, second = embeddings
        same = first.live.parameter is second.live.parameter
        places = (first.live,) if same else (first.live, _flipped(second.live))
        parts.remove(second)
        return [_named(model, part, places if part is first else (part.live,)) for part in parts]
    return [_named(model, part, (part.live,)) for part in parts]


def _once(parts: Iterable[Part]) -> list[Part]:
    """The parts without those that are a parameter of an earlier block."""
    found: dict[object, Part] = {}
    for part in parts:
        last = part.place.rpartition(".")[2]
        key = (id(part.live.parameter), part.expert, last, part.is_bias)
        found.setdefault(key, part)
    return list(found.values())


def _is_tied(embedding: ParameterView, unembedding: ParameterView) -> bool:
    if embedding.parameter is unembedding.parameter:
        return True
    into = embedding.matrix(embedding.parameter.detach())
    out = unembedding.matrix(unembedding.parameter.detach()).mT
    return into.shape == out.shape and torch.equal(into, out)


def _flipped(live: ParameterView) -> ParameterView:
    """An unembedding `[d_model, token]` in the coordinates of the embedding it is tied to."""
    return ParameterView(parameter=live.parameter, arrange=lambda tensor: live.arrange(tensor).mT)


def _named(model: HookedModel, part: Part, places: tuple[ParameterView, ...]) -> WeightMatrix:
    owner, _, last = part.place.rpartition(".")
    block = owner.split(".")
    kind = "b" if part.is_bias else "W"
    if _is_norm(last):
        component, prefix = kind.lower(), f"{part.place}."
    elif last in ("embed", "unembed", "pos_embed"):
        component = {"embed": "W_E", "unembed": "W_U", "pos_embed": "W_pos"}[last]
        prefix = f"{last}."
    else:
        component = f"{kind}_{last if last in OF_MLP else last.upper()}"
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
        expert=_expert_number(part),
    )


def _is_norm(name: str) -> bool:
    return "ln" in name or name.endswith("norm")


def _expert_number(part: Part) -> int | None:
    _, found, after = part.place.partition(".experts.")
    return int(after.partition(".")[0]) if found else None


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


def _hf_place(model: HookedModel, part: Part, n_columns: int) -> HFPlace | None:
    suffix = ".bias" if part.is_bias else ".weight"
    architecture = _architecture(model)
    if not architecture:
        return None  # a HookedTransformer that was made from a config of its own
    owner, _, last = part.place.rpartition(".")
    fused = part.fused
    path = checkpoint_path(model, part.place if fused is None else part.owner or owner)
    if path is None:
        raise UnsupportedModelError(
            f"TransformerLens does not say where {architecture} keeps {part.place}, so its weights "
            "have no Hugging Face coordinates."
        )
    if fused is None:
        return HFPlace(
            name=path + suffix,
            is_vector=part.is_bias or _is_norm(last),
            is_transposed=part.is_transposed,
            group=n_columns,
            stride=n_columns,
            row_offset=_POSITION_OFFSET.get(architecture, 0) if last == "pos_embed" else 0,
        )
    return HFPlace(
        name=f"{path}.{fused.child}" + ("" if fused.is_parameter else suffix),
        is_vector=part.is_bias,
        is_transposed=fused.is_transposed,
        group=fused.outputs.group,
        stride=fused.outputs.stride,
        offset=fused.outputs.offset,
        expert=part.expert,
    )


def _architecture(model: Any) -> str | None:
    """The class of the Hugging Face model; None where there is none."""
    original = getattr(model, "original_model", None)
    if original is None:
        return model.cfg.original_architecture or None
    return type(original).__name__


GROUPS = ("attn", "mlp", "embeddings", "biases", "norms")

Place = TypeVar("Place", bound=ParameterInfo)


def select(
    matrices: Sequence[Place],
    parameters: str | Iterable[str] | None = None,
    *,
    layers: int | Iterable[int] | None = None,
    components: str | Iterable[str] | None = None,
    heads: Iterable[HeadName] | None = None,
) -> list[Place]:
    """The parameters that satisfy every condition given.

    Args:
        matrices: to choose from.
        parameters: names or patterns with `*` (`blocks.1.*`, `*.W_out`), any of which fits; None
            for all matrices of attention and MLP, or, with `components`, for all that these name.
        layers: numbers of blocks: 1 is block 1 alone. None for all.
        components: `W_Q`, `b_in`, …, or a group: `attn`, `mlp`, `embeddings`, `biases`, `norms`.
        heads: only what these query heads own of a parameter, their key and value heads included.

    Raises:
        UnknownNameError: a name, a layer or a component that the model does not have.
        WeightError: no parameter satisfies all of them.
    """
    found = list(matrices)
    if parameters is not None:
        patterns = [parameters] if isinstance(parameters, str) else list(parameters)
        names = [matrix.name for matrix in matrices]
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise unknown_name("parameter", pattern, names)
        found = [m for m in found if any(fnmatchcase(m.name, pattern) for pattern in patterns)]
    if components is not None:
        wanted = {components} if isinstance(components, str) else set(components)
        known = dict.fromkeys([*GROUPS, *(matrix.component for matrix in matrices)])
        for component in sorted(wanted - set(known)):
            raise unknown_name("component", component, known)
        found = [matrix for matrix in found if {matrix.component, matrix.group} & wanted]
    if parameters is None and components is None:
        found = [matrix for matrix in found if matrix.group in ("attn", "mlp")]
    if layers is not None:
        numbers = {layers} if isinstance(layers, int) else set(layers)
        n_layers = 1 + max(m.layer for m in matrices if m.layer is not None)
        for layer in sorted(numbers - set(range(n_layers))):
            raise unknown_name("layer", str(layer), map(str, range(n_layers)))
        found = [matrix for matrix in found if matrix.layer in numbers]
    if heads is not None:
        found = _of_heads(matrices, found, heads)
    if not found:
        raise WeightError(
            f"No parameter satisfies parameters={parameters}, layers={layers}, "
            f"components={components} and heads={heads} at once."
        )
    return found


def _of_heads(
    matrices: Sequence[Place], chosen: Sequence[Place], heads: Iterable[HeadName]
) -> list[Place]:
    """The parameters that these heads own a part of, each with the heads that are meant."""
    asked = {Head.of(head) for head in one_or_several(heads)}
    n_layers = 1 + max(m.layer for m in matrices if m.layer is not None)
    n_heads = max((m.n_units for m in matrices if m.unit == "head"), default=0)
    for head in sorted(asked):
        head.check("The model", n_layers, n_heads)
    found = []
    for matrix in chosen:
        if matrix.unit in ("head", "kv_head"):
            shared = n_heads // matrix.n_units
            owners = {head.head // shared for head in asked if head.layer == matrix.layer}
            if owners:
                found.append(replace(matrix, kept=tuple(sorted(owners))))
    return found
