"""`find_super_weights`: single weights of an MLP's output that the whole model hangs on.

After Yu et al. 2024 (arXiv:2411.07191), in any family:

1. One forward pass. Of every layer's output projection, y = x·W_out without its bias, the largest
   write of every single weight is |w| · max |x| of its neuron. Where it stands out from the median
   channel's largest write, and its neuron's output from the median neuron's, it is a candidate. The
   weights alone say which channels stand out (the norm of what writes into them, over the
   median channel's): write and channel together give the order.
2. Each candidate is screened: set to 0 alone, on the same short text. What comes before its layer
   is known from the first pass, and only its own and later layers run.
3. Those whose removal the short text minds are confirmed by ablation on held-out text: late layers
   hold large writes that cancel and matter to nobody.
4. The first of the confirmed are also restored alone, with all other candidates away, and scaled up
   and down.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from mi_toolkit.core.display import TextTable
from mi_toolkit.core.errors import WeightError
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.passes import LaterBlocks
from mi_toolkit.core.process_state import one_job
from mi_toolkit.core.provenance import Provenance
from mi_toolkit.core.random_sets import Triple
from mi_toolkit.core.result import Result
from mi_toolkit.core.stimuli import evaluation_passages, halves, loss_batch
from mi_toolkit.core.tables import frame
from mi_toolkit.core.tokens import Prompt, TokenBatch
from mi_toolkit.models.describe import provenance_of
from mi_toolkit.weights.activation_scorers import watch_input
from mi_toolkit.weights.coordinates import WeightMatrix, hf_coordinates
from mi_toolkit.weights.evaluation import Quality, Runs, first_layers, qualities_of, runs_on
from mi_toolkit.weights.parameters import weight_matrices
from mi_toolkit.weights.perturb import Change, planned

if TYPE_CHECKING:
    from mi_toolkit.core.tables import DataFrame


SCALES = (0.0, 0.25, 0.5, 0.75, 1.25, 1.5, 2.0)
"""Factors that the weight is multiplied by in turn; 1 is the model as it is."""


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
    """The weight's largest write over the median of its layer's channels' largest."""

    channel_norm: float
    """Norm of the weights that write into its channel over the median channel's: by the weights
    alone, how far the channel stands out. The channel is a row of Hugging Face's matrix, or a
    column of GPT-2's."""

    input_spike: float
    """The neuron's largest output over the median of its layer's neurons' largest."""

    input: float
    """The neuron's largest output on the search text, with its sign."""

    write: float
    """What the neuron writes there: input times weight."""

    screened_rise: float
    """Rise of the loss on the search text with this weight at 0, in nats per token."""

    without: Quality | None
    """The model with this weight at 0, on the held-out text; None where the rise on the search
    text was too small to look further."""

    restored: Quality | None
    """The model with every other candidate at 0; None but of confirmed ones looked at in detail."""

    sweep: tuple[tuple[float, float], ...]
    """Scale and loss, where it was looked at in detail; empty elsewhere."""

    is_confirmed: bool
    """Whether the loss without it is higher by `min_rise` or more on the held-out text."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SuperWeights(Result):
    """Candidates in order of what their removal costs: confirmed, refuted, screened out."""

    FORMAT: ClassVar[str] = "mi_toolkit super weights 1"

    baseline: Quality
    """The model as it is."""

    candidates: tuple[SuperWeight, ...]
    """Empty where no write stands out."""

    none_left: Quality
    """The model with all candidates at 0."""

    min_rise: float
    """The bar for confirmation, in nats per token."""

    n_left_out: int
    """Weights that stand out too, but less than the candidates, and were not looked at."""

    n_passes: float
    """What the search cost: bare forward passes over the search text. One that begins at a later
    layer counts by the layers that it ran, one over the held-out text by its tokens."""

    provenance: Provenance
    """Model, texts and versions."""

    @property
    def confirmed(self) -> tuple[SuperWeight, ...]:
        """Those whose removal the model does not bear."""
        return tuple(each for each in self.candidates if each.is_confirmed)

    def text_table(self) -> TextTable:
        """One row per candidate."""
        rows = [
            (
                f"{each.matrix}[{each.row}, {each.column}]",
                f"{each.value:+.4g}",
                f"{each.spike:.0f}×",
                f"{each.screened_rise:+.2g}",
                "" if each.without is None else f"{each.without.perplexity:.4g}",
                "confirmed" if each.is_confirmed else "not confirmed",
                f"{each.hf_name}[{each.hf_row}, {each.hf_column}]",
            )
            for each in self.candidates
        ]
        header = (
            "weight",
            "value",
            "stands out",
            "loss without, searched",
            "perplexity without",
            "",
            "Hugging Face",
        )
        before = self.baseline
        title = (
            f"SuperWeights of {self.provenance.model}: perplexity {before.perplexity:.4g} on "
            f"{before.n_tokens} held-out tokens, {len(self.confirmed)} confirmed, in "
            f"{self.cost_text()}"
        )
        return TextTable(title=title, header=header if rows else (), rows=rows)

    def cost_text(self) -> str:
        """What the search cost, and what it left out, in words."""
        left = f", {self.n_left_out} that stand out less left out" if self.n_left_out else ""
        return f"{self.n_passes:.1f} passes over the search text{left}"

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """One row per candidate, with loss (nats per token) and perplexity before and after.

        What was not measured, as the screening had ruled it out, is missing.
        """
        for each in self.candidates:
            losses = dict(each.sweep)
            yield {
                **{name: getattr(each, name) for name in _OF_EACH},
                "parameter": each.matrix,
                "component": "W_out",
                "neuron": each.row,
                "loss_before": self.baseline.loss,
                "loss_after": getattr(each.without, "loss", math.nan),
                "perplexity_before": self.baseline.perplexity,
                "perplexity_after": getattr(each.without, "perplexity", math.nan),
                "loss_restored_alone": getattr(each.restored, "loss", math.nan),
                "loss_all_removed": self.none_left.loss,
                **{f"loss_at_{scale:g}": losses.get(scale, math.nan) for scale in SCALES},
            }

    def to_pandas(self) -> DataFrame:
        """The rows as a table, which has its columns also where nothing stands out."""
        rows = list(self.rows())
        return frame({name: [row[name] for row in rows] for name in COLUMNS})


_OF_EACH = (
    *("layer", "row", "column", "hf_name", "hf_row", "hf_column", "value", "spike"),
    *("channel_norm", "input_spike", "input", "write", "screened_rise", "is_confirmed"),
)
COLUMNS = (
    *_OF_EACH,
    *("parameter", "component", "neuron", "loss_before", "loss_after", "perplexity_before"),
    *("perplexity_after", "loss_restored_alone", "loss_all_removed"),
    *(f"loss_at_{scale:g}" for scale in SCALES),
)
"""The columns of the table, in their order."""


MIN_INPUT_SPIKE = 3.0
"""How far the neuron's output has to stand out: times the median neuron's largest."""


class Spikes:
    """What the neurons put out and the MLPs write, at their largest, over all that has run."""

    def __init__(self, model: HookedModel, outputs: Sequence[WeightMatrix]) -> None:
        self._model, self._outputs = model, outputs
        self._inputs: dict[str, Tensor] = {}
        self._writes: dict[str, Tensor] = {}

    @contextmanager
    def watching(self, batch: TokenBatch) -> Iterator[None]:
        """Inside, a pass over the batch is watched."""
        places = torch.arange(batch.ids.shape[1]) < batch.lengths[:, None]
        real = places.flatten().to(self._model.cfg.device)
        by_name = {matrix.name: matrix for matrix in self._outputs}

        def seen(name: str, width: int, activation: Tensor) -> None:
            inputs = activation.detach().reshape(-1, width)[real].float()
            writes = inputs @ by_name[name].value().float()
            _raise_to(self._inputs, name, _largest(inputs))
            _raise_to(self._writes, name, _largest(writes))

        with ExitStack() as hooks:
            for matrix in self._outputs:
                if matrix.tap is None:
                    raise WeightError(
                        f"What {matrix.name} multiplies shows in no module (it is inside an "
                        "expert), so its spikes are not seen: leave its layer out."
                    )
                handle = watch_input(matrix.tap, matrix.name, matrix.shape[0], seen)
                hooks.callback(handle.remove)
            yield

    def candidates(self, min_spike: float, most: int) -> tuple[list[dict[str, Any]], int]:
        """The weights whose own largest write stands out, and how many more than `most` there are.

        A weight's largest write is |w| · max |x| over the tokens, exactly, so that none hides
        another. In order of how far both the write and, by the weights alone, the channel stand
        out.
        """
        found: list[dict[str, Any]] = []
        n_found = 0
        for matrix in self._outputs:
            n_more, candidates = self._in_matrix(matrix, min_spike, most)
            n_found += n_more
            found += candidates
        found.sort(key=lambda each: -each["spike"] * each["channel_norm"])
        return found[:most], n_found - len(found[:most])

    def _in_matrix(
        self, matrix: WeightMatrix, min_spike: float, most: int
    ) -> tuple[int, list[dict[str, Any]]]:
        """How many stand out, and `most` of them."""
        weights = matrix.value().float()
        inputs = self._inputs[matrix.name]
        usual = self._writes[matrix.name].abs().median().clamp_min(1e-12)
        input_spikes = inputs.abs() / inputs.abs().median().clamp_min(1e-12)
        norms = weights.norm(dim=0)
        norms = norms / norms.median().clamp_min(1e-12)
        spikes = weights.abs() * inputs.abs()[:, None] / usual
        stands_out = (spikes >= min_spike) & (input_spikes >= MIN_INPUT_SPIKE)[:, None]
        stands_out &= weights != 0
        n_found = int(stands_out.sum())
        order = (spikes * norms).masked_fill(~stands_out, -1.0).flatten()
        flat = order.topk(min(n_found, most)).indices.cpu()
        rows, columns = flat // weights.shape[1], flat % weights.shape[1]
        hf_name, hf_rows, hf_columns = hf_coordinates(matrix, rows, columns)
        return n_found, [
            {
                "matrix": matrix.name,
                "layer": matrix.layer,
                "row": row,
                "column": column,
                "hf_name": hf_name,
                "hf_row": hf_row,
                "hf_column": hf_column,
                "value": float(weights[row, column]),
                "spike": float(spikes[row, column]),
                "channel_norm": float(norms[column]),
                "input_spike": float(input_spikes[row]),
                "input": float(inputs[row]),
                "write": float(inputs[row] * weights[row, column]),
            }
            for row, column, hf_row, hf_column in zip(
                rows.tolist(), columns.tolist(), hf_rows, hf_columns, strict=True
            )
        ]


def place_of(candidate: dict[str, Any]) -> Triple:
    """The weight of a candidate."""
    return candidate["matrix"], candidate["row"], candidate["column"]


def _largest(values: Tensor) -> Tensor:
    """Of each column the entry that is the largest by size, with its sign."""
    return values.gather(0, values.abs().argmax(dim=0, keepdim=True))[0]


def _raise_to(largest: dict[str, Tensor], name: str, values: Tensor) -> None:
    known = largest.get(name, values)
    largest[name] = torch.where(values.abs() > known.abs(), values, known)


MIN_SPIKE = 10.0
MIN_RISE = 0.05
SCREENED_SHARE = 0.2
"""Of `min_rise`: who reaches it on the short text is looked at on the held-out one."""

HELD_OUT = 4
"""Passages of the bundled held-out text: as many as are searched."""

MOST_SCREENED = 32
"""Candidates that are set to 0 at all, the furthest out first."""


@one_job
def find_super_weights(
    model: HookedModel,
    texts: Prompt | TokenBatch | None = None,
    *,
    search: Prompt | TokenBatch | None = None,
    min_spike: float = MIN_SPIKE,
    min_rise: float = MIN_RISE,
    detailed: int = 1,
    batch_size: int = 8,
    max_length: int | None = None,
    eval_limit: int | None = HELD_OUT,
    attention_mask: Any = None,
    progress: bool | None = None,
) -> SuperWeights:
    """Find the weights of MLP outputs that stand out, and confirm by ablation which of them matter.

    Cost, where a pass begins at the changed layer: one over the search text and one per candidate
    (32 at most); one over the held-out text, one per candidate worth it and one without them all;
    and eight per weight in detail. The result says how many whole passes over the search text that
    came to: some 35 with the defaults in SmolLM2-135M, and half as many again by processor time,
    as each run unembeds the text too. Memory: what each layer puts out on the search text, and on a
    batch of the held-out text where candidates are.

    Args:
        model: any hooked model.
        texts: text to confirm on; None for passages of the bundled held-out half.
        search: text of the search and the screening; None for the first four passages of the
            scoring half.
        min_spike: how far a write has to stand out to be a candidate.
        min_rise: the rise in loss, in nats per token, that confirms a candidate; a fifth of it on
            the search text is enough to be looked at.
        detailed: how many of the confirmed, those whose removal costs most, are also restored
            alone and scaled.
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
        halves(evaluation_passages(model))[0][:4] if search is None else search,
        max_length=max_length,
    )
    if texts is None:
        texts = halves(evaluation_passages(model))[1]
    batch = loss_batch(
        model, texts, max_length=max_length, limit=eval_limit, attention_mask=attention_mask
    )
    ablation = _Ablation(model, looked_at.ids.numel(), batch_size, progress)
    found, n_left_out = _screened(ablation, looked_at, min_spike)
    places = [place_of(each) for each in found]
    worth = SCREENED_SHARE * min_rise
    looked_into = [place_of(each) for each in found if each["screened_rise"] >= worth]
    sets = [[place] for place in looked_into] + ([places] if places else [])
    baseline, outcomes = ablation.qualities(batch, [ablation.without(each) for each in sets])
    without = dict(zip(looked_into, outcomes, strict=False))
    confirmed = [p for p in looked_into if without[p].loss - baseline.loss >= min_rise]
    confirmed.sort(key=lambda place: -without[place].loss)
    details = _details(ablation, batch, confirmed[:detailed], places, baseline, without)
    candidates = [
        SuperWeight(
            **each,
            without=without.get(place),
            restored=details[place][0] if place in details else None,
            sweep=details[place][1] if place in details else (),
            is_confirmed=place in confirmed,
        )
        for each, place in zip(found, places, strict=True)
    ]
    return SuperWeights(
        baseline=baseline,
        candidates=tuple(sorted(candidates, key=_order)),
        none_left=outcomes[-1] if places else baseline,
        min_rise=min_rise,
        n_left_out=n_left_out,
        n_passes=ablation.n_passes,
        provenance=provenance_of(model, {"search": looked_at, "held_out": batch}, seed=0),
    )


