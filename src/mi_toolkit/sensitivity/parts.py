"""The live tensors of a model, by place: where both of TransformerLens' classes keep them.

1. `TransformerBridge`: the modules under `blocks.5.attn.q` and the like hold the live weights. The
   fused projection that they were split from stays beside them, and nothing reads it any more.
2. `HookedTransformer`: the parameters themselves; under grouped queries `_W_K`, as `W_K` is an
   expanded copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mi_toolkit.errors import UnsupportedModelError
from mi_toolkit.sensitivity.coordinates import Live, Tap

CONV1D = frozenset({"GPT2LMHeadModel"})
"""Architectures whose projections are Conv1D, `[in, out]`, in the checkpoint."""

PROJECTIONS = ("q", "k", "v", "o")
MLP = ("in", "gate", "out")


@dataclass(frozen=True, kw_only=True)
class Part:
    """A live tensor and its place, before it has its canonical name."""

    place: str
    """TransformerLens' path of the module: `blocks.5.attn.q`."""

    is_bias: bool
    live: Live
    is_transposed: bool
    """Whether the checkpoint has it as `[out, in]`."""

    tap: Tap | None = None


def _straight(tensor: Tensor) -> Tensor:
    return tensor


def _turned(tensor: Tensor) -> Tensor:
    return tensor.mT


def _row(tensor: Tensor) -> Tensor:
    return tensor.view(1, -1)


def _by_head(tensor: Tensor) -> Tensor:
    return tensor.permute(1, 0, 2)


def _heads_as_rows(tensor: Tensor) -> Tensor:
    return tensor.view(-1, tensor.shape[-1])


def _behind(rows: int) -> Callable[[Tensor], Tensor]:
    return lambda tensor: tensor[rows:]


def bridge_parts(model: Any) -> Iterator[Part]:
    """The live tensors of a `TransformerBridge`, in the order of the forward pass.

    Raises:
        UnsupportedModelError: a block lacks one of the matrices that every block must have.
    """
    yield from _bridge_module(model, "embed")
    yield from _bridge_module(model, "pos_embed")
    for layer, block in enumerate(model.blocks):
        for path in ("ln1", "attn", "ln2", "mlp"):
            if path.startswith("ln"):
                yield from _bridge_module(block, path, f"blocks.{layer}.")
                continue
            names = PROJECTIONS if path == "attn" else MLP
            owner = _child(block, path)
            found = [
                part
                for name in names
                for part in _bridge_module(owner, name, f"blocks.{layer}.{path}.")
            ]
            wanted = {name for name in names if name != "gate"}
            _require_all(model, f"blocks.{layer}.{path}", wanted, found)
            yield from found
    yield from _bridge_module(model, "ln_final")
    yield from _bridge_module(model, "unembed")


def _child(owner: Any, name: str) -> Any:
    """A submodule, or None: some bridges raise other errors than `AttributeError`."""
    return dict(owner.named_children()).get(name, getattr(owner, name, None)) if owner else None


def _bridge_module(owner: Any, name: str, prefix: str = "") -> Iterator[Part]:
    module = _child(owner, name)
    while getattr(module, "original_component", None) is not None:
        module = module.original_component  # a wrapper around what computes
    weight = getattr(module, "weight", None)
    if not isinstance(weight, nn.Parameter):
        return
    place = prefix + name
    if weight.ndim == 1:
        arrange: Callable[[Tensor], Tensor] = _row
    elif isinstance(module, nn.Linear):
        arrange = _turned
    else:
        offset = int(getattr(module, "offset", 0) or 0)
        arrange = _behind(offset) if offset else _straight
    yield Part(
        place=place,
        is_bias=False,
        live=Live(parameter=weight, arrange=arrange),
        is_transposed=isinstance(module, nn.Linear),
        tap=None if weight.ndim == 1 or name in ("embed", "pos_embed") else Tap(module=module),
    )
    bias = getattr(module, "bias", None)
    if isinstance(bias, nn.Parameter) and place != "unembed":
        yield Part(
            place=place,
            is_bias=True,
            live=Live(parameter=bias, arrange=_row),
            is_transposed=False,
        )


def hooked_parts(model: Any) -> Iterator[Part]:
    """The live tensors of a `HookedTransformer`, in the order of the forward pass.

    Raises:
        UnsupportedModelError: a block lacks one of the matrices that every block must have.
    """
    architecture = model.cfg.original_architecture
    is_linear = architecture not in CONV1D
    yield Part(
        place="embed",
        is_bias=False,
        live=Live(parameter=model.embed.W_E, arrange=_straight),
        is_transposed=False,
    )
    if hasattr(model, "pos_embed"):
        yield Part(
            place="pos_embed",
            is_bias=False,
            live=Live(parameter=model.pos_embed.W_pos, arrange=_straight),
            is_transposed=False,
        )
    for layer, block in enumerate(model.blocks):
        at = f"blocks.{layer}"
        yield from _hooked_norm(block, "ln1", f"{at}.ln1")
        for name in PROJECTIONS:
            yield from _hooked_pair(block.attn, f"{at}.attn.{name}", name.upper(), is_linear)
        yield from _hooked_norm(block, "ln2", f"{at}.ln2")
        names = [name for name in MLP if f"W_{name}" in block.mlp._parameters]
        _require_all(model, f"{at}.mlp", {"in", "out"}, names)
        for name in names:
            yield from _hooked_pair(block.mlp, f"{at}.mlp.{name}", name, is_linear)
    yield from _hooked_norm(model, "ln_final", "ln_final")
    yield Part(
        place="unembed",
        is_bias=False,
        live=Live(parameter=model.unembed.W_U, arrange=_straight),
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
        parameter = getattr(_child(owner, name), "_parameters", {}).get(part)
        if parameter is not None:
            live = Live(parameter=parameter, arrange=_row)
            yield Part(place=place, is_bias=part == "b", live=live, is_transposed=False)


def _hooked_pair(owner: Any, place: str, name: str, is_linear: bool) -> Iterator[Part]:
    own = owner._parameters
    weight = own.get(f"_W_{name}", own.get(f"W_{name}"))
    by_head = _heads_as_rows if name == "O" else _by_head
    arrange = by_head if weight.ndim == 3 else _straight
    live = Live(parameter=weight, arrange=arrange)
    yield Part(
        place=place, is_bias=False, live=live, is_transposed=is_linear, tap=_hooked_tap(owner, name)
    )
    bias = own.get(f"_b_{name}", own.get(f"b_{name}"))
    if bias is not None and bool(bias.any()):
        live = Live(parameter=bias, arrange=_row)
        yield Part(place=place, is_bias=True, live=live, is_transposed=False)


def _require_all(model: Any, place: str, wanted: set[str], found: Sequence[Any]) -> None:
    names = {part if isinstance(part, str) else part.place.rpartition(".")[2] for part in found}
    if missing := sorted(wanted - names):
        raise UnsupportedModelError(
            f"{place} of {model.cfg.model_name} has no matrix {', '.join(missing)}: weights are "
            "scored in blocks of attention and one MLP; a mixture of experts or a recurrent block "
            "is not one."
        )
