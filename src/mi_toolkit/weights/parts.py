"""The live tensors of a model, by place: where both of TransformerLens' classes keep them.

A `HookedTransformer` has them as parameters; under grouped queries as `_W_K`, as `W_K` is an
expanded copy. What a `TransformerBridge` has is in `bridge_parts`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from mi_toolkit.core.effective_weights import require_plain
from mi_toolkit.core.errors import UnsupportedModelError
from mi_toolkit.core.tl_compat import block_template, checkpoint_path
from mi_toolkit.weights.coordinates import ParameterView, Tap
from mi_toolkit.weights.fused import FusedPlace, fused_places

ARCHITECTURES_OF_CONV1D = frozenset({"GPT2LMHeadModel"})
"""Architectures whose projections are Conv1D, `[in, out]`, in the checkpoint."""

PROJECTIONS = ("q", "k", "v", "o")
MLP = ("in", "gate", "out")


@dataclass(frozen=True, kw_only=True)
class Part:
    """A live tensor and its place, before it has its canonical name."""

    place: str
    """TransformerLens' path of the module: `blocks.5.attn.q`, `blocks.5.mlp.experts.3.in`."""

    is_bias: bool
    live: ParameterView
    is_transposed: bool
    """Whether the checkpoint has it as `[out, in]`."""

    tap: Tap | None = None
    fused: FusedPlace | None = None
    """Where it lies in a child of the module of the checkpoint that `owner` is, if not alone."""

    owner: str | None = None
    """TransformerLens' path of that module, if not the one above `place`."""

    expert: int | None = None
    """Which expert of a stack it is."""


def _straight(tensor: Tensor) -> Tensor:
    return tensor


def turned(tensor: Tensor) -> Tensor:
    """`[in, out]` of a weight `[out, in]`."""
    return tensor.mT


def row(tensor: Tensor) -> Tensor:
    """A vector as a matrix of one row."""
    return tensor.view(1, -1)


def _by_head(tensor: Tensor) -> Tensor:
    return tensor.permute(1, 0, 2)


def _heads_as_rows(tensor: Tensor) -> Tensor:
    return tensor.view(-1, tensor.shape[-1])


def _behind(rows: int) -> Callable[[Tensor], Tensor]:
    return lambda tensor: tensor[rows:]


def with_places(parts: Sequence[Part], places: dict[str, FusedPlace]) -> list[Part]:
    """Parts with their places; without biases that the checkpoint does not have."""
    known = [(part, places.get(part.place.rpartition(".")[2])) for part in parts]
    return [
        replace(part, fused=place)
        for part, place in known
        if place is None or place.has_bias or not part.is_bias
    ]


def child_of(owner: Any, name: str) -> Any:
    """A submodule, or None: some bridges raise other errors than `AttributeError`."""
    return dict(owner.named_children()).get(name, getattr(owner, name, None)) if owner else None


def module_parts(model: Any, module: Any, place: str) -> Iterator[Part]:
    """The weight of a module, and its bias where it has one.

    Raises:
        UnsupportedModelError: the weight is not what the module applies.
    """
    name = place.rpartition(".")[2]
    is_transposed = require_plain(model, place, module) == "out_in"
    weight = module.weight
    offset = int(getattr(module, "offset", 0) or 0)
    if weight.ndim == 1:
        arrange: Callable[[Tensor], Tensor] = row
    elif is_transposed:
        arrange = turned
    else:
        arrange = _behind(offset) if offset else _straight
    yield Part(
        place=place,
        is_bias=False,
        live=ParameterView(parameter=weight, arrange=arrange),
        is_transposed=is_transposed,
        tap=None if weight.ndim == 1 or name in ("embed", "pos_embed") else Tap(module=module),
    )
    bias = getattr(module, "bias", None)
    if isinstance(bias, nn.Parameter) and place != "unembed":
        yield Part(
            place=place,
            is_bias=True,
            live=ParameterView(parameter=bias, arrange=row),
            is_transposed=False,
        )


