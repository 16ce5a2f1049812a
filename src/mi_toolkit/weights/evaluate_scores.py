"""`perturbation_test`: do the weights with the highest scores matter more than others?

Weights to compare the top ones with: as many in every matrix, chosen otherwise. Pure.

A top that hurts more than random weights may hurt because of where its weights are, or how large
they are. So each control has the same count per matrix.
"""

from __future__ import annotations

import logging
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_toolkit.core.display import TextTable
from mi_toolkit.core.errors import WeightError, unknown_name
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.process_state import one_job
from mi_toolkit.core.provenance import Provenance
from mi_toolkit.core.random_sets import Triple, random_control
from mi_toolkit.core.result import Result
from mi_toolkit.core.stimuli import evaluation_passages, halves, loss_batch
from mi_toolkit.core.tables import table_of
from mi_toolkit.core.tokens import Prompt, TokenBatch
from mi_toolkit.models.describe import provenance_of
from mi_toolkit.weights.coordinates import WeightMatrix
from mi_toolkit.weights.edits import EDITS
from mi_toolkit.weights.evaluation import Quality, qualities
from mi_toolkit.weights.parameters import weight_matrices
from mi_toolkit.weights.perturb import Change, planned
from mi_toolkit.weights.weight_scores import WeightScores

if TYPE_CHECKING:
    from mi_toolkit.core.tables import DataFrame


CONTROLS = ("random", "magnitude_matched", "bottom")
"""The names of the functions below, as a perturbation test asks for them."""

Matrices = Mapping[str, Float[Tensor, "_ _"]]


def magnitude_matched(
    top: Sequence[Triple],
    weights: Matrices,
    within: Mapping[str, Bool[Tensor, "_ _"]] = MappingProxyType({}),
) -> list[Triple]:
    """For each weight the nearest in size of its matrix, outside the top, and each only once.

    Of a matrix that is in `within`, of the weights marked there.

    Raises:
        WeightError: a matrix has too few others.
    """
    matched: list[Triple] = []
    for name, places in _by_matrix(top).items():
        sizes = weights[name].abs().float()
        free = within.get(name, torch.ones(sizes.shape, dtype=torch.bool)).clone()
        rows, columns = torch.tensor(places).T
        free[rows, columns] = False
        if int(free.sum()) < len(places):
            raise WeightError(f"{name} has no {len(places)} weights next to the top to match them.")
        values, order = sizes[free].sort()
        where = free.nonzero()[order]
        taken = torch.zeros(len(values), dtype=torch.bool)
        for size in sizes[rows, columns].tolist():
            at = _nearest_free(values, taken, size)
            taken[at] = True
            matched.append((name, int(where[at, 0]), int(where[at, 1])))
    return matched


def _nearest_free(values: Tensor, taken: Tensor, size: float) -> int:
    above = int(torch.searchsorted(values, size))
    below = above - 1
    while above < len(values) and taken[above]:
        above += 1
    while below >= 0 and taken[below]:
        below -= 1
    if above >= len(values):
        return below
    if below < 0:
        return above
    return above if float(values[above]) - size < size - float(values[below]) else below


