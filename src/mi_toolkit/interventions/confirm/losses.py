"""Losses under many ablations at once: the rows of a batch carry different sets of heads.

1. One sequence at a time, so that nothing is padded. Up to the first ablated layer every row would
   compute the same: the model runs on one row until then, and is widened to all of them there.
2. Before the unembedding all but the counted queries are cut away; what follows sees those alone.
3. Sets are taken in the order of their first layer, so that sets which begin late share a batch.
4. Losses are kept sequence by sequence where a folder is given, and an interrupted run goes on.

How far one set's loss change stands out among those of other sets: pure figures.

1. A set's change is the mean over sequences of the mean over counted queries of the loss with the
   set ablated minus the loss without: paired, query by query.
2. `effect = (change - mean of the other sets' changes) / their standard deviation`.
3. Standard errors are those of the delete-one jackknife: over sequences from 3 on, below that over
   runs of neighbouring queries, which says nothing of other texts: 8 of them, or as many as the
   queries are worth independent ones. Intervals are Student's t with one degree of freedom less
   than there are units. The other sets are the null: they stay the same ones, and their standard
   deviation is only the unit in which the effect's interval is given.
4. `p = (1 + other sets that reach the change) / (1 + other sets)`: the set itself counts as one of
   its kind, so no draw gives 0. The percentile is its complement.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from mi_toolkit.core.errors import HookError, PromptError
from mi_toolkit.core.head import Head
from mi_toolkit.core.model import HookedModel, evaluating, weights_digest
from mi_toolkit.core.passes import check_finite_pass
from mi_toolkit.core.progress import track
from mi_toolkit.core.provenance import installed_versions
from mi_toolkit.core.resumable import Checkpoint, fingerprint
from mi_toolkit.core.stats import MIN_TEXTS, effective_size, students_t
from mi_toolkit.core.tokens import TokenBatch
from mi_toolkit.interventions.ablation import KINDS, in_place
from mi_toolkit.interventions.components import Apply, Hooks, Target, targets_of

OF_ONE_SEQUENCE = ("resample", "pattern_preserving")
"""Kinds that take from another reference for each sequence."""

LOGITS_BUDGET = 256 * 2**20
MAX_ROWS = 32
BEFORE_UNEMBEDDING = ("unembed.hook_in", "ln_final.hook_normalized")
"""Where positions can be cut away, in a TransformerBridge and in a HookedTransformer."""

FORMAT = "mi_toolkit ablation losses 2"

HeadSet = tuple[Head, ...]


class LossRuns:
    """Sets of heads to ablate on one stimulus, in passes of many sets on one sequence."""

    def __init__(
        self,
        model: HookedModel,
        sets: Sequence[HeadSet],
        batch: TokenBatch,
        queries: Bool[Tensor, "sequence position"],
        *,
        how: str,
        reference: TokenBatch | None = None,
        rows: int | None = None,
    ) -> None:
        """Plan the passes.

        Args:
            model: the model.
            sets: heads to ablate together; an empty set is the clean run.
            batch: the stimulus.
            queries: whose predictions count; every sequence has one.
            how: the kind of ablation.
            reference: what `mean` and `resample` take from; None for natural text, and for the
                batch's next sequence that is long enough.
            rows: sets to a pass; None for as many as keep the logits in bounds.
        """
        self.model, self.sets, self.batch, self.queries = model, tuple(sets), batch, queries
        self.how, self.reference = how, reference
        self._shared: Callable[[], Apply] = cache(lambda: prepared([self]))
        self.chunks = self._chunked(rows or rows_to_a_pass(model, queries))
        self._targets = [targets_of(model, [self.sets[i] for i in c]) for c in self.chunks]
        ends = queries.sum(dim=1).cumsum(dim=0).tolist()
        self.places = [slice(a, b) for a, b in zip([0, *ends], ends, strict=False)]
        self.losses = torch.full((len(self.sets), ends[-1]), torch.nan)

    @property
    def sequence_of_query(self) -> Int[Tensor, " query"]:
        """Which sequence each counted query is of."""
        return self.queries.nonzero()[:, 0]

    @property
    def n_passes(self) -> int:
        """Forward passes: each of several sets on one sequence."""
        return len(self.chunks) * len(self.places)

    def run(self, sequence: int) -> Iterator[None]:
        """Fill in the losses on one sequence, pass by pass."""
        apply = self._prepared(sequence)
        for chunk, targets in zip(self.chunks, self._targets, strict=True):
            losses = self._losses(sequence, len(chunk), targets, apply)
            self.losses[chunk, self.places[sequence]] = losses
            yield

    def _chunked(self, rows: int) -> list[list[int]]:
        """Which sets run together: by their first layer, the clean run with the last of them."""
        after_all = int(self.model.cfg.n_layers)
        first = [heads[0].layer if heads else after_all for heads in self.sets]
        order = sorted(range(len(self.sets)), key=lambda index: first[index])
        return [order[start : start + rows] for start in range(0, len(order), rows)]

    def share(self, prepare: Callable[[], Apply]) -> None:
        """Take a kind that does not depend on the sequence from `prepare`, as others do."""
        self._shared = prepare

    def _prepared(self, sequence: int) -> Apply:
        if self.how not in OF_ONE_SEQUENCE:
            return self._shared()
        needed = needed_by([self])
        if not needed:
            return lambda _: []
        return KINDS[self.how](self.model, needed, self._reference(sequence))

    def _reference(self, sequence: int) -> TokenBatch:
        if self.how == "pattern_preserving":
            return self.batch.part(sequence, sequence + 1)
        length = int(self.batch.lengths[sequence])
        pool = self.batch if self.reference is None else self.reference
        n = len(pool)
        # Of the batch itself, every sequence but this one; of a reference, every one.
        for step in range(1, n + (pool is self.reference)):
            donor = (sequence + step) % n
            if int(pool.lengths[donor]) >= length:
                return pool.part(donor, donor + 1)
        raise PromptError(
            "A resample ablation takes a head's output on another sequence, and there is none of "
            f"{length} tokens or more: pass a longer reference=, or choose another kind."
        )

    def _losses(
        self, sequence: int, n_rows: int, targets: Sequence[Target], apply: Apply
    ) -> Float[Tensor, "row query"]:
        model, ids = self.model, self.batch.sequence(sequence).to(self.model.cfg.device)[None]
        positions = self.queries[sequence].nonzero()[:, 0].to(ids.device)
        start = min((target.layer for target in targets), default=0)
        hooks: Hooks = [
            (f"blocks.{start}.hook_resid_pre", _widening(n_rows)),
            (_before_unembedding(model), _cutting(positions)),
        ]
        with (
            evaluating(model),
            torch.no_grad(),
            model.hooks(fwd_hooks=hooks),
            in_place(model, targets, apply(targets)),
        ):
            logits = model(ids, attention_mask=torch.ones_like(ids))
            check_finite_pass(model, ids, logits)
        if logits.shape[:2] != (n_rows, len(positions)):
            raise HookError(
                f"{hooks[0][0]} or {hooks[1][0]} of {model.cfg.model_name} did not fire, so its "
                f"logits are {list(logits.shape[:2])}, not {[n_rows, len(positions)]}."
            )
        following = ids[0, positions + 1]
        # Row by row: the softmax of all of them would take as much memory as the logits again.
        rows = [cross_entropy(row.float(), following, reduction="none") for row in logits]
        return torch.stack(rows).cpu()


def rows_to_a_pass(model: HookedModel, queries: Bool[Tensor, "sequence position"]) -> int:
    """Sets to a pass: as many as keep the logits in bounds."""
    most = int(queries.sum(dim=1).max()) * int(model.cfg.d_vocab) * torch.float32.itemsize
    return max(1, min(MAX_ROWS, LOGITS_BUDGET // most))


def needed_by(runs: Sequence[LossRuns]) -> list[Target]:
    """All that the runs ablate, as one set."""
    heads = {head for run in runs for heads in run.sets for head in heads}
    return targets_of(runs[0].model, [sorted(heads)])


def prepared(runs: Sequence[LossRuns]) -> Apply:
    """The runs' kind of ablation, prepared once for all of them."""
    needed = needed_by(runs)
    return KINDS[runs[0].how](runs[0].model, needed, runs[0].reference) if needed else lambda _: []


