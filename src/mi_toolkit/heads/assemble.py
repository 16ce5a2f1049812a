"""From the sums of one stimulus to its report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mi_toolkit.heads.labels import BarFigures, label_heads, label_names, scope_of_heads
from mi_toolkit.heads.measure import Measurement
from mi_toolkit.heads.report import HeadReport
from mi_toolkit.heads.stimulus_run import StimulusRun
from mi_toolkit.heads.summary import HeadFigures, summarise
from mi_toolkit.provenance import Provenance
from mi_toolkit.stats import CONFIDENCE


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
        applicable={name: bool(head_queries[i].any()) for i, name in enumerate(names)},
        interval={name: figures[most[i]].interval[i] for i, name in enumerate(names)},
        n_sequences={name: most[i].plan.eligibility[i].n_sequences for i, name in enumerate(names)},
        n_queries={name: int(head_queries[i].max()) for i, name in enumerate(names)},
        stimulus=dict.fromkeys(names, run.stimulus),
        min_lift=min_lift,
        fdr=fdr,
        n_kv_heads=run.facts.n_kv_heads,
        provenance=_provenance(run, seed),
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


def _provenance(run: StimulusRun, seed: int) -> Provenance:
    return Provenance(
        model=run.facts.name,
        revision=run.facts.revision,
        backend=type(run.model).__name__,
        dtype=run.facts.dtype,
        seed=seed,
        checked=getattr(run.model.cfg, "checked", None),
        bos={run.stimulus: run.batch.bos},
        bos_id=run.batch.bos_id,
        prompts={run.stimulus: run.batch.digest},
        attention={run.stimulus: run.path},
    )
