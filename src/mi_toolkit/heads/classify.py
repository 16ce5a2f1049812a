"""Classify a model's attention heads.

1. The prompt becomes token batches; without one, the two standard stimuli do.
2. For each stimulus and each window among the layers, find target keys, eligible queries, chance.
3. Run the model once over each batch; read each block of patterns as it appears and drop it.
4. Sum up: score, chance, lift, interval; labels where a figure clears its bar beyond doubt.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from mi_toolkit.core.errors import PromptError, UnknownNameError, unknown_name
from mi_toolkit.core.head import Head, HeadName, one_or_several
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.process_state import one_job
from mi_toolkit.core.progress import track
from mi_toolkit.core.stats import CONFIDENCE
from mi_toolkit.core.tokens import Prompt, TokenBatch, tokenise
from mi_toolkit.heads.behaviours import BEHAVIOURS, STANDARD, chosen
from mi_toolkit.heads.kinds import WEIGHTS, Behaviour, Weighting, check_weighting
from mi_toolkit.heads.labels import (
    DEFAULT_FDR,
    DEFAULT_MIN_LIFT,
    SCOPE_NAMES,
    BarFigures,
    label_heads,
    label_names,
    scope_of_heads,
)
from mi_toolkit.heads.measure import Measurement
from mi_toolkit.heads.protocol import (
    circuit_report,
    empty_report,
    home_stimuli,
    pad_behaviours,
    pattern_behaviours,
)
from mi_toolkit.heads.report import HeadReport, merge_stimuli
from mi_toolkit.heads.stimulus_run import StimulusRun, Sweep
from mi_toolkit.heads.summary import HeadFigures, summarise
from mi_toolkit.models.describe import provenance_of


def assembled(run: StimulusRun, min_lift: float, fdr: float | None, seed: int) -> HeadReport:
    """The report of a stimulus whose batches are all measured."""
    names = tuple(behaviour.name for behaviour in run.behaviours)
    facts = {behaviour.name: behaviour.facts for behaviour in run.behaviours}
    figures = {each: summarise(each, min_lift=min_lift) for each in set(run.measurements.values())}
    tensors: dict[str, Any] = {
        name: _by_layer(run, figures, name)
        for name in ("score", "null", "lift", "ci_low", "ci_high", "p", "n_queries")
    }
    head_queries = tensors.pop("n_queries").nan_to_num(0).long()
    coverage = _coverage(run, names, head_queries)
    unknown = torch.full(coverage.shape, math.nan)
    by_name = {
        name: BarFigures(*(tensors[field][row] for field in BarFigures._fields))
        for row, name in enumerate(names)
    }
    copying = _copying_figures(run, by_name, fdr)
    ends = zip(copying["copying_low"], copying["copying_high"], strict=True)
    most = [_with_most_queries(run, index) for index in range(len(names))]
    return HeadReport(
        behaviours=names,
        facts=facts,
        **tensors,
        **copying,
        head_queries=head_queries,
        coverage=coverage,
        labels=label_heads(
            by_name,
            dict(zip(names, ends, strict=True)),
            facts,
            min_lift=min_lift,
            fdr=fdr,
        ),
        label_names=label_names(facts),
        scope=scope_of_heads(
            by_name["locality"].ci_low if "locality" in by_name else unknown,
            by_name["locality"].ci_high if "locality" in by_name else unknown,
            coverage,
        ),
        windows=run.facts.windows,
        attention_layers=tuple(run.layers),
        applicable={name: bool(head_queries[i].any()) for i, name in enumerate(names)},
        interval={name: figures[most[i]].interval[i] for i, name in enumerate(names)},
        n_sequences={name: most[i].plan.eligibility[i].n_sequences for i, name in enumerate(names)},
        n_queries={name: int(head_queries[i].max()) for i, name in enumerate(names)},
        stimulus=dict.fromkeys(names, run.stimulus),
        min_lift=min_lift,
        fdr=fdr,
        weighting=run.weighting,
        n_kv_heads=run.facts.n_kv_heads,
        provenance=provenance_of(
            run.model, {run.stimulus: run.batch}, seed=seed, attention={run.stimulus: run.path}
        ),
        tokens={run.stimulus: run.batch},
        parts={},
    )


def _copying_figures(
    run: StimulusRun, by_name: Mapping[str, BarFigures], fdr: float | None
) -> dict[str, Any]:
    """Of the heads that may look where a behaviour asks: what they do to what they see there.

    A head that is labelled among others, in this report or in one that joins several stimuli, has
    a p of its own at `fdr` or under.
    """
    most = (1 - CONFIDENCE) / 2 if fdr is None else fdr
    shape = next(iter(by_name.values())).score.shape
    rows = torch.full((3, len(by_name), *shape), math.nan)
    for index, (name, of_head) in enumerate(by_name.items()):
        if name in run.copying:
            figures = run.copying[name].figures(heads=of_head.p <= most)
            for row, ends in zip(
                rows, (figures.effect, figures.ci_low, figures.ci_high), strict=True
            ):
                row[index] = ends
    return dict(zip(("copying", "copying_low", "copying_high"), rows, strict=True))


def _by_layer(run: StimulusRun, figures: dict[Measurement, HeadFigures], name: str) -> Tensor:
    """Stack per layer, NaN for layers without attention: `[behaviour layer head]`."""
    stacked = torch.full((len(run.behaviours), run.model.cfg.n_layers, run.n_heads), math.nan)
    for measurement, found in figures.items():
        stacked[:, list(measurement.place)] = getattr(found, name).to(stacked.dtype)
    return stacked


def _with_most_queries(run: StimulusRun, behaviour: int) -> Measurement:
    return max(
        run.measurements.values(), key=lambda each: each.plan.eligibility[behaviour].n_queries
    )


def _coverage(run: StimulusRun, names: Sequence[str], head_queries: Tensor) -> Tensor:
    if "locality" not in names:
        return torch.full(head_queries.shape[1:], math.nan)
    row = names.index("locality")
    plan = run.measurements[run.layers[0]].plan
    return head_queries[row] / plan.eligibility[row].n_queries


LABEL = "label:"
"""What stands before a label where heads are named by it."""


def heads_named(model: HookedModel, names: HeadName | Iterable[HeadName]) -> list[Head]:
    """Heads by name, or by label: `label:induction` is all that `classify_heads(model)` gives it.

    Raises:
        UnknownNameError: no such head or label, or a label that no head has.
    """
    asked = one_or_several(names)
    labels = [name.removeprefix(LABEL) for name in map(str, asked) if name.startswith(LABEL)]
    found = [Head.of(name) for name in asked if not str(name).startswith(LABEL)]
    if labels:
        further = [label for label in labels if label in BEHAVIOURS and label not in STANDARD]
        table = chosen([*STANDARD, *further])
        known = label_names({each.name: each.facts for each in table})
        for label in labels:  # before the passes
            if label not in known and label not in SCOPE_NAMES:
                raise unknown_name("label", label, [*known, *SCOPE_NAMES])
        report = classify_heads(model, behaviours=table, progress=False)
        for label in labels:
            heads = report.heads(label)
            if not heads:
                raise UnknownNameError(
                    f"{model.cfg.model_name} has no head labelled {label} by the standard "
                    f"protocol: {dict(report.summary()).get(label, 'none')}."
                )
            found += heads
    if not found:
        raise UnknownNameError("The list of heads is empty: name at least one, or leave it out.")
    return list(dict.fromkeys(found))


OWN_PROMPT = "prompt"
"""What a report calls the stimulus that the caller gave."""


class ReportOfPass:
    """The report on one sequence, read in a pass that somebody else runs for more than this.

    The figures are those of `classify_heads` on the same ids, up to rounding.
    """

    def __init__(self, model: HookedModel, batch: TokenBatch) -> None:
        """Expect a pass over the batch's one sequence."""
        behaviours = pattern_behaviours(chosen(None))
        self._run = StimulusRun(model, batch, behaviours, OWN_PROMPT, None, whole_patterns=True)
        self.names, self.read = self._run.reader_of(self._run.batches[0])

    def report(self) -> HeadReport:
        """What was found, once all of `names` were shown to `read`."""
        return assembled(self._run, DEFAULT_MIN_LIFT, DEFAULT_FDR, seed=0)


