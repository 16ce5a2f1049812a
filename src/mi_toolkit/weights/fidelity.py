"""`score_fidelity`: how far can a score be trusted on this model? Weights removed one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mi_toolkit.core.display import TextTable
from mi_toolkit.core.errors import WeightError
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.process_state import one_job
from mi_toolkit.core.provenance import Provenance
from mi_toolkit.core.random_sets import Triple, random_control
from mi_toolkit.core.result import Result
from mi_toolkit.core.stimuli import evaluation_passages, halves, loss_batch
from mi_toolkit.core.tokens import Prompt, TokenBatch
from mi_toolkit.models.describe import provenance_of
from mi_toolkit.weights.evaluation import qualities
from mi_toolkit.weights.parameters import weight_matrices
from mi_toolkit.weights.perturb import planned
from mi_toolkit.weights.ranking import spearman
from mi_toolkit.weights.weight_scores import WeightScores

if TYPE_CHECKING:
    pass


RESAMPLES = 1000
_ENDS = (10, 100, 1_000, 10_000)
REST = "any"
"""The stratum of weights drawn from all."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ScoreFidelity(Result):
    """Scores next to what removing each weight alone did. Tensors are on the CPU in float32."""

    FORMAT: ClassVar[str] = "mi_toolkit score fidelity 1"

    metric: str
    """The scorer."""

    weights: tuple[Triple, ...]
    """Parameter, row and column of each weight that was removed."""

    strata: tuple[str, ...]
    """Where in the ranking each came from: `1-10`, `11-100`, …, or `any`."""

    scores: Float[Tensor, " weight"]
    """Their scores."""

    loss_rise: Float[Tensor, " weight"]
    """The change of the loss without the weight, in nats per token; below 0 where it helped."""

    kl: Float[Tensor, " weight"]
    """KL(whole ‖ without) in nats per token."""

    spearman: float
    """Rank correlation of |score| and |loss_rise|: 1 where the score orders weights as their
    removal does."""

    spearman_interval: tuple[float, float]
    """95%, by resampling the weights."""

    spearman_signed: float
    """Rank correlation of score and loss_rise, signs kept; NaN of a score without a sign."""

    sign_agreement: float
    """Share of weights whose score has the sign of their loss_rise; NaN of a score without one."""

    provenance: Provenance
    """Model, texts and versions."""

    def text_table(self) -> TextTable:
        """By place in the ranking: the median size of score and of effect."""
        rows = []
        for stratum in dict.fromkeys(self.strata):
            at = [index for index, name in enumerate(self.strata) if name == stratum]
            medians = (part[at].abs().quantile(0.5) for part in (self.scores, self.loss_rise))
            rows.append((stratum, str(len(at)), *(f"{median:.3g}" for median in medians)))
        low, high = self.spearman_interval
        title = (
            f"ScoreFidelity of {self.metric} on {self.provenance.model}: rank correlation "
            f"{self.spearman:.2f} [{low:.2f}, {high:.2f}] of score and effect"
        )
        header = ("rank", "weights", "score", "change in loss")
        return TextTable(title=title, header=header, rows=rows)

    def summary(self) -> dict[str, Any]:
        """One row about the metric: its correlations with what removal did."""
        return {
            "metric": self.metric,
            "n": len(self.weights),
            "spearman": self.spearman,
            "spearman_low": self.spearman_interval[0],
            "spearman_high": self.spearman_interval[1],
            "spearman_signed": self.spearman_signed,
            "sign_agreement": self.sign_agreement,
        }

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """One row per removed weight."""
        figures = (self.scores.tolist(), self.loss_rise.tolist(), self.kl.tolist())
        for weight, stratum, score, rise, kl in zip(
            self.weights, self.strata, *figures, strict=True
        ):
            parameter, row, column = weight
            yield {
                "metric": self.metric,
                "stratum": stratum,
                "parameter": parameter,
                "row": row,
                "column": column,
                "score": score,
                "loss_rise": rise,
                "kl": kl,
            }