def _before_unembedding(model: HookedModel) -> str:
    for name in BEFORE_UNEMBEDDING:
        if name in model.hook_dict:
            return name
    raise HookError(
        f"{model.cfg.model_name} has no hook before its unembedding: none of "
        f"{', '.join(BEFORE_UNEMBEDDING)}."
    )


def _widening(n_rows: int) -> Any:
    def widen(residual: Tensor, hook: Any) -> Tensor:
        return residual.expand(n_rows, -1, -1).contiguous()

    return widen


def _cutting(positions: Tensor) -> Any:
    def cut(residual: Tensor, hook: Any) -> Tensor:
        return residual[:, positions]

    return cut


def measure(
    runs: Sequence[LossRuns], *, resume: str | os.PathLike[str] | None, progress: bool | None
) -> None:
    """Fill in the losses of every run.

    Args:
        runs: what to run, with one kind of ablation and one reference.
        resume: a folder that takes each sequence's losses as soon as they are there, and gives
            them back to a later call that asks for the very same; None keeps nothing.
        progress: a progress bar, None where somebody looks.
    """
    folder = None if resume is None or not runs else Path(resume)
    weights = "" if folder is None else weights_digest(runs[0].model)
    # Lazily: where everything is kept, nothing is prepared.
    prepare = cache(lambda: prepared(runs))
    for run in runs:
        run.share(prepare)
    todo = [(run, None if folder is None else _kept(run, folder, weights)) for run in runs]
    total = sum(len(run.chunks) * len(_missing(run)) for run, _ in todo)
    passes = (None for run, kept in todo for _ in _passes(run, kept))
    model = runs[0].model if runs else None
    for _ in track(
        passes, total=total, label="ablating heads", unit="pass", show=progress, at_rest=model
    ):
        pass


