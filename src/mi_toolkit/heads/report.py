"""`HeadReport`: what every head of a model does, on which stimulus, how surely."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_toolkit.core.display import TextTable
from mi_toolkit.core.errors import ReportError, unknown_name
from mi_toolkit.core.head import Head
from mi_toolkit.core.provenance import Provenance
from mi_toolkit.core.result import Result, SavedResult
from mi_toolkit.core.stats import MIN_TEXTS
from mi_toolkit.core.tokens import TokenBatch
from mi_toolkit.heads.control import UntrainedControl
from mi_toolkit.heads.kinds import WEIGHTINGS, WEIGHTS, BehaviourSpec, Weighting
from mi_toolkit.heads.labels import (
    NOT_FINITE,
    SCOPE_NAMES,
    UNCLASSIFIED,
    BarFigures,
    behaviour_of,
    borderline_heads,
    label_heads,
    scope_of_heads,
)

if TYPE_CHECKING:
    from mi_toolkit.core.model import HookedModel
    from mi_toolkit.core.tables import DataFrame


MOST_HEADS = 6

_OVER = {
    "jackknife over texts": "texts",
    "jackknife over queries of this prompt": "queries",
    "jackknife over pairs of tokens": "pairs of tokens",
}
"""What intervals speak of, by how they were made."""

ON_THIS_PROMPT = (
    "on this prompt: exact for it; intervals speak of its other places, not of other texts "
    "(give 3 or more for those)"
)


ABOUT_TEXTS = ("borderline", "intervals", "weighting", "BOS")
"""Lines of a summary that speak of the texts and not of heads, where they apply."""


def interval_over(made: str) -> str | None:
    """What an interval made so speaks of: `texts`, `queries`; None where there is none."""
    return _OVER.get(made)


def summary_of(report: HeadReport) -> list[tuple[str, str]]:
    """What the report says of each label, of scopes and of the rest, each in one line."""
    lines = [(name, _label_line(report, name)) for name in report.listed]
    if "locality" in report.behaviours:
        counts = ", ".join(f"{name} {len(report.heads(name))}" for name in report.scope_names)
        lines.append(("scope", counts))
    lines.append((UNCLASSIFIED, f"{len(report.heads(UNCLASSIFIED))} heads"))
    if broken := report.heads(NOT_FINITE):
        reason = "what the model computes there is NaN or infinite"
        lines.append((NOT_FINITE, f"{len(broken)} heads, from {broken[0]} on: {reason}"))
    borderline = int(report.borderline.sum())
    if borderline:
        lines.append(
            ("borderline", f"{borderline} heads × behaviours, which more texts would decide")
        )
    if "queries" in report.interval_over.values():
        lines.append(("intervals", _intervals_text(report)))
    if set(report.tokens) != {WEIGHTS}:
        lines.append(("weighting", _weighting_text(report)))
        lines.append(("BOS", _bos_text(report)))
    return lines


def _intervals_text(report: HeadReport) -> str:
    """What intervals speak of that are not over texts; of some behaviours, where others are."""
    over = report.interval_over
    if "texts" not in over.values():
        return ON_THIS_PROMPT
    names = ", ".join(name for name, of in over.items() if of == "queries")
    return (
        f"of {names}, which fewer than {MIN_TEXTS} of the texts can show: exact for those; "
        "intervals speak of their other places, not of other texts"
    )


def _weighting_text(report: HeadReport) -> str:
    pooled = report.weighting == "prompts" and "locality" in report.behaviours
    return WEIGHTINGS[report.weighting] + "; of locality, every query" * pooled


def _bos_text(report: HeadReport) -> str:
    """What the texts that were read begin with; what is read off the weights has no beginning."""
    of_texts = {name: bos for name, bos in report.provenance.bos.items() if name != WEIGHTS}
    said = replace(report.provenance, bos=of_texts).bos_text
    bare = any("none" in bos.split(" and ") for bos in of_texts.values())
    return said + ", and first_token is about it" * (bare and "first_token" in report.behaviours)


def copying_text(report: HeadReport, label: str, head: Head) -> str:
    """What a head does to the logits of what it looks at: ` copies +1.9`, or nothing."""
    row = report.index(report.behaviour_of(label))
    effect, low, high = (
        float(figures[row][head])
        for figures in (report.copying, report.copying_low, report.copying_high)
    )
    if math.isnan(effect):
        return ""
    verb = "copies" if low > 0 else "suppresses" if high < 0 else NOT_SHOWN
    return f" {verb} {effect:+z.1f}"


NOT_SHOWN = "copying not shown"
"""Of a head that looks where a label asks, and whose effect on what it sees may be none."""


def _label_line(report: HeadReport, name: str) -> str:
    behaviour, not_applicable_reason = report.behaviour_of(name), report.not_applicable_reason(name)
    if not_applicable_reason is not None:
        return not_applicable_reason
    if report.interval[behaviour] == "too few":
        return f"too few queries ({report.n_queries[behaviour]}) for an interval"
    if name not in report.label_names:
        strongest = report.strongest(name)
        return f"no label; highest {strongest} {float(report[name][strongest]):.2f}"
    heads = report.heads(name)
    if not heads and name != behaviour:
        return "none"
    if not heads and (reason := report.no_label_reason(name)) is not None:
        return reason
    if not heads:
        strongest = report.strongest(name)
        return f"none (strongest {strongest} {float(report[name][strongest]):.2f})"
    shown = ", ".join(
        f"{head} {float(report[behaviour][head]):.2f}{copying_text(report, name, head)}"
        for head in heads[:MOST_HEADS]
    )
    more = f", and {len(heads) - MOST_HEADS} more" if len(heads) > MOST_HEADS else ""
    return f"{len(heads)} {'head' if len(heads) == 1 else 'heads'}: {shown}{more}"


FIGURES = (
    "score", "null", "lift", "ci_low", "ci_high", "p", "copying", "copying_low", "copying_high",
)  # fmt: skip
"""The fields that hold a figure for every behaviour, layer and head; NaN where there is none."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class HeadReport(Result):
    """Scores, intervals and labels of every head. Tensors are on the CPU in float32."""

    behaviours: tuple[str, ...]
    """Names, the order of the first axis."""

    facts: Mapping[str, BehaviourSpec]
    """What each behaviour is and needs, as it was when it was measured."""

    score: Float[Tensor, "behaviour layer head"]
    """Of a mask behaviour the mean attention on its targets, in [0, 1]; else the value itself.
    NaN where nothing in the prompt could show the behaviour."""

    null: Float[Tensor, "behaviour layer head"]
    """What uniform attention would score on these tokens; NaN for distribution behaviours."""

    lift: Float[Tensor, "behaviour layer head"]
    """`(score - null) / (1 - null)`: 0 chance, 1 perfect; NaN for distribution behaviours."""

    ci_low: Float[Tensor, "behaviour layer head"]
    """Lower end of the 95% interval of the lift, or of a distribution behaviour's value."""

    ci_high: Float[Tensor, "behaviour layer head"]
    """Upper end of the same; NaN where there are too few queries for an interval."""

    p: Float[Tensor, "behaviour layer head"]
    """One-sided p of a true lift (or value) at or under the behaviour's bar; NaN where there is no
    interval, and in reports saved before it was kept."""

    head_queries: Int[Tensor, "behaviour layer head"]
    """Queries that each figure rests on."""

    copying: Float[Tensor, "behaviour layer head"]
    """Direct effect on the logits of the tokens at the behaviour's targets, on this stimulus, in
    standard deviations over the vocabulary: above 0 the head raises what it looks at. Of heads that
    clear the behaviour's bar, where it asks for the effect; else NaN (`copying_scores` has all)."""

    copying_low: Float[Tensor, "behaviour layer head"]
    """Lower end of the 95% interval of `copying`."""

    copying_high: Float[Tensor, "behaviour layer head"]
    """Upper end of the same."""

    coverage: Float[Tensor, "layer head"]
    """Share of the rows that look off the sink enough to count for `locality`; NaN without it."""

    labels: Bool[Tensor, "label layer head"]
    """Which head carries which label; several per head, or none."""

    label_names: tuple[str, ...]
    """The order of the labels' first axis."""

    scope: Int[Tensor, "layer head"]
    """Whether a head looks near or far, as an index into `scope_names`."""

    windows: tuple[int | None, ...]
    """Each layer's declared sliding window in tokens, None for global: architecture, not
    behaviour."""

    applicable: Mapping[str, bool]
    """Per behaviour: whether any query could show it."""

    interval: Mapping[str, str]
    """Per behaviour: how its intervals were made, or why there are none."""

    n_sequences: Mapping[str, int]
    """Per behaviour: sequences that took part, in the layer where most did."""

    n_queries: Mapping[str, int]
    """Per behaviour: eligible queries, in the layer and head with most."""

    stimulus: Mapping[str, str]
    """Per behaviour: what its figures were measured on."""

    min_lift: float
    """The bar that the lift of a mask behaviour had to clear for its label."""

    fdr: float | None
    """The false discovery rate that labels hold over all heads and behaviours; None: each head
    alone, by its 95% interval."""

    n_kv_heads: int
    """Key and value heads of a layer; fewer than query heads where these share them."""

    provenance: Provenance
    """Model, protocol and versions."""

    tokens: Mapping[str, TokenBatch]
    """Per stimulus: the ids that the model was fed."""

    parts: Mapping[str, HeadReport]
    """Per stimulus: the same record measured on it alone; empty in such a record."""

    scope_names: tuple[str, ...] = SCOPE_NAMES
    """The order of `scope`'s values."""

    weighting: Weighting = "prompts"
    """What counts alike in a figure of several texts: each text (`prompts`), or each eligible query
    (`queries`). `locality` is a ratio of sums over all queries either way."""

    require_copying: bool = False
    """Whether labels that can be told from suppressing (`induction`) ask that the head is shown to
    copy (`label`)."""

    untrained: UntrainedControl | None = None
    """How high untrained twins of the model score, where that was asked (`against`)."""

    attention_layers: tuple[int, ...] = ()
    """The layers that have heads: all, unless the model is a hybrid. Empty in reports saved before
    it was kept, of which all count."""

    def against(self, control: UntrainedControl) -> HeadReport:
        """The same report, which shows every figure against untrained twins of the model.

        Args:
            control: of `untrained_control`, on the model and the prompt of the report.

        Raises:
            ReportError: it is of another model, was measured on other texts, weighs otherwise, or
                its labels have another bar or rate.
            UnknownNameError: it does not have a behaviour of the report.

        Example:
            >>> import mi_toolkit as mi
            >>> model = mi.load_model("toy-gpt2")
            >>> text = "one two three one two three one two three"
            >>> report = mi.classify_heads(model, text, behaviours=["previous_token"])
            >>> control = mi.untrained_control(model, text, behaviours=["previous_token"], n=2)
            >>> dict(report.against(control).summary())["previous_token"]
            '1 head: L0H0 1.00; untrained 0.00, reaches none of them'
        """
        control.check(
            self.provenance,
            self.stimulus,
            weighting=self.weighting,
            min_lift=self.min_lift,
            fdr=self.fdr,
            require_copying=self.require_copying,
        )
        return replace(self, untrained=control)

    def check_model(self, model: HookedModel) -> None:
        """Check that this report is of a model, before anything of it is taken for that model's.

        Raises:
            ReportError: it is of another model.
        """
        name = str(model.cfg.model_name)
        self.check_name(name)
        has = (int(model.cfg.n_layers), int(model.cfg.n_heads))
        if tuple(self.scope.shape) != has:
            here, there = (f"{layers} × {heads} heads" for layers, heads in (self.scope.shape, has))
            raise ReportError(
                f"The report is of {here}, but {name} has {there}: take a report of this model."
            )

    def check_name(self, name: str) -> None:
        """Check that this report is of the model of that name.

        Raises:
            ReportError: it is of another model.
        """
        if self.provenance.model != name:
            raise ReportError(
                f"The report is of {self.provenance.model}, and not of {name}: take a report of "
                f"{name}, or what is of {self.provenance.model}."
            )

    def label(self, *, require_copying: bool) -> HeadReport:
        """The same report, labelled anew.

        Args:
            require_copying: whether a label that can be told from suppressing, such as `induction`,
                asks that the head is shown to raise the logits of what it looks at: the interval of
                `copying` above 0. Without it, that the head looks there is enough; whose copying is
                not shown is told by `labels_in_words`.

        Raises:
            ReportError: the untrained twins next to it are labelled by the other rule.

        Example:
            >>> import mi_toolkit as mi
            >>> report = mi.classify_heads(mi.load_model("toy-gpt2"), behaviours=["induction"])
            >>> report.label(require_copying=True).heads("induction")
            [L2H0]
        """
        if self.parts:
            parts = {
                name: part.label(require_copying=require_copying)
                for name, part in self.parts.items()
            }
            merged = merge_stimuli(parts)
            return merged if self.untrained is None else merged.against(self.untrained)
        figures = {
            name: BarFigures(*(getattr(self, field)[row] for field in BarFigures._fields))
            for row, name in enumerate(self.behaviours)
        }
        ends = zip(self.copying_low, self.copying_high, strict=True)
        labels = label_heads(
            figures,
            dict(zip(self.behaviours, ends, strict=True)),
            self.facts,
            min_lift=self.min_lift,
            fdr=self.fdr,
            require_copying=require_copying,
        )
        made = replace(self, labels=labels, require_copying=require_copying, untrained=None)
        return made if self.untrained is None else made.against(self.untrained)

    def copying_shown(self, label: str, head: Head | tuple[int, int] | str) -> bool | None:
        """Whether a head is shown to raise what it looks at (of a suppressing label: to lower it).

        None where the label has nothing to do with it, or the effect was not measured.
        """
        behaviour = self.behaviour_of(label)
        place = (self.index(behaviour), *self._head(head))
        if self.facts[behaviour].suppressing is None or self.copying[place].isnan():
            return None
        lowers = label == self.facts[behaviour].suppressing
        return bool(self.copying_high[place] < 0 if lowers else self.copying_low[place] > 0)

    def on(self, stimulus: str) -> HeadReport:
        """The same record, every behaviour measured on one stimulus.

        Raises:
            UnknownNameError: the report has no such stimulus.
        """
        if stimulus in self.parts:
            return self.parts[stimulus]
        if not self.parts and stimulus in self.tokens:
            return self
        raise unknown_name("stimulus of this report", stimulus, self.parts or self.tokens)

    def index(self, behaviour: str) -> int:
        """A behaviour's place on the first axis.

        Raises:
            UnknownNameError: the report does not have it.
        """
        if behaviour not in self.behaviours:
            raise unknown_name("behaviour of this report", behaviour, self.behaviours)
        return self.behaviours.index(behaviour)

    def __getitem__(self, name: Any) -> Tensor:
        """The figure that a behaviour is judged by: its lift, or a distribution's value.

        Indexed as every tensor of the report is: `report["induction"]` is `[layer head]`,
        `report["induction", "L5H1"]` one figure, `report["L5H1"]` that head's of every behaviour.

        Raises:
            UnknownNameError: the report has no such behaviour, layer or head.
        """
        has_chance = [self.facts[behaviour].has_chance for behaviour in self.behaviours]
        figures = torch.where(torch.tensor(has_chance)[:, None, None], self.lift, self.score)
        return self.with_names(figures, "behaviour", "layer", "head")[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.behaviours)

    def heads(self, label: str) -> list[Head]:
        """The heads with a label, strongest first; also of a scope, `unclassified` or `not finite`.

        Raises:
            UnknownNameError: the report has no such label.
        """
        if label in self.label_names:
            marked = self.labels[self.label_names.index(label)]
            strength = self[self.behaviour_of(label)]
        elif label in self.scope_names:
            marked = self.scope == self.scope_names.index(label)
            strength = self["locality"] * (-1 if label == "global" else 1)
        elif label == UNCLASSIFIED:
            marked = ~self.labels.any(dim=0) & ~self.not_finite
            strength = torch.zeros(marked.shape)
        elif label == NOT_FINITE:
            marked = self.not_finite
            strength = torch.zeros(marked.shape)
        else:
            known = [*self.label_names, *self.scope_names, UNCLASSIFIED, NOT_FINITE]
            raise unknown_name("label of this report", label, known)
        there = set(self.all_heads)
        found = [head for index in marked.nonzero().tolist() if (head := Head(*index)) in there]
        return sorted(found, key=lambda head: -float(strength[head].nan_to_num(-torch.inf)))

    @property
    def all_heads(self) -> list[Head]:
        """Every head that the model has, layer by layer."""
        n_layers, n_heads = self.scope.shape
        layers = self.attention_layers or range(n_layers)
        return [Head(layer, head) for layer in layers for head in range(n_heads)]

    @property
    def not_finite(self) -> Bool[Tensor, "layer head"]:
        """Heads that were measured and whose figures are no numbers, as the model's are not there.

        Only `allow_nan=True` gives such a report. Where nothing in a prompt could show a behaviour,
        no head was measured, which is another matter: see `not_applicable_reason`.
        """
        found = (self.score.isnan() & (self.head_queries > 0)).any(dim=0)
        return self.with_names(found, "layer", "head")

    @property
    def borderline(self) -> Bool[Tensor, "behaviour layer head"]:
        """Heads that these texts cannot tell from the bar of a behaviour; more texts would.

        The interval reaches beyond the bar, and the head does not clear it beyond doubt. False for
        behaviours that carry no label.
        """
        figures = {
            name: BarFigures(*(getattr(self, field)[row] for field in BarFigures._fields))
            for row, name in enumerate(self.behaviours)
        }
        found = borderline_heads(figures, self.facts, min_lift=self.min_lift, fdr=self.fdr)
        return self.with_names(torch.stack(list(found.values())), "behaviour", "layer", "head")

    @property
    def interval_over(self) -> Mapping[str, str | None]:
        """Per behaviour: what its intervals speak of; None where there are none.

        `texts`: other texts like these. `queries`: other places of this very prompt, which is one
        or two texts; the figure itself is exact for it, and says nothing of others.
        """
        return {name: interval_over(made) for name, made in self.interval.items()}

    @property
    def listed(self) -> tuple[str, ...]:
        """What a listing has a line for: the labels, then values that carry none; no scope."""
        bare = [name for name in self.behaviours if not self.facts[name].carries_label]
        return (*self.label_names, *(name for name in bare if name != "locality"))

    def behaviour_of(self, label: str) -> str:
        """The behaviour whose figures a label rests on: for most labels their own name."""
        return behaviour_of(label, self.facts)

    def meaning(self, label: str) -> str:
        """What a head with a label looks at, and what it does to it where that is asked."""
        behaviour = self.behaviour_of(label)
        meaning = self.facts[behaviour].meaning
        return meaning if behaviour == label else f"{meaning}, whose logit it lowers"

    def strongest(self, behaviour: str) -> Head:
        """The head with the highest figure, labelled or not.

        Raises:
            UnknownNameError: the report does not have the behaviour.
        """
        figures = self[behaviour].nan_to_num(-torch.inf)
        return Head(*divmod(int(figures.argmax()), figures.shape[1]))

    def not_applicable_reason(self, label: str) -> str | None:
        """Why nothing here could show a behaviour, and what could; None where something did."""
        behaviour = self.behaviour_of(label)
        self.index(behaviour)
        if self.applicable[behaviour]:
            return None
        facts, stimulus = self.facts[behaviour], self.stimulus[behaviour]
        if stimulus in facts.excluded_stimuli:
            return f"not measured on {stimulus}, where it would mislead"
        if facts.kind == "circuit" and stimulus != facts.home:
            return f"not measured on {stimulus}: it is read off the {facts.home} (give no prompt)"
        return f"not applicable here: needs {facts.trigger}"

    def no_label_reason(self, label: str) -> str | None:
        """Why no head can carry a label here, whatever its figure; None where heads can."""
        if label != "positional" or self.applicable.get("diffuse", False):
            return None
        return (
            "no label: that is for heads known not to be diffuse, which takes a prompt of nine "
            "tokens or more"
        )

    def labels_of(self, head: Head | tuple[int, int] | str) -> list[str]:
        """The labels of one head, in the report's order; its scope is not among them.

        Raises:
            UnknownNameError: the model has no such head.
        """
        carried = self.labels[self._head(head)].tolist()
        return [name for name, carries in zip(self.label_names, carried, strict=True) if carries]

    def labels_in_words(self, head: Head | tuple[int, int] | str) -> list[str]:
        """The labels of one head, and of an induction head whether copying is not shown.

        Such as `induction, copying not shown`.

        Raises:
            UnknownNameError: the model has no such head.
        """
        return [
            f"{label}, {NOT_SHOWN}" if self.copying_shown(label, head) is False else label
            for label in self.labels_of(head)
        ]

    def kv_head(self, head: Head | tuple[int, int] | str) -> int:
        """The key and value head that a query head reads, its own number where none are shared.

        Raises:
            UnknownNameError: the model has no such head.
        """
        return self._head(head).head // (self.score.shape[-1] // self.n_kv_heads)

    def _head(self, name: Head | tuple[int, int] | str) -> Head:
        return Head.of(name).check(self.provenance.model, *self.scope.shape)

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """One row per stimulus, behaviour and head; `home` marks those that labels rest on."""
        for row in self.to_pandas().to_dict("records"):
            yield {str(name): figure for name, figure in row.items()}

    def to_pandas(self) -> DataFrame:
        """The rows as a table, made by columns: there are thousands."""
        from mi_toolkit.heads.tables import head_table

        return head_table(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report to one safetensors file, with its record as JSON in the header.

        Raises:
            ReportError: by its name the file is a picture, a page or a table.
            WriteError: it cannot be written: the disk is full, say.
        """
        parts = self.parts or {next(iter(self.tokens)): replace(self, untrained=None)}
        ReportFile(
            parts={name: _with_ids(part, torch.int32) for name, part in parts.items()},
            is_merged=bool(self.parts),
            untrained=self.untrained,
        ).save(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> HeadReport:
        """Read a report back.

        Raises:
            ReportError: no such file, or it holds no report.
        """
        kept = ReportFile.load(path)
        parts = {name: _with_ids(part, torch.int64) for name, part in kept.parts.items()}
        report = merge_stimuli(parts) if kept.is_merged else next(iter(parts.values()))
        return replace(report, untrained=kept.untrained)

    def summary(self) -> list[tuple[str, str]]:
        """What the report says, label by label, each in one line of text."""
        lines = summary_of(self)
        if self.untrained is None:
            return lines
        beside = {name: self._untrained_beside(self.untrained, name) for name in self.listed}
        return [
            (name, f"{line}; {beside[name]}" if beside.get(name) else line) for name, line in lines
        ]

    def _untrained_beside(self, control: UntrainedControl, label: str) -> str:
        behaviour = self.behaviour_of(label)
        heads = self.heads(label) if label in self.label_names else []
        return control.beside(behaviour, self[behaviour], heads)

    def copying_text(self, label: str, head: Head) -> str:
        """What a head does to the logits of what it looks at: ` copies +1.9`, or nothing."""
        return copying_text(self, label, head)

    def text_table(self) -> TextTable:
        """The summary, under what was measured."""
        n_layers, n_heads = self.scope.shape
        title = (
            f"HeadReport of {self.provenance.model}: {n_layers} layers × {n_heads} heads, "
            f"measured on {' and '.join(self.tokens)}"
        )
        return TextTable(title=title, rows=self.summary())


@dataclass(frozen=True, kw_only=True, eq=False)
class ReportFile(SavedResult):
    """What a report's file holds: each part once, of which the whole is made again."""

    FORMAT: ClassVar[str] = "mi_toolkit head report 4"
    OUTDATED: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("mi_toolkit head report 2", "mi_toolkit head report 3"), "classify the heads again"
    )

    parts: Mapping[str, HeadReport]
    """Per stimulus: what was measured on it."""

    is_merged: bool
    """Whether the report is of several stimuli."""

    untrained: UntrainedControl | None
    """How high untrained twins of the model score."""


