"""Kinds of behaviour: what each has to say of itself, and what it does to one sequence.

A mask behaviour names target keys, a distribution behaviour gives whole rows a value. Both are
checked where they are called, so that a mistake in a function from outside names its behaviour.

Circuit behaviours: what a head's weights turn each token into, scored against a map of tokens.

1. A token map has a class of tokens (the days of the week) and pairs of them (Monday, Tuesday).
2. A head that attends to a pair's source writes something; its direct effect on the logits of the
   class's tokens is read off the weights. The pair is hit where its target has the highest.
3. `score` is the share of all maps' pairs that are hit. `null` is the same for the map with its
   targets permuted, the mean over all permutations: a head that always writes the same token, or
   the source itself, gets nothing above it. `lift` is `(score - null) / (1 - null)`.
4. The interval of the lift is a jackknife over pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_toolkit.core.errors import BehaviourError, unknown_name
from mi_toolkit.core.stats import MIN_QUERIES, over_texts
from mi_toolkit.heads import scores
from mi_toolkit.heads.scores import top_share
from mi_toolkit.heads.targets import KeyLists, SparseMask, marked_keys

Mask = Callable[..., Bool[Tensor, "position position"]]
"""`(ids, has_bos)`: from one sequence's ids, and whether position 0 is a BOS, to the target keys of
each query. A behaviour with roles gets the positions of each as one more keyword argument."""

Terms = Callable[..., tuple[Float[Tensor, "*rows query"], Float[Tensor, "*rows query"]]]
"""From the patterns of a sequence, and of one that it is compared with where that is asked, to each
head's and query's part of a ratio."""

RowNeed = Literal["mass", "distance", "entropy", "variation"]
"""A figure of a row of attention: its mass off the sink, how far it looks, its entropy, its total
variation to another sequence's row."""

Kind = Literal["mask", "distribution", "circuit"]

Weighting = Literal["prompts", "queries"]
"""What counts alike in a mean over several texts: each of them, or each of their queries."""

WEIGHTINGS: Mapping[str, str] = {
    "prompts": "prompts: every text counts alike, a short one as much as a long one",
    "queries": "queries: every query counts alike, so a long text counts more than a short one",
}
"""What each weighting means, as every report says it."""


def check_weighting(weighting: str) -> None:
    """Check that there is such a weighting.

    Raises:
        UnknownNameError: there is none.
    """
    if weighting not in WEIGHTINGS:
        raise unknown_name("weighting", weighting, WEIGHTINGS)


@dataclass(frozen=True, kw_only=True)
class BehaviourSpec:
    """What a report keeps of a behaviour: enough to read it where nothing is registered."""

    kind: Kind
    """How it is measured."""

    meaning: str
    """What a head that does it attends to, in one line."""

    trigger: str
    """The prompt that gives the behaviour a chance to show."""

    home: str
    """The stimulus that it is labelled on where the caller gives no prompt."""

    min_label: float | None
    """What the figure must exceed beyond doubt for the label; None for the caller's `min_lift`."""

    carries_label: bool
    """Whether heads are labelled with it."""

    excluded_stimuli: tuple[str, ...] = ()
    """Stimuli on which the figure would mislead, and is not given."""

    suppressing: str | None = None
    """The label of heads that look at the targets and lower the logits of the tokens there; None
    where what a head does with what it sees is not asked."""

    needs_copying: bool = False
    """Whether the label also asks that the head raises those logits."""

    @property
    def has_chance(self) -> bool:
        """Whether it is judged by its lift over chance, or by a value of its own."""
        return self.kind != "distribution"


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """Something a head may do."""

    name: str
    """As in tables and labels."""

    meaning: str
    """What a head that does it attends to, in one line."""

    trigger: str
    """The prompt that gives the behaviour a chance to show, as in 'needs …'."""

    home: str
    """The stimulus that it is labelled on where the caller gives no prompt."""

    min_label: float | None
    """What the figure must exceed beyond doubt for the label; None for the caller's `min_lift`."""

    carries_label: bool = True
    """Whether heads are labelled with it."""

    excluded_stimuli: tuple[str, ...] = ()
    """Stimuli on which the figure would mislead, and is not given."""

    @property
    def kind(self) -> Kind:
        """How it is measured."""
        raise NotImplementedError

    @property
    def facts(self) -> BehaviourSpec:
        """What a report keeps of it."""
        return BehaviourSpec(
            kind=self.kind,
            meaning=self.meaning,
            trigger=self.trigger,
            home=self.home,
            min_label=self.min_label,
            carries_label=self.carries_label,
            excluded_stimuli=self.excluded_stimuli,
        )