def _passes(run: LossRuns, kept: Checkpoint | None) -> Iterator[None]:
    for sequence in _missing(run):
        yield from run.run(sequence)
        if kept is not None:
            kept.save({"losses": run.losses}, {})


def _kept(run: LossRuns, folder: Path, weights: str) -> Checkpoint:
    """The file of a run, whose losses are taken as far as it holds them."""
    asked = {
        "weights": weights,
        "backend": type(run.model).__name__,
        "batch": run.batch.digest,
        "queries": fingerprint(run.queries.nonzero().tolist()),
        "sets": fingerprint([[tuple(head) for head in heads] for heads in run.sets]),
        "passes": fingerprint(run.chunks),
        "how": run.how,
        "reference": None if run.reference is None else run.reference.digest,
        "versions": installed_versions(),
    }
    path = folder / f"{fingerprint(asked)[:16]}.safetensors"
    checkpoint = Checkpoint(path, asked, format=FORMAT, kind="file of losses")
    kept = checkpoint.load()
    if kept is not None:
        run.losses.copy_(kept[0]["losses"])
    return checkpoint


def _missing(run: LossRuns) -> list[int]:
    return [
        sequence
        for sequence, place in enumerate(run.places)
        if bool(run.losses[:, place].isnan().any())
    ]


N_RUNS = 8
"""Runs of neighbouring queries where there are too few sequences, and so the fewest queries.

Neighbours are alike: fewer runs where their changes are worth fewer independent ones, since runs
that are as short as what makes neighbours alike are alike too."""

BY_SEQUENCE = "jackknife over sequences"
BY_QUERIES = "jackknife over the queries of this text"
TOO_FEW = "too few"


