"""`find_super_weights`: single weights of an MLP's output that the whole model hangs on.

After Yu et al. 2024 (arXiv:2411.07191), in any family:

1. One forward pass. Of every layer's output projection, y = x·W_out without its bias, the largest
   entry is found, and the input that contributes most to it: a row and a column of W_out.
2. Where that entry stands out (`spike`, times the median channel's largest), it is a candidate.
3. All candidates so far are set to 0 and the pass is run again, until nothing new stands out.
4. Each candidate is confirmed by ablation: late layers hold large writes that cancel and matter to
   nobody. It is also restored alone, with all other candidates away, and scaled up and down.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mi_toolkit.heads.provenance import provenance_of
from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.prompts.evaluation import evaluation_passages, halves, loss_batch
from mi_toolkit.prompts.tokens import Prompt, TokenBatch
from mi_toolkit.provenance import Provenance
from mi_toolkit.sensitivity.controls import Triple
from mi_toolkit.sensitivity.coordinates import WeightMatrix
from mi_toolkit.sensitivity.edits import edits_of
from mi_toolkit.sensitivity.evaluation import Quality, qualities
from mi_toolkit.sensitivity.parameters import weight_matrices
from mi_toolkit.sensitivity.spikes import candidates_of

if TYPE_CHECKING:
    from pandas import DataFrame

SCALES = (0.0, 0.25, 0.5, 0.75, 1.25, 1.5, 2.0)
"""Of the sweep; 1 is the model as it is."""

MIN_SPIKE = 10.0
MIN_RISE = 0.05


@dataclass(frozen=True, kw_only=True)
class SuperWeight:
    """A candidate, and what the model is without it."""

    matrix: str
    """Canonical name: `blocks.2.mlp.W_out`."""

    layer: int
    row: int
    """The neuron."""

    column: int
    """The channel of the residual stream."""

    hf_name: str
    hf_row: int
    hf_column: int

    value: float
    """The weight."""

    spike: float
    """Largest write of the layer over the median of its channels' largest, when it was found."""

    input: float
    """The neuron's output at that token."""

    write: float
    """What the neuron writes there: input times weight."""

    found_in_round: int
    """1 in the model as it is; later where other candidates had hidden it."""

    without: Quality
    """The model with this weight at 0."""

    restored: Quality
    """The model with every other candidate at 0."""

    sweep: tuple[tuple[float, float], ...]
    """Scale and loss, for confirmed ones; empty for the others."""

    is_confirmed: bool
    """Whether the loss without it is higher by `min_rise` or more."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SuperWeights:
    """Candidates in order of what their removal costs, the confirmed ones first."""

    baseline: Quality
    """The model as it is."""

    candidates: tuple[SuperWeight, ...]
    """Empty where no write stands out."""

    none_left: Quality
    """The model with all candidates at 0."""

    min_rise: float
    """The bar for confirmation, in nats per token."""

    provenance: Provenance
    """Model, texts and versions."""

    @property
    def confirmed(self) -> tuple[SuperWeight, ...]:
        """Those whose removal the model does not bear."""
        return tuple(each for each in self.candidates if each.is_confirmed)

    def to_pandas(self) -> DataFrame:
        """One row per candidate, with loss (nats per token) and perplexity before and after."""
        from mi_toolkit.tables import frame

        names = (
            "layer matrix row column hf_name hf_row hf_column value spike input write "
            "found_in_round is_confirmed"
        ).split()
        columns: dict[str, list[Any]] = {
            name: [getattr(each, name) for each in self.candidates] for name in names
        }
        columns["parameter"] = columns.pop("matrix")
        columns["component"] = ["W_out"] * len(self.candidates)
        columns["neuron"] = columns["row"]
        for name in ("loss", "perplexity"):
            columns[f"{name}_before"] = [getattr(self.baseline, name)] * len(self.candidates)
            columns[f"{name}_after"] = [getattr(each.without, name) for each in self.candidates]
        columns["loss_restored_alone"] = [each.restored.loss for each in self.candidates]
        columns["loss_all_removed"] = [self.none_left.loss] * len(self.candidates)
        for scale in SCALES:
            losses = [dict(each.sweep).get(scale, math.nan) for each in self.candidates]
            columns[f"loss_at_{scale:g}"] = losses
        return frame(columns)


def find_super_weights(
    model: HookedModel,
    texts: Prompt | TokenBatch | None = None,
    *,
    search: Prompt | TokenBatch | None = None,
    min_spike: float = MIN_SPIKE,
    min_rise: float = MIN_RISE,
    batch_size: int = 8,
    max_length: int | None = None,
    eval_limit: int | None = None,
    progress: bool | None = None,
) -> SuperWeights:
    """Find the weights of MLP outputs that stand out, and confirm by ablation which of them matter.

    Args:
        model: any hooked model.
        texts: text to confirm on; None for the held-out half of the bundled passages.
        search: text of the forward passes; None for the first four passages of the scoring half.
        min_spike: how far a write has to stand out to be a candidate.
        min_rise: the rise in loss, in nats per token, that confirms a candidate.
        batch_size: texts to a pass. It changes time and memory alone.
        max_length: tokens of a text, BOS included; None for 128.
        eval_limit: only the first so many texts.
        progress: show a bar; None where somebody looks.

    Raises:
        PromptError: no text, or one with a single token.

    A model may have none: not finding one is a result. What stands out on your search text only is
    found with that text only.
    """
    looked_at = loss_batch(
        model, halves(evaluation_passages())[0][:4] if search is None else search
    )
    if texts is None:
        texts = halves(evaluation_passages())[1]
    batch = loss_batch(model, texts, max_length=max_length, limit=eval_limit)
    matrices = weight_matrices(model)
    found = candidates_of(model, matrices, looked_at, min_spike, batch_size)
    places: list[Triple] = [(each["matrix"], each["row"], each["column"]) for each in found]
    sets = [[place] for place in places]
    sets += [[other for other in places if other != place] for place in places]
    changes = [
        edits_of(matrices, each, "zero", 1.0, None) if each else [] for each in [*sets, places]
    ]
    baseline, measured = qualities(model, batch, changes, batch_size=batch_size, progress=progress)
    n = len(places)
    is_confirmed = [q.loss - baseline.loss >= min_rise for q in measured[:n]]
    sweeps = _sweeps(
        model,
        matrices,
        batch,
        [p for p, yes in zip(places, is_confirmed, strict=True) if yes],
        batch_size,
        progress,
    )
    candidates = [
        SuperWeight(
            **each,
            without=measured[index],
            restored=measured[n + index],
            sweep=sweeps.get(places[index], ()),
            is_confirmed=is_confirmed[index],
        )
        for index, each in enumerate(found)
    ]
    return SuperWeights(
        baseline=baseline,
        candidates=tuple(sorted(candidates, key=lambda each: -each.without.loss)),
        none_left=measured[-1],
        min_rise=min_rise,
        provenance=provenance_of(model, {"search": looked_at, "held_out": batch}, seed=0),
    )


def _sweeps(
    model: HookedModel,
    matrices: Sequence[WeightMatrix],
    batch: TokenBatch,
    places: Sequence[Triple],
    batch_size: int,
    progress: bool | None,
) -> dict[Triple, tuple[tuple[float, float], ...]]:
    """Scale and loss of each place."""
    points = [(place, scale) for place in places for scale in SCALES]
    changes = [edits_of(matrices, [place], "scale", scale, None) for place, scale in points]
    if not changes:
        return {}
    _, measured = qualities(model, batch, changes, batch_size=batch_size, progress=progress)
    sweeps: dict[Triple, tuple[tuple[float, float], ...]] = dict.fromkeys(places, ())
    for (place, scale), quality in zip(points, measured, strict=True):
        sweeps[place] += ((scale, quality.loss),)
    return sweeps
