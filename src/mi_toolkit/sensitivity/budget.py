"""What a run may do with a model of some size: decided before it is loaded. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from mi_toolkit.models.size import ModelSize

LARGE, VERY_LARGE = 1_000_000_000, 7_000_000_000
TOLD_FROM = 100_000_000
"""Parameters from which the estimate is worth a line."""

SPARE = 0.1
"""Share of the free memory that is left for the pass itself."""

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
SCORE_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What will be done, and what there is to say about it."""

    perturbing: bool
    """Whether the top weights are tested."""

    blocks_at_once: int | None
    """Blocks whose gradients are held together; None for all."""

    notes: tuple[str, ...]
    """Sentences for the user."""


def budget_of(
    size: ModelSize,
    *,
    dtype: str,
    free: int | None,
    perturbing: bool,
    fast: bool,
    forced: bool,
    blocks_at_once: int | None = None,
) -> Budget:
    """What to do: everything below 1B parameters, a warning up to 7B, above that only scores.

    Args:
        size: of the model.
        dtype: that its weights will have.
        free: bytes of memory to be had; None where that is not known.
        perturbing: whether the perturbation test was asked for.
        fast: whether it was asked for in its fast form.
        forced: whether it was asked for whatever the size.
        blocks_at_once: chosen by the user; None to choose.
    """
    weights = size.weights(BYTES[dtype])
    gradients = size.n_block_weights * SCORE_BYTES
    notes = []
    if blocks_at_once is None and free is not None and weights + gradients > (1 - SPARE) * free:
        block = max(1, gradients // size.n_layers)
        room = int((1 - SPARE) * free) - weights
        blocks_at_once = min(size.n_layers, max(1, room // block))
    billions = f"{size.n_parameters / 1e9:.1f}B"
    if size.n_parameters >= TOLD_FROM:
        notes.append(_estimate(size, billions, weights, gradients, blocks_at_once, dtype, free))
    if perturbing and size.n_parameters >= VERY_LARGE and not forced:
        perturbing = False
        notes.append(
            f"{size.name} has {billions} parameters: the weights are scored and not tested. "
            "--force-perturbation tests them all the same."
        )
    elif perturbing and size.n_parameters >= LARGE and not fast:
        notes.append(
            f"{size.name} has {billions} parameters: --fast-perturbation saves most of the time."
        )
    return Budget(perturbing=perturbing, blocks_at_once=blocks_at_once, notes=tuple(notes))


def _estimate(
    size: ModelSize,
    billions: str,
    weights: int,
    gradients: int,
    blocks: int | None,
    dtype: str,
    free: int | None,
) -> str:
    held = gradients if blocks is None else gradients * blocks // size.n_layers
    told = "" if free is None else f"; {free / 1e9:.1f} GB are free"
    how = "" if blocks is None else f", {blocks} of {size.n_layers} blocks at once"
    text = (
        f"{size.name} has {billions} parameters: it takes about {(weights + held) / 1e9:.1f} GB "
        f"(weights {weights / 1e9:.1f} in {dtype}, gradients {held / 1e9:.1f}{how}){told}."
    )
    if free is not None and weights > free:
        text += " That will not fit" + (" (try --dtype bfloat16)." if dtype == "float32" else ".")
    return text
