"""`head_card`: one head, explained by evidence, each figure next to its chance and its interval.

1. Where it looks: behaviours on every stimulus (`classify_heads`), relations of key to query by
   what is moved and by attention alone (`profile_heads`).
2. When it acts: the places of the texts where it moves most, and one from each tenth of a random
   sample, with the keys that it moves from there.
3. What it reads and writes: its circuits on the most frequent tokens of the texts (`circuits`).
4. What hangs on it: the loss of held-out text with the head ablated, by the kind of the token that
   is predicted, next to other heads of its layer.
5. Who it works with: composition with the heads of other layers, against turned weights.
6. Who is like it: heads whose relations are lifted alike.

1 and 6 come from what was measured for all heads; 2 to 5 are parts (`PARTS`) that are made head by
head, the quick ones first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_toolkit.activations.batcher import Texts
from mi_toolkit.cards.circuits import (
    Link,
    MapScore,
    TokenTable,
    circuit_tables,
    links_of,
    map_scores,
    table_of_tokens,
)
from mi_toolkit.cards.profile import (
    AFTER,
    HeadProfiles,
    check_comparable,
    profile_heads,
    value_lengths,
)
from mi_toolkit.core.display import TextTable
from mi_toolkit.core.errors import (
    PromptError,
    ReportError,
    UnsupportedModelError,
    unknown_name,
)
from mi_toolkit.core.head import Head, HeadName
from mi_toolkit.core.model import HookedModel, pattern_hook
from mi_toolkit.core.passes import visit_activations
from mi_toolkit.core.process_state import one_job
from mi_toolkit.core.progress import track
from mi_toolkit.core.provenance import Provenance
from mi_toolkit.core.random_sets import random_sets
from mi_toolkit.core.result import Result
from mi_toolkit.core.stimuli import evaluation_passages, halves, loss_batch, natural, usable_ids
from mi_toolkit.core.tokenizer import token_texts
from mi_toolkit.core.tokens import Prompt, TokenBatch
from mi_toolkit.heads.behaviours import STANDARD
from mi_toolkit.heads.classify import classify_heads
from mi_toolkit.heads.direct_effect import output_weights
from mi_toolkit.heads.relations import KINDS, RELATIONS, read_text
from mi_toolkit.heads.report import HeadReport
from mi_toolkit.heads.targets import at_copies
from mi_toolkit.interventions.ablation import check_kind
from mi_toolkit.interventions.components import checked_heads
from mi_toolkit.interventions.confirm.losses import Effect, LossRuns, effect_of, measure
from mi_toolkit.models.describe import describe_model, provenance_of

CARD_BEHAVIOURS = (
    *STANDARD,
    *("delimiter", "subword", "same_word", "sentence_start", "bracket", "quote"),
)
"""What a card has of a head's behaviours, where no report is given."""

EXAMPLES = 8
"""Places of the greatest activity that a card shows, of as many sequences."""

TENTHS = 10

NEAREST = 6
"""Heads of its own model that a card names as alike."""

NEAREST_ELSEWHERE = 2
"""Heads of each other model."""

LINKS = 12
"""Links that a card keeps of each direction."""

WORTH_SAYING = 0.02
"""The lift from which a relation is named."""

MOST_OFFSET = 8
"""Positions between query and key at most where circuits are read: farther is cut to this."""

LOSS_LENGTH = 64
"""Tokens of a text that a loss is taken on."""

_NEAREST_OF_BIN = {
    "self": 0,
    **{name: int(name.split("_")[1]) for name in RELATIONS if name.startswith("distance_")},
}


@dataclass(frozen=True, kw_only=True)
class BehaviourFigure:
    """One behaviour of the head on one stimulus."""

    behaviour: str
    """Its name."""

    stimulus: str
    """What it was measured on."""

    value: float
    """The lift over chance, or, of a distribution behaviour, its value."""

    low: float
    """Lower end of the 95% interval."""

    high: float
    """Upper end of the same."""

    labels: bool
    """Whether the head carries the label, which rests on this stimulus alone."""