class _Ablation:
    """A model whose weights are set to 0, and what its runs cost."""

    def __init__(
        self, model: HookedModel, unit: int, batch_size: int, progress: bool | None
    ) -> None:
        self.model, self.matrices = model, weight_matrices(model)
        self.batch_size, self.progress = batch_size, progress
        self.n_passes = 0.0
        """Passes so far, in passes over the search text, which has `unit` positions."""
        self._unit = unit

    def without(self, places: Sequence[Triple]) -> Change:
        """These weights at 0."""
        return planned(self.matrices, places)

    def scaled(self, place: Triple, scale: float) -> Change:
        """One weight times something."""
        return planned(self.matrices, [place], "scale", scale=scale)

    def qualities(
        self, texts: TokenBatch, changes: Sequence[Change]
    ) -> tuple[Quality, list[Quality]]:
        """The quality as it is, and under each change."""
        layers = set(first_layers(self.model, changes))
        return self.qualities_of(
            runs_on(self.model, texts, layers=layers, batch_size=self.batch_size), changes, texts
        )

    def qualities_of(
        self, runs: Runs, changes: Sequence[Change], texts: TokenBatch
    ) -> tuple[Quality, list[Quality]]:
        """As `qualities`, from runs of the unchanged model."""
        n_parts = -(-len(texts) // self.batch_size)
        return qualities_of(self._counted(runs), changes, n_parts=n_parts, progress=self.progress)

    def _counted(self, runs: Runs) -> Runs:
        for batch, run in runs:
            yield batch, run
            self.n_passes += run.passes * batch.ids.numel() / self._unit


def _screened(
    ablation: _Ablation, looked_at: TokenBatch, min_spike: float
) -> tuple[list[dict[str, Any]], int]:
    """The candidates, each with what its removal does to the search text; and how many it left."""
    outputs = [matrix for matrix in ablation.matrices if matrix.component == "W_out"]
    spikes = Spikes(ablation.model, outputs)
    runs = list(_watched(ablation, looked_at, spikes))
    kept, n_left_out = spikes.candidates(min_spike, MOST_SCREENED)
    changes = [ablation.without([place_of(each)]) for each in kept]
    whole, without = ablation.qualities_of(runs, changes, looked_at)
    rises = [quality.loss - whole.loss for quality in without]
    screened = [{**each, "screened_rise": rise} for each, rise in zip(kept, rises, strict=True)]
    return screened, n_left_out


def _watched(ablation: _Ablation, looked_at: TokenBatch, spikes: Spikes) -> Runs:
    """The one pass, in batches."""
    reuses = None
    for start in range(0, len(looked_at), ablation.batch_size):
        part = looked_at.part(start, min(start + ablation.batch_size, len(looked_at)))
        with spikes.watching(part):
            run = LaterBlocks(ablation.model, part.ids, reuses=reuses)
        reuses = run.check() if reuses is None else reuses
        yield part, run


def _details(
    ablation: _Ablation,
    batch: TokenBatch,
    chosen: Sequence[Triple],
    places: Sequence[Triple],
    baseline: Quality,
    without: dict[Triple, Quality],
) -> dict[Triple, tuple[Quality, tuple[tuple[float, float], ...]]]:
    """Of each chosen weight the model with it alone left, and scale and loss."""
    scales = [scale for scale in SCALES if scale]
    changes = []
    for place in chosen:
        others = [other for other in places if other != place]
        # A single candidate has no others: the weight as it is stands for that.
        changes += [ablation.without(others)] if others else []
        changes += [ablation.scaled(place, scale) for scale in scales]
    outcomes = iter(ablation.qualities(batch, changes)[1] if changes else [])
    details = {}
    for place in chosen:
        restored = next(outcomes) if len(places) > 1 else baseline
        losses = [(scale, next(outcomes).loss) for scale in scales]
        details[place] = restored, ((0.0, without[place].loss), *losses)
    return details


def _order(each: SuperWeight) -> tuple[bool, float, float]:
    loss = float("-inf") if each.without is None else each.without.loss
    return not each.is_confirmed, -loss, -each.screened_rise
