"""Where a weight is: one name and one orientation, whatever the family and whoever runs it.

A canonical parameter is named as TransformerLens names it (`blocks.5.attn.W_O`) and is a matrix
`[in, out]`: the layer computes `x @ W + b`. A vector (bias, norm) is a matrix of one row.

| parameter | rows | columns |
|---|---|---|
| `W_Q` | d_model | query head · d_head |
| `W_K`, `W_V` | d_model | key/value head · d_head: fewer under grouped queries |
| `W_O` | query head · d_head | d_model |
| `W_in`, `W_gate` | d_model | neuron |
| `W_out` | neuron | d_model |
| `W_E`, `W_pos` | token or position | d_model |
| `W_U` | d_model | token |

`ParameterView` is the tensor that the model computes with: never a stale fused copy, never a
property that expands shared heads. `HFPlace` is the parameter of the Hugging Face model, in its own
layout.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

Unit = Literal["head", "kv_head", "neuron"]
Indices = Int[Tensor, " weight"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ParameterView:
    """A parameter that the model computes with, and the view of it as `[in, out]`."""

    parameter: nn.Parameter
    """The parameter itself, in whatever layout the model has."""

    arrange: Callable[[Tensor], Tensor]
    """The view of a tensor in that layout as `[in, out]`, or, where no such view exists, as
    `[in, head, d_head]`. A view: writing to it writes to the tensor."""

    def matrix(self, tensor: Tensor) -> Shaped[Tensor, "in out"]:
        """A tensor in this layout (the weights, their gradient) as `[in, out]`."""
        return self.arrange(tensor).flatten(1)

    def read(self, rows: Indices, columns: Indices) -> Shaped[Tensor, " weight"]:
        """Copies of single weights."""
        view = self.arrange(self.parameter.detach())
        return view[self._index(view, rows, columns)]

    def write(self, rows: Indices, columns: Indices, values: Shaped[Tensor, " weight"]) -> None:
        """Put single weights into the model."""
        with torch.no_grad():
            view = self.arrange(self.parameter.detach())
            view[self._index(view, rows, columns)] = values.to(view)

    def _index(self, view: Tensor, rows: Indices, columns: Indices) -> tuple[Tensor, ...]:
        rows, columns = rows.to(view.device), columns.to(view.device)
        if view.ndim == 2:
            return rows, columns
        return rows, columns // view.shape[2], columns % view.shape[2]


@dataclass(frozen=True, kw_only=True, eq=False)
class Tap:
    """Where a matrix' input can be seen: what a module is called with, or what it returns."""

    module: nn.Module
    """The module to hook."""

    argument: int | str | None = 0
    """The position or name of the module's argument; None for its output."""

    expert: int | None = None
    """Which expert, where the module is a stack of them."""

    n_experts: int = 1
    """How many there are in it."""


@dataclass(frozen=True, kw_only=True)
class HFPlace:
    """A canonical parameter inside a Hugging Face parameter, which may hold others next to it.

    Output `c` of the canonical matrix is output `c // group * stride + offset + c % group`.
    """

    name: str
    """The parameter, such as `transformer.h.5.attn.c_attn.weight`."""

    is_vector: bool = False
    """Whether it has one axis."""

    is_transposed: bool = False
    """Whether it is `[out, in]`, as a Linear is; Conv1D and embeddings are `[in, out]`."""

    group: int = 1
    """Outputs that lie together."""

    stride: int = 1
    """Distance from the start of one group to that of the next, in outputs."""

    offset: int = 0
    """Where the first group starts."""

    row_offset: int = 0
    """Rows in front of the first: OPT's position embeddings begin at row 2."""

    expert: int | None = None
    """Where in a stack of experts' matrices, along its first axis."""

    def index(self, rows: Indices, columns: Indices) -> tuple[Indices, Indices | None]:
        """Row and column in the Hugging Face parameter; of a vector, the entry and None."""
        outputs = columns // self.group * self.stride + self.offset + columns % self.group
        if self.is_vector:
            return outputs, None
        inputs = rows + self.row_offset
        return (outputs, inputs) if self.is_transposed else (inputs, outputs)

    def within(self, rows: Indices, columns: Indices) -> tuple[Indices, ...]:
        """What to index the Hugging Face parameter with: the expert, the row and the column."""
        first, second = self.index(rows, columns)
        found = (first,) if second is None else (first, second)
        return found if self.expert is None else (torch.full_like(first, self.expert), *found)