@dataclass(frozen=True, kw_only=True)
class RelationFigure:
    """How much of what the head moves lies on keys of one relation."""

    relation: str
    """Its name in `RELATIONS`."""

    share: float
    """Of what is moved off the sink, at the queries that have such a key."""

    chance: float
    """The same spread evenly over the keys that each query sees."""

    lift: float
    """`(share - chance) / (1 - chance)`."""

    low: float
    """Lower end of the lift's 95% interval."""

    high: float
    """Upper end of the same."""

    attention_lift: float
    """The lift by attention alone."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Example:
    """One place of the texts, and where the head takes from there what it moves."""

    tenth: int | None
    """Which tenth of the random sample by activity it is from, 10 the highest; None for one of the
    places of the greatest activity of all."""

    document: int
    """Which document, counted from 0."""

    position: int
    """Of the query in its sequence, the BOS included."""

    activity: float
    """What is moved there off the sink, as a length."""

    texts: tuple[str, ...]
    """The tokens of the sequence up to the query, and a few after it."""

    moved: Float[Tensor, " key"]
    """What each key up to the query adds, as a length, the sink's too."""

    attended: Float[Tensor, " key"]
    """The attention on each."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LossChange:
    """What ablating the head does to the loss of some tokens, next to other heads of its layer."""

    how: str
    """The kind of ablation."""

    kind: str
    """Which tokens, by what is predicted: `all`, `first mention`, `later mention`, or one of
    `KINDS`."""

    n_tokens: int
    """How many."""

    clean_loss: float
    """Their mean loss with nothing ablated, in nats; each text weighs alike."""

    effect: Effect
    """The change, and those of other heads of the layer."""


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """A head that is like this one."""

    model: str
    """Its model."""

    head: Head
    """The head."""

    distance: float
    """Between the two heads' lifts over all relations (Euclidean)."""

    typical: float
    """The median distance of that model's heads."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class HeadCard(Result):
    """What one head does: where it looks, when it acts, what it reads, and what hangs on it."""

    FORMAT: ClassVar[str] = "mi_toolkit head card 1"

    head: Head
    """The head."""

    behaviours: tuple[BehaviourFigure, ...]
    """Its behaviours, on every stimulus that they were measured on."""

    window: int | None
    """The sliding window that its layer declares."""

    sink_moved: float
    """The share of what it moves that comes from position 0."""

    sink_attended: float
    """The share of its attention that lies on position 0."""

    activity: float
    """What it moves off the sink at a query, in the mean, as a length."""

    activity_rank: int
    """Its place among the heads of its layer by that, 1 for the highest."""

    relations: tuple[RelationFigure, ...]
    """Every relation that the texts can show, the highest lift first."""

    examples: tuple[Example, ...]
    """Places where it moves most, then one from each tenth of a random sample, highest first."""

    offset: int
    """Positions between query and key where its circuits were read."""

    reads: TokenTable | None
    """Which queries its weights match with which keys; None where that is not known."""

    writes: TokenTable | None
    """Which tokens it reads raise the logits of which; None where that is not known."""

    maps: tuple[MapScore, ...]
    """How far what it writes carries out maps of words."""

    links: tuple[Link, ...]
    """The links farthest above chance, from earlier heads and to later ones."""

    unknown: Mapping[str, str]
    """What could not be read off the weights of this model, and why."""

    losses: tuple[LossChange, ...]
    """What hangs on it, by kind of ablation and kind of token."""

    nearest: tuple[Neighbour, ...]
    """Heads that are like it: of its own model, then of each other one, the nearest first."""

    parts: tuple[str, ...]
    """What of `PARTS` was made; the fields of the others are empty."""

    n_documents: int
    """Documents that relations and examples rest on."""

    n_queries: int
    """Queries in them."""

    provenance: Provenance
    """Model, texts and versions."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that it carries, each once."""
        return tuple(dict.fromkeys(each.behaviour for each in self.behaviours if each.labels))

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """One row per figure: which part of the card, what of, the figure, chance, interval."""

        def row(part: str, of: str, value: float, **further: Any) -> dict[str, Any]:
            empty = {"chance": None, "low": None, "high": None, "note": ""}
            return {
                "model": self.provenance.model,
                "head": str(self.head),
                "part": part,
                "of": of,
                "value": value,
                **empty,
                **further,
            }

        for each in self.behaviours:
            note = "label" if each.labels else ""
            yield row(
                "behaviour", f"{each.behaviour} on {each.stimulus}", each.value,
                low=each.low, high=each.high, note=note,
            )  # fmt: skip
        yield row("sink", "moved", self.sink_moved)
        yield row("sink", "attended", self.sink_attended)
        for lifted in self.relations:
            yield row(
                "relation", lifted.relation, lifted.lift, chance=0.0, low=lifted.low,
                high=lifted.high, note=f"by attention alone {lifted.attention_lift:.2f}",
            )  # fmt: skip
        for name, table in (("reads", self.reads), ("writes", self.writes)):
            if table is None:
                continue
            for pair in (*table.highest, *table.lowest):
                chance = table.shuffled_highest if pair.value > 0 else table.shuffled_lowest
                yield row(name, f"{pair.source!r} → {pair.target!r}", pair.value, chance=chance)
        for each_map in self.maps:
            note = each_map.not_applicable or f"{each_map.n_pairs} pairs"
            yield row(
                "map", each_map.name, each_map.lift, chance=0.0, low=each_map.low,
                high=each_map.high, note=note,
            )  # fmt: skip
        for loss in self.losses:
            yield row(
                f"loss, {loss.how}", loss.kind, loss.effect.change,
                chance=float(loss.effect.random.mean()), low=loss.effect.change_low,
                high=loss.effect.change_high, note=f"{loss.n_tokens} tokens",
            )  # fmt: skip
        for link in self.links:
            yield row(
                "link", f"{link.writer} → {link.reader} {link.way}", link.score, chance=link.null,
                note=f"{link.z:.1f} sd above",
            )  # fmt: skip
        for near in self.nearest:
            yield row("like it", f"{near.head} of {near.model}", near.distance, chance=near.typical)

    def title(self) -> str:
        """The head, in one line."""
        labels = ", ".join(self.labels) or "no label"
        return f"{self.head} of {self.provenance.model}: {labels}"

    def text_table(self) -> TextTable:
        """The card in a few lines."""
        sink = f"{self.sink_attended:.0%} of attention, {self.sink_moved:.0%} of what it moves"
        rows = [("moves most from", self.in_words()), ("rests on the sink", sink)]
        for name, table in (("reads", self.reads), ("writes", self.writes)):
            if table:
                pairs = "  ".join(f"{p.source!r} → {p.target!r}" for p in table.highest[:4])
                rows.append((name, pairs))
        for loss in (each for each in self.losses if each.kind == "all"):
            found = loss.effect
            change = (
                f"{found.change:+z.4f} [{found.change_low:+z.4f}, {found.change_high:+z.4f}] nats"
            )
            rest = f"other heads of its layer {float(found.random.mean()):+z.4f}"
            rows.append((f"{loss.how} ablation", f"{change}, {rest}"))
        if self.links:
            shown = [f"{a.writer} → {a.reader} {a.way} ({a.z:.0f} sd)" for a in self.links[:4]]
            rows.append(("works with", "  ".join(shown)))
        own = self.provenance.model
        nearest = [
            f"{near.head}{'' if near.model == own else f' of {near.model}'} "
            f"{near.distance:.2f}/{near.typical:.2f}"
            for near in self.nearest
        ]
        said = f"{'  '.join(nearest)}  (distance/that of the median head)"
        rows.append(("nearest heads", said if nearest else "none"))
        return TextTable(title=self.title(), rows=rows)

    def in_words(self) -> str:
        """The relations whose lift is above 0 beyond doubt, and not by next to nothing."""
        clear = [each for each in self.relations if each.low > 0 and each.lift > WORTH_SAYING][:4]
        said = ", ".join(f"{RELATIONS[each.relation].meaning} {each.lift:.2f}" for each in clear)
        return said or "no kind of key beyond chance"


