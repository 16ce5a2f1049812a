"""How a projection that holds several matrices is laid out, found out by taking it apart.

1. TransformerLens splits fused projections (Q, K and V; gate and in) when it loads a model, and
   the model proved itself with that split. Here the same split is given a copy of the module whose
   every output is its own number: what comes out says which output went where.
2. A stack of experts is one tensor that transformers' code takes apart as it runs. One expert, run
   with parts of it zeroed and doubled, shows which half is linear in the output (`in`), which is
   not (`gate`), and which way round they lie.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from mi_toolkit.core.errors import UnsupportedModelError
from mi_toolkit.core.model import plain_module

_PER_CHILD = 2**32
"""Numbers that the outputs of one child are told apart by; exact in float64."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Which outputs of a larger projection a matrix has, in order.

    Output `c` is output `c // group * stride + offset + c % group`.
    """

    group: int
    stride: int
    offset: int

    @staticmethod
    def all_of(n: int) -> Outputs:
        """The `n` outputs of a projection that is not fused with others."""
        return Outputs(group=n, stride=n, offset=0)


@dataclass(frozen=True, kw_only=True)
class FusedPlace:
    """A matrix inside one child of a module."""

    child: str
    """The name of the child: `qkv_proj`."""

    outputs: Outputs
    is_transposed: bool
    """Whether the child is `[out, in]`."""

    has_bias: bool
    """Whether the child has a bias: where it has none, TransformerLens may make up zeros."""

    is_parameter: bool = False
    """Whether the child is the parameter itself, and no module."""


def fused_places(
    component: nn.Module, split: Callable[[nn.Module], Sequence[nn.Module]], names: Sequence[str]
) -> dict[str, FusedPlace]:
    """Where the matrices that `split` makes of a module lie in its children, by name.

    Raises:
        UnsupportedModelError: an output is no output of a child, or in no regular order.
    """
    stand_in, children = _numbered(component)
    with torch.no_grad():
        parts = split(stand_in)
    found = {}
    for name, part in zip(names, parts, strict=True):
        weight: Any = part.weight
        numbers = weight[:, 0] if isinstance(part, nn.Linear) else weight[0]
        found[name] = _place(numbers.detach().long(), children, name, component)
    return found


def _numbered(component: nn.Module) -> tuple[nn.Module, list[tuple[str, Any]]]:
    """A copy of a module whose projections have their outputs' numbers for weights."""
    stand_in = copy.copy(component)
    stand_in._modules = dict(component._modules)
    children: list[tuple[str, Any]] = []
    for name, child in component.named_children():
        module = plain_module(child)
        weight = module._parameters.get("weight")
        if weight is None or weight.ndim != 2:
            continue
        turned = not type(module).__name__.startswith("Conv1D")
        n_out = weight.shape[0 if turned else 1]
        numbers = torch.arange(n_out, dtype=torch.float64) + _PER_CHILD * len(children)
        numbered = copy.copy(module)
        numbered._parameters = dict(module._parameters)
        spread = numbers[:, None] if turned else numbers
        numbered._parameters["weight"] = nn.Parameter(
            spread.expand(weight.shape), requires_grad=False
        )
        if module._parameters.get("bias") is not None:
            numbered._parameters["bias"] = nn.Parameter(numbers.clone(), requires_grad=False)
        stand_in._modules[name] = numbered
        children.append((name, module))
    return stand_in, children


def _place(
    numbers: Tensor, children: Sequence[tuple[str, Any]], name: str, component: nn.Module
) -> FusedPlace:
    child = int(numbers[0]) // _PER_CHILD
    child_name, module = children[child]
    return FusedPlace(
        child=child_name,
        outputs=_outputs(numbers - child * _PER_CHILD, name, component),
        is_transposed=not type(module).__name__.startswith("Conv1D"),
        has_bias=module._parameters.get("bias") is not None,
    )