@dataclass(frozen=True, kw_only=True)
class MaskBehaviour(Behaviour):
    """Attention to a set of target keys, scored against what uniform attention would score."""

    targets: Mask
    """Marks the target keys of each query."""

    roles: tuple[str, ...] = ()
    """The roles whose positions `targets` asks for; a sequence without them has no target."""

    sparse: SparseMask | None = None
    """The same keys as lists, which long sequences need; None where only `targets` knows them."""

    top_only: bool = False
    """Whether a query counts as a whole where the key attended most is a target, and not at all
    where it is none; else the attention on the targets counts."""

    suppressing: str | None = None
    """The label that heads get in place of this one where their direct effect on the logits of the
    tokens at the targets is below 0 (see `copying_scores`); None where that is not asked."""

    needs_copying: bool = False
    """Whether the label asks for a direct effect above 0; else any but one below 0 will do."""

    home: str = "repeated_random"
    min_label: float | None = None

    @property
    def kind(self) -> Kind:
        """Measured on target keys."""
        return "mask"

    @property
    def facts(self) -> BehaviourSpec:
        """What a report keeps of it."""
        return replace(
            super().facts, suppressing=self.suppressing, needs_copying=self.needs_copying
        )

    def keys(
        self, ids: Int[Tensor, " position"], has_bos: bool, roles: Mapping[str, range]
    ) -> KeyLists:
        """The target keys of one sequence, as lists.

        Raises:
            BehaviourError: `targets` gave no square of booleans, or a key in a query's future.
        """
        if self.sparse is not None:
            return self.sparse(ids, has_bos)
        if not self._has_roles(roles):
            none = torch.zeros(len(ids), dtype=torch.long)
            return KeyLists(pool=none[:0], first=none, count=none)
        return marked_keys(self.marked(ids, has_bos, roles))

    def marked(
        self, ids: Int[Tensor, " position"], has_bos: bool, roles: Mapping[str, range]
    ) -> Bool[Tensor, "query key"]:
        """The target keys of one sequence, checked; none where a role is missing.

        Raises:
            BehaviourError: `targets` gave no square of booleans, or a key in a query's future.
        """
        n = len(ids)
        if not self._has_roles(roles):
            return torch.zeros(n, n, dtype=torch.bool)
        mask = self.targets(ids, has_bos, **{role: roles[role] for role in self.roles})
        if not isinstance(mask, Tensor):
            raise BehaviourError(
                f"The mask of {self.name!r} must be a tensor of booleans, [query key], but its "
                f"function returned {type(mask).__name__}."
            )
        if mask.dtype != torch.bool or mask.shape != (n, n):
            raise BehaviourError(
                f"The mask of {self.name!r} must be booleans, one row for each query and one "
                f"column for each key ([{n}, {n}] here); its function returned "
                f"{str(mask.dtype).removeprefix('torch.')} {list(mask.shape)}."
            )
        future = mask.triu(diagonal=1)
        if future.any():
            query, key = future.nonzero()[0].tolist()
            raise BehaviourError(
                f"The mask of {self.name!r} marks key {key} for query {query}: attention is "
                "causal, so that a key may not lie after its query. Marking keys with "
                "key <= query alone, or mask.tril(), leaves the future out."
            )
        return mask

    def _has_roles(self, roles: Mapping[str, range]) -> bool:
        return all(roles.get(role) for role in self.roles)


@dataclass(frozen=True, kw_only=True)
class DistributionBehaviour(Behaviour):
    """A figure of whole rows, with a scale of its own: no null, no lift."""

    terms: Terms
    """The numerator and denominator that each head and query adds."""

    first_query: int = 0
    """The first query that can count."""

    pools_queries: bool = False
    """Whether the value is a ratio of sums over all queries whatever the report's weighting; else,
    where prompts weigh alike, it is the mean over sequences of means."""

    compares_sequences: bool = False
    """Whether it compares sequences in pairs; the value is the mean over pairs."""

    value_range: tuple[float, float] | None = None
    """The lowest and highest value there can be, by which its interval is cut; None: not known."""

    needs: tuple[RowNeed, ...] | None = None
    """What `terms` reads of each row; None for whole patterns."""

    home: str = "natural"
    min_label: float | None = None

    @property
    def kind(self) -> Kind:
        """Measured on whole rows."""
        return "distribution"

    def measured(
        self, rows: scores.PatternRows, following: scores.PatternRows | None
    ) -> scores.QueryTerms:
        """The terms of one sequence's whole patterns, checked.

        Raises:
            BehaviourError: `terms` gave something else than two tensors `[head query]`.
        """
        given: object = self.terms(rows, following)
        wanted = rows.patterns.shape[:2]
        if not (
            isinstance(given, tuple)
            and len(given) == 2
            and all(isinstance(term, Tensor) and term.shape == wanted for term in given)
        ):
            raise BehaviourError(
                f"The terms of {self.name!r} must be a numerator and a denominator, both "
                f"[head query] ({list(wanted)} here); its function returned {_format_given(given)}."
            )
        return scores.QueryTerms(*(term.to(rows.patterns.dtype) for term in given))


