"""Classify a model's attention heads.

1. The prompt becomes token batches; without one, the two standard stimuli do.
2. For each stimulus and each window among the layers, find target keys, eligible queries, chance.
3. Run the model once over each batch; in each layer's hook score its patterns and drop them.
4. Sum up: score, chance, lift, interval; labels where an interval clears its bar.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mi_toolkit.errors import PromptError
from mi_toolkit.heads.behaviours import AnyBehaviour, DistributionBehaviour, chosen
from mi_toolkit.heads.combine import combined
from mi_toolkit.heads.copying import CopyingMeasurement, copy_queries
from mi_toolkit.heads.direct_effect import reads_one_norm
from mi_toolkit.heads.kinds import Behaviour
from mi_toolkit.heads.labels import (
    DEFAULT_MIN_LIFT,
    clears_bar,
    label_heads,
    label_names,
    scope_of_heads,
)
from mi_toolkit.heads.measure import Measurement
from mi_toolkit.heads.plan import Plan, make_plan
from mi_toolkit.heads.protocol import (
    blank_report,
    circuit_report,
    home_stimuli,
    pattern_behaviours,
    widened,
)
from mi_toolkit.heads.report import HeadReport
from mi_toolkit.heads.summary import summarise
from mi_toolkit.heads.token_maps import WEIGHTS
from mi_toolkit.hooked_model import HookedModel, attention_layers, pattern_hook, z_hook
from mi_toolkit.hooked_pass import visit_activations
from mi_toolkit.models.describe import describe_model
from mi_toolkit.progress import track
from mi_toolkit.prompts.tokens import Prompt, TokenBatch, tokenise
from mi_toolkit.provenance import Provenance

OWN_PROMPT = "prompt"
"""What a report calls the stimulus that the caller gave."""

PATTERN_BUDGET = 256 * 2**20
MAX_BATCH = 32


def classify_heads(
    model: HookedModel,
    prompt: Prompt | None = None,
    *,
    behaviours: Sequence[str | Behaviour] | None = None,
    min_lift: float = DEFAULT_MIN_LIFT,
    prepend_bos: bool | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> HeadReport:
    """What each attention head attends to, against chance, with an interval and labels.

    One pass of the model over the prompt, which stops behind the last attention pattern. Each
    layer's patterns are scored as they appear and dropped, so memory holds one layer's at a time.
    A head that matches a prefix is labelled `induction`, or `prefix_suppression` where its direct
    effect lowers the token that it finds there (see `copying_scores`).

    A label is a hypothesis about this prompt: `first_token` above all is a state as much as a
    class, since a head rests on the sink where it has nothing to do.

    Args:
        model: a HookedTransformer or a TransformerBridge; it is left as it was.
        prompt: a string, several, or token ids (a tensor of one sequence or a batch, or a
            `TokenBatch`, whose roles some behaviours need). None: the standard protocol, 32
            sequences of random ids given twice and 64 natural passages, with each behaviour judged
            on its home stimulus and `report.on(...)` for the other. Behaviours beyond the standard
            ones bring the home stimulus of each; `successor` is read off the weights.
        behaviours: names from `BEHAVIOURS`, or behaviours themselves; None for those of `STANDARD`.
        min_lift: the lower end of a lift's interval that earns a mask behaviour's label.
        prepend_bos: put a BOS before each string; None: wherever the tokenizer has one.
        batch_size: sequences to a forward pass; None: as many as keep one layer's patterns under
            256 MiB, at most 32. It changes no figure.
        seed: of the random stimulus and the bootstrap.
        progress: a progress bar; None: where somebody looks and it takes long.

    Raises:
        PromptError: the prompt is empty, too long, or has an id outside the vocabulary.
        UnknownNameError: no such behaviour.
        BehaviourError: a behaviour from outside cannot be imported, or its mask is none.
        UnsupportedModelError: no layer has an attention pattern to hook.
        HookError: a pattern's hook did not fire.

    Example:
        >>> import mi_toolkit as mi
        >>> model = mi.load_model("toy-gpt2")
        >>> report = mi.classify_heads(model, "When Mary and John went to the store, John")
        >>> report["previous_token"].shape
        torch.Size([4, 4])
    """
    table = chosen(behaviours)
    patterns = pattern_behaviours(table)
    if batch_size is not None and batch_size < 1:
        raise PromptError(
            f"batch_size is the number of sequences to a pass, 1 or more, not {batch_size}."
        )
    if prompt is not None:
        stimuli = {OWN_PROMPT: tokenise(model, prompt, prepend_bos=prepend_bos)}
    else:
        if prepend_bos is not None:
            raise PromptError(
                "prepend_bos goes with a prompt of your own: the standard stimuli begin with a "
                "BOS wherever the tokenizer has one."
            )
        stimuli = home_stimuli(model, table, seed=seed)
    runs = {
        name: _Run(model, batch, patterns, name, batch_size, seed)
        for name, batch in stimuli.items()
        if patterns
    }
    batches = [(run, start) for run in runs.values() for start in run.starts()]
    for run, start in track(
        batches, total=len(batches), label="classifying heads", unit="batch", show=progress
    ):
        run.measure(start)
    parts = {name: widened(run.report(min_lift), table) for name, run in runs.items()}
    if prompt is not None:
        own = stimuli[OWN_PROMPT]
        blank = blank_report(model, table, OWN_PROMPT, own, min_lift=min_lift, seed=seed)
        return parts.get(OWN_PROMPT, blank)
    circuits = circuit_report(model, table, min_lift=min_lift, seed=seed)
    if circuits is not None:
        parts[WEIGHTS] = widened(circuits, table)
    return combined(parts)


class _Run:
    """One stimulus on its way through the model."""

    def __init__(
        self,
        model: HookedModel,
        batch: TokenBatch,
        behaviours: Sequence[AnyBehaviour],
        stimulus: str,
        batch_size: int | None,
        seed: int,
    ) -> None:
        self.model, self.batch, self.stimulus, self.seed = model, batch, stimulus, seed
        self.behaviours = tuple(behaviours)
        self.facts = describe_model(model)
        self.layers = attention_layers(model)
        self.n_heads = int(model.cfg.n_heads)
        plans = {
            window: make_plan(batch, behaviours, window, stimulus)
            for window in dict.fromkeys(self.facts.windows[layer] for layer in self.layers)
        }
        self.measurements = {
            layer: Measurement(plans[self.facts.windows[layer]], self.n_heads)
            for layer in self.layers
        }
        self.compares = len(batch) > 1 and any(
            isinstance(behaviour, DistributionBehaviour)
            and behaviour.compares_sequences
            and stimulus not in behaviour.excluded_stimuli
            for behaviour in behaviours
        )
        self.copying = self._copying(plans)
        self.batch_size = batch_size or self._fitting_batch_size()

    def _copying(self, plans: Mapping[int | None, Plan]) -> dict[str, CopyingMeasurement]:
        """For each behaviour that asks what a head does with what it sees: the outputs to keep."""
        windows = {layer: self.facts.windows[layer] for layer in self.layers}
        found = {}
        for index, behaviour in enumerate(self.behaviours):
            if behaviour.facts.suppressing is None or not reads_one_norm(self.model):
                continue
            queries = {
                window: [
                    copy_queries(self.batch.sequence(sequence), *plan.pairs(index, sequence))
                    for sequence in range(len(self.batch))
                ]
                for window, plan in plans.items()
            }
            if any(len(each.positions) for own in queries.values() for each in own):
                found[behaviour.name] = CopyingMeasurement(self.model, windows, queries)
        return found

    def _fitting_batch_size(self) -> int:
        one = self.n_heads * self.batch.ids.shape[1] ** 2 * torch.float32.itemsize
        return max(1, min(MAX_BATCH, PATTERN_BUDGET // one))

    def starts(self) -> Iterator[int]:
        yield from range(0, len(self.batch), self.batch_size)

    def measure(self, start: int) -> None:
        """Run one batch; where sequences are compared, it holds the first of the next one too."""
        stop = min(start + self.batch_size, len(self.batch))
        shown = min(stop + 1, len(self.batch)) if self.compares else stop

        pattern_of = {pattern_hook(layer): layer for layer in self.layers}
        z_of = {z_hook(layer): layer for layer in self.layers} if self.copying else {}

        def score(name: str, activation: Tensor) -> None:
            if name in pattern_of:
                self.measurements[pattern_of[name]].add(activation, start, fresh=stop - start)
                return
            for measurement in self.copying.values():
                measurement.add(z_of[name], activation[: stop - start], start)

        visit_activations(
            self.model, self.batch.part(start, shown).ids, [*pattern_of, *z_of], score
        )

    def report(self, min_lift: float) -> HeadReport:
        names = tuple(behaviour.name for behaviour in self.behaviours)
        facts = {behaviour.name: behaviour.facts for behaviour in self.behaviours}
        figures = {
            layer: summarise(measurement, seed=self.seed)
            for layer, measurement in self.measurements.items()
        }
        tensors: dict[str, Any] = {
            field: self._by_layer({layer: getattr(f, field) for layer, f in figures.items()})
            for field in ("score", "null", "lift", "ci_low", "ci_high", "n_queries")
        }
        head_queries = tensors.pop("n_queries").nan_to_num(0).long()
        coverage = self._coverage(names, head_queries)
        scope = torch.full(coverage.shape, math.nan)
        by_name = {
            field: dict(zip(names, tensors[field], strict=True))
            for field in ("score", "ci_low", "ci_high")
        }
        scope = scope_of_heads(
            by_name["ci_low"].get("locality", scope),
            by_name["ci_high"].get("locality", scope),
            coverage,
        )
        copying = self._copying_figures(by_name["score"], by_name["ci_low"], min_lift)
        ends = zip(copying["copying_low"], copying["copying_high"], strict=True)
        most = {name: self._layer_with_most(index) for index, name in enumerate(names)}
        return HeadReport(
            behaviours=names,
            facts=facts,
            **tensors,
            **copying,
            head_queries=head_queries,
            coverage=coverage,
            labels=label_heads(
                by_name["score"],
                by_name["ci_low"],
                dict(zip(names, ends, strict=True)),
                facts,
                min_lift=min_lift,
            ),
            label_names=label_names(facts),
            scope=scope,
            windows=self.facts.windows,
            applicable={name: bool(head_queries[i].any()) for i, name in enumerate(names)},
            interval={name: figures[most[name]].interval[i] for i, name in enumerate(names)},
            n_sequences={
                name: self.measurements[most[name]].plan.eligibility[i].n_sequences
                for i, name in enumerate(names)
            },
            n_queries={name: int(head_queries[i].max()) for i, name in enumerate(names)},
            stimulus=dict.fromkeys(names, self.stimulus),
            min_lift=min_lift,
            n_kv_heads=self.facts.n_kv_heads,
            provenance=self._provenance(),
            tokens={self.stimulus: self.batch},
            parts={},
        )

    def _copying_figures(
        self, score: Mapping[str, Tensor], ci_low: Mapping[str, Tensor], min_lift: float
    ) -> dict[str, Tensor]:
        """Of the heads that look where a behaviour asks: what they do to what they see there."""
        facts = {behaviour.name: behaviour.facts for behaviour in self.behaviours}
        rows = torch.full((3, len(facts), *next(iter(score.values())).shape), math.nan)
        for index, name in enumerate(facts):
            if name in self.copying:
                heads = clears_bar(name, score, ci_low, facts, min_lift=min_lift)
                figures = self.copying[name].figures(seed=self.seed, heads=heads)
                for row, ends in zip(
                    rows, (figures.effect, figures.ci_low, figures.ci_high), strict=True
                ):
                    row[index] = ends
        return dict(zip(("copying", "copying_low", "copying_high"), rows, strict=True))

    def _by_layer(self, figures: Mapping[int, Tensor]) -> Tensor:
        """Stack per layer, NaN for layers without attention: `[behaviour layer head]`."""
        stacked = torch.full(
            (len(self.behaviours), self.model.cfg.n_layers, self.n_heads), math.nan
        )
        for layer, values in figures.items():
            stacked[:, layer] = values
        return stacked

    def _layer_with_most(self, behaviour: int) -> int:
        return max(
            self.layers,
            key=lambda layer: self.measurements[layer].plan.eligibility[behaviour].n_queries,
        )

    def _coverage(self, names: tuple[str, ...], head_queries: Tensor) -> Tensor:
        if "locality" not in names:
            return torch.full(head_queries.shape[1:], math.nan)
        row = names.index("locality")
        plan = self.measurements[self.layers[0]].plan
        return head_queries[row] / plan.eligibility[row].n_queries

    def _provenance(self) -> Provenance:
        return Provenance(
            model=self.facts.name,
            revision=self.facts.revision,
            backend=type(self.model).__name__,
            dtype=self.facts.dtype,
            seed=self.seed,
            bos={self.stimulus: bool(self.batch.has_bos.all())},
            bos_id=self.batch.bos_id,
            prompts={self.stimulus: self.batch.digest},
        )