@dataclass(frozen=True, kw_only=True)
class ParameterInfo:
    """Where one canonical parameter is and what its rows and columns stand for."""

    name: str
    """Such as `blocks.5.attn.W_O`, `embed.W_E`, `blocks.0.ln1.w`."""

    layer: int | None
    """The block it is in; None for embeddings and the final norm."""

    component: str
    """The last part of the name, such as `W_O`."""

    shape: tuple[int, int]
    """Rows and columns, `[in, out]`."""

    hf: HFPlace | None
    """Where the Hugging Face model keeps it; None of a model that has none."""

    unit: Unit | None = None
    """What its rows or columns belong to."""

    unit_axis: int = 1
    """The axis that runs over the units: 0 for rows, 1 for columns."""

    unit_size: int = 1
    """Rows or columns of one unit: d_head, or 1 for neurons."""

    expert: int | None = None
    """The expert of a mixture that it belongs to."""

    kept: tuple[int, ...] | None = None
    """The heads (or key and value heads) whose weights are meant; None for all of it."""

    @property
    def group(self) -> str:
        """`attn`, `mlp`, `embeddings`, `biases` or `norms`."""
        if self.component in ("w", "b"):
            return "norms"
        if self.component in ("W_E", "W_U", "W_pos"):
            return "embeddings"
        return "biases" if self.component.startswith("b_") else self.name.split(".")[2]

    @property
    def size(self) -> int:
        """How many weights are meant."""
        if self.kept is None:
            return self.shape[0] * self.shape[1]
        return self.shape[1 - self.unit_axis] * self.unit_size * len(self.kept)

    @property
    def n_units(self) -> int:
        """How many heads or neurons its rows or columns run over."""
        return self.shape[self.unit_axis] // self.unit_size

    def mask(self) -> Bool[Tensor, "in out"] | None:
        """Which of its weights are meant; None for all."""
        if self.kept is None:
            return None
        of_unit = torch.zeros(self.n_units, dtype=torch.bool)
        of_unit[list(self.kept)] = True
        lines = of_unit.repeat_interleave(self.unit_size)
        return (lines if self.unit_axis else lines[:, None]).expand(self.shape)

    def units(self, rows: Indices, columns: Indices) -> Indices | None:
        """The head or neuron of each weight; None where the parameter has neither."""
        if self.unit is None:
            return None
        return (columns if self.unit_axis else rows) // self.unit_size

    def per_unit(self, figures: Float[Tensor, "in out"]) -> Float[Tensor, " unit"]:
        """Sums of a figure over the weights of each head or neuron, in float64."""
        sums = figures.sum(dim=1 - self.unit_axis, dtype=torch.float64)
        return sums.view(-1, self.unit_size).sum(dim=1)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class WeightMatrix(ParameterInfo):
    """One canonical parameter of a model in memory."""

    live: tuple[ParameterView, ...]
    """Where the model keeps it: two places where tied embeddings are separate parameters."""

    tap: Tap | None = None
    """Where its input can be seen; None for what multiplies no activation."""

    @property
    def place(self) -> ParameterInfo:
        """Name, shape and place of the parameter, without the model."""
        return ParameterInfo(
            **{field.name: getattr(self, field.name) for field in fields(ParameterInfo)}
        )

    def value(self) -> Shaped[Tensor, "in out"]:
        """The weights as they are now, where the model has them: a view wherever one exists."""
        return self.live[0].matrix(self.live[0].parameter.detach())

    def read(self, rows: Indices, columns: Indices) -> Shaped[Tensor, " weight"]:
        """Copies of single weights."""
        return self.live[0].read(rows, columns)

    def write(self, rows: Indices, columns: Indices, values: Shaped[Tensor, " weight"]) -> None:
        """Put single weights into the model, in every place that keeps them."""
        for live in self.live:
            live.write(rows, columns, values)

    def __repr__(self) -> str:
        return f"{self.name} {list(self.shape)}" + (f" = {self.hf.name}" if self.hf else "")


def hf_coordinates(
    place: ParameterInfo, rows: Indices, columns: Indices
) -> tuple[str | None, list[int | None], list[int | None]]:
    """Name, rows and columns of weights in the Hugging Face model, None where there are none."""
    nothing: list[int | None] = [None] * len(rows)
    if place.hf is None:
        return None, nothing, nothing
    hf_rows, hf_columns = place.hf.index(rows, columns)
    return place.hf.name, hf_rows.tolist(), nothing if hf_columns is None else hf_columns.tolist()
