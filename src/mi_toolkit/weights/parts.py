"""The live tensors of a model, by place: where both of TransformerLens' classes keep them.

A `HookedTransformer` has them as parameters; under grouped queries as `_W_K`, as `W_K` is an
expanded copy.

In a `TransformerBridge` the modules under `blocks.5.attn.q` and the like hold the live weights. The
fused projection that they were split from stays next to them, and nothing reads it any more.

Every expert's matrices are named as an MLP's, `blocks.0.mlp.experts.3.W_in`; an expert that all
tokens run through is `blocks.0.mlp.shared_expert`, and what chooses among the others `W_router`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from mi_toolkit.core.effective_weights import is_without_weight, require_plain
from mi_toolkit.core.errors import UnsupportedModelError
from mi_toolkit.core.model import plain_module
from mi_toolkit.core.tl_compat import block_template, checkpoint_path
from mi_toolkit.weights.coordinates import ParameterView, Tap
from mi_toolkit.weights.fused import (
    STACKS,
    FusedPlace,
    Outputs,
    StackLayout,
    fused_places,
    stack_layout,
)

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


def _from_row(rows: int) -> Callable[[Tensor], Tensor]:
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
        arrange = _from_row(offset) if offset else _straight
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


_DENSE = {
    "gate_proj": "gate", "up_proj": "in", "down_proj": "out", "w1": "gate", "w3": "in", "w2": "out",
}  # fmt: skip
"""What transformers calls the matrices of an MLP."""

_SHARED = ("shared_expert", "shared_experts", "shared_mlp")
_ROUTERS = ("gate", "router")


def mixture_parts(
    model: Any, component: Any, place: str, layouts: dict[Any, StackLayout]
) -> Iterator[Part]:
    """The live tensors of a block's MLP as transformers has it: dense, or a mixture of experts.

    Raises:
        UnsupportedModelError: it holds parameters of another kind.
    """
    for name, child in component.named_children():
        module = plain_module(child)
        if not any(True for _ in module.parameters()):
            continue
        if name in _DENSE:
            yield from _placed(model, module, f"{place}.{_DENSE[name]}", place, name)
        elif name == "experts" and not isinstance(module, nn.ModuleList):
            yield from _stacked(model, module, place, layouts)
        elif name == "experts":
            for number, expert in enumerate(module):
                at = f"{place}.experts.{number}"
                yield from _expert(model, plain_module(expert), at, place, f"experts.{number}")
        elif name in _SHARED:
            yield from _expert(model, module, f"{place}.shared_expert", place, name)
        elif name == "shared_expert_gate":
            yield from _placed(model, module, f"{place}.shared_gate", place, name)
        elif name in _ROUTERS and isinstance(module._parameters.get("weight"), nn.Parameter):
            yield from _router(module, f"{place}.router", place, name)
        else:
            raise _unknown(model, f"{place}, {name}", module)
    if any(each is not None for each in component._parameters.values()):
        raise _unknown(model, place, component)


def _unknown(model: Any, place: str, module: Any) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{place} of {model.cfg.model_name} is a {type(module).__name__}: how its parameters make "
        "up an MLP or experts is not known, so they have no scores."
    )


def _expert(model: Any, module: Any, place: str, owner: str, path: str) -> Iterator[Part]:
    for name, child in module.named_children():
        inner = plain_module(child)
        if not any(True for _ in inner.parameters()):
            continue
        if name not in _DENSE:
            raise _unknown(model, f"{place}, {name}", inner)
        for part in _placed(model, inner, f"{place}.{_DENSE[name]}", owner, f"{path}.{name}"):
            # An expert sees some of the tokens only: which ones does not show at its module.
            yield part if ".shared_expert" in place else replace(part, tap=None)


def _placed(model: Any, module: Any, place: str, owner: str, child: str) -> Iterator[Part]:
    """The tensors of a linear module that TransformerLens has no path for."""
    for part in module_parts(model, module, place):
        yield replace(part, owner=owner, fused=_whole(part.live, child, part.is_transposed))


def _router(module: Any, place: str, owner: str, child: str) -> Iterator[Part]:
    """What scores the experts: transformers has it as a weight `[expert, d_model]`."""
    for name in ("weight", "bias"):
        parameter, is_bias = module._parameters.get(name), name == "bias"
        if parameter is None:
            continue
        live = ParameterView(parameter=parameter, arrange=row if is_bias else turned)
        yield Part(
            place=place,
            is_bias=is_bias,
            live=live,
            is_transposed=not is_bias,
            owner=owner,
            fused=_whole(live, child, not is_bias),
            tap=None if is_bias else Tap(module=module),
        )


def _whole(live: ParameterView, child: str, is_transposed: bool) -> FusedPlace:
    outputs = Outputs.all_of(live.matrix(live.parameter.detach()).shape[1])
    return FusedPlace(child=child, outputs=outputs, is_transposed=is_transposed, has_bias=True)


def _stacked(
    model: Any, experts: Any, place: str, layouts: dict[Any, StackLayout]
) -> Iterator[Part]:
    """The tensors of experts that lie in one stack, expert by expert."""
    own = {name: each for name, each in experts._parameters.items() if each is not None}
    known = {*STACKS.values(), *(f"{name}_bias" for name in STACKS.values())}
    if own.keys() - known or any(True for child in experts.children() for _ in child.parameters()):
        raise _unknown(model, f"{place}.experts", experts)
    key = (type(experts), tuple((name, tuple(each.shape)) for name, each in own.items()))
    if key not in layouts:
        layouts[key] = stack_layout(experts, int(model.cfg.d_model))
    layout = layouts[key]
    for expert in range(len(own["down_proj"])):
        for name, stack in STACKS.items():
            for parameter in (stack, f"{stack}_bias"):
                if parameter not in own:
                    continue
                is_bias = parameter != stack
                live = ParameterView(
                    parameter=own[parameter], arrange=partial(_part_of, layout, name, expert)
                )
                yield Part(
                    place=f"{place}.experts.{expert}.{name}",
                    is_bias=is_bias,
                    live=live,
                    is_transposed=layout.is_transposed and not is_bias,
                    owner=place,
                    fused=FusedPlace(
                        child=f"experts.{parameter}",
                        outputs=layout.outputs[name],
                        is_transposed=layout.is_transposed and not is_bias,
                        has_bias=True,
                        is_parameter=True,
                    ),
                    expert=expert,
                    tap=None
                    if is_bias or name == "out"
                    else Tap(module=experts, expert=expert, n_experts=len(own["down_proj"])),
                )


def _part_of(layout: StackLayout, name: str, expert: int, stack: Tensor) -> Tensor:
    return layout.part(name, stack[expert])


def bridge_parts(model: Any) -> Iterator[Part]:
    """The live tensors of a `TransformerBridge`, in the order of the forward pass.

    Raises:
        UnsupportedModelError: a block lacks one of the matrices that every block must have, or a
            weight is not what its module applies (an adapter, a parametrisation, quantisation).
    """
    layouts = Layouts()
    yield from bridge_module(model, model, "embed")
    yield from bridge_module(model, model, "pos_embed")
    for layer, block in enumerate(model.blocks):
        at = f"blocks.{layer}."
        yield from bridge_module(model, block, "ln1", at)
        attention = child_of(block, "attn")
        found = layouts.put_in(attention, "split_qkv_matrix", ("q", "k", "v"), [
            part
            for name in (*PROJECTIONS, "q_norm", "k_norm")
            for part in bridge_module(model, attention, name, f"{at}attn.")
        ])  # fmt: skip
        _require_all(model, f"{at}attn", set(PROJECTIONS), found)
        yield from found
        for name in ("ln1_post", "ln2"):
            yield from bridge_module(model, block, name, at)
        mlp = child_of(block, "mlp")
        if {"in", "out"} <= dict(mlp.named_children()).keys() if mlp is not None else True:
            found = layouts.put_in(mlp, "split_gate_up_matrix", ("gate", "in"), [
                part for name in MLP for part in bridge_module(model, mlp, name, f"{at}mlp.")
            ])  # fmt: skip
            _require_all(model, f"{at}mlp", {"in", "out"}, found)
            yield from found
        else:
            yield from mixture_parts(model, plain_module(mlp), f"{at}mlp", layouts.of_stacks)
        yield from bridge_module(model, block, "ln2_post", at)
    yield from bridge_module(model, model, "ln_final")
    yield from bridge_module(model, model, "unembed")


@dataclass(frozen=True, kw_only=True)
class Layouts:
    """What was found out of one model's fused projections: once for blocks of the same shape."""

    of_projections: dict[Any, dict[str, FusedPlace]] = field(default_factory=dict)
    of_stacks: dict[Any, Any] = field(default_factory=dict)

    def put_in(
        self, owner: Any, splitter: str, names: Sequence[str], parts: Sequence[Part]
    ) -> list[Part]:
        """The parts of a module, with their places in what TransformerLens split them from."""
        split = getattr(owner, splitter, None)
        if split is None or not parts:
            return list(parts)
        component = plain_module(owner)
        shapes = tuple((name, tuple(each.shape)) for name, each in component.named_parameters())
        if (key := (type(component), shapes)) not in self.of_projections:
            self.of_projections[key] = fused_places(component, split, names)
        return with_places(parts, self.of_projections[key])


def bridge_module(model: Any, owner: Any, name: str, prefix: str = "") -> Iterator[Part]:
    """The live tensors of the module called `name` in a bridge; none where there is none."""
    module = plain_module(child_of(owner, name))
    if is_without_weight(module):
        return
    of_each_head = any(isinstance(child, nn.ModuleList) for child in module.children())
    if not (name in ("q_norm", "k_norm") and of_each_head):  # StableLM: left out
        yield from module_parts(model, module, prefix + name)


def _require_all(model: Any, place: str, wanted: set[str], found: Sequence[Part]) -> None:
    names = {part.place.rpartition(".")[2] for part in found}
    if missing := sorted(wanted - names):
        raise UnsupportedModelError(
            f"{place} of {model.cfg.model_name} has no matrix {', '.join(missing)}: weights are "
            "scored in blocks of attention with Q, K, V and O and an MLP or experts; a recurrent "
            "block, or latent attention, is not one."
        )