def hooked_parts(model: Any) -> Iterator[Part]:
    """The live tensors of a `HookedTransformer`, in the order of the forward pass.

    Raises:
        UnsupportedModelError: a block lacks one of the matrices that every block must have.
    """
    architecture = model.cfg.original_architecture
    is_linear = architecture not in ARCHITECTURES_OF_CONV1D
    fused = _fused_in_hooked(model, is_linear) if architecture else {}
    yield Part(
        place="embed",
        is_bias=False,
        live=ParameterView(parameter=model.embed.W_E, arrange=_straight),
        is_transposed=False,
    )
    if hasattr(model, "pos_embed"):
        yield Part(
            place="pos_embed",
            is_bias=False,
            live=ParameterView(parameter=model.pos_embed.W_pos, arrange=_straight),
            is_transposed=False,
        )
    for layer, block in enumerate(model.blocks):
        at = f"blocks.{layer}"
        yield from _hooked_norm(block, "ln1", f"{at}.ln1")
        projections = [
            part
            for name in PROJECTIONS
            for part in _hooked_pair(model, block.attn, f"{at}.attn.{name}", is_linear)
        ]
        yield from with_places(projections, fused)
        for name in ("q_norm", "k_norm"):
            yield from _hooked_norm(block.attn, name, f"{at}.attn.{name}")
        for name in ("ln1_post", "ln2"):
            yield from _hooked_norm(block, name, f"{at}.{name}")
        mlp = child_of(block, "mlp")
        if mlp is not None:  # none in a model of attention alone
            names = [name for name in MLP if name != "gate" or model.cfg.gated_mlp]
            matrices = [
                part
                for name in names
                for part in _hooked_pair(model, mlp, f"{at}.mlp.{name}", is_linear)
            ]
            yield from with_places(matrices, fused)
        yield from _hooked_norm(block, "ln2_post", f"{at}.ln2_post")
    yield from _hooked_norm(model, "ln_final", "ln_final")
    yield Part(
        place="unembed",
        is_bias=False,
        live=ParameterView(parameter=model.unembed.W_U, arrange=_straight),
        is_transposed=True,
        tap=Tap(module=model.unembed),
    )


def _hooked_tap(owner: Any, name: str) -> Tap:
    """Where the input of a `HookedTransformer`'s matrix shows: it has no module of its own."""
    if name == "O":
        return Tap(module=owner.hook_z, argument=None)
    if name == "out":
        return Tap(module=owner.hook_post, argument=None)
    arguments = {"Q": "query_input", "K": "key_input", "V": "value_input"}
    return Tap(module=owner, argument=arguments.get(name, 0))


def _hooked_norm(owner: Any, name: str, place: str) -> Iterator[Part]:
    for part in ("w", "b"):
        parameter = getattr(child_of(owner, name), "_parameters", {}).get(part)
        if parameter is not None:
            live = ParameterView(parameter=parameter, arrange=row)
            yield Part(place=place, is_bias=part == "b", live=live, is_transposed=False)


def _fused_in_hooked(model: Any, is_linear: bool) -> dict[str, FusedPlace]:
    """Where the checkpoint of a `HookedTransformer` has the matrices that it fuses."""
    cfg = model.cfg
    found: dict[str, FusedPlace] = {}
    n_shared = int(cfg.n_key_value_heads or cfg.n_heads)
    sizes = {
        ("attn", "split_qkv_matrix", ("q", "k", "v")): cfg.d_head * (cfg.n_heads + 2 * n_shared),
        ("mlp", "split_gate_up_matrix", ("gate", "in")): 2 * (cfg.d_mlp or 0),
    }
    for (part, splitter, names), n_outputs in sizes.items():
        template = block_template(model, part)
        split = getattr(template, splitter, None)
        if split is None:
            continue
        path = checkpoint_path(model, f"blocks.0.{part}.qkv") if part == "attn" else None
        child = path.rpartition(".")[2] if path else getattr(template, "fused_attr", "gate_up_proj")
        component = nn.Module()
        kind = nn.Linear if is_linear else Conv1D
        sides = (cfg.d_model, n_outputs) if is_linear else (n_outputs, cfg.d_model)
        component.add_module(child, kind(*sides))
        found |= fused_places(component, split, names)
    return found


def _hooked_pair(model: Any, owner: Any, place: str, is_linear: bool) -> Iterator[Part]:
    own, last = owner._parameters, place.rpartition(".")[2]
    name = last if last in MLP else last.upper()
    weight = own.get(f"_W_{name}", own.get(f"W_{name}"))
    if not isinstance(weight, nn.Parameter) or not weight.is_floating_point():
        raise UnsupportedModelError(
            f"{place} of {model.cfg.model_name} has no plain parameter W_{name} in its "
            f"{type(owner).__name__}: it is parametrised (take that off with "
            "torch.nn.utils.parametrize.remove_parametrizations), quantised, or a mixture of "
            "experts (load that as a bridge)."
        )
    by_head = _heads_as_rows if name == "O" else _by_head
    arrange = by_head if weight.ndim == 3 else _straight
    live = ParameterView(parameter=weight, arrange=arrange)
    yield Part(
        place=place, is_bias=False, live=live, is_transposed=is_linear, tap=_hooked_tap(owner, name)
    )
    bias = own.get(f"_b_{name}", own.get(f"b_{name}"))
    if bias is not None and bool(bias.any()):
        live = ParameterView(parameter=bias, arrange=row)
        yield Part(place=place, is_bias=True, live=live, is_transposed=False)