@one_job
def classify_heads(
    model: HookedModel,
    prompt: Prompt | None = None,
    *,
    behaviours: Sequence[str | Behaviour] | None = None,
    min_lift: float = DEFAULT_MIN_LIFT,
    fdr: float | None = DEFAULT_FDR,
    weighting: Weighting = "prompts",
    prepend_bos: bool | None = None,
    attention_mask: Any = None,
    batch_size: int | None = None,
    seed: int = 0,
    progress: bool | None = None,
    resume: str | os.PathLike[str] | None = None,
    allow_nan: bool = False,
) -> HeadReport:
    """What each attention head attends to, against chance, with an interval and labels.

    One pass of the model over the prompt, which stops after the last layer's attention. Patterns
    are scored in blocks of queries as they appear, and dropped, so memory grows with a prompt's
    length, not with its square. Where something wants whole patterns (a hook on them, a behaviour
    of yours, an architecture whose attention cannot be taken over), it holds one layer's at a time;
    `report.provenance.attention` says which.
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
        min_lift: the lift that a mask behaviour's label says is exceeded.
        fdr: the share of false labels, in expectation, among all that the report gives: Benjamini
            and Hochberg over all heads and behaviours. None: each head alone, by its 95% interval.
        weighting: what counts alike in a figure of texts of unequal length. `prompts`: each text,
            by the mean over its eligible queries. `queries`: each eligible query, so that a text
            counts by how many it has. Chance, intervals, labels and copying follow. `locality` is
            a ratio of sums over all queries either way; on one text there is no difference.
        prepend_bos: put a BOS before each string; None: as the model was trained to read it.
        attention_mask: of ids with padding: 1 where a token is real, in the shape of the ids.
        batch_size: sequences to a forward pass; None: as many as memory has room for, up to where
            more are no quicker. It changes figures by rounding only.
        seed: of the random stimulus.
        progress: a progress bar with the time to go; None: where somebody looks and it takes long.
        resume: a file for the sums of the batches that are done. After an interruption, the same
            call goes on from it, to the same figures bit for bit; it stays, and may be deleted.
        allow_nan: give the report all the same where what the model computes is NaN or infinite.
            Figures that this touches are NaN, and the report names it as the reason.

    Raises:
        PromptError: the prompt is empty, too long, or has an id outside the vocabulary.
        UnknownNameError: no such behaviour, or no such weighting.
        BehaviourError: a behaviour from outside cannot be imported, or its mask is none.
        UnsupportedModelError: no layer has an attention pattern to hook.
        HookError: a pattern's hook did not fire.
        NotFiniteError: what the model computes is NaN or infinite: the message names the first
            module where it is.
        ReportError: `resume` is the file of another run, or none of a run.

    Example:
        >>> import mi_toolkit as mi
        >>> model = mi.load_model("toy-gpt2")
        >>> report = mi.classify_heads(model, "When Mary and John went to the store, John")
        >>> report["previous_token"].shape
        torch.Size([4, 4])
    """
    asked = _asked(
        model,
        prompt,
        behaviours=behaviours,
        min_lift=min_lift,
        fdr=fdr,
        weighting=weighting,
        prepend_bos=prepend_bos,
        attention_mask=attention_mask,
        batch_size=batch_size,
        seed=seed,
    )
    asked.measure(Sweep(resume, asked.runs, seed), progress)
    return asked.report()


