"""What `mi-toolkit sensitivity` is asked to do and what it will cost, before a model is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mi_toolkit.cli.options import LoadOptions
from mi_toolkit.cli.terminal import (
    UsageError,
    doing,
    note,
    third_parties_kept_off_stdout,
    uncollected,
)
from mi_toolkit.core.errors import PromptError, unknown_name
from mi_toolkit.models.specs import LARGE, VERY_LARGE

if TYPE_CHECKING:
    from mi_toolkit.models.memory_use import ModelSize
    from mi_toolkit.weights.study import Settings


def texts_of(path: Path) -> list[str]:
    """The texts of a file: one to a line, empty lines left out.

    Raises:
        PromptError: it cannot be read, or holds fewer than two texts.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise PromptError(f"{path} cannot be read: {reason}.") from error
    texts = [line for line in lines if line.strip()]
    if len(texts) < 2:
        raise PromptError(
            f"{path} holds {len(texts)} texts, one to a line. Half of them score and half test, so "
            "there must be two or more."
        )
    return texts


def settings_of(**chosen: Any) -> Settings:
    """The settings, names checked before a model is loaded for them."""
    from mi_toolkit.weights.edits import EDITS
    from mi_toolkit.weights.evaluate_scores import CONTROLS
    from mi_toolkit.weights.scorers import SCORERS
    from mi_toolkit.weights.study import Settings

    if chosen["controls"] is None:
        chosen["controls"] = CONTROLS
    known = {
        "weight scorer": (chosen["metrics"], SCORERS),
        "kind of perturbation": (chosen["perturb"], EDITS),
        "control": (chosen["controls"], CONTROLS),
    }
    for kind, (names, table) in known.items():
        for name in names:
            if name not in table:
                raise unknown_name(kind, name, table)
    if min(chosen["topk"]) < 1:
        raise UsageError(msg="--topk must be 1 or more.")
    if not all(0 < ratio <= 1 for ratio in chosen["ratios"]):
        raise UsageError(msg="--perturbation-ratios are shares: above 0, up to 1.")
    # Several values, once each, and never changed afterwards.
    fixed: dict[str, Any] = {
        name: tuple(dict.fromkeys(value)) if isinstance(value, (list, tuple)) else value
        for name, value in chosen.items()
    }
    return Settings(**fixed)


def seeds_of(seeds: list[int] | None, *, asked: bool) -> list[int]:
    """The seeds of the resampled texts: those given, four where only the check was asked for."""
    if seeds is not None and len(set(seeds)) < 2:
        raise UsageError(msg="--seeds needs two or more different numbers: rankings are compared.")
    return seeds if seeds is not None else [0, 1, 2, 3] if asked else []


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
    room = None if free is None else int((1 - SPARE) * free) - weights
    if blocks_at_once is None and room is not None and gradients > room:
        block = max(1, gradients // size.n_layers)
        blocks_at_once = min(size.n_layers, max(1, room // block))
    sized = f"{size.name} has {size.n_parameters / 1e9:.1f}B parameters"
    notes = []
    if size.n_parameters >= TOLD_FROM:
        held, how = gradients, ""
        if blocks_at_once is not None:
            held = gradients * blocks_at_once // size.n_layers
            how = f", {blocks_at_once} of {size.n_layers} blocks at once"
        text = (
            f"{sized}: it takes about {(weights + held) / 1e9:.1f} GB (weights "
            f"{weights / 1e9:.1f} in {dtype}, gradients {held / 1e9:.1f}{how})"
        )
        text += "." if free is None else f"; {free / 1e9:.1f} GB are free."
        if free is not None and weights > free:
            way_out = " (try --dtype bfloat16)" if dtype == "float32" else ""
            text += f" That will not fit{way_out}."
        notes.append(text)
    if perturbing and size.n_parameters >= VERY_LARGE and not forced:
        perturbing = False
        notes.append(
            f"{sized}: the weights are scored and not tested. --force-perturbation tests them all "
            "the same."
        )
    elif perturbing and size.n_parameters >= LARGE and not fast:
        notes.append(f"{sized}: --fast-perturbation saves most of the time.")
    return Budget(perturbing=perturbing, blocks_at_once=blocks_at_once, notes=tuple(notes))


def budget_for(name: str, load: LoadOptions, **asked: Any) -> Budget:
    """What the size of a model allows, reported on standard error; from its config alone.

    Raises:
        MIToolkitError: as `load_model` does where there is no such model.
    """
    load.check(name)
    with doing(f"Reading the config of {name}"), third_parties_kept_off_stdout(), uncollected():
        import torch

        from mi_toolkit.core.memory import available_bytes
        from mi_toolkit.models.memory_use import model_size

        size = model_size(name, revision=load.revision, trust_remote_code=load.trust_remote_code)
        # Spread over devices, what one of them has free says nothing.
        device = load.device if load.device not in (None, "auto") else None
        if device is None and torch.cuda.is_available():
            device = "cuda"
        free = None if load.device_map else available_bytes(device)
        budget = budget_of(size, dtype=load.dtype, free=free, **asked)
    for sentence in budget.notes:
        note(sentence)
    return budget
