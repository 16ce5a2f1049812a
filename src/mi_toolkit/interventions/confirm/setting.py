"""What both ways of confirming share: arguments, checked; losses; the trial, and its verdict."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.core.errors import PromptError
from mi_toolkit.core.head import Head
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.provenance import Provenance
from mi_toolkit.core.stats import false_discovery_rates
from mi_toolkit.core.tokens import Prompt, TokenBatch, tokenise
from mi_toolkit.interventions.ablation import check_kind
from mi_toolkit.interventions.confirm.confirmation import Explanation, HypothesisTest, Verdict
from mi_toolkit.interventions.confirm.hypotheses import Hypothesis
from mi_toolkit.interventions.confirm.losses import TOO_FEW, HeadSet, LossRuns, effect_of
from mi_toolkit.models.describe import provenance_of

DEFAULT_SEQUENCES = 16
DEFAULT_ALPHA = 0.05
CLEARLY_COMMON = 0.25
"""The p above which a label fails even where there are too few other sets for it to survive."""


@dataclass(frozen=True, kw_only=True, eq=False)
class AblationConfig:
    """How the heads are ablated and the figures made."""

    model: HookedModel
    how: str
    reference: TokenBatch | None
    rows: int | None
    seed: int

    @staticmethod
    def of(
        model: HookedModel,
        *,
        how: str,
        reference: Prompt | TokenBatch | None,
        batch_size: int | None,
        seed: int,
        **counts: int | None,
    ) -> AblationConfig:
        """The setting, checked.

        Raises:
            UnknownNameError: no such kind of ablation.
            PromptError: a count under 1, or a reference that cannot be fed.
        """
        check_kind(how)
        for name, count in {**counts, "batch_size": batch_size}.items():
            if count is not None and count < 1:
                raise PromptError(f"{name} counts something: 1 or more, not {count}.")
        if reference is not None and not isinstance(reference, TokenBatch):
            reference = tokenise(model, reference)
        return AblationConfig(model=model, how=how, reference=reference, rows=batch_size, seed=seed)

    def generator(self) -> torch.Generator:
        """A local generator."""
        return torch.Generator().manual_seed(self.seed)

    def reference_in_words(self) -> str:
        """What the kind of ablation takes its values from."""
        if self.how in ("zero", "pattern_preserving"):
            return "nothing" if self.how == "zero" else "the clean run on the same sequence"
        if self.reference is not None:
            return f"a reference of {len(self.reference)} sequences ({self.reference.digest[:12]})"
        return "natural text" if self.how == "mean" else "another sequence of the stimulus"

    def provenance(self, claims: Sequence[Hypothesis]) -> Provenance:
        """Model, stimuli and versions."""
        batches = {claim.stimulus: claim.batch for claim in claims}
        return provenance_of(self.model, batches, seed=self.seed)


@dataclass(frozen=True, kw_only=True, eq=False)
class LossTable:
    """The losses of every set that the claims on one batch need, each set ablated once."""

    claims: Sequence[Hypothesis]
    run: LossRuns
    place: Mapping[HeadSet, int]
    """Where each set's losses are; the empty set is the clean run."""

    @staticmethod
    def of(
        setting: AblationConfig, claims: Sequence[Hypothesis], sets: Mapping[str, Iterable[HeadSet]]
    ) -> list[LossTable]:
        """A table for each batch; its losses are still to be measured.

        Args:
            setting: how the heads are ablated.
            claims: in any order.
            sets: per label the sets that its claim needs.
        """
        batches: dict[tuple[str, str], list[Hypothesis]] = {}
        for claim in claims:
            batches.setdefault((claim.stimulus, claim.batch.digest), []).append(claim)
        tables = []
        for together in batches.values():
            needed = [heads for claim in together for heads in sets[claim.label]]
            distinct = list(dict.fromkeys([(), *needed]))
            run = LossRuns(
                setting.model,
                distinct,
                together[0].batch,
                torch.stack([claim.queries for claim in together]).any(dim=0),
                how=setting.how,
                reference=setting.reference,
                rows=setting.rows,
            )
            place = {heads: index for index, heads in enumerate(distinct)}
            tables.append(LossTable(claims=together, run=run, place=place))
        return tables

    def changes(self, claim: Hypothesis, sets: Sequence[HeadSet]) -> Float[Tensor, "set query"]:
        """The sets' changes of loss at the queries that count for a claim."""
        losses = self.run.losses[:, claim.queries[self.run.queries]]
        return losses[[self.place[heads] for heads in sets]] - losses[self.place[()]]

    def trial(
        self,
        claim: Hypothesis,
        heads: HeadSet,
        others: Sequence[HeadSet],
        *,
        are_all: bool,
        rank_in_layer: tuple[int, int] | None = None,
        explanation: Explanation | None = None,
    ) -> HypothesisTest:
        """A set's trial next to others, still to be judged."""
        sequence = sequence_of_query(claim)
        clean = self.run.losses[self.place[()], claim.queries[self.run.queries]]
        weight = 1 / claim.queries.sum(dim=1)[sequence]
        return HypothesisTest(
            label=claim.label,
            heads=heads,
            stimulus=claim.stimulus,
            n_sequences=len(claim.batch),
            n_seen=claim.n_seen,
            n_queries=len(sequence),
            clean_loss=float((clean * weight).sum() / weight.sum()),
            effect=effect_of(
                self.changes(claim, [heads, *others]), sequence, direction=claim.direction
            ),
            random_sets=tuple(others),
            are_all=are_all,
            rank_in_layer=rank_in_layer,
            explanation=explanation,
            q=1.0,
            verdict="undecided",
            reason="",
        )