def _with_ids(part: HeadReport, dtype: torch.dtype) -> HeadReport:
    """The same with its token ids in another dtype: as 64-bit numbers, half of a small file."""
    tokens = {name: replace(kept, ids=kept.ids.to(dtype)) for name, kept in part.tokens.items()}
    return replace(part, tokens=tokens)


def merge_stimuli(parts: Mapping[str, HeadReport]) -> HeadReport:
    """One report whose rows each come from the behaviour's home stimulus, all parts kept."""
    first_name, first = next(iter(parts.items()))
    homes = {name: first.facts[name].home for name in first.behaviours}
    if "natural" not in parts:  # a model without a tokenizer reads no passages
        homes = {name: home if home in parts else first_name for name, home in homes.items()}

    def rows(field: str) -> Tensor:
        return torch.stack(
            [getattr(parts[home], field)[row] for row, home in enumerate(homes.values())]
        )

    def entries(field: str) -> dict[str, Any]:
        return {name: getattr(parts[home], field)[name] for name, home in homes.items()}

    bar: dict[str, Any] = {field: rows(field) for field in BarFigures._fields}
    copying_low, copying_high = rows("copying_low"), rows("copying_high")
    by_name = {
        name: BarFigures(*(figure[row] for figure in bar.values()))
        for row, name in enumerate(first.behaviours)
    }
    coverage, scope = first.coverage, first.scope
    if "locality" in homes:
        coverage = parts[homes["locality"]].coverage
        scope = scope_of_heads(by_name["locality"].ci_low, by_name["locality"].ci_high, coverage)
    labels = label_heads(
        by_name,
        {name: (copying_low[row], copying_high[row]) for row, name in enumerate(homes)},
        first.facts,
        min_lift=first.min_lift,
        fdr=first.fdr,
        require_copying=first.require_copying,
    )
    provenance = replace(
        first.provenance,
        bos={k: v for part in parts.values() for k, v in part.provenance.bos.items()},
        attention={k: v for part in parts.values() for k, v in part.provenance.attention.items()},
        prompts={k: v for part in parts.values() for k, v in part.provenance.prompts.items()},
    )
    return replace(
        first,
        **bar,
        null=rows("null"),
        lift=rows("lift"),
        head_queries=rows("head_queries"),
        copying=rows("copying"),
        copying_low=copying_low,
        copying_high=copying_high,
        coverage=coverage,
        labels=labels,
        scope=scope,
        applicable=entries("applicable"),
        interval=entries("interval"),
        n_sequences=entries("n_sequences"),
        n_queries=entries("n_queries"),
        stimulus=entries("stimulus"),
        provenance=provenance,
        tokens={name: part.tokens[name] for name, part in parts.items()},
        parts=dict(parts),
    )