class ClassificationInParts:
    """`classify_heads` in parts, by several processes: each measures every `n_parts`-th batch.

    The prompt is tokenised and planned once, for all parts that one process measures.
    """

    def __init__(
        self,
        model: HookedModel,
        prompt: Prompt | None,
        *,
        n_parts: int,
        batch_size: int,
        allow_nan: bool = False,
        **options: Any,
    ) -> None:
        """Expect the parts of a prompt.

        Args:
            model: as for `classify_heads`.
            prompt: the whole of it.
            n_parts: how many parts there are.
            batch_size: sequences to a pass.
            allow_nan: as for `classify_heads`.
            options: all others of `classify_heads` but `resume`.
        """
        self.model, self.n_parts, self._allow_nan = model, n_parts, allow_nan
        self._asked = _asked(model, prompt, batch_size=batch_size, **options)

    def measure(
        self, path: str | os.PathLike[str], part: int, *, progress: bool | None = None
    ) -> None:
        """Measure a part, counted from 0, its sums to a file. Interrupted, the same call goes on.

        Raises:
            MIToolkitError: as `classify_heads` does.
        """
        sweep = self._sweep(path, part)
        _measure_part(self.model, self._asked, sweep, progress, allow_nan=self._allow_nan)

    def report(self, paths: Sequence[str | os.PathLike[str]]) -> HeadReport:
        """The report of all parts, from their files in order: that of `classify_heads`, bit by bit.

        Raises:
            ReportError: a part is missing, damaged, not finished, or of something else.
        """
        sweep = self._sweep(None, 0)
        return _report_of_parts(self.model, self._asked, sweep, paths, allow_nan=self._allow_nan)

    def _sweep(self, path: str | os.PathLike[str] | None, part: int) -> Sweep:
        own = self._asked
        for run in own.runs.values():
            run.clear()
        return Sweep(path, own.runs, own.seed, part=part, n_parts=self.n_parts)


