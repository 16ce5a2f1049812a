"""What every head moves in a collection of texts, in one pass over it, and nothing is stored.

1. A head's output at query `q` is `Σ_k A[q,k] v_k W_O`. What key `k` adds has the length
   `m[q,k] = A[q,k] · ‖v_k W_O‖`, by which attention is weighted here: a head that rests on a token
   of small values moves nothing (Kobayashi et al. 2020). Position 0, the sink, is left out, and
   counted apart.
2. For each relation `R` of a key to a query (`heads/relations.py`), over the queries that have a
   key of that kind: `share = Σ_q Σ_{k in R} m / Σ_q Σ_k m`. Queries count by what is moved there.
   `chance` is the same where each query's sum is spread evenly over the keys that it sees, so it
   is of the same tokens and the same queries. `lift = (share - chance) / (1 - chance)`: 0 for a
   head that moves all keys alike, 1 for one that moves keys of this kind alone.
3. Sums are kept apart for `GROUPS` groups of documents, in turn: the interval of a lift is a
   jackknife over them.
4. `activity`, `Σ_k m[q,k]`, is how much a head moves at a query. Its highest places are kept for
   each head, and for all heads together a random sample of places, which shows the rest.

Memory holds a batch, the sums, and the tokens around the places that are kept, whatever the texts.
What a norm after the attention makes of the output (Gemma 2) is taken in, but for its scale.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from einops import einsum, repeat
from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.activations.batcher import (
    START,
    Batcher,
    Cursor,
    FedBatch,
    Feeding,
    Overlong,
    Texts,
    feeding,
)
from mi_toolkit.activations.hooks import DEFAULT_BATCH_SIZE
from mi_toolkit.activations.statistics import (
    NOWHERE,
    Tokens,
    TopExamples,
    check_top_k,
    context_of,
    no_examples,
)
from mi_toolkit.core.attention_masks import sights
from mi_toolkit.core.display import TextTable, counted
from mi_toolkit.core.errors import PromptError, ReportError
from mi_toolkit.core.head import Head
from mi_toolkit.core.model import HookedModel, attention_layers, pattern_hook, z_hook
from mi_toolkit.core.passes import visit_activations
from mi_toolkit.core.process_state import one_job
from mi_toolkit.core.provenance import Provenance, installed_versions
from mi_toolkit.core.result import Result
from mi_toolkit.core.resumable import Checkpoint
from mi_toolkit.core.sight import Sight, Square, looks_ahead, visible_keys
from mi_toolkit.core.stats import over_texts
from mi_toolkit.core.stimuli import passages
from mi_toolkit.core.tokenizer import token_texts
from mi_toolkit.core.vocabulary import require_tokenizer
from mi_toolkit.heads.block_figures import PatternBlock
from mi_toolkit.heads.chunked_attention import attend, attention_by, blocks_of, unsupported_reason
from mi_toolkit.heads.direct_effect import output_weights
from mi_toolkit.heads.relations import RELATIONS, read_text
from mi_toolkit.heads.targets import Targets
from mi_toolkit.models.describe import describe_model, model_identity, provenance_of

GROUPS = 16
"""Groups of documents whose sums are kept apart."""

DEFAULT_LENGTH = 256
"""Tokens of a sequence, where the caller does not say."""

SAMPLE = 512
"""Places of the random sample."""

AFTER = 4
"""Tokens kept after each place; before it all of its sequence are."""

WEIGHTINGS = ("moved", "attended")
"""By what keys count: by what they add to the head's output, or by attention alone."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PlaceSample:
    """A random sample of the places that were read, the same for all heads."""

    priority: Float[Tensor, " place"]
    """A random number for each; those of the lowest are kept."""

    activity: Float[Tensor, "place layer head"]
    """How much each head moves there."""

    place: Int[Tensor, "place 3"]
    """Document, chunk and position."""

    context: Int[Tensor, "place window"]
    """Token ids before, at and after it; -1 beyond the ends of its sequence."""

    def merged(self, later: PlaceSample) -> PlaceSample:
        """The sample of both together."""
        together = {
            name: torch.cat([mine, getattr(later, name)]) for name, mine in vars(self).items()
        }
        kept = together["priority"].sort(stable=True).indices[:SAMPLE]
        return PlaceSample(**{name: tensor[kept] for name, tensor in together.items()})


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class HeadProfiles(Result):
    """What each head moves in a collection of texts, by the relation of key to query."""

    FORMAT: ClassVar[str] = "mi_toolkit head profiles 1"

    relations: tuple[str, ...]
    """Their names, a row of `RELATIONS` each."""

    on: Float[Tensor, "weighting group layer head relation"]
    """What lies on keys of each relation, summed over queries; by `WEIGHTINGS`. NaN in layers
    without attention."""

    among: Float[Tensor, "weighting group layer head relation"]
    """What lies on all keys but the sink, summed over the same queries."""

    chance: Float[Tensor, "weighting group layer head relation"]
    """What would lie on keys of each relation if every query's were spread evenly."""

    sink: Float[Tensor, "weighting group layer head"]
    """What lies on position 0, summed over all other queries."""

    total: Float[Tensor, "weighting group layer head"]
    """What lies on all keys, summed over the same."""

    n_queries: Int[Tensor, " group"]
    """Queries, position 0 apart."""

    eligible: Int[Tensor, " relation"]
    """Queries that have a key of each relation, as far as the widest layer sees."""

    top: TopExamples
    """Of each head, counted through in one axis, the places where it moves most."""

    sample: PlaceSample
    """Random places, with what every head moves there."""

    counts: Int[Tensor, " vocabulary"]
    """How often each token was read."""

    windows: tuple[int | None, ...]
    """The sliding window that each layer declares."""

    texts: Mapping[int, str]
    """The text of each token that stands around a place that is kept."""

    n_documents: int
    """Documents that were read."""

    settings: Mapping[str, Any]
    """How the texts were fed."""

    provenance: Provenance
    """Model, texts and versions."""

    @property
    def before(self) -> int:
        """Tokens kept before each place."""
        return self.sample.context.shape[1] - 1 - AFTER

    def share(self, weighting: str = "moved") -> Float[Tensor, "layer head relation"]:
        """The share of what is moved (or attended to) off the sink that lies on each relation."""
        return self._summed("on", weighting) / self._summed("among", weighting)

    def null(self, weighting: str = "moved") -> Float[Tensor, "layer head relation"]:
        """The same for what is spread evenly over the keys that each query sees."""
        return self._summed("chance", weighting) / self._summed("among", weighting)

    def lift(self, weighting: str = "moved") -> Float[Tensor, "layer head relation"]:
        """How far a share lies above chance: 0 at chance, 1 for nothing but keys of this kind."""
        on, among, chance = (self._summed(name, weighting) for name in ("on", "among", "chance"))
        return (on - chance) / (among - chance)

    def interval(
        self, weighting: str = "moved"
    ) -> tuple[Float[Tensor, "layer head relation"], Float[Tensor, "layer head relation"]]:
        """The ends of the lift's 95% interval, a jackknife over groups of documents.

        NaN where under 3 of them have a query that counts.
        """
        on, among, chance = (self._of(name, weighting) for name in ("on", "among", "chance"))
        above, room = ((each - chance).flatten(1) for each in (on, among))
        low, high = over_texts(above, room, bounds=None).ends()
        shape = on.shape[1:]
        return low.view(shape), high.clamp_max(1).view(shape)

    def sink_share(self, weighting: str = "moved") -> Float[Tensor, "layer head"]:
        """The share of all that is moved (or attended to) that lies on position 0."""
        return self._summed("sink", weighting) / self._summed("total", weighting)

    def activity(self) -> Float[Tensor, "layer head"]:
        """How much a head moves off the sink at a query, in the mean, as lengths of `v W_O`."""
        moved = self._summed("total", "moved") - self._summed("sink", "moved")
        return moved / self.n_queries.sum()

    def _of(self, name: str, weighting: str) -> Tensor:
        return getattr(self, name)[WEIGHTINGS.index(weighting)]  # type: ignore[no-any-return]

    def _summed(self, name: str, weighting: str) -> Tensor:
        return self._of(name, weighting).sum(dim=0)

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """One row per head and relation."""
        figures = {
            f"{weighting}_{name}": getattr(self, name)(weighting)
            for weighting in WEIGHTINGS
            for name in ("share", "null", "lift")
        }
        low, high = self.interval()
        figures |= {"moved_low": low, "moved_high": high}
        n_layers, n_heads = self.sink.shape[2:]
        for head in (Head(l, h) for l in range(n_layers) for h in range(n_heads)):
            for place, relation in enumerate(self.relations):
                yield {
                    "model": self.provenance.model,
                    "layer": head.layer,
                    "head": head.head,
                    "name": str(head),
                    "relation": relation,
                    **{name: float(tensor[(*head, place)]) for name, tensor in figures.items()},
                }

    def title(self) -> str:
        """What was read, in one line."""
        n = int(self.n_queries.sum())
        return (
            f"Profiles of the heads of {self.provenance.model}: {n:,} queries in "
            f"{counted(self.n_documents, 'document')}"
        )

    def text_table(self) -> TextTable:
        """For each relation the heads that it lifts most."""
        lift = self.lift()
        rows = []
        for place, relation in enumerate(self.relations):
            values = lift[..., place].nan_to_num(-torch.inf).flatten()
            best = values.sort(descending=True, stable=True).indices[:4].tolist()
            named = [Head(*divmod(index, lift.shape[1])) for index in best]
            shown = "  ".join(f"{head} {float(lift[(*head, place)]):.2f}" for head in named)
            rows.append((relation, RELATIONS[relation].meaning, shown))
        return TextTable(title=self.title(), header=("relation", "keys", "highest lift"), rows=rows)