def _format_given(given: object) -> str:
    if isinstance(given, Tensor):
        return f"one tensor {list(given.shape)}"
    if isinstance(given, tuple):
        return f"({', '.join(_format_given(part) for part in given)})"
    return type(given).__name__


WEIGHTS = "weights"
"""What a report calls the stimulus of circuit behaviours: no text, but the model's weights."""


@dataclass(frozen=True, kw_only=True)
class TokenMap:
    """A class of tokens, and which of them should become which."""

    name: str
    """Such as `days`."""

    candidates: tuple[int, ...]
    """The class: ids among which the target's logit has to be the highest."""

    pairs: tuple[tuple[int, int], ...]
    """Source and target ids; every target is a candidate."""


@dataclass(frozen=True, kw_only=True)
class CircuitBehaviour(Behaviour):
    """A map of tokens that a head's output-value circuit carries out; no pattern, no prompt."""

    maps: Callable[[Any], Sequence[TokenMap]]
    """From the model's tokenizer to the maps that its vocabulary allows; may be empty."""

    home: str = WEIGHTS
    min_label: float | None = None

    @property
    def kind(self) -> Kind:
        """Measured on weights."""
        return "circuit"


class PairHits(NamedTuple):
    """Which pairs of a map each head hits, and what permuted targets would."""

    hit: Float[Tensor, "head pair"]
    null: Float[Tensor, "head pair"]


class CircuitFigures(NamedTuple):
    """One layer's figures for one circuit behaviour."""

    score: Float[Tensor, "*layer head"]
    null: Float[Tensor, "*layer head"]
    lift: Float[Tensor, "*layer head"]
    ci_low: Float[Tensor, "*layer head"]
    ci_high: Float[Tensor, "*layer head"]

    p: Float[Tensor, "*layer head"]
    """One-sided, of a true lift at or under the bar."""


def pair_hits(
    logits: Float[Tensor, "head pair candidate"], target: Int[Tensor, " pair"]
) -> PairHits:
    """1 where the target's logit is the highest among the candidates; ties share it.

    `null` is the mean over all permutations of the targets among the pairs.

    >>> logits = torch.eye(3)[[1, 2, 0]][None]  # each candidate becomes the next
    >>> hits = pair_hits(logits, torch.tensor([1, 2, 0]))
    >>> hits.hit.tolist(), [round(x, 3) for x in hits.null[0].tolist()]
    ([[1.0, 1.0, 1.0]], [0.333, 0.333, 0.333])
    """
    top = top_share(logits)
    hit = top.gather(-1, target[None, :, None].expand(len(top), -1, 1))[..., 0]
    return PairHits(hit=hit, null=top[..., target].mean(dim=-1))


def circuit_figures(hits: PairHits, *, bar: float) -> CircuitFigures:
    """Score, null, lift, its interval and p of every head, over all maps' pairs together.

    The lift is a ratio of sums over pairs, `Σ(hit - null) / Σ(1 - null)`, whose jackknife leaves
    out pairs. Under 8 pairs there is no interval.
    """
    above, room = (hits.hit - hits.null).T, (1 - hits.null).T
    score, null = hits.hit.mean(dim=-1), hits.null.mean(dim=-1)
    low = high = p = torch.full_like(score, torch.nan)
    if len(above) >= MIN_QUERIES:
        # A map's pairs are all there are, not a few of many: nothing is allowed for what is unseen.
        estimate = over_texts(above, room, bounds=None)
        (low, high), p = estimate.ends(), estimate.p_at_most(bar)
        high = high.clamp_max(1)
    return CircuitFigures(score, null, above.sum(dim=0) / room.sum(dim=0), low, high, p)
