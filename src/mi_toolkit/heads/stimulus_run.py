"""One stimulus on its way through the model: batches in, sums of behaviours out.

Attention is computed in blocks of queries, whose patterns are read and dropped
(`chunked_attention`), so that memory grows with the length alone. Where the model's attention
cannot be taken over, or something wants whole patterns, these are read as the model makes them,
one layer's at a time.

Which sequences run together: as many as memory has room for, with little padding.

Batches change figures by rounding only. Where sequences are compared (`positional`), they run in
the order in which they are compared, and each batch shows once more what its sequences are compared
with and others hold: rows of attention are not kept. Otherwise they run sorted by length, longest
first, so that what does not fit shows at once.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mi_toolkit.core.attention_masks import sights
from mi_toolkit.core.errors import PromptError, ReportError
from mi_toolkit.core.memory import available_bytes
from mi_toolkit.core.model import HookedModel, attention_layers, pattern_hook, z_hook
from mi_toolkit.core.passes import Visitor, visit_activations
from mi_toolkit.core.provenance import installed_versions
from mi_toolkit.core.resumable import Checkpoint
from mi_toolkit.core.sight import Sight, Square, looks_ahead
from mi_toolkit.core.tokens import TokenBatch
from mi_toolkit.heads.behaviours import AnyBehaviour
from mi_toolkit.heads.block_figures import BlockReader
from mi_toolkit.heads.chunked_attention import attend, attention_by, blocks_of, unsupported_reason
from mi_toolkit.heads.copying import CopyingMeasurement, CopyQueriesOfPlan
from mi_toolkit.heads.direct_effect import reads_one_norm
from mi_toolkit.heads.kinds import Behaviour, DistributionBehaviour, Weighting
from mi_toolkit.heads.measure import Measurement
from mi_toolkit.heads.plan import Plan, make_plan
from mi_toolkit.heads.scores import PatternRows
from mi_toolkit.models.describe import describe_model, model_identity

MOST_SEQUENCES = 64
MOST_TOKENS = 4096
"""Tokens of a batch: beyond, larger products are no quicker."""

SHARE = 0.25
"""Of the free memory that a batch may take."""

MOST_PADDING = 1.25
"""Tokens run for one that counts: a batch is closed before it goes beyond."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Sequences that run together."""

    sequences: tuple[int, ...]
    """Their places in the stimulus."""

    n_fresh: int
    """How many of them are measured; the rest is shown to be compared with."""

    def places_of(self, compared: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Of the pairs of sequences that are compared, the places in the batch of its own."""
        place = {sequence: index for index, sequence in enumerate(self.sequences)}
        fresh = set(self.sequences[: self.n_fresh])
        return [(place[first], place[second]) for first, second in compared if first in fresh]


def make_batches(
    batch: TokenBatch,
    *,
    compared: Sequence[tuple[int, int]],
    n_heads: int,
    whole_patterns: bool,
    pads: bool,
    batch_size: int | None,
    room: int,
) -> list[Batch]:
    """Cut a stimulus into batches.

    Args:
        batch: the sequences.
        compared: the pairs that are compared, each with the first of the two.
        n_heads: of a layer.
        whole_patterns: whether a layer's patterns are held as a whole.
        pads: whether sequences of unequal length run together; not where padding would be seen.
        batch_size: sequences to a batch; None to choose.
        room: bytes that are free.
    """
    lengths = batch.lengths.tolist()
    order = sorted(range(len(batch)), key=lambda index: (-lengths[index], index))
    if compared:
        order = list(dict.fromkeys([*(first for first, _ in compared), *order]))
    groups: list[list[int]] = []
    for index in order:
        joined = [lengths[place] for place in (*groups[-1], index)] if groups else []
        if batch_size is None:
            fits = _fits(joined, n_heads, whole_patterns, room)
        else:
            fits = len(joined) <= batch_size
        if groups and fits and (pads or len(set(joined)) == 1):
            groups[-1].append(index)
        else:
            groups.append([index])
    cut = []
    for group in groups:
        own = set(group)
        others = dict.fromkeys(
            second
            for first, second in compared
            if first in own and second not in own and (pads or lengths[first] == lengths[second])
        )
        cut.append(Batch(sequences=(*group, *others), n_fresh=len(group)))
    return cut


def _fits(lengths: list[int], n_heads: int, whole_patterns: bool, room: int) -> bool:
    """Whether sequences of these lengths make one batch."""
    tokens = len(lengths) * max(lengths, default=0)
    # Scores, mask and softmax next to the patterns; else the figures of a row, about thirty.
    entries = tokens * n_heads * (4 * max(lengths, default=0) if whole_patterns else 30)
    return (
        len(lengths) <= MOST_SEQUENCES
        and tokens <= MOST_TOKENS
        and tokens <= MOST_PADDING * sum(lengths)
        and entries * torch.float32.itemsize <= SHARE * room
    )


SWEEP_FORMAT = "mi_toolkit head sweep 3"
WHOLE_PATTERNS = "whole patterns"
BLOCKS_OF_QUERIES = "blocks of queries"


_ROWS = "/rows"
"""After the name of a tensor: which of its rows there are."""


class StimulusRun:
    """What is measured on one stimulus, and how far it is."""

    def __init__(
        self,
        model: HookedModel,
        batch: TokenBatch,
        behaviours: Sequence[AnyBehaviour],
        stimulus: str,
        batch_size: int | None,
        weighting: Weighting = "prompts",
        *,
        whole_patterns: bool = False,
    ) -> None:
        """Expect a stimulus; `whole_patterns` where these are there to be read anyway."""
        self.model, self.batch, self.stimulus = model, batch, stimulus
        self.batch_size, self.weighting = batch_size, weighting
        self.behaviours = tuple(behaviours)
        self.layers = attention_layers(model)
        self.facts = describe_model(model)
        self.n_heads = int(model.cfg.n_heads)
        self.measurements: dict[int, Measurement] = {}
        longest = int(batch.lengths.max())
        self.sights = sights(model, self.layers, self.facts.windows, longest)
        pads = not any(map(looks_ahead, self.sights.values()))
        plans: dict[Sight, Plan] = {}
        for sight in dict.fromkeys(self.sights.values()):
            plans[sight] = plan = make_plan(
                batch,
                behaviours,
                sight,
                stimulus,
                pads=pads,
                weighting=weighting,
                tokenizer=model.tokenizer,
            )
            layers = [layer for layer in self.layers if self.sights[layer] == sight]
            measurement = Measurement(plan, layers, self.n_heads)
            self.measurements |= dict.fromkeys(layers, measurement)
        measured = [
            behaviour
            for behaviour in self.behaviours
            if isinstance(behaviour, DistributionBehaviour)
            and stimulus not in behaviour.excluded_stimuli
        ]
        self.wants_whole = [b.name for b in measured if b.needs is None]
        self.path = WHOLE_PATTERNS if whole_patterns else self._path()
        self.copying = self._copying(plans)
        self.batches = make_batches(
            batch,
            compared=next(iter(plans.values())).compared,
            n_heads=self.n_heads,
            whole_patterns=self.path == WHOLE_PATTERNS,
            pads=pads,
            batch_size=batch_size,
            room=available_bytes(model.cfg.device),
        )
        self._cut = tuple(self.batches)

    def _copying(self, plans: Mapping[Sight, Plan]) -> dict[str, CopyingMeasurement]:
        """For each behaviour that asks what a head does with what it sees: the outputs to keep."""
        found = {}
        for index, behaviour in enumerate(self.behaviours):
            if behaviour.facts.suppressing is None or not reads_one_norm(self.model):
                continue
            queries = {sight: CopyQueriesOfPlan(plan, index) for sight, plan in plans.items()}
            if any(plan.eligibility[index].n_sequences for plan in plans.values()):
                found[behaviour.name] = CopyingMeasurement(self.model, self.sights, queries)
        return found

    def _path(self) -> str:
        reason = unsupported_reason(self.model, self.layers)
        own = [layer for layer, sight in self.sights.items() if isinstance(sight, Square)]
        if own:
            reason = f"the mask of layer {own[0]} is no causal window"
        if self.wants_whole:
            reason = f"{self.wants_whole[0]} is a figure of whole patterns"
        if reason is None:
            return BLOCKS_OF_QUERIES
        longest = int(self.batch.lengths.max())
        # Scores, mask and softmax next to the patterns.
        wanted = 4 * self.n_heads * longest**2 * torch.float32.itemsize
        if wanted > available_bytes(self.model.cfg.device):
            raise PromptError(
                f"The patterns of a layer on {longest} tokens need {wanted / 2**30:.0f} GiB, more "
                f"than is free, and cannot be read in blocks of queries: {reason}. Give a shorter "
                "prompt."
            )
        return WHOLE_PATTERNS

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All that was summed so far, by name."""
        return {key: tensor for key, tensor, _ in self._rows()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `tensors` once were."""
        for place, part in enumerate(self._parts):
            part.restore(_below(tensors, f"{place}/"))

    def join(self, tensors: Mapping[str, Tensor]) -> None:
        """Take what another run summed of other batches of this stimulus."""
        for place, part in enumerate(self._parts):
            part.join(_below(tensors, f"{place}/"))

    def clear(self) -> None:
        """Forget what was measured, and how its batches were cut."""
        self.batches = list(self._cut)
        for part in self._parts:
            part.clear()

    @property
    def packed(self) -> dict[str, Tensor]:
        """`tensors`, of each the rows that were written: a part of many texts has few of them."""
        few = {}
        for key, tensor, blank in self._rows():
            if blank is None or tensor.ndim < 2:
                few[key] = tensor
                continue
            written = ~tensor.isnan() if math.isnan(blank) else tensor != blank
            rows = written.flatten(1).any(dim=1).nonzero()[:, 0]
            few |= {key: tensor[rows], f"{key}{_ROWS}": rows}
        return few

    def unpacked(self, few: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`tensors` of a run of the same stimulus, from what was `packed` there."""
        whole = {key: tensor for key, tensor in few.items() if not key.endswith(_ROWS)}
        for key, own, blank in self._rows():
            rows = few.get(f"{key}{_ROWS}")
            if rows is not None and blank is not None:
                whole[key] = torch.full_like(own, blank)
                whole[key][rows] = few[key]
        return whole

    def _rows(self) -> Iterator[tuple[str, Tensor, float | None]]:
        """The tensors by name, and what the rows hold that nothing was written to."""
        for place, part in enumerate(self._parts):
            for name, tensor in part.tensors.items():
                yield f"{place}/{name}", tensor, part.blank(name)

    @property
    def asked(self) -> dict[str, Any]:
        """All that decides the sums, next to model and versions, as plain values."""
        return {
            "prompts": self.batch.digest,
            "behaviours": {each.name: behaviour_identity(each) for each in self.behaviours},
            "attention": self.path,
            "batch_size": self.batch_size,
            "weighting": self.weighting,
        }

    @property
    def _parts(self) -> list[Measurement | CopyingMeasurement]:
        return [*dict.fromkeys(self.measurements.values()), *self.copying.values()]

    def measure(self, batch: Batch) -> None:
        """Run one batch."""
        if self.path == WHOLE_PATTERNS:
            self._on_whole_patterns(batch)
        else:
            self._in_blocks(batch)

    def _reader(self, layer: int, batch: Batch, shown: Tensor) -> BlockReader:
        shape = (len(batch.sequences), self.n_heads, shown.shape[-2])
        plan = self.measurements[layer].plan
        return BlockReader(
            plan,
            batch.sequences,
            batch.n_fresh,
            shape,
            compared=batch.places_of(plan.compared),
            device=shown.device,
        )

    def _in_blocks(self, batch: Batch) -> None:
        windows = {l: s for l, s in self.sights.items() if not isinstance(s, Square)}

        def attention(
            layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float
        ) -> Tensor:
            reader = self._reader(layer, batch, query)
            z = attend(
                query,
                key,
                value,
                scale=scale,
                window=windows[layer],
                show=reader.read,
                with_entropy="entropy" in reader.needs,
            )
            self.measurements[layer].add(layer, reader)
            return z

        def keep(name: str, z: Tensor) -> None:
            self._keep_outputs(layer_of[name], batch, z)

        # The pass stops after the last of them, whether or not anything is kept.
        layer_of = {z_hook(layer): layer for layer in self.layers}
        ids = self.batch.chosen(batch.sequences).ids
        with attention_by(self.model, self.layers, attention):
            visit_activations(self.model, ids, list(layer_of), keep)

    def _keep_outputs(self, layer: int, batch: Batch, z: Tensor) -> None:
        for measurement in self.copying.values():
            measurement.add(layer, z[: batch.n_fresh], batch.sequences[: batch.n_fresh])

    def _on_whole_patterns(self, batch: Batch) -> None:
        names, read = self.reader_of(batch)
        visit_activations(self.model, self.batch.chosen(batch.sequences).ids, names, read)

    def reader_of(self, batch: Batch) -> tuple[list[str], Visitor]:
        """What a pass over a batch shows, to be read from whole patterns, and what reads it."""
        pattern_of = {pattern_hook(layer): layer for layer in self.layers}
        z_of = {z_hook(layer): layer for layer in self.layers} if self.copying else {}

        def read(name: str, activation: Tensor) -> None:
            if name in z_of:
                self._keep_outputs(z_of[name], batch, activation)
                return
            layer = pattern_of[name]
            reader = self._reader(layer, batch, activation)
            ahead = looks_ahead(self.sights[layer])
            for block in blocks_of(activation, looks_ahead=ahead):
                reader.read(block)
            self.measurements[layer].add(layer, reader)
            if self.wants_whole:
                self._read_whole(layer, reader, activation)

        return [*pattern_of, *z_of], read

    def _read_whole(self, layer: int, reader: BlockReader, patterns: Tensor) -> None:
        def rows_of(place: int) -> PatternRows:
            n = int(self.batch.lengths[reader.sequences[place]])
            return PatternRows(
                patterns=patterns[place, :, :n, :n].float(), window=self.sights[layer]
            )

        self.measurements[layer].add_whole(layer, reader, rows_of)


class Sweep:
    """How far the runs on several stimuli are, in memory and, where a path is given, in a file.

    The file holds the sums of the batches that are done, and the batches as they were cut: what
    goes on from it adds up the same numbers in the same order, and ends with the same bits.

    A sweep may be one of several that take the batches in turn, each with a file of its own: `join`
    puts their sums together, which are those of one sweep, to the same bits.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        runs: Mapping[str, StimulusRun],
        seed: int,
        *,
        part: int = 0,
        n_parts: int = 1,
    ) -> None:
        self.runs, self.done = runs, dict.fromkeys(runs, 0)
        self.seed, self.part, self.n_parts = seed, part, n_parts
        self._checkpoint = None
        if path is not None:
            self._checkpoint = self._file(path, part)
            self._restore(self._checkpoint)

    @cached_property
    def _asked(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "stimuli": {name: run.asked for name, run in self.runs.items()},
            "model": next((model_identity(run.model) for run in self.runs.values()), {}),
            "versions": installed_versions(),
        }

    def _file(self, path: str | os.PathLike[str], part: int) -> Checkpoint:
        of_parts = {"part": [part, self.n_parts]} if self.n_parts > 1 else {}
        return Checkpoint(Path(path), self._asked | of_parts, format=SWEEP_FORMAT, kind="sweep")

    def remaining(self) -> list[tuple[str, Batch]]:
        """The batches that are still to be measured, each with its stimulus."""
        return [
            (name, batch)
            for name, run in self.runs.items()
            for batch in run.batches[self.part :: self.n_parts][self.done[name] :]
        ]

    def finished(self, name: str) -> None:
        """Count one more batch of a stimulus, and save if it is time, or all are done."""
        self.done[name] += 1
        if self._checkpoint is not None and (self._checkpoint.is_due or not self.remaining()):
            self.save()

    def save(self) -> None:
        """Write the file."""
        if self._checkpoint is None:
            return
        tensors = {
            f"{name}/{key}": tensor
            for name, run in self.runs.items()
            for key, tensor in run.packed.items()
        }
        batches = {
            name: [[batch.sequences, batch.n_fresh] for batch in run.batches]
            for name, run in self.runs.items()
        }
        self._checkpoint.save(tensors, {"done": self.done, "batches": batches})

    def join(self, paths: Sequence[str | os.PathLike[str]]) -> None:
        """Take the sums of all parts from their files, the first part's first.

        Raises:
            ReportError: one is missing, damaged, of another sweep, or not finished.
        """
        for part, path in enumerate(paths):
            kept = self._file(path, part).load()
            if kept is None:
                raise ReportError(f"Part {part + 1} of {self.n_parts} is missing: no file {path}.")
            tensors, record = kept
            for name, run in self.runs.items():
                own = [[list(batch.sequences), batch.n_fresh] for batch in run.batches]
                due = len(own[part :: self.n_parts])
                if record["batches"][name] != own or record["done"][name] != due:
                    raise ReportError(
                        f"{path} is not the whole of part {part + 1} of {self.n_parts}: its texts "
                        "ran in other batches, or not all of them did. Delete it."
                    )
                run.join(run.unpacked(_below(tensors, f"{name}/")))

    def _restore(self, checkpoint: Checkpoint) -> None:
        kept = checkpoint.load()
        if kept is None:
            return
        tensors, record = kept
        for name, run in self.runs.items():
            run.batches = [
                Batch(sequences=tuple(sequences), n_fresh=n_fresh)
                for sequences, n_fresh in record["batches"][name]
            ]
            run.restore(run.unpacked(_below(tensors, f"{name}/")))
        self.done = record["done"]


def behaviour_identity(behaviour: Behaviour) -> list[str]:
    """What a behaviour is, next to its name: its facts, and its functions' names."""
    # Not the functions themselves, whose text differs from process to process.
    functions = [
        each.func if isinstance(each, partial) else each
        for each in vars(behaviour).values()
        if callable(each)
    ]
    defined = [
        f"{getattr(f, '__module__', '')}.{getattr(f, '__qualname__', '')}" for f in functions
    ]
    return [repr(behaviour.facts), *defined]


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        key.removeprefix(prefix): tensor
        for key, tensor in tensors.items()
        if key.startswith(prefix)
    }