@one_job
def head_card(
    model: HookedModel,
    head: HeadName,
    texts: Texts | None = None,
    *,
    profiles: HeadProfiles | None = None,
    report: HeadReport | None = None,
    others: Mapping[str, HeadProfiles] | None = None,
    parts: Sequence[str] | str | None = None,
    onto: HeadCard | None = None,
    how: Sequence[str] | str = ("zero", "mean", "resample"),
    held_out: Prompt | None = None,
    n_sequences: int = 16,
    n_random: int = 12,
    n_tokens: int = 512,
    seed: int = 0,
    progress: bool | None = None,
) -> HeadCard:
    """What one head does, by evidence: where it looks, when it acts, what it reads and writes.

    Every figure stands next to what chance would give. What no part of it shows is that the model
    needs the head for what it does: others may stand in for it.

    Args:
        model: a HookedTransformer or a TransformerBridge; it is left as it was.
        head: `L5H1`, `(5, 1)` or `Head(5, 1)`.
        texts: what it is watched on, as `profile_heads` takes it; None for the bundled passages.
        profiles: of this model, from `profile_heads`, in the place of `texts`: they serve the
            cards of all heads.
        report: of this model, from `classify_heads`; None to classify the head by the standard
            behaviours and those of text.
        others: profiles of other models by name, made on the same texts, among which heads like it
            are looked for too (`HeadAtlas.head_profiles`); one of this model's name is passed over.
        parts: which of `PARTS` to make, in their order; None for all. Where it looks and who is
            like it are on every card.
        onto: a card of this head to add to, made with the same `profiles` and options: its parts
            are not made again.
        how: the kinds of ablation.
        held_out: texts to take losses on; None for the testing half of the bundled evaluation
            passages.
        n_sequences: how many of them.
        n_random: other heads of its layer that are ablated too, or all where there are fewer.
        n_tokens: tokens, the most frequent of the texts, on which its circuits are read.
        seed: of shuffles, turns and the choice of other heads.
        progress: a progress bar; None: where somebody looks and it takes long.

    Raises:
        UnknownNameError: no such head, no such part, or no such kind of ablation.
        ReportError: profiles, report or card of another model, or a card of another head.
        PromptError: the texts cannot be fed, or a count is under 1.

    Example:
        >>> import mi_toolkit as mi
        >>> texts = ["When Mary and John went to the store, John gave a drink to Mary."] * 4
        >>> model = mi.load_model("toy-gpt2")
        >>> card = mi.head_card(model, "L2H0", texts, n_sequences=4, n_tokens=64)
        >>> card.labels
        ('induction',)
    """
    (chosen, *others_named) = checked_heads(model, head)
    if others_named:
        raise PromptError("A card is of one head: make one for each.")
    how = (how,) if isinstance(how, str) else how
    for kind in how:
        check_kind(kind)
    if min(n_sequences, n_random, n_tokens - 1) < 1:
        raise PromptError("n_sequences and n_random are 1 or more, n_tokens 2 or more.")
    wanted = PARTS if parts is None else (parts,) if isinstance(parts, str) else parts
    for name in wanted:
        if name not in PARTS:
            raise unknown_name("part of a card", name, PARTS)
    if profiles is None:
        profiles = profile_heads(model, texts, seed=seed, progress=progress)
    if onto is None and report is None:
        report = classify_heads(
            model, behaviours=list(CARD_BEHAVIOURS), seed=seed, progress=progress
        )
    _check_same(describe_model(model).name, chosen, profiles, report, onto)
    asked = _Asked(
        model=model,
        head=chosen,
        profiles=profiles,
        how=tuple(how),
        held_out=held_out,
        n_sequences=n_sequences,
        n_random=n_random,
        n_tokens=n_tokens,
        seed=seed,
        progress=progress,
    )
    card = begun_card(asked, report, others or {}) if onto is None else onto
    todo = [name for name in PARTS if name in wanted and name not in card.parts]
    for name in track(
        todo,
        total=len(todo),
        label=f"card of {chosen}",
        unit="part",
        show=progress,
        at_rest=model,
    ):
        card = replace(card, **PARTS[name](asked, card), parts=(*card.parts, name))
    return card