@one_job
def score_fidelity(
    model: HookedModel,
    scores: WeightScores,
    texts: Prompt | TokenBatch | None = None,
    *,
    n: int = 100,
    batch_size: int = 8,
    max_length: int | None = None,
    eval_limit: int | None = 16,
    attention_mask: Any = None,
    seed: int = 0,
    progress: bool | None = None,
) -> ScoreFidelity:
    """Zero single weights one at a time and set their scores against the change in loss.

    The weights are a stratified draw: as many from ranks 1 to 10, 11 to 100, and so on to 10,000 as
    from all weights at random, so that the top is seen as well as the bulk. Each costs one
    evaluation. Effects below about 1e-6 nats are float32's rounding, which is noise in the ranks of
    the bulk.

    Args:
        model: the model that the scores are of.
        scores: of `score_weights`.
        texts: held-out text; None for the half of the bundled passages that scoring leaves out.
        n: how many weights; fewer where a stratum has not enough.
        batch_size: texts to a pass. It changes time and memory alone.
        max_length: tokens of a text, BOS included; None for 128.
        eval_limit: only the first so many texts.
        attention_mask: of ids with padding: 1 where a token is real, in the shape of the ids.
        seed: of the draw and the interval.
        progress: show a bar; None where somebody looks.

    Raises:
        WeightError: fewer than ten weights to remove.
    """
    if n < 10:
        raise WeightError(f"A rank correlation of {n} weights says nothing: take 10 or more.")
    if texts is None:
        texts = halves(evaluation_passages(model))[1]
    batch = loss_batch(
        model, texts, max_length=max_length, limit=eval_limit, attention_mask=attention_mask
    )
    matrices = weight_matrices(model)
    generator = torch.Generator().manual_seed(seed)
    drawn = _stratified(scores, n, generator)
    by_name = {matrix.name: matrix for matrix in matrices}
    # A weight that is 0 already cannot be removed.
    drawn = {at: stratum for at, stratum in drawn.items() if _value(by_name, at) != 0}
    changes = [planned(matrices, [at]) for at in drawn]
    baseline, found = qualities(
        model,
        batch,
        changes,
        batch_size=batch_size,
        progress=progress,
        label=f"Removing weights by {scores.metric}",
    )
    of_weights = torch.tensor([float(scores.scores[name][r, c]) for name, r, c in drawn])
    rises = torch.tensor([quality.loss - baseline.loss for quality in found])
    has_sign = any(bool((score < 0).any()) for score in scores.scores.values())
    nan = float("nan")
    return ScoreFidelity(
        metric=scores.metric,
        weights=tuple(drawn),
        strata=tuple(drawn.values()),
        scores=of_weights,
        loss_rise=rises,
        kl=torch.tensor([quality.kl for quality in found]),
        spearman=spearman(of_weights.abs(), rises.abs()),
        spearman_interval=_interval(of_weights.abs(), rises.abs(), generator),
        spearman_signed=spearman(of_weights, rises) if has_sign else nan,
        sign_agreement=float((of_weights.sign() == rises.sign()).float().mean())
        if has_sign
        else nan,
        provenance=provenance_of(model, {"held_out": batch}, seed=seed),
    )


def _value(by_name: dict[str, Any], at: Triple) -> float:
    name, row, column = at
    return float(by_name[name].read(torch.tensor([row]), torch.tensor([column])))


def _stratified(scores: WeightScores, n: int, generator: torch.Generator) -> dict[Triple, str]:
    """Weights and their strata, each weight once."""
    each = n // (len(_ENDS) + 1)
    ordered = scores.ranking(min(_ENDS[-1], scores.size)).keys()
    drawn: dict[Triple, str] = {}
    start = 0
    for end in _ENDS:
        stratum = ordered[start:end]
        for index in torch.randperm(len(stratum), generator=generator)[:each].tolist():
            drawn[stratum[index]] = f"{start + 1}-{end}"
        start = end
    sizes = torch.tensor([float(place.size) for place in scores.places])
    chosen = torch.multinomial(sizes, n - len(drawn), replacement=True, generator=generator)
    template = [(scores.places[index].name, 0, 0) for index in chosen.tolist()]
    shapes = {place.name: place.shape for place in scores.places}
    for at in random_control(template, shapes, generator, scores.masks):
        drawn.setdefault(at, REST)
    return drawn


def _interval(a: Tensor, b: Tensor, generator: torch.Generator) -> tuple[float, float]:
    """Percentiles of the correlation over resampled weights."""
    found = []
    for _ in range(RESAMPLES):
        index = torch.randint(len(a), (len(a),), generator=generator)
        found.append(spearman(a[index], b[index]))
    ends = torch.tensor(found).nanquantile(torch.tensor([0.025, 0.975]))
    return float(ends[0]), float(ends[1])