@one_job
def profile_heads(
    model: HookedModel,
    texts: Texts | None = None,
    *,
    top_k: int = 32,
    batch_size: int = DEFAULT_BATCH_SIZE,
    max_length: int | None = None,
    overlong: Overlong = "split",
    prepend_bos: bool | None = None,
    field: str = "text",
    seed: int = 0,
    resume: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> HeadProfiles:
    """What every head moves in a collection of texts, and where it moves most, in one pass.

    Each key counts by the length of what it adds to the head's output, `A[q,k] · ‖v_k W_O‖`, next
    to attention alone; position 0, where heads rest, is left out. That a head moves something says
    neither what it is nor that anything later reads it.

    Args:
        model: a HookedTransformer or a TransformerBridge; it is left as it was.
        texts: as for `record_to_disk`: texts, records, a `datasets` set, or a file of them; None
            for the 64 bundled passages.
        top_k: places to keep of each head.
        batch_size: sequences to a pass.
        max_length: tokens of the longest sequence, BOS included; None for 256, or the context.
        overlong: what becomes of a longer document: `"split"`, `"truncate"` or `"error"`.
        prepend_bos: put a BOS before each text; None: as the model was trained to read it.
        field: where texts come as records, the field with the text.
        seed: of the random sample of places.
        resume: a file for the sums until now. After an interruption, the same call goes on from
            it, to the same figures bit for bit; it stays, and may be deleted.
        progress: a progress bar; None: where somebody looks and it takes long.

    Raises:
        PromptError: the model has no tokenizer, a document cannot be fed, or there is no token.
        UnsupportedModelError: no layer has an attention pattern to hook.
        NotFiniteError: what the model computes is NaN or infinite.
        ReportError: `resume` is the file of another run, or of none.

    Example:
        >>> import mi_toolkit as mi
        >>> texts = ["When Mary and John went to the store, John gave a drink to Mary."] * 4
        >>> profiles = mi.cards.profile_heads(mi.load_model("toy-gpt2"), texts)
        >>> profiles.relations[:3]
        ('self', 'distance_1', 'distance_2')
        >>> profiles.lift().shape
        torch.Size([4, 4, 20])
    """
    check_top_k(top_k)
    if batch_size < 1:
        raise PromptError("batch_size is 1 or more.")
    require_tokenizer(model, "texts, to profile its heads on")
    how = feeding(
        model, prepend_bos, max_length or min(DEFAULT_LENGTH, int(model.cfg.n_ctx)), overlong
    )
    read: Texts = passages() if texts is None else texts
    settings = {"top_k": top_k, "batch_size": batch_size, "seed": seed, **how.settings}
    stream = _Stream(model, how, top_k, seed)
    checkpoint = None
    if resume is not None:
        asked = {
            "relations": list(RELATIONS),
            "settings": settings,
            "model": model_identity(model),
            "versions": installed_versions(),
        }
        checkpoint = Checkpoint(
            Path(resume), asked, format="mi_toolkit head profile sums 1", kind="profile of heads"
        )
    start = stream.restored(checkpoint)
    feed = Batcher(model, read, how, field, start)
    watched = feed.tracked(batch_size, label="profiling heads", show=progress, at_rest=model)
    for fed in watched:
        stream.see(fed)
        if checkpoint is not None and checkpoint.is_due:
            stream.save(checkpoint, fed.place)
    if checkpoint is not None:
        stream.save(checkpoint, feed.end)
    if not int(stream.sums["n_queries"].sum()):
        raise PromptError("The texts have no token to measure: they are empty.")
    return stream.result(feed.end, settings)


def check_comparable(profiles: HeadProfiles, others: HeadProfiles, name: str) -> None:
    """Check that the profiles of another model can be set against these.

    Raises:
        ReportError: they are of other relations, or of other texts.
    """
    if others.relations != profiles.relations:
        raise ReportError(f"The profiles of {name} are of other relations: make them again.")
    if others.provenance.prompts != profiles.provenance.prompts:
        raise ReportError(
            f"The profiles of {name} are of other texts than those of "
            f"{profiles.provenance.model}: profile both on the same."
        )


def value_lengths(
    gram: Float[Tensor, "head d_head d_head"],
    value: Float[Tensor, "sequence position kv_head d_head"],
) -> Float[Tensor, "sequence head position"]:
    """`‖v_k W_O‖` of every head and key.

    Args:
        gram: `W_O W_O'` of each head.
        value: the layer's values, of each head or of those that share them.
    """
    n_heads, width = gram.shape[:2]
    if value.shape[2] * value.shape[3] != n_heads * width:  # heads share values
        value = repeat(value, "s n kv d -> s n (kv group) d", group=n_heads // value.shape[2])
    rows = value.float().reshape(*value.shape[:2], n_heads, width).transpose(1, 2)
    squares = (einsum(rows, gram, "s h n a, h a b -> s h n b") * rows).sum(dim=-1)
    return squares.clamp_min(0).sqrt()


@dataclass(frozen=True, kw_only=True, eq=False)
class _Masks:
    """The relations of one block of queries of one sequence, under one sight."""

    on: Float[Tensor, "cell relation"]
    """1 where a key is of the relation, by query and key, read row by row."""

    eligible: Float[Tensor, "query relation"]
    """1 where a query has a key of the relation."""

    even: Float[Tensor, "query relation"]
    """The share of the query's keys that are of the relation; the sink apart."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _ReadBatch:
    """A batch as text: the relations of its sequences, found once for all layers."""

    fed: FedBatch
    targets: Mapping[tuple[int, int], Targets]
    """By sequence, and by which of the model's sights."""

    sights: tuple[Sight, ...]
    kept: dict[tuple[int, ...], _Masks] = field(default_factory=dict)

    def masks(self, sequence: int, sight: int, block: PatternBlock) -> _Masks:
        """Those of a block of patterns."""
        n_queries, n_keys = block.patterns.shape[2:]
        key = (sequence, sight, block.first_query, n_queries, block.first_key, n_keys)
        if key not in self.kept:
            self.kept[key] = self._made(*key)
        return self.kept[key]

    def _made(
        self,
        sequence: int,
        sight: int,
        first_query: int,
        n_queries: int,
        first_key: int,
        n_keys: int,
    ) -> _Masks:
        targets, window = self.targets[sequence, sight], self.sights[sight]
        on = torch.zeros(len(targets.lists), n_queries, n_keys)
        stop = min(first_query + n_queries, targets.length)
        cells = targets.cells(first_query, stop)
        on[cells.mask, cells.query - first_query, cells.key - first_key] = 1
        count = on.sum(dim=-1)
        seen = visible_keys(first_query + n_queries, window)[first_query:]
        position = torch.arange(first_query, first_query + n_queries)
        if isinstance(window, Square):
            sees_sink = window.seen[position, 0]
        else:
            sees_sink = torch.ones_like(position).bool() if window is None else position < window
        return _Masks(
            on=on.flatten(1).T.contiguous(),
            eligible=(count > 0).float().T.contiguous(),
            even=(count / (seen - sees_sink.float()).clamp_min(1)).T.contiguous(),
        )


class _Stream:
    """The sums until now, and how a batch is added to them."""

    def __init__(self, model: HookedModel, how: Feeding, top_k: int, seed: int) -> None:
        self.model, self.how, self.seed = model, how, seed
        self.layers = attention_layers(model)
        self.n_heads, self.facts = int(model.cfg.n_heads), describe_model(model)
        of_layer = sights(model, self.layers, self.facts.windows, how.max_length)
        self.sights = tuple(dict.fromkeys(of_layer.values()))
        self.sight_of = {layer: self.sights.index(sight) for layer, sight in of_layer.items()}
        self.in_blocks = unsupported_reason(model, self.layers) is None and not any(
            isinstance(sight, Square) for sight in self.sights
        )
        shape = (len(WEIGHTINGS), GROUPS, int(model.cfg.n_layers), self.n_heads)
        sums = torch.zeros(3, *shape, len(RELATIONS), dtype=torch.float64)
        sums[:, :, :, [l for l in range(shape[2]) if l not in self.layers]] = torch.nan
        self.sums: dict[str, Tensor] = {
            **dict(zip(("on", "among", "chance"), sums, strict=True)),
            "sink": sums[0, ..., 0].clone(),
            "total": sums[0, ..., 0].clone(),
            "n_queries": torch.zeros(GROUPS, dtype=torch.long),
            "eligible": torch.zeros(len(RELATIONS), dtype=torch.long),
            "counts": torch.zeros(int(model.cfg.d_vocab), dtype=torch.long),
        }
        window = how.max_length + AFTER
        self.top = no_examples(shape[2] * self.n_heads, top_k, window)
        self.sample = PlaceSample(
            priority=torch.zeros(0),
            activity=torch.zeros(0, *shape[2:]),
            place=torch.zeros(0, 3, dtype=torch.long),
            context=torch.zeros(0, window, dtype=torch.int32),
        )
        self._grams: dict[int, Tensor] = {}
        self._text_of: dict[int, str] = {}

    def lengths_of(
        self, layer: int, value: Float[Tensor, "sequence position kv_head d_head"]
    ) -> Float[Tensor, "sequence head position"]:
        """`‖v_k W_O‖` of every head and key."""
        if layer not in self._grams:
            weights = output_weights(self.model, layer)
            self._grams[layer] = weights @ weights.mT
        return value_lengths(self._grams[layer].to(value.device), value)

    def _texts(self, ids: list[int]) -> list[str]:
        """The text of each token; a token's is found once."""
        new = [token for token in dict.fromkeys(ids) if token not in self._text_of]
        self._text_of |= dict(zip(new, token_texts(self.model.tokenizer, new), strict=True))
        return [self._text_of[token] for token in ids]

    def see(self, fed: FedBatch) -> None:
        """Run one batch, and add what it gives."""
        batch = fed.batch
        lists = [
            [relation.keys(reading) for relation in RELATIONS.values()]
            for reading in (
                read_text(ids, bool(has_bos), self._texts(ids.tolist()))
                for ids, has_bos in zip(map(batch.sequence, range(len(batch))), batch.has_bos,
                                        strict=True)
            )
        ]  # fmt: skip
        targets = {
            (index, sight): Targets(lists=own, length=int(length), window=window)
            for index, (own, length) in enumerate(zip(lists, batch.lengths, strict=True))
            for sight, window in enumerate(self.sights)
        }
        read = _ReadBatch(fed=fed, targets=targets, sights=self.sights)
        n_sequences, n = batch.ids.shape
        activity = torch.zeros(n_sequences, n, int(self.model.cfg.n_layers), self.n_heads)
        if self.in_blocks:
            self._in_blocks(read, activity)
        else:
            self._on_whole_patterns(read, activity)
        self._count(read)
        self._keep_places(fed, activity)

    def _in_blocks(self, read: _ReadBatch, activity: Tensor) -> None:
        def attention(
            layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float
        ) -> Tensor:
            lengths, window = self.lengths_of(layer, value.transpose(1, 2)), self.sights[
                self.sight_of[layer]
            ]  # fmt: skip
            return attend(
                query, key, value, scale=scale,
                window=None if isinstance(window, Square) else window,
                show=lambda block: self._add(read, layer, block, lengths, activity),
                with_entropy=False,
            )  # fmt: skip

        with attention_by(self.model, self.layers, attention):
            visit_activations(
                self.model, read.fed.batch.ids, [z_hook(l) for l in self.layers], lambda *_: None
            )

    def _on_whole_patterns(self, read: _ReadBatch, activity: Tensor) -> None:
        values: dict[int, Tensor] = {}
        layer_of = {f"blocks.{layer}.attn.hook_v": layer for layer in self.layers}
        pattern_of = {pattern_hook(layer): layer for layer in self.layers}

        def take(name: str, found: Tensor) -> None:
            if name in layer_of:
                values[layer_of[name]] = found
                return
            layer = pattern_of[name]
            lengths = self.lengths_of(layer, values.pop(layer))
            ahead = looks_ahead(self.sights[self.sight_of[layer]])
            for block in blocks_of(found, looks_ahead=ahead):
                self._add(read, layer, block, lengths, activity)

        visit_activations(self.model, read.fed.batch.ids, [*layer_of, *pattern_of], take)

    def _add(
        self,
        read: _ReadBatch,
        layer: int,
        block: PatternBlock,
        lengths: Float[Tensor, "sequence head position"],
        activity: Float[Tensor, "sequence position layer head"],
    ) -> None:
        """Add one block of patterns to the sums."""
        n_sequences, n_heads, n_queries, n_keys = block.patterns.shape
        heads = slice(block.first_head, block.first_head + n_heads)
        keys = slice(block.first_key, block.first_key + n_keys)
        queries = slice(block.first_query, block.first_query + n_queries)
        places = slice(block.first_sequence, block.first_sequence + n_sequences)
        moved = block.patterns * lengths[places, heads, None, keys]
        both = torch.stack([moved, block.patterns], dim=1).cpu()
        first_row = int(block.first_query == 0)
        sink = both[..., 0] * (block.first_key == 0)
        if block.first_key == 0:
            both[..., 0] = 0
        off = both.sum(dim=-1)
        activity[places, queries, layer, heads] = off[:, 0].transpose(1, 2)
        for index in range(n_sequences):
            sequence = block.first_sequence + index
            group = read.fed.document[sequence] % GROUPS
            masks = read.masks(sequence, self.sight_of[layer], block)
            n = max(0, min(int(read.fed.batch.lengths[sequence]) - block.first_query, n_queries))
            rows = off[index].flatten(0, 1)
            figures = {
                "on": both[index].flatten(2).flatten(0, 1) @ masks.on,
                "among": rows @ masks.eligible,
                "chance": rows @ masks.even,
            }
            for name, found in figures.items():
                self.sums[name][:, group, layer, heads] += found.view(2, n_heads, -1)
            at_sink = sink[index, ..., first_row:n].sum(dim=-1)
            self.sums["sink"][:, group, layer, heads] += at_sink
            self.sums["total"][:, group, layer, heads] += at_sink + off[
                index, ..., first_row:n
            ].sum(dim=-1)

    def _count(self, read: _ReadBatch) -> None:
        batch = read.fed.batch
        widest = max(range(len(self.sights)), key=lambda index: self.sights[index] is None)
        for sequence, document in enumerate(read.fed.document):
            n = int(batch.lengths[sequence])
            self.sums["n_queries"][document % GROUPS] += n - 1
            self.sums["eligible"] += (read.targets[sequence, widest].n_keys > 0).sum(dim=-1)
            self.sums["counts"] += batch.sequence(sequence).bincount(
                minlength=len(self.sums["counts"])
            )

    def _keep_places(
        self, fed: FedBatch, activity: Float[Tensor, "sequence position layer head"]
    ) -> None:
        """Keep the places where heads move most, and some at random."""
        lengths = fed.batch.lengths
        counts = torch.arange(fed.batch.ids.shape[1]) < lengths[:, None]
        counts[:, 0] = False
        sequence, position = counts.nonzero(as_tuple=True)
        document, chunk = torch.tensor(fed.document), torch.tensor(fed.chunk)
        place = torch.stack([document[sequence], chunk[sequence], position], dim=1)
        before = self.how.max_length - 1
        context = context_of(fed.batch.ids, lengths, sequence, position, before, AFTER)
        rows = activity[sequence, position]
        self.top = self.top.updated(rows.flatten(1), Tokens(place=place, context=context))
        numbers = [
            torch.rand(fed.batch.ids.shape[1], generator=_generator(self.seed, *each))
            for each in zip(fed.document, fed.chunk, strict=True)
        ]
        self.sample = self.sample.merged(
            PlaceSample(
                priority=torch.stack(numbers)[sequence, position],
                activity=rows,
                place=place,
                context=context,
            )
        )

    def restored(self, checkpoint: Checkpoint | None) -> Cursor:
        """Go on from a file, if it holds something: the place in the texts where it ended."""
        kept = None if checkpoint is None else checkpoint.load()
        if kept is None:
            return START
        tensors, record = kept
        self.sums = {name: tensors[name] for name in self.sums}
        self.top = TopExamples(**{name: tensors[f"top/{name}"] for name in vars(self.top)})
        self.sample = PlaceSample(**{name: tensors[f"sample/{name}"] for name in vars(self.sample)})
        return Cursor(**record)

    def save(self, checkpoint: Checkpoint, place: Cursor) -> None:
        """Write down all that is needed to go on."""
        tensors = {
            **self.sums,
            **{f"top/{name}": tensor for name, tensor in vars(self.top).items()},
            **{f"sample/{name}": tensor for name, tensor in vars(self.sample).items()},
        }
        checkpoint.save(tensors, asdict(place))

    def result(self, end: Cursor, settings: Mapping[str, Any]) -> HeadProfiles:
        """What was found."""
        model, beginning = self.model, self.how.beginning
        seen = torch.cat([self.top.context.flatten(), self.sample.context.flatten()]).unique()
        ids = seen[seen != NOWHERE].tolist()
        made = provenance_of(model, {}, seed=self.seed)
        return HeadProfiles(
            relations=tuple(RELATIONS),
            **{
                name: tensor.float() if tensor.is_floating_point() else tensor
                for name, tensor in self.sums.items()
            },
            top=self.top,
            sample=self.sample,
            windows=self.facts.windows,
            texts=dict(zip(ids, token_texts(model.tokenizer, ids), strict=True)),
            n_documents=end.documents,
            settings=dict(settings),
            provenance=replace(
                made,
                bos={"texts": beginning.kind},
                bos_id=beginning.bos_id,
                prompts={"texts": end.digest},
                attention={"texts": "blocks of queries" if self.in_blocks else "whole patterns"},
            ),
        )


def _generator(seed: int, document: int, chunk: int) -> torch.Generator:
    """Of one sequence's random numbers, whatever came before it."""
    mixed = (seed * 1_000_003 + document) * 1_000_003 + chunk
    return torch.Generator().manual_seed(mixed % 2**63)
