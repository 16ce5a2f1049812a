"""What survives: few random sets reach the change, and the stimulus leaves no doubt about it."""

from __future__ import annotations

import math
from dataclasses import replace

from mi_toolkit.heads.summary import TOO_FEW
from mi_toolkit.interventions.confirm.claims import Claim
from mi_toolkit.interventions.confirm.confirmation import Trial, Verdict
from mi_toolkit.interventions.confirm.effect import false_discovery_rates

DEFAULT_ALPHA = 0.05
CLEARLY_COMMON = 0.25
"""The p above which a label fails even where there are too few random sets to survive."""


def judged(trials: list[Trial], claims: list[Claim], alpha: float) -> tuple[Trial, ...]:
    """The trials with their false discovery rate and verdict.

    The correction is over the trials that could survive at all: one with so few random sets that
    its p cannot reach `alpha` cannot be a false discovery either (Tarone 1990).
    """
    decidable = [1 / (1 + len(trial.effect.random)) <= alpha for trial in trials]
    pairs = list(zip(trials, decidable, strict=True))
    rates = iter(false_discovery_rates([trial.effect.p for trial, can in pairs if can]))
    n_needed = math.ceil(sum(decidable) / alpha) - 1
    found = []
    for (trial, can), claim in zip(pairs, claims, strict=True):
        rate = next(rates) if can else trial.effect.p
        verdict, reason = _verdict(trial, claim.direction)
        if verdict == "survives" and not (can and rate <= alpha):
            promising = _n_reaching(trial) == 0 if can else trial.effect.p <= CLEARLY_COMMON
            verdict = "undecided" if promising else "fails"
            if verdict == "undecided":
                more = can and not trial.are_all
                reason += f"; {n_needed} would decide" if more else "; too few to rule out chance"
        found.append(replace(trial, q=rate, verdict=verdict, reason=reason))
    return tuple(found)


def _n_reaching(trial: Trial) -> int:
    return round(trial.effect.p * (len(trial.effect.random) + 1)) - 1


def _verdict(trial: Trial, direction: int) -> tuple[Verdict, str]:
    """The verdict as far as one trial goes, before its rank is judged."""
    effect, n_random = trial.effect, len(trial.effect.random)
    others = "other heads" if trial.rank_in_layer else "random sets"
    if n_random < 2:
        return "undecided", f"{n_random or 'no'} other set of heads to compare with"
    if effect.interval == TOO_FEW:
        return "undecided", "too few predictions for an interval"
    reached = _n_reaching(trial)
    nearest = effect.effect_low if direction > 0 else -effect.effect_high
    rank = f"beyond all {n_random} {others}"
    if reached:
        rank = f"{reached} of {n_random} {others} do as much"
    if not nearest > 0:
        return "fails", rank if reached else f"{rank}, but on other sequences perhaps not"
    return "survives", rank