@dataclass(frozen=True, kw_only=True, eq=False)
class Effect:
    """One set's loss change next to those of other sets."""

    change: float
    """Mean loss with the set ablated minus mean loss without, in nats."""

    change_low: float
    """Lower end of the change's 95% interval; NaN where there are too few queries for one."""

    change_high: float
    """Upper end of the same."""

    effect: float
    """The change in standard deviations of the other sets' changes from their mean; NaN for fewer
    than two other sets."""

    effect_low: float
    """Lower end of the effect's 95% interval, over the stimulus."""

    effect_high: float
    """Upper end of the same."""

    random: Float[Tensor, " set"]
    """The other sets' changes."""

    percentile: float
    """`100 (1 - p)` with p for a rise of the loss: at most `100 n / (n + 1)` with n other sets."""

    p: float
    """Probability that a set of the kind, drawn at random, ranks as high; for a label that says
    that the heads hold a prediction back, as low."""

    interval: str
    """How the intervals were made, or why there are none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PairedChanges:
    """Changes of loss of several sets, summed over the units that are left out in turn."""

    numerator: Float[Tensor, "set unit"]
    """Summed changes of a unit's queries, each of which weighs as its sequence's mean says."""

    denominator: Float[Tensor, " unit"]
    """The weights of the unit's queries, summed."""

    interval: str
    """What the units are; `TOO_FEW` where no interval can be made of them."""

    @staticmethod
    def of(changes: Float[Tensor, "set query"], sequence: Int[Tensor, " query"]) -> PairedChanges:
        """Changes at each counted query, and which sequence each is of."""
        _, place, n_queries = sequence.unique(return_inverse=True, return_counts=True)
        weight = (1 / n_queries[place]).double()
        interval = BY_SEQUENCE
        if len(n_queries) < MIN_TEXTS:
            interval = BY_QUERIES if len(sequence) >= N_RUNS else TOO_FEW
            n_units = min(N_RUNS, _worth(changes, n_queries.tolist()))
            place = torch.arange(len(sequence)) * n_units // len(sequence)
        n_units = int(place.max()) + 1
        numerator = torch.zeros(len(changes), n_units, dtype=torch.double)
        numerator.index_add_(1, place, changes.double() * weight)
        denominator = torch.zeros(n_units, dtype=torch.double).index_add_(0, place, weight)
        return PairedChanges(numerator=numerator, denominator=denominator, interval=interval)

    @property
    def mean(self) -> Float[Tensor, " set"]:
        """Mean loss change of each set, in nats."""
        return self.numerator.sum(dim=1) / self.denominator.sum()

    def estimate(
        self, figure: Callable[[Tensor], Tensor]
    ) -> tuple[Float[Tensor, " figure"], Float[Tensor, " figure"]]:
        """Figures of the sets' changes and their standard errors; NaN where there are too few.

        Args:
            figure: from changes, `["draw set"]`, to figures, `["draw figure"]`.
        """
        value = figure(self.mean[None])[0]
        if self.interval == TOO_FEW:
            return value, torch.full_like(value, math.nan)
        rest = self.numerator.sum(dim=1, keepdim=True) - self.numerator
        without = figure((rest / (self.denominator.sum() - self.denominator)).T)
        n_units = len(without)
        spread = (without - without.mean(dim=0)).square().sum(dim=0)
        return value, ((n_units - 1) / n_units * spread).sqrt()

    @property
    def t(self) -> float:
        """Standard errors to either end of a 95% interval."""
        return float(students_t(torch.tensor(len(self.denominator) - 1.0)))


def _worth(changes: Float[Tensor, "set query"], lengths: Sequence[int]) -> int:
    """How many independent queries those of one or two texts are worth: of the first set, or less.

    Less where the sets are worth less by their median: one series may look independent by chance.
    """
    series = (changes - changes.mean(dim=1, keepdim=True)).double().T
    varying = series[:, series.abs().amax(dim=0) > 0]
    if not varying.shape[1]:
        return len(series)
    n = torch.full((varying.shape[1],), len(series), dtype=torch.double)
    worth = effective_size(varying, n, lengths)
    return int(torch.minimum(worth[0], worth.median()))


def effect_of(
    changes: Float[Tensor, "set query"],
    sequence: Int[Tensor, " query"],
    *,
    direction: int = 1,
) -> Effect:
    """The first set's change among those of the others.

    Args:
        changes: each set's paired change of loss at each counted query; the first set is the one
            in question.
        sequence: which sequence each query is of.
        direction: 1 where ablation is expected to raise the loss, -1 where to lower it.
    """
    paired = PairedChanges.of(changes, sequence)
    value, error = paired.estimate(
        lambda change: torch.stack([change[:, 0], change[:, 0] - change[:, 1:].mean(dim=1)], dim=1)
    )
    half = paired.t * error
    # In float32, so that equal changes are equal whatever was summed first.
    observed, others = paired.mean[0].float(), paired.mean[1:].float()
    unit = others.std() if len(others) > 1 else torch.tensor(math.nan)
    effect, effect_half = value[1] / unit, half[1] / unit
    return Effect(
        change=float(observed),
        change_low=float(value[0] - half[0]),
        change_high=float(value[0] + half[0]),
        effect=float(effect),
        effect_low=float(effect - effect_half),
        effect_high=float(effect + effect_half),
        random=others,
        percentile=100 * (1 - _share_reaching(others, observed)),
        p=_share_reaching(direction * others, direction * observed),
        interval=paired.interval,
    )


def _share_reaching(random: Tensor, observed: Tensor) -> float:
    return (1 + int((random >= observed).sum())) / (1 + len(random))
