"""`find_super_weights`: single weights of an MLP's output that the whole model hangs on.

After Yu et al. 2024 (arXiv:2411.07191), in any family:

1. One forward pass. Of every layer's output projection, y = x·W_out without its bias, the largest
   entry is found, and the input that contributes most to it: a row and a column of W_out.
2. Where both stand out (the entry from the median channel's largest, the input from the median
   neuron's), the weight is a candidate.
3. Each candidate is screened: set to 0 alone, on the same short text.
4. All candidates so far are set to 0 and the pass is run again, as one can hide another, until a
   round finds none that the screening says matters.
5. Those that do are confirmed by ablation on held-out text: late layers hold large writes that
   cancel and matter to nobody. The confirmed are also restored alone, with all other candidates
   away, and scaled up and down.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mi_toolkit.heads.provenance import provenance_of
from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.prompts.evaluation import evaluation_passages, halves, loss_batch
from mi_toolkit.prompts.tokens import Prompt, TokenBatch
from mi_toolkit.sensitivity.controls import Triple
from mi_toolkit.sensitivity.edits import planned
from mi_toolkit.sensitivity.evaluation import Quality, qualities
from mi_toolkit.sensitivity.parameters import weight_matrices
from mi_toolkit.sensitivity.spikes import candidates_of, place_of
from mi_toolkit.sensitivity.super_weight import SCALES, SuperWeight, SuperWeights

MIN_SPIKE = 10.0
MIN_RISE = 0.05
SCREENED_SHARE = 0.2
"""Of `min_rise`: who reaches it on the short text is looked at on the held-out one."""

HELD_OUT = 16
"""Passages of the bundled held-out text."""


def find_super_weights(
    model: HookedModel,
    texts: Prompt | TokenBatch | None = None,
    *,
    search: Prompt | TokenBatch | None = None,
    min_spike: float = MIN_SPIKE,
    min_rise: float = MIN_RISE,
    batch_size: int = 8,
    max_length: int | None = None,
    eval_limit: int | None = HELD_OUT,
    attention_mask: Any = None,
    progress: bool | None = None,
) -> SuperWeights:
    """Find the weights of MLP outputs that stand out, and confirm by ablation which of them matter.

    Cost: a pass over the search text per round (eight at most), one per candidate (as many as
    layers in a round at most), and on the held-out text two evaluations, one per candidate worth
    it, and eight per confirmed one.

    Args:
        model: any hooked model.
        texts: text to confirm on; None for passages of the bundled held-out half.
        search: text of the search and the screening; None for the first four passages of the
            scoring half.
        min_spike: how far a write has to stand out to be a candidate.
        min_rise: the rise in loss, in nats per token, that confirms a candidate; a fifth of it on
            the search text is enough to be looked at.
        batch_size: texts to a pass. It changes time and memory alone.
        max_length: tokens of a text, BOS included; None for 128.
        eval_limit: only the first so many texts; None for all.
        attention_mask: of ids with padding: 1 where a token is real, in the shape of the ids.
        progress: show a bar; None where somebody looks.

    Raises:
        PromptError: no text, or one with a single token.

    A model may have none: not finding one is a result. What stands out on your search text only is
    found with that text only.
    """
    looked_at = loss_batch(
        model,
        halves(evaluation_passages())[0][:4] if search is None else search,
        max_length=max_length,
    )
    if texts is None:
        texts = halves(evaluation_passages())[1]
    batch = loss_batch(
        model, texts, max_length=max_length, limit=eval_limit, attention_mask=attention_mask
    )
    matrices = weight_matrices(model)

    def measured(of: TokenBatch, sets: Sequence[Sequence[Triple]]) -> tuple[Quality, list[Quality]]:
        changes = [planned(matrices, places) for places in sets]
        return qualities(model, of, changes, batch_size=batch_size, progress=progress)

    def screen(places: Sequence[Triple]) -> list[float]:
        whole, without = measured(looked_at, [[place] for place in places])
        return [quality.loss - whole.loss for quality in without]

    worth = SCREENED_SHARE * min_rise
    found = candidates_of(
        model,
        matrices,
        looked_at,
        min_spike=min_spike,
        worth=worth,
        screen=screen,
        batch_size=batch_size,
    )
    places = [place_of(each) for each in found]
    looked_into = [place_of(each) for each in found if each["screened_rise"] >= worth]
    sets = [[place] for place in looked_into] + ([places] if places else [])
    baseline, outcomes = measured(batch, sets)
    without = dict(zip(looked_into, outcomes, strict=False))
    confirmed = [p for p in looked_into if without[p].loss - baseline.loss >= min_rise]
    others = {p: [other for other in places if other != p] for p in confirmed}
    restored = dict.fromkeys(confirmed, baseline)  # a single candidate has no others
    if len(places) > 1:
        restored = dict(zip(confirmed, measured(batch, list(others.values()))[1], strict=True))
    sweeps = {p: _sweep(model, matrices, batch, p, batch_size, progress) for p in confirmed}
    candidates = [
        SuperWeight(
            **each,
            without=without.get(place),
            restored=restored.get(place),
            sweep=sweeps.get(place, ()),
            is_confirmed=place in confirmed,
        )
        for each, place in zip(found, places, strict=True)
    ]
    return SuperWeights(
        baseline=baseline,
        candidates=tuple(sorted(candidates, key=_order)),
        none_left=outcomes[-1] if places else baseline,
        min_rise=min_rise,
        provenance=provenance_of(model, {"search": looked_at, "held_out": batch}, seed=0),
    )


def _order(each: SuperWeight) -> tuple[bool, float, float]:
    loss = float("-inf") if each.without is None else each.without.loss
    return not each.is_confirmed, -loss, -each.screened_rise


def _sweep(
    model: HookedModel,
    matrices: Sequence[Any],
    batch: TokenBatch,
    place: Triple,
    batch_size: int,
    progress: bool | None,
) -> tuple[tuple[float, float], ...]:
    """Scale and loss of one weight."""
    changes = [planned(matrices, [place], "scale", scale=scale) for scale in SCALES]
    _, measured = qualities(model, batch, changes, batch_size=batch_size, progress=progress)
    return tuple((scale, found.loss) for scale, found in zip(SCALES, measured, strict=True))
