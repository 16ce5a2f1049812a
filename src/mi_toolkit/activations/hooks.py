"""Which hooks of a model can be recorded, at which positions, in which precision they are kept.

Which positions of each sequence to keep: chosen before anything is stored.

Positions count within a sequence's real tokens, BOS included; negative ones from its own end, so
`-1` (and `"last"`) is the last real token, never padding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mi_toolkit.activations.names import Names, is_glob, is_pattern, resolve, several
from mi_toolkit.core.errors import DtypeError, HookError, PromptError
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.passes import activations_that_fire, visit_activations
from mi_toolkit.core.tokens import TokenBatch

SWITCHES = {
    "hook_result": "use_attn_result",
    "hook_attn_in": "use_attn_in",
    "hook_q_input": "use_split_qkv_input",
    "hook_k_input": "use_split_qkv_input",
    "hook_v_input": "use_split_qkv_input",
    "hook_mlp_in": "use_hook_mlp_in",
}
"""Hooks that fire only where a switch of the model's config is on."""


def activation_names(model: HookedModel, names: Names) -> tuple[str, ...]:
    """The hooks of `model` that `names` stand for, each once.

    A glob stands for those that fire with one value per token: a bridge also has hooks that never
    do. What is named itself is taken at its word, and is an error if it does not fire.

    Raises:
        UnknownNameError: a name stands for nothing.
        HookError: a hook is switched off, or nothing that a glob matches fires.
    """
    owner, n_layers = model.cfg.model_name, int(model.cfg.n_layers)
    known = list(model.hook_dict)
    found: dict[str, None] = {}
    for name in several(names):
        hooks = resolve(name, known, n_layers, owner)
        if is_glob(name):
            hooks = _per_token(model, [hook for hook in hooks if not _switched_off(model, hook)])
            if not hooks:
                raise HookError(f"Of the hooks of {owner} that {name!r} matches, none fires.")
        found |= dict.fromkeys(hooks)
    for hook in found:
        switch = _switched_off(model, hook)
        if switch:
            raise HookError(
                f"{hook} of {owner} is switched off: call model.set_{switch}(True) first."
            )
    return tuple(found)


def _switched_off(model: HookedModel, hook: str) -> str | None:
    switch = SWITCHES.get(hook.rpartition(".")[2])
    return switch if switch and not getattr(model.cfg, switch, False) else None


def _per_token(model: HookedModel, hooks: list[str]) -> tuple[str, ...]:
    """Those of `hooks` that fire with a value per token (or per query and key)."""
    n_sequences, length = 2, 3
    ids = torch.zeros(n_sequences, length, dtype=torch.long)
    fired = activations_that_fire(model, ids, hooks)
    return tuple(
        hook
        for hook in hooks
        if hook in fired
        and fits(hook, tuple(fired[hook].shape), n_sequences, length)
        and not (hook.endswith("hook_attn_scores") and after_softmax(fired[hook]))
    )


def fits(hook: str, shape: tuple[int, ...], n_sequences: int, length: int) -> bool:
    """Whether an activation of this shape has a value per token, or per query and key.

    What is the same of every sequence (a position embedding) may come once.
    """
    if len(shape) < 3 or shape[0] not in (1, n_sequences):
        return False
    if is_pattern(hook):
        return len(shape) == 4 and shape[2:] == (length, length)
    return shape[1] == length


def after_softmax(scores: Tensor) -> bool:
    """Whether attention scores are none: bridges of GPT-Neo and OPT fire the pattern there."""
    sums = scores.sum(dim=-1)
    return not (scores < 0).any() and torch.allclose(sums, torch.ones_like(sums), atol=1e-2)


Positions = str | int | slice | Sequence[int] | Sequence[Sequence[int]] | None
"""None for all; one position (`"last"`, `-1`, `4`); a slice; several positions, the same of every
sequence; or a list of positions for each sequence."""

PADDING = -1


@dataclass(frozen=True, kw_only=True, eq=False)
class ChosenPositions:
    """The positions chosen of each sequence, side by side."""

    table: Int[Tensor, "sequence slot"]
    """Position within the sequence; -1 where a sequence has fewer than another."""

    single: bool
    """Whether one position was asked for: what is recorded then has no position axis."""

    @property
    def mask(self) -> Bool[Tensor, "sequence slot"]:
        """Where a slot holds a position."""
        return self.table != PADDING

    def part(self, start: int, stop: int) -> ChosenPositions:
        """Those of the sequences `start` to `stop`, in as many slots."""
        return ChosenPositions(table=self.table[start:stop], single=self.single)

    def once(self) -> ChosenPositions:
        """Each position of a sequence once: of a short one, two that were asked for may be one."""
        ordered = self.table.sort(dim=-1).values
        if not ((ordered.diff(dim=-1) == 0) & (ordered[:, 1:] != PADDING)).any():
            return self
        table = torch.full_like(self.table, PADDING)
        for place, row in enumerate(self.table.tolist()):
            found = [position for position in dict.fromkeys(row) if position != PADDING]
            table[place, : len(found)] = torch.tensor(found, dtype=torch.long)
        return ChosenPositions(table=table, single=self.single)

    def cells(self) -> tuple[Int[Tensor, " row"], Int[Tensor, " row"], Int[Tensor, " row"]]:
        """Sequence, position and slot of each position chosen, sequence by sequence."""
        sequence, slot = self.mask.nonzero(as_tuple=True)
        return sequence, self.table[sequence, slot], slot