def sequence_of_query(claim: Hypothesis) -> Int[Tensor, " query"]:
    """Which sequence each query that counts for a claim is of."""
    return claim.queries.nonzero()[:, 0]


def every_head(model: HookedModel, layers: Sequence[int]) -> list[Head]:
    """All heads of the layers."""
    return [Head(layer, head) for layer in layers for head in range(int(model.cfg.n_heads))]


def judged(
    trials: Sequence[HypothesisTest], directions: Sequence[int], alpha: float
) -> tuple[HypothesisTest, ...]:
    """The trials with their false discovery rate (Benjamini and Hochberg) and verdict.

    The correction is over the trials that could survive at all: one with so few other sets that
    its p cannot reach `alpha` cannot be a false discovery either (Tarone 1990).
    """
    decidable = [1 / (1 + len(trial.effect.random)) <= alpha for trial in trials]
    tested = [trial.effect.p for trial, can in zip(trials, decidable, strict=True) if can]
    rates = iter(false_discovery_rates(torch.tensor(tested, dtype=torch.float64)).tolist())
    n_needed = math.ceil(sum(decidable) / alpha) - 1
    found = []
    for trial, can, direction in zip(trials, decidable, directions, strict=True):
        rate = next(rates) if can else trial.effect.p
        verdict, reason = _verdict(trial, direction)
        if verdict == "survives" and not (can and rate <= alpha):
            promising = n_reaching(trial) == 0 if can else trial.effect.p <= CLEARLY_COMMON
            verdict = "undecided" if promising else "fails"
            if verdict == "undecided" and can and not trial.are_all:
                reason += f"; {n_needed} would decide"
            elif verdict == "undecided":
                reason += _too_few(trial, n_needed if can else math.ceil(1 / alpha) - 1)
        if verdict == "fails":
            reason += _lagging(trial)
        found.append(replace(trial, q=rate, verdict=verdict, reason=reason))
    return tuple(found)


def _too_few(trial: HypothesisTest, n_needed: int) -> str:
    """How often chance alone ranks a set so high, and how many others would rule that out."""
    n_high = 1 + n_reaching(trial)
    by_chance = f"{n_high} time{'s' * (n_high > 1)} in {1 + len(trial.effect.random)}"
    return f"; chance alone does that {by_chance}, and a verdict takes {n_needed} others"


def n_reaching(trial: HypothesisTest) -> int:
    """How many of the other sets reach a trial's change."""
    return round(trial.effect.p * (len(trial.effect.random) + 1)) - 1


def _verdict(trial: HypothesisTest, direction: int) -> tuple[Verdict, str]:
    """The verdict as far as one trial goes, before its rank is judged."""
    effect, n_random = trial.effect, len(trial.effect.random)
    others = "other heads" if trial.rank_in_layer else "other sets"
    if not trial.are_all:
        others = others.replace("other", "random")
    if n_random < 2:
        return "undecided", f"{n_random or 'no'} other set of heads to compare with"
    if effect.interval == TOO_FEW:
        return "undecided", "too few predictions for an interval"
    reached = n_reaching(trial)
    nearest = effect.effect_low if direction > 0 else -effect.effect_high
    rank = f"beyond all {n_random} {others}"
    if reached:
        rank = f"{reached} of {n_random} {others} do as much"
    if not nearest > 0:
        return "fails", rank if reached else f"{rank}, but on other sequences perhaps not"
    return "survives", rank


def _lagging(trial: HypothesisTest) -> str:
    """Layers in which a set does less than most other heads, where there are others."""
    layers = trial.explanation.layers if trial.explanation else ()
    lagging = [part for part in layers if part.lags]
    if not lagging or len(lagging) == len(layers):
        return "; in no layer more than most of its heads" if lagging else ""
    names = " ".join(str(part.heads[0].layer) for part in lagging)
    return f"; less than most heads of layer{'s' * (len(lagging) > 1)} {names}"