def bottom(top: Sequence[Triple], scores: Matrices) -> list[Triple]:
    """As many of each matrix with the lowest scores that are not exactly 0.

    A weight whose score is exactly 0 was not reached at all (an unused neuron, a padding row).

    Raises:
        WeightError: a matrix has too few such weights.
    """
    lowest: list[Triple] = []
    for name, count in Counter(name for name, _, _ in top).items():
        score = scores[name].abs()
        reached = score.masked_fill(score == 0, torch.inf).flatten()
        values, flat = reached.topk(count, largest=False)
        if torch.isinf(values).any():
            raise WeightError(f"{name} has no {count} weights with a score other than 0.")
        width = scores[name].shape[1]
        lowest += [(name, int(place) // width, int(place) % width) for place in flat.tolist()]
    return lowest


def _by_matrix(top: Sequence[Triple]) -> dict[str, list[tuple[int, int]]]:
    places: dict[str, list[tuple[int, int]]] = {}
    for name, row, column in top:
        places.setdefault(name, []).append((row, column))
    return places


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One set of weights, changed in one way."""

    kind: str
    """How they were changed."""

    k: int
    """How many weights were changed."""

    group: str
    """`top`, or a control."""

    draw: int
    """Number of the random draw; 0 of the other groups."""

    quality: Quality
    """Loss, accuracy and KL divergence of the changed model on the held-out texts."""

    n_not_finite: int
    """Changed weights that became infinite or NaN: bits can do that."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PerturbationTest(Result):
    """What changing the top weights does, next to what changing others does."""

    FORMAT: ClassVar[str] = "mi_toolkit perturbation test 1"

    metric: str
    """The scorer that ranked them."""

    baseline: Quality
    """The unchanged model on the same texts."""

    outcomes: tuple[Outcome, ...]
    """Every set that was changed."""

    scale: float
    """Size of the change, for kinds of change that have one."""

    provenance: Provenance
    """Model, held-out texts and versions."""

    def rise(self, kind: str, k: int, group: str = "top") -> list[float]:
        """The rises in loss, in nats per token, of one point of the curve; one for each draw."""
        return [
            outcome.quality.loss - self.baseline.loss
            for outcome in self.outcomes
            if (outcome.kind, outcome.k, outcome.group) == (kind, k, group)
        ]

    def p_value(self, kind: str, k: int) -> float:
        """How often random weights do as much, counting the top itself: (1 + n ≥) / (1 + n).

        With n draws it is never below 1/(n + 1); NaN without random controls.
        """
        (top,), draws = self.rise(kind, k), self.rise(kind, k, "random")
        if not draws:
            return float("nan")
        return (1 + sum(not draw < top for draw in draws)) / (1 + len(draws))

    def rows(self) -> list[dict[str, Any]]:
        """One row per changed set, the unchanged model first.

        Columns: `metric`, `kind`, `k`, `group`, `draw`, `loss`, `loss_rise` (nats per token),
        `perplexity`, `accuracy`, `kl`, `n_not_finite`, `n_tokens`.
        """
        unchanged = Outcome(
            kind="none", k=0, group="baseline", draw=0, quality=self.baseline, n_not_finite=0
        )
        return [
            {
                "metric": self.metric,
                **{name: getattr(outcome, name) for name in ("kind", "k", "group", "draw")},
                **asdict(outcome.quality),
                "loss_rise": outcome.quality.loss - self.baseline.loss,
                "perplexity": outcome.quality.perplexity,
                "n_not_finite": outcome.n_not_finite,
            }
            for outcome in (unchanged, *self.outcomes)
        ]

    def summary(self) -> DataFrame:
        """One row per kind and k: the top's rise in loss next to the controls', and p.

        Of the random draws the mean, their standard deviation, and how many of those the top is
        above the mean.
        """
        points = dict.fromkeys((outcome.kind, outcome.k) for outcome in self.outcomes)
        return table_of(self._point(kind, k) for kind, k in points)

    def text_table(self) -> TextTable:
        """Per kind and number of weights: the rise in loss, next to the controls'."""
        header = ("kind", "weights", "top", "random", "sd above", "p", "same size", "bottom")
        names = (
            "top",
            "random_mean",
            "sd_above_random",
            "p",
            "magnitude_matched",
            "bottom",
        )
        rows = [
            (row["kind"], f"{row['k']:,}", *(_format_figure(row[name]) for name in names))
            for row in self.summary().to_dict("records")
        ]
        title = (
            f"PerturbationTest of {self.provenance.model} by {self.metric}: rise in loss, nats per "
            f"token (unchanged {self.baseline.loss:.3f})"
        )
        return TextTable(title=title, header=header, rows=rows)

    def _point(self, kind: str, k: int) -> dict[str, Any]:
        (top,), draws = self.rise(kind, k), self.rise(kind, k, "random")
        nan = float("nan")
        mean = statistics.fmean(draws) if draws else nan
        spread = statistics.stdev(draws) if len(draws) > 1 else nan
        others = {name: self.rise(kind, k, name) for name in CONTROLS[1:]}
        return {
            "metric": self.metric,
            "kind": kind,
            "k": k,
            "top": top,
            "random_mean": mean,
            "random_sd": spread,
            "sd_above_random": (top - mean) / spread if spread else nan,
            "p": self.p_value(kind, k),
            **{name: rises[0] if rises else nan for name, rises in others.items()},
        }


def _format_figure(figure: float) -> str:
    return f"{figure:.3g}" if math.isfinite(figure) else ""


logger = logging.getLogger("mi_toolkit")

DOSES = (1, 10, 100, 1000)
"""Numbers of weights of the default dose curve."""


@one_job
def perturbation_test(
    model: HookedModel,
    scores: WeightScores,
    texts: Prompt | TokenBatch | None = None,
    *,
    kinds: str | Sequence[str] = ("zero",),
    k: int | Sequence[int] = DOSES,
    controls: str | Sequence[str] = CONTROLS,
    n_random: int = 20,
    scale: float = 1.0,
    batch_size: int = 8,
    max_length: int | None = None,
    eval_limit: int | None = None,
    attention_mask: Any = None,
    seed: int = 0,
    progress: bool | None = None,
) -> PerturbationTest:
    """The dose curve: the loss on held-out text with the top `k` weights changed, for every `k`.

    Where the scores are of some heads, so are the controls.

    Each set, the top's and the controls', costs one evaluation. Where ties straddle `k`, the first
    `k` in order count. Choose texts that the scores have not seen: on the same ones a score of
    gradients has an advantage that it does not deserve.

    Args:
        model: the model that the scores are of.
        scores: of `score_weights`.
        texts: held-out text; None for the half of the bundled passages that scoring leaves out.
        kinds: `zero`, `sign_flip`, `gaussian`, `scale`, `bit_flip`: see `perturbed`.
        k: how many of the top weights.
        controls: `random` draws, `magnitude_matched` weights, the `bottom` ones by score; each with
            the same count per matrix as the top.
        n_random: how many random draws.
        scale: of `gaussian` and `scale`.
        batch_size: texts to a pass. It changes time and memory alone.
        max_length: tokens of a text, BOS included; None for 128.
        eval_limit: only the first so many texts.
        attention_mask: of ids with padding: 1 where a token is real, in the shape of the ids.
        seed: of the random draws, the noise and the bits.
        progress: show a bar; None where somebody looks.

    Raises:
        UnknownNameError: no such kind or control.
        WeightError: scores of another model, more weights than they have, a weight that a kind
            leaves as it is.
    """
    kinds = [kinds] if isinstance(kinds, str) else kinds
    controls = [controls] if isinstance(controls, str) else controls
    for kind in kinds:
        if kind not in EDITS:
            raise unknown_name("kind of perturbation", kind, EDITS)
    for control in controls:
        if control not in CONTROLS:
            raise unknown_name("control", control, CONTROLS)
    doses = sorted({k} if isinstance(k, int) else set(k))
    if not doses or not kinds:
        raise WeightError("A perturbation test needs at least one kind and one k.")
    if texts is None:
        texts = halves(evaluation_passages(model))[1]
    batch = loss_batch(
        model, texts, max_length=max_length, limit=eval_limit, attention_mask=attention_mask
    )
    matrices = weight_matrices(model)
    scored = scores.matrices_in(model)
    top = scores.ranking(doses[-1]).keys()
    trials: list[tuple[str, int, str, int, Change]] = []
    for dose in doses:
        sets = _sets(scores, scored, top[:dose], controls, n_random, seed)
        for kind in kinds:
            for index, (group, draw, weights) in enumerate(sets):
                change = planned(
                    matrices, weights, kind, scale=scale, seed=seed * 1_000_003 + index
                )
                trials.append((kind, dose, group, draw, change))
    changes = [change for *_, change in trials]
    baseline, found = qualities(
        model,
        batch,
        changes,
        batch_size=batch_size,
        progress=progress,
        label=f"Perturbing by {scores.metric}",
    )
    _warn_of_text_not_known(model, baseline.loss)
    return PerturbationTest(
        metric=scores.metric,
        baseline=baseline,
        outcomes=tuple(
            Outcome(
                kind=kind,
                k=dose,
                group=group,
                draw=draw,
                quality=quality,
                n_not_finite=sum(edit.n_not_finite for edit in change.edits()),
            )
            for (kind, dose, group, draw, change), quality in zip(trials, found, strict=True)
        ),
        scale=scale,
        provenance=provenance_of(model, {"held_out": batch}, seed=seed),
    )


def _warn_of_text_not_known(model: HookedModel, loss: float) -> None:
    """Say so where the model predicts the texts worse than a uniform guess does."""
    guess = math.log(model.cfg.d_vocab)
    if loss > guess:
        logger.warning(
            "%s predicts these texts worse than a uniform guess over its vocabulary (%.2f nats per "
            "token, against %.2f of the guess). Any damage can lower such a loss, so the effects "
            "say little: give text that the model predicts well (texts=, or --data-file), such as "
            "text of the kind that it was trained on.",
            model.cfg.model_name,
            loss,
            guess,
        )


def _sets(
    scores: WeightScores,
    matrices: Mapping[str, WeightMatrix],
    top: list[Triple],
    controls: Sequence[str],
    n_random: int,
    seed: int,
) -> list[tuple[str, int, list[Triple]]]:
    """Every set to change: its group, its number there, its weights."""
    sets = [("top", 0, top)]
    if "random" in controls:
        shapes = {place.name: place.shape for place in scores.places}
        for draw in range(n_random):
            generator = torch.Generator().manual_seed(seed * 1_000_003 + len(top) * 1009 + draw)
            sets.append(("random", draw, random_control(top, shapes, generator, scores.masks)))
    if "magnitude_matched" in controls:
        weights = {name: matrices[name].value().cpu() for name in {name for name, _, _ in top}}
        sets.append(("magnitude_matched", 0, magnitude_matched(top, weights, scores.masks)))
    if "bottom" in controls:
        sets.append(("bottom", 0, bottom(top, scores.scores)))
    return sets
