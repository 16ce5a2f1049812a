"""`perturbation_test`: do the weights with the highest scores matter more than others?"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch

from mi_toolkit.errors import WeightError, unknown_name
from mi_toolkit.heads.provenance import provenance_of
from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.process_state import one_job
from mi_toolkit.prompts.evaluation import evaluation_passages, halves, loss_batch
from mi_toolkit.prompts.tokens import Prompt, TokenBatch
from mi_toolkit.sensitivity.controls import (
    CONTROLS,
    Triple,
    bottom,
    magnitude_matched,
    random_control,
)
from mi_toolkit.sensitivity.dose_curve import Outcome, PerturbationTest
from mi_toolkit.sensitivity.edits import EDITS, Change, planned
from mi_toolkit.sensitivity.evaluation import qualities
from mi_toolkit.sensitivity.parameters import weight_matrices
from mi_toolkit.sensitivity.weight_scores import WeightScores

logger = logging.getLogger("mi_toolkit")

DOSES = (1, 10, 100, 1000)
"""Numbers of weights of the default dose curve."""


@one_job
def perturbation_test(
    model: HookedModel,
    scores: WeightScores,
    texts: Prompt | TokenBatch | None = None,
    *,
    kinds: Sequence[str] = ("zero",),
    k: Sequence[int] = DOSES,
    controls: Sequence[str] = CONTROLS,
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
        WeightError: more weights than the scores have, a weight that a kind leaves as it is.
    """
    for kind in kinds:
        if kind not in EDITS:
            raise unknown_name("kind of perturbation", kind, EDITS)
    for control in controls:
        if control not in CONTROLS:
            raise unknown_name("control", control, CONTROLS)
    doses = sorted(set(k))
    if not doses or not kinds:
        raise WeightError("A perturbation test needs at least one kind and one k.")
    if texts is None:
        texts = halves(evaluation_passages())[1]
    batch = loss_batch(
        model, texts, max_length=max_length, limit=eval_limit, attention_mask=attention_mask
    )
    matrices = weight_matrices(model)
    top = scores.ranking(doses[-1]).keys()
    trials: list[tuple[str, int, str, int, Change]] = []
    for dose in doses:
        sets = _sets(scores, top[:dose], controls, n_random, seed)
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
    if baseline.loss > math.log(model.cfg.d_vocab):
        logger.warning(
            "%s predicts these texts worse than even odds over its vocabulary (%.2f nats per token "
            "against %.2f): damage may lower its loss, so take text that it is good at",
            model.cfg.model_name,
            baseline.loss,
            math.log(model.cfg.d_vocab),
        )
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


def _sets(
    scores: WeightScores, top: list[Triple], controls: Sequence[str], n_random: int, seed: int
) -> list[tuple[str, int, list[Triple]]]:
    """Every set to change: its group, its number there, its weights."""
    sets = [("top", 0, top)]
    if "random" in controls:
        shapes = {place.name: place.shape for place in scores.places}
        for draw in range(n_random):
            generator = torch.Generator().manual_seed(seed * 1_000_003 + len(top) * 1009 + draw)
            sets.append(("random", draw, random_control(top, shapes, generator)))
    if "magnitude_matched" in controls:
        if not scores.live:
            raise WeightError(
                "Scores loaded without their model cannot match weights by size: load them with "
                "WeightScores.load(path, model)."
            )
        touched = {name for name, _, _ in top}
        weights = {name: scores.live[name].value().cpu() for name in touched}
        sets.append(("magnitude_matched", 0, magnitude_matched(top, weights)))
    if "bottom" in controls:
        sets.append(("bottom", 0, bottom(top, scores.scores)))
    return sets
