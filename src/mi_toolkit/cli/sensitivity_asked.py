"""What `mi-toolkit sensitivity` is asked to do, checked before a model is loaded for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mi_toolkit.cli.errors import UsageError
from mi_toolkit.cli.options import LoadOptions
from mi_toolkit.cli.terminal import (
    doing,
    note,
    third_parties_kept_off_stdout,
    uncollected,
)
from mi_toolkit.core.errors import PromptError, unknown_name

if TYPE_CHECKING:
    from mi_toolkit.weights.run_folder import Budget
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
    from mi_toolkit.weights.evaluate_scores import CONTROLS
    from mi_toolkit.weights.perturb import EDITS
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


def budget_for(name: str, load: LoadOptions, **asked: Any) -> Budget:
    """What the size of a model allows, told on standard error; from its config alone.

    Raises:
        MIToolkitError: as `load_model` does where there is no such model.
    """
    load.check(name)
    with doing(f"Reading the config of {name}"), third_parties_kept_off_stdout(), uncollected():
        import torch

        from mi_toolkit.core.process_state import available_bytes
        from mi_toolkit.models.facts import model_size
        from mi_toolkit.weights.run_folder import budget_of

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