def _check_same(
    own: str,
    head: Head,
    profiles: HeadProfiles,
    report: HeadReport | None,
    onto: HeadCard | None,
) -> None:
    """Check that all that a card is made from is of one model, and of one head."""
    for given, kind in ((profiles, HeadProfiles), (report, HeadReport), (onto, HeadCard)):
        if given is not None and not isinstance(given, kind):
            raise ReportError(
                f"A {kind.__name__} is wanted, not what is of type {type(given).__name__}: "
                f"{kind.__name__}.load reads one from a file."
            )
        if given is not None and given.provenance.model != own:
            raise ReportError(
                f"Profiles, report and card have to be of the model of the card, {own}; one given "
                f"is of {given.provenance.model}."
            )
    if onto is not None and onto.head != head:
        raise ReportError(f"The card to add to is of {onto.head}, not of {head}.")


@dataclass(frozen=True, kw_only=True, eq=False)
class _Asked:
    """What the parts of a card are made from."""

    model: HookedModel
    head: Head
    profiles: HeadProfiles
    how: tuple[str, ...]
    held_out: Prompt | None
    n_sequences: int
    n_random: int
    n_tokens: int
    seed: int
    progress: bool | None


def begun_card(
    asked: _Asked, report: HeadReport | None, others: Mapping[str, HeadProfiles]
) -> HeadCard:
    """Where a head looks and who is like it; the parts are still to be made."""
    profiles, head = asked.profiles, asked.head
    activity = profiles.activity()[head.layer]
    relations, read = relation_figures(profiles, head), profiles.provenance
    return HeadCard(
        head=head,
        behaviours=() if report is None else tuple(behaviour_figures(report, head)),
        window=profiles.windows[head.layer],
        sink_moved=float(profiles.sink_share()[head]),
        sink_attended=float(profiles.sink_share("attended")[head]),
        activity=float(activity[head.head]),
        activity_rank=1 + int((activity > activity[head.head]).sum()),
        relations=relations,
        examples=(),
        offset=offset_of(relations),
        reads=None,
        writes=None,
        maps=(),
        links=(),
        unknown={},
        losses=(),
        nearest=nearest_heads(profiles, head, others),
        parts=(),
        n_documents=profiles.n_documents,
        n_queries=int(profiles.n_queries.sum()),
        provenance=replace(
            provenance_of(asked.model, {}, seed=asked.seed),
            bos=read.bos,
            bos_id=read.bos_id,
            prompts=read.prompts,
        ),
    )