@one_job
def _measure_part(
    model: HookedModel,
    asked: _Classification,
    sweep: Sweep,
    progress: bool | None,
    *,
    allow_nan: bool,
) -> None:
    if not sweep.remaining():  # fewer batches than parts
        sweep.save()
    asked.measure(sweep, progress)


@one_job
def _report_of_parts(
    model: HookedModel,
    asked: _Classification,
    sweep: Sweep,
    paths: Sequence[str | os.PathLike[str]],
    *,
    allow_nan: bool,
) -> HeadReport:
    sweep.join(paths)
    return asked.report()


@dataclass(frozen=True, kw_only=True, eq=False)
class _Classification:
    """What is to be classified by what: stimuli, and of each the sums as they grow."""

    model: HookedModel
    table: tuple[Behaviour, ...]
    stimuli: Mapping[str, TokenBatch]
    runs: Mapping[str, StimulusRun]
    min_lift: float
    fdr: float | None
    weighting: Weighting
    seed: int

    def measure(self, sweep: Sweep, progress: bool | None) -> None:
        """Run the batches that remain."""
        batches = sweep.remaining()
        for name, batch in track(
            batches, total=len(batches), label="classifying heads", unit="batch", show=progress
        ):
            self.runs[name].measure(batch)
            sweep.finished(name)

    def report(self) -> HeadReport:
        """What the sums say, once all of them are there."""
        model, table = self.model, self.table
        judged: Any = {"min_lift": self.min_lift, "fdr": self.fdr, "seed": self.seed}
        parts = {
            name: pad_behaviours(assembled(run, **judged), table) for name, run in self.runs.items()
        }
        judged["weighting"] = self.weighting
        if OWN_PROMPT in parts:
            return parts[OWN_PROMPT]
        if OWN_PROMPT in self.stimuli:
            return empty_report(model, table, OWN_PROMPT, self.stimuli[OWN_PROMPT], **judged)
        circuits = circuit_report(model, table, **judged)
        if circuits is not None:
            parts[WEIGHTS] = pad_behaviours(circuits, table)
        return merge_stimuli(parts)


@one_job
def _asked(
    model: HookedModel,
    prompt: Prompt | None,
    *,
    behaviours: Sequence[str | Behaviour] | None = None,
    min_lift: float = DEFAULT_MIN_LIFT,
    fdr: float | None = DEFAULT_FDR,
    weighting: Weighting = "prompts",
    prepend_bos: bool | None = None,
    attention_mask: Any = None,
    batch_size: int | None = None,
    seed: int = 0,
) -> _Classification:
    """Check what `classify_heads` was given, and make its stimuli and their batches."""
    if fdr is not None and not 0 < fdr < 1:
        raise PromptError(f"fdr is a share of false labels, between 0 and 1, or None; not {fdr}.")
    if not (isinstance(min_lift, Real) and 0 <= min_lift <= 1):
        raise PromptError(
            f"min_lift is a lift over chance, from 0 (chance) to 1 (perfect); not {min_lift!r}."
        )
    check_weighting(weighting)
    table = chosen(behaviours)
    patterns = pattern_behaviours(table)
    if batch_size is not None and batch_size < 1:
        raise PromptError(
            f"batch_size is the number of sequences to a pass, 1 or more, not {batch_size}."
        )
    if prompt is not None:
        own = tokenise(model, prompt, prepend_bos=prepend_bos, attention_mask=attention_mask)
        stimuli = {OWN_PROMPT: own}
    else:
        if prepend_bos is not None or attention_mask is not None:
            raise PromptError(
                "prepend_bos and attention_mask go with a prompt of your own: the standard stimuli "
                "begin with a "
                "BOS, or with the document separator where the tokenizer has none."
            )
        stimuli = home_stimuli(model, table, seed=seed)
    runs = {
        name: StimulusRun(model, batch, patterns, name, batch_size, weighting)
        for name, batch in stimuli.items()
        if patterns
    }
    return _Classification(
        model=model,
        table=tuple(table),
        stimuli=stimuli,
        runs=runs,
        min_lift=min_lift,
        fdr=fdr,
        weighting=weighting,
        seed=seed,
    )
