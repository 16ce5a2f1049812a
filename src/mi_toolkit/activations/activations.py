"""Recorded activations: tensors by name, with what each of their positions is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_toolkit.activations.hooks import ChosenPositions, choose_positions, fits
from mi_toolkit.activations.names import MEGABYTE, Name, axes_of, is_pattern, resolve, rows_of
from mi_toolkit.core.display import TableRepr, TextTable
from mi_toolkit.core.errors import ActivationsError, UnknownNameError
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.result import SavedResult
from mi_toolkit.core.tables import frame
from mi_toolkit.core.tl_compat import activation_cache
from mi_toolkit.core.tokenizer import token_texts
from mi_toolkit.core.tokens import TokenBatch, tokenise

if TYPE_CHECKING:
    from mi_toolkit.core.tables import DataFrame

LARGEST_TABLE = 10_000_000
"""Values of the largest table."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Activations(SavedResult, TableRepr, Mapping[str, Tensor]):
    """Activations of some prompts: a read-only mapping from hook name to tensor, on the CPU.

    A short form with its layer finds one as well: `activations["z", 5]`, `activations["z", -1]`,
    and `activations["z"]` where only one layer's was recorded.
    """

    model: str
    """The model's name."""

    n_layers: int
    """Layers of the model, recorded or not: what `-1` counts from."""

    tensors: Mapping[str, Tensor]
    """By hook name, in the order asked for: `[prompt, position, …]`, and for attention patterns
    `[prompt, head, query, key]`. 0 where a prompt has no such position."""

    batch: TokenBatch
    """The token ids of the prompts."""

    chosen: ChosenPositions
    """Which position of its prompt each slot of the position axis (or query axis) holds."""

    texts: tuple[tuple[str, ...], ...]
    """The text of each token of each prompt, BOS and leading spaces included."""

    def __getitem__(self, name: Name) -> Tensor:
        """One activation, by hook name or short form."""
        hooks = self.names(name)
        if len(hooks) > 1:
            raise UnknownNameError(
                f"{name!r} stands for {len(hooks)} of these activations: name one, as in "
                f"{hooks[0]!r}, or stack them with .stacked({name!r})."
            )
        return self.tensors[hooks[0]]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __contains__(self, name: object) -> bool:
        try:
            return len(self.names(name)) == 1  # type: ignore[arg-type]
        except (UnknownNameError, TypeError, ValueError):
            return False

    def get(self, name: Name, default: Any = None) -> Any:
        """One activation, or `default` where there is none of that name."""
        if name not in self:
            return default
        return self[name]

    def names(self, name: Name) -> tuple[str, ...]:
        """The hook names here that a short form, glob or hook name stands for.

        Raises:
            UnknownNameError: none.
        """
        if isinstance(name, str) and name in self.tensors:
            return (name,)
        owner = f"this recording of {self.model}"
        return resolve(name, list(self.tensors), self.n_layers, owner)

    def stacked(self, name: Name) -> Tensor:
        """All activations that `name` stands for, in one tensor `[layer, prompt, …]`."""
        return torch.stack([self.tensors[hook] for hook in self.names(name)])

    @cached_property
    def mask(self) -> Bool[Tensor, "prompt position"]:
        """Where a prompt has a position: False is padding."""
        return self.chosen.mask

    @property
    def positions(self) -> Int[Tensor, "prompt position"]:
        """Which position of its prompt each slot holds, BOS counted; -1 for padding."""
        return self.chosen.table

    @property
    def token_ids(self) -> Int[Tensor, "prompt position"]:
        """The token at each recorded position; -1 for padding."""
        ids = self.batch.ids.gather(1, self.positions.clamp_min(0))
        return ids.masked_fill(~self.mask, -1)

    def rows(self, name: Name) -> Float[Tensor, " row *unit"]:
        """One activation without its padding: a row per recorded token, prompt by prompt.

        What a probe or a sparse autoencoder is trained on. `row_table()` says what each row is.
        """
        tensor = self[name]
        hook = self.names(name)[0]
        if is_pattern(hook):
            raise ActivationsError(
                f"{hook} has a query and a key, no row per token: take self[{hook!r}]."
            )
        if self.chosen.single:
            tensor = tensor.unsqueeze(1)
        return tensor[self.mask]

    def row_table(self) -> DataFrame:
        """What each row of `rows` is: prompt, position, token id and text."""
        return frame(self._row_columns())

    def _row_columns(self) -> dict[str, Any]:
        prompts, positions, _ = (cells.tolist() for cells in self.chosen.cells())
        return {
            "prompt": prompts,
            "position": positions,
            "token_id": self.token_ids[self.mask].numpy(),
            "token": [self.texts[i][p] for i, p in zip(prompts, positions, strict=True)],
        }

    def axes(self, name: Name) -> dict[str, int]:
        """The axes of one activation, by name, with their sizes."""
        tensor, hook = self[name], self.names(name)[0]
        single = ("query" if is_pattern(hook) else "position") if self.chosen.single else None
        n_axes = tensor.ndim - 1 + (single is not None)
        names = ("prompt", *(axis for axis in axes_of(hook, n_axes) if axis != single))
        return dict(zip(names, tensor.shape, strict=True))

    @property
    def nbytes(self) -> int:
        """What the tensors take, in bytes."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def to_pandas(self, name: Name) -> DataFrame:
        """One activation as a table: a row per token, with a column per unit.

        A pattern gives a row per prompt, head, query and key.

        Raises:
            ActivationsError: it has more than ten million values; a table would be many times
                its size. Take `rows(name).numpy()`.
        """
        n_values = self[name].numel()
        if n_values > LARGEST_TABLE:
            raise ActivationsError(
                f"{name!r} has {n_values:,} values, and a table is for {LARGEST_TABLE:,} at "
                "most. Take activations.rows(name).numpy() and activations.row_table(), or record "
                "less."
            )
        if is_pattern(self.names(name)[0]):
            return self._pattern_table(name)
        rows = self.rows(name)
        units = [".".join(map(str, unit)) for unit in np.ndindex(*rows.shape[1:])]
        values = rows.flatten(start_dim=1).float().numpy().T
        return frame({**self._row_columns(), **dict(zip(units, values, strict=True))})

    def _pattern_table(self, name: Name) -> DataFrame:
        pattern = self[name]
        if self.chosen.single:
            pattern = pattern.unsqueeze(2)
        prompts, positions, slots = (cells.numpy() for cells in self.chosen.cells())
        values = pattern.float().numpy()[prompts, :, slots]
        row, head, key = (axis.ravel() for axis in np.indices(values.shape))
        # A query sees no later key, and no padding.
        seen = key <= positions[row]
        columns = {
            "prompt": prompts[row],
            "head": head,
            "query": positions[row],
            "key": key,
            "value": values.ravel(),
        }
        return frame({name: column[seen] for name, column in columns.items()})

    FORMAT: ClassVar[str] = "mi_toolkit recording of activations 1"
    OUTDATED: ClassVar[Mapping[str, str]] = {"mi_toolkit activations 1": "record them again"}

    def taken_apart(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What is not a tensor, and the tensors by their hook names."""
        own = (self.batch.ids, self.batch.lengths, self.positions)
        record = {
            "model": self.model,
            "n_layers": self.n_layers,
            "names": list(self.tensors),
            "single": self.chosen.single,
            "bos_id": self.batch.bos_id,
            "beginnings": self.batch.beginnings,
            "texts": self.texts,
        }
        roles = {f"{_ROLE}{name}": spans for name, spans in self.batch.roles.items()}
        return record, {**self.tensors, **dict(zip(_PROMPTS, own, strict=True)), **roles}

    @classmethod
    def put_together(cls, record: dict[str, Any], tensors: Mapping[str, Tensor]) -> Activations:
        """What `taken_apart` took apart."""
        ids, lengths, positions = (tensors[name] for name in _PROMPTS)
        return Activations(
            model=record["model"],
            n_layers=record["n_layers"],
            tensors={name: tensors[name] for name in record["names"]},
            batch=TokenBatch(
                ids=ids,
                lengths=lengths,
                bos_id=record["bos_id"],
                beginnings=tuple(record["beginnings"]),
                roles={
                    name.removeprefix(_ROLE): spans
                    for name, spans in tensors.items()
                    if name.startswith(_ROLE)
                },
            ),
            chosen=ChosenPositions(table=positions, single=record["single"]),
            texts=tuple(tuple(texts) for texts in record["texts"]),
        )

    def to_cache(self, model: HookedModel) -> Any:
        """TransformerLens' `ActivationCache` of these activations, for its own tools.

        Raises:
            ActivationsError: not all positions were recorded.
        """
        return to_cache(self, model)

    @staticmethod
    def from_cache(cache: Any, model: HookedModel, tokens: Any) -> Activations:
        """What a TransformerLens `ActivationCache` holds per token.

        Args:
            cache: what `model.run_with_cache(tokens)` gave.
            model: the model that ran.
            tokens: the ids that it ran on (`[position]` or `[prompt, position]`), or a
                `TokenBatch` where some of them are padding.

        Raises:
            ActivationsError: the cache holds nothing per token of `tokens`.
        """
        return from_cache(cache, model, tokens)

    def text_table(self) -> TextTable:
        """Each activation with its axes, dtype and size."""
        lengths = self.batch.lengths
        low, high = int(lengths.min()), int(lengths.max())
        tokens = f"{low}" if low == high else f"{low} to {high}"
        prompts = f"{len(self.batch)} prompt{'s' if len(self.batch) > 1 else ''}"
        size = f"{self.nbytes / MEGABYTE:,.2f} MB"
        dtype = next(iter(self.tensors.values())).dtype
        sizes = {hook: self.axes(hook) for hook in self.tensors}
        return TextTable(
            title=f"Activations of {self.model}: {prompts}, {tokens} tokens, {size}",
            rows=rows_of(sizes, dtype, self.n_layers),
        )

    __eq__ = object.__eq__
    __hash__ = object.__hash__