def _examples(asked: _Asked, card: HeadCard) -> dict[str, Any]:
    """Places of the texts, and where the head takes from there what it moves."""
    return {"examples": tuple(examples_of(asked.model, asked.profiles, card.head))}


def _circuits(asked: _Asked, card: HeadCard) -> dict[str, Any]:
    """Tables and maps of words, or why they are not known for the model."""
    model, head = asked.model, card.head
    ids = frequent_ids(model, asked.profiles.counts, asked.n_tokens)
    texts = token_texts(model.tokenizer, ids.tolist())
    try:
        tables = circuit_tables(model, head, ids, offset=card.offset, seed=asked.seed)
        maps = map_scores(model, head)
    except UnsupportedModelError as error:
        return {"unknown": {**card.unknown, "circuits": str(error)}}
    return {
        **{name: table_of_tokens(table, texts) for name, table in tables.items()},
        "maps": maps,
    }


def _links(asked: _Asked, card: HeadCard) -> dict[str, Any]:
    """The strongest links from earlier heads and to later ones, or why they are not known."""
    try:
        links = links_of(asked.model, card.head, seed=asked.seed)
    except UnsupportedModelError as error:
        return {"unknown": {**card.unknown, "links": str(error)}}
    before = [link for link in links if link.reader == card.head][:LINKS]
    after = [link for link in links if link.writer == card.head][:LINKS]
    return {"links": tuple(sorted([*before, *after], key=lambda link: -link.z))}


def _losses(asked: _Asked, card: HeadCard) -> dict[str, Any]:
    """What ablating the head does to held-out text, by every kind of ablation."""
    model, texts = asked.model, asked.held_out
    batch = loss_batch(
        model,
        halves(evaluation_passages(model))[1] if texts is None else texts,
        max_length=LOSS_LENGTH,
        limit=asked.n_sequences,
    )
    changes = [
        change
        for how in asked.how
        for change in loss_changes(
            model,
            card.head,
            batch,
            how=how,
            n_random=asked.n_random,
            seed=asked.seed,
            progress=asked.progress,
        )
    ]
    made = card.provenance
    return {
        "losses": tuple(changes),
        "provenance": replace(
            made,
            bos={**made.bos, "losses": batch.bos},
            prompts={**made.prompts, "losses": batch.digest},
        ),
    }


PARTS: Mapping[str, Callable[[_Asked, HeadCard], Mapping[str, Any]]] = MappingProxyType(
    {"examples": _examples, "circuits": _circuits, "links": _links, "losses": _losses}
)
"""What a card is made of beyond what is measured for all heads, the quick parts first: the fields
that each gives."""