def choose_positions(positions: Positions, lengths: Int[Tensor, " sequence"]) -> ChosenPositions:
    """The positions of each sequence that `positions` names.

    Raises:
        PromptError: a sequence has no such position, or lists were given for another number of
            sequences.

    >>> choose_positions(slice(-2, None), torch.tensor([3, 1])).table
    tensor([[ 1,  2],
            [ 0, -1]])
    """
    rows = list(_rows(positions, lengths.tolist()))
    longest = max((len(row) for row in rows), default=0)
    table = [row + [PADDING] * (longest - len(row)) for row in rows]
    single = positions == "last" or isinstance(positions, int)
    return ChosenPositions(
        table=torch.tensor(table, dtype=torch.long).reshape(len(rows), longest), single=single
    )


def _rows(positions: Positions, lengths: list[int]) -> Iterator[list[int]]:
    if positions is None or isinstance(positions, slice):
        window = positions or slice(None)
        yield from (list(range(length))[window] for length in lengths)
        return
    if isinstance(positions, str):
        if positions != "last":
            raise PromptError(
                f"positions={positions!r} is not known: give 'last', a number, a slice, a list of "
                "numbers, or one list for each sequence."
            )
        positions = -1
    if isinstance(positions, int):
        positions = [positions]
    if positions and not isinstance(positions[0], int):
        if len(positions) != len(lengths):
            raise PromptError(
                f"{len(positions)} lists of positions were given for {len(lengths)} sequences."
            )
        each: Sequence[Sequence[int]] = positions  # type: ignore[assignment]
    else:
        each = [positions] * len(lengths)  # type: ignore[list-item]
    for index, (wanted, length) in enumerate(zip(each, lengths, strict=True)):
        yield [_within(position, length, index) for position in wanted]


def _within(position: int, length: int, sequence: int) -> int:
    if -length <= position < length:
        return position % length
    raise PromptError(
        f"Sequence {sequence} has no position {position}: it has {length} tokens (BOS included). "
        "A slice takes what there is."
    )


DEFAULT_BATCH_SIZE = 8


def visit_rows(
    model: HookedModel,
    batch: TokenBatch,
    names: Sequence[str],
    chosen: ChosenPositions,
    dtype: torch.dtype,
    take: Callable[[str, Tensor], None],
) -> None:
    """One pass over `batch`: `take` gets each named activation, a row per chosen position.

    Rows run sequence by sequence; padding has none. Of a pattern, a row is `[head, key]`.

    Raises:
        HookError: a hook did not fire, or its activation has no value per token.
        DtypeError: a value is too large for `dtype`.
    """
    sequence, position, _ = (cells.to(model.cfg.device) for cells in chosen.cells())
    n_sequences, length = batch.ids.shape

    def keep(name: str, activation: Tensor) -> None:
        if not fits(name, tuple(activation.shape), n_sequences, length):
            raise HookError(
                f"{name} of {model.cfg.model_name} has shape {list(activation.shape)} on "
                f"{n_sequences} sequences of {length} tokens: no value per token to record."
            )
        of = sequence if len(activation) == n_sequences else torch.zeros_like(sequence)
        rows = activation[of, :, position] if is_pattern(name) else activation[of, position]
        if name.endswith("hook_attn_scores") and after_softmax(rows):
            raise HookError(
                f"{name} of {model.cfg.model_name} fires with the pattern, after the softmax: the "
                "scores before it cannot be had from this bridge. Ask for 'pattern'."
            )
        take(name, _cast(name, rows, dtype))

    visit_activations(model, batch.ids, names, keep)


def _cast(name: str, rows: Tensor, dtype: torch.dtype) -> Tensor:
    cast = rows.to(device="cpu", dtype=dtype)
    if dtype == torch.float16 and rows.dtype != dtype:
        # A masked attention score is infinite, or the least number that there is: so it may stay.
        least = torch.finfo(rows.dtype).min
        overflown = cast.isinf() & (rows.isfinite() & (rows != least)).cpu()
        if overflown.any():
            largest = float(rows.cpu()[overflown].abs().max())
            raise DtypeError(
                f"{name} has a value of {largest:.3g}, beyond float16's largest (65,504): keep it "
                "in bfloat16 or float32."
            )
    return cast


_KEPT = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
}


def kept_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """The dtype that activations are kept in, by itself or by its name.

    Raises:
        DtypeError: it does not hold numbers with a fraction, or there is none of that name.
    """
    found = _KEPT.get(str(dtype).removeprefix("torch."))
    if found is None:
        raise DtypeError(
            f"Activations can be kept in float16, bfloat16, float32 or float64, not in {dtype}."
        )
    return found
