"""What of an activation is kept: the chosen positions, in the asked precision, on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mi_toolkit.activations.errors import DtypeError
from mi_toolkit.activations.hooks import after_softmax, fits
from mi_toolkit.activations.names import is_pattern
from mi_toolkit.activations.positions import ChosenPositions
from mi_toolkit.errors import HookError
from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.hooked_pass import visit_activations
from mi_toolkit.prompts.tokens import TokenBatch

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


def check_dtype(dtype: torch.dtype) -> None:
    """Check that activations can be kept in `dtype`.

    Raises:
        DtypeError: it does not hold numbers with a fraction.
    """
    if dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise DtypeError(
            f"Activations can be kept in float16, bfloat16, float32 or float64, not in {dtype}."
        )