def behaviour_figures(report: HeadReport, head: Head) -> Iterator[BehaviourFigure]:
    """The head's figures on every stimulus of a report; those that are not applicable left out."""
    parts = report.parts or {next(iter(report.tokens)): report}
    carried = {report.behaviour_of(label): label for label in report.labels_of(head)}
    for stimulus, part in parts.items():
        labels = {
            behaviour: label
            for behaviour, label in carried.items()
            if report.stimulus[behaviour] == stimulus
        }
        for place, name in enumerate(part.behaviours):
            figures = part.lift if part.facts[name].has_chance else part.score
            value = float(figures[(place, *head)])
            if value == value:
                yield BehaviourFigure(
                    behaviour=labels.get(name, name),
                    stimulus=stimulus,
                    value=value,
                    low=float(part.ci_low[(place, *head)]),
                    high=float(part.ci_high[(place, *head)]),
                    labels=name in labels,
                )


def relation_figures(profiles: HeadProfiles, head: Head) -> tuple[RelationFigure, ...]:
    """The head's lift for every relation that the texts can show, the highest first."""
    low, high = profiles.interval()
    share, null, lift = profiles.share(), profiles.null(), profiles.lift()
    attended = profiles.lift("attended")
    found = [
        RelationFigure(
            relation=name,
            share=float(share[at]),
            chance=float(null[at]),
            lift=float(lift[at]),
            low=float(low[at]),
            high=float(high[at]),
            attention_lift=float(attended[at]),
        )
        for place, name in enumerate(profiles.relations)
        for at in [(*head, place)]
        if not lift[at].isnan()
    ]
    return tuple(sorted(found, key=lambda each: -each.lift))


def offset_of(relations: Sequence[RelationFigure]) -> int:
    """The distance that the head uses most: the nearer end of the bin of the highest lift."""
    bins = [each for each in relations if each.relation in _NEAREST_OF_BIN]
    return min(_NEAREST_OF_BIN[bins[0].relation], MOST_OFFSET) if bins else 1


def frequent_ids(
    model: HookedModel, counts: Int[Tensor, " vocabulary"], n_tokens: int
) -> Int[Tensor, " token"]:
    """The most frequent tokens of the texts, specials apart; of a tie, the smaller ids."""
    usable = torch.tensor(usable_ids(model))
    order = counts[usable].sort(descending=True, stable=True).indices
    return usable[order[: max(2, min(n_tokens, int((counts[usable] > 0).sum())))]]


