"""What a sensitivity run is asked to do."""

from __future__ import annotations

from dataclasses import dataclass

from mi_toolkit.sensitivity.controls import CONTROLS


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a run does. Everything in it is in the manifest."""

    metrics: tuple[str, ...] = ("grad_x_weight",)
    topk: tuple[int, ...] = (100,)
    per: str = "model"
    layers: tuple[int, ...] | None = None
    components: tuple[str, ...] | None = None
    batch_size: int = 8
    max_length: int | None = None
    eval_limit: int | None = None
    perturb: tuple[str, ...] = ("zero",)
    perturb_scale: float = 1.0
    controls: tuple[str, ...] = CONTROLS
    ratios: tuple[float, ...] = ()
    """Doses as shares of all scored weights; without them the doses are `topk`."""
    n_random: int = 20
    fast: bool = False
    """Whether to test on 8 texts and with 5 random draws."""
    fidelity: int = 40
    """Single weights that are removed one by one; 0 for none."""
    seeds: tuple[int, ...] = ()
    """Resampled sets of texts for stability; none: no stability over data."""
    blocks_at_once: int | None = None
    """Blocks whose gradients are held together; None for all. It changes figures by rounding
    only."""
