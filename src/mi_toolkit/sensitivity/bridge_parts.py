"""The live tensors of a `TransformerBridge`, by place.

The modules under `blocks.5.attn.q` and the like hold the live weights. The fused projection that
they were split from stays beside them, and nothing reads it any more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from mi_toolkit.effective_weights import is_without_weight
from mi_toolkit.errors import UnsupportedModelError
from mi_toolkit.hooked_model import plain_module
from mi_toolkit.sensitivity.experts import mixture_parts
from mi_toolkit.sensitivity.fused import FusedPlace, fused_places
from mi_toolkit.sensitivity.parts import MLP, PROJECTIONS, Part, child_of, module_parts, with_places


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