def examples_of(model: HookedModel, profiles: HeadProfiles, head: Head) -> Iterator[Example]:
    """Where the head moves most, a place of each sequence, and places from every tenth."""
    n_heads = profiles.sink.shape[-1]
    row = head.layer * n_heads + head.head
    top, sample = profiles.top, profiles.sample
    chosen: dict[tuple[int, int], tuple[int | None, Tensor, Tensor, float]] = {}
    for place, context, value in zip(
        top.place[row], top.context[row], top.values[row].tolist(), strict=True
    ):
        document, chunk, _ = place.tolist()
        if document >= 0 and len(chosen) < EXAMPLES:
            chosen.setdefault((document, chunk), (None, place, context, value))
    order = sample.activity[:, head.layer, head.head].argsort()
    tenths = [
        (tenth, sample.place[at], sample.context[at], float(sample.activity[(at, *head)]))
        for tenth in range(TENTHS, 0, -1)
        if len(order) >= TENTHS
        for at in [int(order[(2 * tenth - 1) * len(order) // (2 * TENTHS)])]
    ]
    for tenth, place, context, value in [*chosen.values(), *tenths]:
        ids = context[context >= 0]
        after = context[-AFTER:]
        n = len(ids) - int((after >= 0).sum())
        moved, attended = keys_of(model, head, ids[:n].long())
        yield Example(
            tenth=tenth,
            document=int(place[0]),
            position=int(place[2]),
            activity=value,
            texts=tuple(profiles.texts[token] for token in ids.tolist()),
            moved=moved,
            attended=attended,
        )


def keys_of(
    model: HookedModel, head: Head, ids: Int[Tensor, " position"]
) -> tuple[Float[Tensor, " key"], Float[Tensor, " key"]]:
    """What each key adds at the last query of a sequence, as a length, and the attention on it."""
    weights = output_weights(model, head.layer)
    shown: dict[str, Tensor] = {}
    hooks = [f"blocks.{head.layer}.attn.hook_v", pattern_hook(head.layer)]
    visit_activations(model, ids[None], hooks, lambda name, found: shown.update({name: found}))
    lengths = value_lengths(weights @ weights.mT, shown[hooks[0]])[0, head.head]
    attended = shown[hooks[1]][0, head.head, -1].float()
    return (attended * lengths).cpu(), attended.cpu()


def loss_changes(
    model: HookedModel,
    head: Head,
    batch: TokenBatch,
    *,
    how: str,
    n_random: int,
    seed: int,
    progress: bool | None,
) -> Iterator[LossChange]:
    """What ablating the head does to the loss of each kind of token, next to its layer's others."""
    n = batch.ids.shape[1]
    position = torch.arange(n)
    queries = (position >= 1) & (position < batch.lengths[:, None] - 1)
    generator = torch.Generator().manual_seed(seed)
    drawn = random_sets(
        [head], n_heads=int(model.cfg.n_heads), n_sets=n_random, generator=generator
    )
    run = LossRuns(
        model, [(), (head,), *drawn.sets], batch, queries, how=how,
        reference=natural(model, as_trained=True) if how == "resample" else None,
    )  # fmt: skip
    measure([run], resume=None, progress=progress)
    changes, sequence = run.losses[1:] - run.losses[0], run.sequence_of_query
    for kind, counted in token_kinds(model, batch).items():
        chosen = counted.roll(-1, dims=1)[queries]  # the loss at a query is the next token's
        if not chosen.any():
            continue
        of_text = sequence[chosen]
        _, place, size = of_text.unique(return_inverse=True, return_counts=True)
        weight = 1 / size[place]
        yield LossChange(
            how=how,
            kind=kind,
            n_tokens=int(chosen.sum()),
            clean_loss=float((run.losses[0, chosen] * weight).sum() / weight.sum()),
            effect=effect_of(changes[:, chosen], of_text),
        )


def token_kinds(
    model: HookedModel, batch: TokenBatch
) -> dict[str, Bool[Tensor, "sequence position"]]:
    """Which tokens are of each kind, by what they are and by whether they were there before."""
    shape = batch.ids.shape
    kind, copies = torch.full(shape, -1), torch.zeros(shape, dtype=torch.long)
    for index in range(len(batch)):
        ids, has_bos = batch.sequence(index), bool(batch.has_bos[index])
        texts = token_texts(model.tokenizer, ids.tolist())
        kind[index, : len(ids)] = read_text(ids, has_bos, texts).kind
        copies[index, : len(ids)] = at_copies(ids, has_bos).count
    there = kind >= 0
    return {
        "all": there,
        "first mention": there & (copies == 0),
        "later mention": there & (copies > 0),
        **{name: kind == place for place, name in enumerate(KINDS)},
    }


def nearest_heads(
    profiles: HeadProfiles, head: Head, others: Mapping[str, HeadProfiles]
) -> tuple[Neighbour, ...]:
    """The heads whose lifts over all relations are nearest to this one's, model by model.

    Raises:
        ReportError: the profiles of another model are of other relations or other texts.
    """
    wanted, own = profiles.lift().nan_to_num(0.0)[head], profiles.provenance.model
    elsewhere = {name: each for name, each in others.items() if name != own}
    found: list[Neighbour] = []
    for name, each in {own: profiles, **elsewhere}.items():
        check_comparable(profiles, each, name)
        distance = (each.lift().nan_to_num(0.0) - wanted).norm(dim=-1)
        if name == own:
            distance[head] = torch.inf
        order = distance.flatten().sort(stable=True)
        n = min(NEAREST if name == own else NEAREST_ELSEWHERE, int(distance.isfinite().sum()))
        typical = float(distance[distance.isfinite()].quantile(0.5)) if n else float("nan")
        found += [
            Neighbour(
                model=name,
                head=Head(*divmod(index, distance.shape[1])),
                distance=value,
                typical=typical,
            )
            for value, index in zip(
                order.values[:n].tolist(), order.indices[:n].tolist(), strict=True
            )
        ]
    return tuple(found)