def _outputs(numbers: Tensor, name: str, component: nn.Module) -> Outputs:
    """Numbers as groups at equal distances."""
    breaks = (numbers.diff() != 1).nonzero().flatten()
    group = int(breaks[0]) + 1 if len(breaks) else len(numbers)
    offset = int(numbers[0])
    stride = int(numbers[group]) - offset if len(breaks) else group
    columns = torch.arange(len(numbers))
    if not torch.equal(columns // group * stride + offset + columns % group, numbers):
        raise UnsupportedModelError(
            f"The outputs of {name} lie in no regular order in {type(component).__name__}, so its "
            "weights have no Hugging Face coordinates."
        )
    return Outputs(group=group, stride=stride, offset=offset)


@dataclass(frozen=True, kw_only=True)
class StackLayout:
    """How the matrices of experts lie in `gate_up_proj` and `down_proj`, `[expert, …]`."""

    is_transposed: bool
    """Whether each matrix is `[out, in]`."""

    outputs: Mapping[str, Outputs]
    """Of `in` and `gate` in `gate_up_proj`, and of `out` in `down_proj`."""

    def part(self, name: str, stack: Tensor) -> Tensor:
        """The matrix `[in, out]`, or the bias `[1, out]`, in one expert's tensor, as a view."""
        turned = stack.mT if stack.ndim == 2 and self.is_transposed else stack
        found = self.outputs[name]
        step = found.stride if found.group == 1 else 1
        stop = found.offset + (found.group if step == 1 else turned.shape[-1])
        part = turned[..., found.offset : stop : step]
        return part if part.ndim == 2 else part[None]


STACKS = {"in": "gate_up_proj", "gate": "gate_up_proj", "out": "down_proj"}


def stack_layout(experts: Any, d_model: int) -> StackLayout:
    """The layout of a stack of experts, by running one of them.

    Raises:
        UnsupportedModelError: it is run in a way that is not known, or no layout explains it.
    """
    expert = _OneExpert(experts, d_model)
    fitting = [layout for layout in _candidates(expert) if _explains(expert, layout)]
    if len(fitting) != 1:
        raise UnsupportedModelError(
            f"The layout of the experts in a {type(experts).__name__} is not known: none of those "
            "tried explains what it computes, so they have no scores. Leave those layers out."
        )
    return fitting[0]


class _OneExpert:
    """One expert of the stack's shapes, with random weights in float64 and no biases."""

    def __init__(self, experts: Any, d_model: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self._module = copy.copy(experts)
        own = {name: each for name, each in experts._parameters.items() if each is not None}
        if not {"gate_up_proj", "down_proj"} <= own.keys():
            raise UnsupportedModelError(
                f"The experts in a {type(experts).__name__} have {', '.join(own) or 'no stacks'} "
                "where gate_up_proj and down_proj are known, so they have no scores."
            )
        self._nothing = {
            name: torch.zeros(1, *each.shape[1:], dtype=torch.float64) for name, each in own.items()
        }
        # Small, so that nothing is clamped (gpt-oss) and no activation saturates.
        self.stacks = {
            name: torch.randn(shape.shape[1:], generator=generator, dtype=torch.float64)
            / shape.numel() ** 0.25
            for name, shape in self._nothing.items()
        }
        n_experts = len(own["gate_up_proj"])
        for name, value in list(vars(experts).items()):
            if name.startswith("num_") and value == n_experts:
                setattr(self._module, name, 1)
        self._token = torch.randn(1, d_model, generator=generator, dtype=torch.float64)

    def run(self, gate_up: Tensor) -> Tensor:
        """What the expert makes of a token with `gate_up_proj` as given."""
        stacks = {"gate_up_proj": gate_up[None], "down_proj": self.stacks["down_proj"][None]}
        weights = self._nothing | stacks
        self._module._parameters = {
            name: nn.Parameter(weight, requires_grad=False) for name, weight in weights.items()
        }
        # Not transformers' choice of kernels, which take no float64.
        own = type(self._module).forward
        own = getattr(own, "__wrapped__", own)
        chosen = torch.zeros(1, 1, dtype=torch.long)
        arguments = (self._token, chosen, torch.ones(1, 1, dtype=torch.float64))
        n_arguments = len(signature(own).parameters) - 1
        try:
            found: Tensor = own(self._module, *arguments[:n_arguments])
        except (RuntimeError, TypeError, IndexError) as error:
            raise UnsupportedModelError(
                f"A {type(self._module).__name__} is run in a way that is not known "
                f"({str(error).splitlines()[0]}), so its experts have no scores."
            ) from error
        return found.flatten()


def _candidates(expert: _OneExpert) -> Iterator[StackLayout]:
    """Halves one after the other or entry by entry, either first, either way round."""
    both, down = expert.stacks["gate_up_proj"], expert.stacks["down_proj"]
    for is_transposed in (True, False):
        n = both.shape[0 if is_transposed else 1] // 2
        shape = tuple(down.shape)
        if shape[1 if is_transposed else 0] != n:
            continue
        halves = (Outputs(group=n, stride=n, offset=0), Outputs(group=n, stride=n, offset=n))
        turns = (Outputs(group=1, stride=2, offset=0), Outputs(group=1, stride=2, offset=1))
        out = Outputs.all_of(shape[0 if is_transposed else 1])
        for one, other in (halves, turns):
            for gate, into in ((one, other), (other, one)):
                parts = {"in": into, "gate": gate, "out": out}
                yield StackLayout(is_transposed=is_transposed, outputs=parts)


def _explains(expert: _OneExpert, layout: StackLayout) -> bool:
    """Whether the output is linear in `in`, not in `gate`, and goes along the rows of `out`."""
    both = expert.stacks["gate_up_proj"]

    def scaled(name: str, factor: float) -> Tensor:
        changed = both.clone()
        layout.part(name, changed).mul_(factor)
        return expert.run(changed)

    def bend(name: str) -> float:
        none, once, twice = (scaled(name, factor) for factor in (0.0, 1.0, 2.0))
        return float((twice - 2 * once + none).norm() / once.norm())

    alone = torch.zeros_like(both)
    for name in ("in", "gate"):
        layout.part(name, alone)[:, 0] = layout.part(name, both)[:, 0]
    written = expert.run(alone)
    row = layout.part("out", expert.stacks["down_proj"])[0]
    if written.shape != row.shape:
        return False
    along = torch.cosine_similarity(written, row, dim=0).abs()
    return bool(along > 1 - 1e-9) and bend("in") < 1e-9 < 1e-6 < bend("gate")