_PROMPTS = ("prompts/ids", "prompts/lengths", "prompts/positions")
_ROLE = "prompts/role/"


def to_cache(activations: Activations, model: HookedModel) -> Any:
    """An `ActivationCache` with the same tensors."""
    whole = choose_positions(None, activations.batch.lengths)
    if activations.chosen.single or not torch.equal(whole.table, activations.positions):
        raise ActivationsError(
            "An ActivationCache holds all positions: record with positions=None to convert."
        )
    return activation_cache(dict(activations.tensors), model)


def from_cache(cache: Any, model: HookedModel, tokens: Any) -> Activations:
    """What a cache holds per token, on the CPU; its other entries are left out."""
    batch = tokens if isinstance(tokens, TokenBatch) else tokenise(model, tokens)
    n_prompts, length = batch.ids.shape
    tensors: dict[str, Tensor] = {}
    for name, tensor in cache.items():
        whole = tensor if cache.has_batch_dim else tensor[None]
        if whole.is_floating_point() and fits(name, tuple(whole.shape), n_prompts, length):
            tensors[name] = _unpadded(name, whole.expand(n_prompts, *whole.shape[1:]), batch)
    if not tensors:
        raise ActivationsError(
            f"The cache holds nothing per token of {n_prompts} prompts of {length} tokens: give "
            "the ids that the model ran on."
        )
    return Activations(
        model=model.cfg.model_name,
        n_layers=int(model.cfg.n_layers),
        tensors=tensors,
        batch=batch,
        chosen=choose_positions(None, batch.lengths),
        texts=tuple(
            token_texts(model.tokenizer, batch.sequence(index).tolist())
            for index in range(len(batch))
        ),
    )


def _unpadded(name: str, tensor: Tensor, batch: TokenBatch) -> Tensor:
    """The tensor on the CPU, 0 at padded positions (queries, and keys)."""
    kept = tensor.detach().to(device="cpu", copy=True)
    for prompt, length in enumerate(batch.lengths.tolist()):
        if is_pattern(name):
            kept[prompt, :, length:] = 0
        else:
            kept[prompt, length:] = 0
    return kept
