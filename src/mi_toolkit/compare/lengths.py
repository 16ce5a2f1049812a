"""The same heads at several lengths, on random tokens given twice and on text.

1. For each length, sequences of exactly so many tokens after a BOS: random tokens, the first half
   again as the second, and passages, joined where one is too short.
2. `classify_heads` on each; a finished report is written to `folder`, and read back next time.
3. One table, one picture: figures, chance and intervals by length, and which labels hold where.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_toolkit.core.display import TextTable, counted
from mi_toolkit.core.errors import ComparisonError, PromptError, ReportError, unknown_name
from mi_toolkit.core.head import Head
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.process_state import one_job
from mi_toolkit.core.progress import track
from mi_toolkit.core.provenance import installed_versions
from mi_toolkit.core.result import Result, fields_fit, load_record, save_record
from mi_toolkit.core.resumable import ResumableFolder
from mi_toolkit.core.stimuli import passages, repeated_random
from mi_toolkit.core.tables import joined, table_of
from mi_toolkit.core.tokenizer import Beginning, standard_beginning, text_beginning
from mi_toolkit.core.tokens import TokenBatch, with_beginning
from mi_toolkit.core.vocabulary import require_tokenizer
from mi_toolkit.heads.behaviours import chosen
from mi_toolkit.heads.classify import OWN_PROMPT, classify_heads
from mi_toolkit.heads.kinds import Behaviour, BehaviourSpec, Weighting
from mi_toolkit.heads.labels import DEFAULT_MIN_LIFT
from mi_toolkit.heads.report import HeadReport, ReportFile
from mi_toolkit.heads.stimulus_run import behaviour_identity
from mi_toolkit.models.describe import describe_model, model_identity

if TYPE_CHECKING:
    from mi_toolkit.core.tables import DataFrame


FORMAT = "mi_toolkit length sweep 1"
RECORD = "sweep.safetensors"


def report_file(stimulus: str, length: int) -> str:
    """The name of one report's file in a sweep's folder."""
    return f"{stimulus}-{length}.safetensors"


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LengthSweep(Result):
    """One report per stimulus and length."""

    model: str
    """The model's name."""

    lengths: tuple[int, ...]
    """Tokens of a sequence, its BOS not counted, ascending."""

    reports: Mapping[tuple[str, int], HeadReport]
    """By stimulus (`repeated_random`, and `natural` or, of your own text, `prompt`) and length,
    each what `classify_heads` gives for those ids."""

    @property
    def stimuli(self) -> tuple[str, ...]:
        """The stimuli that were swept."""
        return tuple(dict.fromkeys(stimulus for stimulus, _ in self.reports))

    @property
    def behaviours(self) -> tuple[str, ...]:
        """All that were measured on any stimulus, in the order of the one that has most."""
        by_stimulus = [self.report(name, self.lengths[0]).behaviours for name in self.stimuli]
        most = sorted(by_stimulus, key=len, reverse=True)
        return tuple(dict.fromkeys(name for names in most for name in names))

    @property
    def min_lift(self) -> float:
        """The bar that the lift of a mask behaviour had to clear for its label."""
        return next(iter(self.reports.values())).min_lift

    def facts(self, behaviour: str) -> BehaviourSpec:
        """What a behaviour is and needs.

        Raises:
            UnknownNameError: the sweep does not have it.
        """
        for report in self.reports.values():
            if behaviour in report.facts:
                return report.facts[behaviour]
        raise unknown_name("behaviour of this sweep", behaviour, self.behaviours)

    def report(self, stimulus: str, length: int) -> HeadReport:
        """One report.

        Raises:
            UnknownNameError: the sweep does not have it.
        """
        if (stimulus, length) not in self.reports:
            known = [f"{name} at {size}" for name, size in self.reports]
            raise unknown_name("report of this sweep", f"{stimulus} at {length}", known)
        return self.reports[stimulus, length]

    def measured(self, behaviour: str, stimulus: str) -> bool:
        """Whether a behaviour was measured on a stimulus: `positional` is not on random tokens."""
        return behaviour in self.report(stimulus, self.lengths[0]).behaviours

    def figures(self, behaviour: str, stimulus: str) -> Float[Tensor, "length layer head"]:
        """Lift at each length, or the value of a distribution behaviour.

        Raises:
            UnknownNameError: the behaviour was not measured on the stimulus.
        """
        return torch.stack([self.report(stimulus, n)[behaviour] for n in self.lengths])

    def holds(self, label: str, stimulus: str) -> Bool[Tensor, "length layer head"]:
        """Which heads carry a label at which length."""
        rows = []
        for length in self.lengths:
            report = self.report(stimulus, length)
            if label not in report.label_names:
                raise unknown_name(f"label on {stimulus}", label, report.label_names)
            rows.append(report.labels[report.label_names.index(label)])
        return torch.stack(rows)

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """One row per stimulus, length, behaviour and head: figure, chance, interval, label."""
        for row in self.to_pandas().to_dict("records"):
            yield {str(name): figure for name, figure in row.items()}

    def to_pandas(self) -> DataFrame:
        """The rows as a table, made by columns: there are thousands."""
        frames = []
        for (stimulus, length), report in self.reports.items():
            frame = report.to_pandas()
            frame["stimulus"] = stimulus
            frame.insert(2, "length", length)
            frames.append(frame.drop(columns="home"))
        return joined(frames)

    def label_table(self) -> DataFrame:
        """One row per stimulus, label and head that carries it at any length: at which it does."""
        return table_of(self._label_rows())

    def _label_rows(self) -> Iterator[dict[str, Any]]:
        for stimulus in self.stimuli:
            for label in self.report(stimulus, self.lengths[0]).label_names:
                holds = self.holds(label, stimulus)
                for layer, head in holds.any(dim=0).nonzero().tolist():
                    held = holds[:, layer, head].tolist()
                    at = [n for n, here in zip(self.lengths, held, strict=True) if here]
                    yield {
                        "stimulus": stimulus,
                        "label": label,
                        "head": str(Head(layer, head)),
                        "lengths": " ".join(map(str, at)),
                        "everywhere": all(held),
                        **self._figures_at(label, stimulus, Head(layer, head)),
                    }

    def _figures_at(self, label: str, stimulus: str, head: Head) -> dict[str, float]:
        """The figure that a label rests on, at each length."""
        behaviour = self.report(stimulus, self.lengths[0]).behaviour_of(label)
        figures = self.figures(behaviour, stimulus)[:, head.layer, head.head].tolist()
        return {f"at_{n}": figure for n, figure in zip(self.lengths, figures, strict=True)}

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write every report, and the record that names them, to a folder."""
        for (stimulus, length), report in self.reports.items():
            report.save(Path(folder) / report_file(stimulus, length))
        self.save_record(folder)

    def save_record(self, folder: str | os.PathLike[str]) -> None:
        """Write the record alone, where the reports are in the folder already."""
        lengths = torch.tensor(self.lengths)
        record = {"model": self.model, "stimuli": list(self.stimuli)}
        save_record(
            Path(folder) / RECORD, format=FORMAT, tensors={"lengths": lengths}, record=record
        )

    @staticmethod
    def load(folder: str | os.PathLike[str]) -> LengthSweep:
        """Read a sweep back.

        Raises:
            ReportError: no such folder, or no finished sweep in it.
        """
        place = Path(folder)
        tensors, record = load_record(place / RECORD, format=FORMAT, kind="length sweep")
        with fields_fit(place / RECORD, "length sweep"):
            model, lengths = record["model"], tuple(tensors["lengths"].tolist())
            paths = {
                (stimulus, length): place / report_file(stimulus, length)
                for length in lengths
                for stimulus in record["stimuli"]
            }
        missing = [path.name for path in paths.values() if not path.is_file()]
        if missing:
            raise ReportError(f"The sweep at {place} lacks {', '.join(missing)}.")
        reports = {key: HeadReport.load(path) for key, path in paths.items()}
        return LengthSweep(model=model, lengths=lengths, reports=reports)

    def text_table(self) -> TextTable:
        """Per stimulus and label: how many heads carry it at each length."""
        rows = [
            (stimulus, label, *self._counts(label, stimulus))
            for stimulus in self.stimuli
            for label in self.report(stimulus, self.lengths[0]).label_names
        ]
        header = ("stimulus", "label", *(f"at {length}" for length in self.lengths))
        title = f"LengthSweep of {self.model}: heads with a label, by length in tokens"
        return TextTable(title=title, header=header, rows=rows)

    def _counts(self, label: str, stimulus: str) -> list[str]:
        return [str(int(held.sum())) for held in self.holds(label, stimulus)]


BETWEEN_PASSAGES = "\n\n"


def of_length(
    model: HookedModel,
    texts: Sequence[str],
    *,
    n_tokens: int,
    n_sequences: int,
    beginning: Beginning,
) -> TokenBatch:
    """At most `n_sequences` sequences of exactly `n_tokens` tokens, after `beginning`.

    Each begins with a text that no other sequence holds; texts that follow are joined to it, with
    an empty line between, until there are tokens enough, and the rest is cut off. So long sequences
    are few: nothing is read twice.

    Raises:
        PromptError: the model has no tokenizer, or all texts together have fewer tokens.
    """
    tokenizer = require_tokenizer(model)
    found = []
    for ids in _joined(model, texts, n_tokens):
        found.append(ids[:n_tokens])
        if len(found) == n_sequences:
            break
    if not found:
        total = len(tokenizer.encode(BETWEEN_PASSAGES.join(texts), add_special_tokens=False))
        raise PromptError(
            f"The text has {counted(total, 'token')} for {model.cfg.model_name}, too few for "
            f"a sequence of {n_tokens}. Leave that length out, or give more text."
        )
    return with_beginning(beginning, found)


def _joined(model: HookedModel, texts: Sequence[str], n_tokens: int) -> Iterator[list[int]]:
    held: list[str] = []
    for text in texts:
        held.append(text)
        ids = model.tokenizer.encode(BETWEEN_PASSAGES.join(held), add_special_tokens=False)
        if len(ids) >= n_tokens:
            yield ids
            held = []


DEFAULT_LENGTHS = (32, 64, 128, 256)
SEQUENCES = 32


@one_job
def length_sweep(
    model: HookedModel,
    lengths: int | Sequence[int] = DEFAULT_LENGTHS,
    *,
    text: str | Sequence[str] | None = None,
    behaviours: Sequence[str | Behaviour] | str | None = None,
    n_sequences: int = SEQUENCES,
    min_lift: float = DEFAULT_MIN_LIFT,
    weighting: Weighting = "prompts",
    batch_size: int | None = None,
    seed: int = 0,
    folder: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> LengthSweep:
    """How the heads' figures and labels change with the length of what they read.

    A score falls with length where its targets drown among more keys; lift takes the chance of each
    length out, and what is left of a fall is the head's own. A label that holds at one length and
    on one stimulus alone is a statement about that length and stimulus.

    Every length has the same number of random sequences, but the longer the fewer of text
    (passages are never read twice), so intervals widen there; under three sequences they rest on
    their queries. Each figure is what `classify_heads` gives for the same ids.

    Args:
        model: a HookedTransformer or a TransformerBridge; it is left as it was.
        lengths: in tokens, the BOS not counted: of random tokens both copies together (an odd
            length is one token longer than they are).
        text: your own, in place of the bundled natural passages; it is cut and joined to length.
        behaviours: as `classify_heads` takes them; None for the standard ones that show on random
            tokens or plain text.
        n_sequences: sequences of each stimulus at each length, as far as the text goes.
        min_lift: the lift that a mask behaviour's label says is exceeded: its one-sided p passes
            Benjamini and Hochberg over all heads and behaviours, at a false discovery rate of 5%.
        weighting: what counts alike in a figure, each sequence or each query (see
            `classify_heads`): of one length, they differ in how many queries see a copy.
        batch_size: sequences to a forward pass; it changes figures by rounding only.
        seed: of the random tokens.
        folder: where each finished report is written. One that is there already, of the same
            tokens and protocol, is read back, so an interrupted sweep goes on.
        progress: a progress bar; None: where somebody looks and it takes long.

    Raises:
        ComparisonError: no length, one under 4, or one beyond the model's context.
        PromptError: too few tokens of text, or too few usable ids, for a length.
        UnknownNameError: no such behaviour.
        ReportError: the folder holds the sweep of another model, or of other versions.

    Example:
        >>> import mi_toolkit as mi
        >>> sweep = mi.length_sweep(mi.load_model("toy-gpt2"), [16, 32], n_sequences=8)
        >>> sweep.lengths, sweep.stimuli
        ((16, 32), ('repeated_random', 'natural'))
    """
    lengths = _checked(model, lengths)
    wanted = _behaviours(behaviours)
    texts = passages() if text is None else [text] if isinstance(text, str) else list(text)
    on_text = "natural" if text is None else OWN_PROMPT
    steps = [
        _Step(length, stimulus, shown)
        for length in lengths
        for stimulus in ("repeated_random", on_text)
        if (shown := [b for b in wanted if stimulus not in b.excluded_stimuli])
    ]
    kept = None
    if folder is not None:
        about = {
            "model": model_identity(model),
            "versions": installed_versions(),
            "report": ReportFile.FORMAT,
        }
        kept = ResumableFolder(folder, about, format=FORMAT, kind="length sweep")
    reports: dict[tuple[str, int], HeadReport] = {}
    for step in track(
        steps, total=len(steps), label="sweeping lengths", unit="length", show=progress
    ):
        batch = _batch(model, step, texts, n_sequences=n_sequences, seed=seed)
        file = report_file(step.stimulus, step.length)
        settings = {
            "behaviours": {b.name: behaviour_identity(b) for b in step.behaviours},
            "min_lift": min_lift,
            "weighting": weighting,
            "seed": seed,
            "tokens": batch.digest,
        }
        if kept is not None and kept.has(file, settings):
            report = HeadReport.load(kept.path / file)
        else:
            report = classify_heads(
                model,
                batch,
                behaviours=step.behaviours,
                min_lift=min_lift,
                weighting=weighting,
                batch_size=batch_size,
                seed=seed,
                progress=False,
            )
            if kept is not None:
                report.save(kept.path / file)
                kept.enter(file, settings, [file])
        reports[step.stimulus, step.length] = report
    name = describe_model(model).name
    sweep = LengthSweep(model=name, lengths=lengths, reports=reports)
    if folder is not None:
        sweep.save_record(folder)
    return sweep


@dataclass(frozen=True)
class _Step:
    length: int
    stimulus: str
    behaviours: Sequence[Behaviour]


def _checked(model: HookedModel, lengths: int | Sequence[int]) -> tuple[int, ...]:
    asked = {lengths} if isinstance(lengths, int | str) else set(lengths)
    if not all(isinstance(length, int) for length in asked):
        raise ComparisonError(f"Lengths are whole numbers of tokens, not {lengths!r}.")
    found = tuple(sorted(asked))
    if not found or found[0] < 4:
        raise ComparisonError(f"Lengths are 4 tokens or more, not {lengths}.")
    room = model.cfg.n_ctx - len(standard_beginning(model).ids)
    if found[-1] > room:
        raise ComparisonError(
            f"A length of {found[-1]} tokens does not fit the context of {model.cfg.model_name}: "
            f"{room} next to the BOS."
        )
    return found


def _behaviours(names: Sequence[str | Behaviour] | str | None) -> tuple[Behaviour, ...]:
    found = chosen(names)
    if names is None:
        found = tuple(b for b in found if b.home in ("repeated_random", "natural"))
    return found


def _batch(
    model: HookedModel, step: _Step, texts: Sequence[str], *, n_sequences: int, seed: int
) -> TokenBatch:
    if step.stimulus == "repeated_random":
        return repeated_random(model, n_tokens=step.length // 2, n_sequences=n_sequences, seed=seed)
    own = step.stimulus == OWN_PROMPT
    return of_length(
        model,
        texts,
        n_tokens=step.length,
        n_sequences=n_sequences,
        beginning=text_beginning(model) if own else standard_beginning(model),
    )
