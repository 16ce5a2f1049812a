"""What a head reads and writes: its circuits on single tokens, and the heads it composes with.

**Tokens.** A token is given to the head as its effective embedding: what the first block's MLP
makes of its embedding, or in the first layer the embedding (`effective_embedding`), put in front of
the head's layer, without position.
Queries, keys and values are those that the model's own attention makes of it, its norm, biases,
rotation and shared key heads included, `offset` positions apart.

1. `reads[i, j]` is the attention score of query token `i` and key token `j`; `writes[i, j]` the
   direct effect on the logit of `j` where the head attends to `i` alone (`direct_effect`).
2. Of either table the means of rows and columns are taken off: what is left says which pairs belong
   together, and is given in its standard deviations. How much of the table's variance the columns'
   means are (keys that every query likes, logits that every token raises) is given apart.
3. The same is done with a shuffled vocabulary: each coordinate of the embeddings permuted among the
   tokens. The strongest pairs of that are what chance would show.
4. A token with itself: the mean of the diagonal. Under shuffled pairs it is 0 in the mean, with a
   standard error of `1 / √(tokens - 1)` (Hoeffding 1951).
5. Relations that `writes` may carry out (copying, plural, capital, …) are small maps of words,
   scored as `successor` is, but with the biases of the norm and the values, which that label leaves
   out, against the mean over all permutations of the targets (after Elhelo and Geva 2024, arXiv
   2412.11965). Words that are no single token are left out; a list of which too few are left is
   not applicable, with how many there were.

**Heads.** Composition of an earlier head with a later one (Elhage et al. 2021) is
`‖A B‖ / (‖A‖ ‖B‖)` in Frobenius norms, where `A = W_V W_O` of the earlier one and `B` is what the
later one reads its queries, keys or values by: `W_Q W_K'`, `W_K W_Q'` or `W_V W_O`. The norm before
each of the two is taken in, but for its scale; a rotation is left out. The null: matrices of the
same spectra, turned at random.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.core.head import Head
from mi_toolkit.core.model import HookedModel, attention_layers, z_hook
from mi_toolkit.core.passes import visit_activations
from mi_toolkit.core.stats import MIN_QUERIES
from mi_toolkit.core.vocabulary import single_token_ids
from mi_toolkit.heads.behaviours import MIN_CLASS, successor_maps
from mi_toolkit.heads.chunked_attention import attention_by
from mi_toolkit.heads.direct_effect import (
    effective_unembedding,
    frozen_norm,
    output_weights,
    projection_weights,
)
from mi_toolkit.heads.kinds import TokenMap, circuit_figures, pair_hits
from mi_toolkit.heads.protocol import effective_embedding

ROWS = 512
"""Tokens that are given to a head together."""

PAIRS = 10
"""Pairs of tokens kept from either end of a table."""

SHUFFLES = 3
"""Shuffled vocabularies."""

TURNS = 200
"""Random turns of a pair of matrices."""

_MAPS: Mapping[str, str] = {
    "casing": "the The and And of Of to To in In for For with With on On as As at At this This "
    "from From by By or Or an An that That it It we We he He she She they They you You not Not",
    "plural": "day days year years man men child children woman women hand hands word words "
    "house houses car cars book books city cities country countries friend friends state states "
    "night nights student students group groups problem problems place places",
    "country to capital": "France Paris Italy Rome Spain Madrid Germany Berlin Russia Moscow "
    "Japan Tokyo China Beijing England London Egypt Cairo Greece Athens Austria Vienna Ireland "
    "Dublin Norway Oslo Portugal Lisbon Poland Warsaw Cuba Havana",
    "country to language": "France French Italy Italian Spain Spanish Germany German Russia "
    "Russian Japan Japanese China Chinese England English Greece Greek Portugal Portuguese Poland "
    "Polish Sweden Swedish Turkey Turkish Korea Korean Netherlands Dutch Israel Hebrew",
    "English to French": "the le and et of de in dans with avec for pour house maison water eau "
    "world monde day jour night nuit city ville good bon love amour life vie man homme",
    "past tense": "go went say said make made take took come came see saw know knew get got "
    "give gave find found think thought tell told become became leave left begin began",
    "opposite": "good bad big small old new high low long short left right up down hot cold "
    "early late open closed first last black white day night",
}


COPYING = "copying"
"""The map of each word of the lists to itself."""


class HeadVectors(NamedTuple):
    """What a head makes of single tokens."""

    query: Float[Tensor, "token d_head"]
    """At position `offset`, scaled: its product with a key is an attention score."""

    key: Float[Tensor, "token d_head"]
    """At position 0."""

    value: Float[Tensor, "token d_value"]


@dataclass(frozen=True, kw_only=True)
class TokenPair:
    """Two tokens and how far they belong together."""

    source: str
    """The query, or the token that is read."""

    target: str
    """The key, or the token whose logit is asked about."""

    value: float
    """In standard deviations of the table."""


@dataclass(frozen=True, kw_only=True)
class TokenTable:
    """Which pairs of tokens one of a head's circuits joins."""

    n_tokens: int
    """Tokens on either side."""

    highest: tuple[TokenPair, ...]
    """The strongest pairs, the strongest first."""

    lowest: tuple[TokenPair, ...]
    """The most negative ones, the lowest first."""

    shuffled_highest: float
    """The highest value with a shuffled vocabulary, in the mean over shuffles."""

    shuffled_lowest: float
    """The lowest."""

    common: tuple[TokenPair, ...]
    """Targets that the head favours whatever the source, the strongest first."""

    common_share: float
    """How much of the table's variance within a row is the same in every row, in [0, 1]."""

    itself: float
    """Mean of the pairs of a token with itself."""

    itself_error: float
    """What that mean varies by where pairs are shuffled: its standard error around 0."""


@dataclass(frozen=True, kw_only=True)
class MapScore:
    """How far what a head writes carries out one map of words."""

    name: str
    """Such as `plural`."""

    n_pairs: int
    """Pairs of words that are single tokens."""

    score: float
    """The share of pairs whose target has the highest logit of all targets of the map."""

    null: float
    """The same with the targets permuted, the mean over all permutations."""

    lift: float
    """`(score - null) / (1 - null)`."""

    low: float
    """Lower end of the lift's 95% interval, a jackknife over pairs; NaN under 8 of them."""

    high: float
    """Upper end of the same."""

    not_applicable: str = ""
    """Why there are no figures; empty where there are."""


Way = Literal["query", "key", "value"]


@dataclass(frozen=True, kw_only=True)
class Link:
    """How strongly a later head's weights read what an earlier one writes."""

    writer: Head
    """The earlier head."""

    reader: Head
    """The later one."""

    way: Way
    """What the later one makes of it."""

    score: float
    """`‖A B‖ / (‖A‖ ‖B‖)`, in [0, 1]."""

    null: float
    """The mean of that for random matrices of the same spectra."""

    null_sd: float
    """Its standard deviation."""

    @property
    def z(self) -> float:
        """How many of these the score lies above the mean."""
        return (self.score - self.null) / self.null_sd


def head_vectors(
    model: HookedModel, head: Head, embedding: Float[Tensor, "token d_model"], *, offset: int
) -> HeadVectors:
    """Queries, keys and values that a head makes of vectors put in front of its layer.

    Raises:
        UnsupportedModelError: the model's attention cannot be taken over, with the reason.
    """
    kept: list[HeadVectors] = []

    def attention(layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        if layer == head.layer:
            shared = head.head // (query.shape[1] // key.shape[1])
            kept.append(
                HeadVectors(
                    query=query[:, head.head, -1].float().cpu() * scale,
                    key=key[:, shared, 0].float().cpu(),
                    value=value[:, shared, 0].float().cpu(),
                )
            )
        return query.new_zeros(*query.shape[:1], query.shape[2], query.shape[1], value.shape[-1])

    # Of the layers before, nothing is left; some models look the attention of all up in one place.
    layers = [layer for layer in attention_layers(model) if layer <= head.layer]
    # One row until the head's layer, where all vectors are put in its place.
    ids = torch.zeros(1, offset + 1, dtype=torch.long)
    for start in range(0, len(embedding), ROWS):
        rows = embedding[start : start + ROWS]
        put = (f"blocks.{head.layer}.hook_resid_pre", _putting(rows))
        with model.hooks(fwd_hooks=[put]), attention_by(model, layers, attention):
            visit_activations(model, ids, [z_hook(head.layer)], lambda *_: None)
    return HeadVectors(*(torch.cat(part) for part in zip(*kept, strict=True)))


def _putting(rows: Tensor) -> Callable[..., Tensor]:
    def put(activation: Tensor, hook: Any) -> Tensor:
        return rows[:, None].to(activation).expand(-1, activation.shape[1], -1).clone()

    return put


def circuit_tables(
    model: HookedModel, head: Head, ids: Int[Tensor, " token"], *, offset: int, seed: int
) -> dict[str, Float[Tensor, "table token token"]]:
    """`reads` and `writes` of a head on some tokens; after the true table those of shuffled ones.

    Raises:
        UnsupportedModelError: the circuits of this model are not known.
    """
    embedding = effective_embedding(model, ids, layer=head.layer).cpu()
    generator = torch.Generator().manual_seed(seed)
    weights = output_weights(model, head.layer)[head.head].cpu()
    directions = effective_unembedding(model).directions(ids).cpu()
    found: dict[str, list[Tensor]] = {"reads": [], "writes": []}
    for shuffle in range(SHUFFLES + 1):
        vectors = head_vectors(
            model, head, _shuffled(embedding, generator) if shuffle else embedding, offset=offset
        )
        found["reads"].append(vectors.query @ vectors.key.T)
        found["writes"].append(vectors.value @ weights @ directions.T)
    return {name: torch.stack(tables) for name, tables in found.items()}


def _shuffled(
    embedding: Float[Tensor, "token d_model"], generator: torch.Generator
) -> Float[Tensor, "token d_model"]:
    order = torch.rand(embedding.shape, generator=generator).argsort(dim=0)
    return embedding.gather(0, order)


def interactions(
    table: Float[Tensor, "*table source target"],
) -> tuple[Float[Tensor, "*table source target"], Float[Tensor, "*table target"]]:
    """What a table has beyond the means of rows and columns, in its own standard deviations.

    And the columns' means about the mean of all, in the same unit.
    """
    rows, columns = table.mean(dim=-1, keepdim=True), table.mean(dim=-2, keepdim=True)
    both = table.mean(dim=(-2, -1), keepdim=True)
    beyond = table - rows - columns + both
    unit = beyond.square().mean(dim=(-2, -1), keepdim=True).sqrt().clamp_min(1e-30)
    return beyond / unit, ((columns - both) / unit)[..., 0, :]


def table_of_tokens(tables: Float[Tensor, "table token token"], texts: Sequence[str]) -> TokenTable:
    """The ends of the first table, next to those of the others, which are of shuffled tokens."""
    beyond, common = interactions(tables)
    n = len(texts)

    def pairs(sign: int) -> tuple[TokenPair, ...]:
        best = (sign * beyond[0]).flatten().topk(min(PAIRS, n * n)).indices.tolist()
        return tuple(
            TokenPair(
                source=texts[index // n],
                target=texts[index % n],
                value=float(beyond[0].flatten()[index]),
            )
            for index in best
        )

    variance = float(common[0].square().mean())
    order = common[0].topk(min(PAIRS, n)).indices.tolist()
    return TokenTable(
        n_tokens=n,
        highest=pairs(1),
        lowest=pairs(-1),
        shuffled_highest=float(beyond[1:].amax(dim=(-2, -1)).mean()),
        shuffled_lowest=float(beyond[1:].amin(dim=(-2, -1)).mean()),
        common=tuple(
            TokenPair(source="", target=texts[place], value=float(common[0, place]))
            for place in order
        ),
        common_share=variance / (1 + variance),
        itself=float(beyond[0].diagonal().mean()),
        itself_error=(n - 1) ** -0.5,
    )


def word_maps(tokenizer: Any) -> list[TokenMap]:
    """The maps of words, as far as both words of a pair are single tokens; successors too."""
    found: list[TokenMap] = []
    all_ids: dict[str, int] = {}
    for name, listed in _MAPS.items():
        words = listed.split()
        ids = single_token_ids(tokenizer, dict.fromkeys(words))
        all_ids |= ids
        pairs = tuple(
            (ids[a], ids[b])
            for a, b in zip(words[::2], words[1::2], strict=True)
            if a in ids and b in ids
        )
        candidates = tuple(dict.fromkeys(target for _, target in pairs))
        found.append(TokenMap(name=name, candidates=candidates, pairs=pairs))
    every = tuple(dict.fromkeys(all_ids.values()))
    copying = TokenMap(name=COPYING, candidates=every, pairs=tuple((id_, id_) for id_ in every))
    return [copying, *found, *successor_maps(tokenizer)]


def n_listed(name: str) -> int:
    """How many pairs a list of words has."""
    return len(_MAPS[name].split()) // 2


def map_scores(model: HookedModel, head: Head) -> tuple[MapScore, ...]:
    """How far what a head writes carries out each map of words, the strongest first.

    Those that are not applicable come last.
    """
    unembedding = effective_unembedding(model)
    weights = output_weights(model, head.layer)[head.head].cpu()
    maps = word_maps(model.tokenizer)
    large = [each for each in maps if min(len(each.pairs), len(each.candidates)) >= MIN_CLASS]
    # All words at once: a pass of the model for each list would take most of the time.
    ids = torch.tensor(list(dict.fromkeys(id_ for each in large for id_, _ in each.pairs)))
    row = {id_: index for index, id_ in enumerate(ids.tolist())}
    written = ids.new_zeros(0, weights.shape[1]).float()
    if large:
        embedding = effective_embedding(model, ids, layer=head.layer)
        vectors = head_vectors(model, head, embedding, offset=1)
        written = vectors.value @ weights
    found = []
    for each in large:
        sources = torch.tensor([row[source] for source, _ in each.pairs])
        place = {id_: index for index, id_ in enumerate(each.candidates)}
        target = torch.tensor([place[id_] for _, id_ in each.pairs])
        directions = unembedding.directions(torch.tensor(each.candidates)).cpu()
        found.append(_map_score(each, (written[sources] @ directions.T)[None], target))
    found.sort(key=lambda each: -each.lift)
    small = [_not_applicable(each) for each in maps if each not in large]
    return (*found, *small)


def _map_score(
    words: TokenMap, logits: Float[Tensor, "1 pair candidate"], target: Int[Tensor, " pair"]
) -> MapScore:
    figures = circuit_figures(pair_hits(logits, target), bar=0.0)
    has_interval = len(words.pairs) >= MIN_QUERIES
    return MapScore(
        name=words.name,
        n_pairs=len(words.pairs),
        score=float(figures.score[0]),
        null=float(figures.null[0]),
        lift=float(figures.lift[0]),
        low=float(figures.ci_low[0]) if has_interval else float("nan"),
        high=float(figures.ci_high[0]) if has_interval else float("nan"),
    )


def _not_applicable(words: TokenMap) -> MapScore:
    nan = float("nan")
    of = f" of {n_listed(words.name)}" if words.name in _MAPS else ""
    return MapScore(
        name=words.name,
        n_pairs=len(words.pairs),
        score=nan,
        null=nan,
        lift=nan,
        low=nan,
        high=nan,
        not_applicable=(
            f"not applicable: {len(words.pairs)}{of} pairs are single tokens of this vocabulary, "
            f"and {MIN_CLASS} are needed"
        ),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Factors:
    """The heads of a layer as readers and writers: thin factors of square matrices."""

    writes: Float[Tensor, "head rank d_model"]
    """`R W_O`, where `W_V = Q R`: as long in every direction as `W_V W_O` after it."""

    reads: Mapping[Way, Float[Tensor, "head d_model rank"]]
    """`W_Q R'` with `W_K = Q R`, and the like: as long as what the head reads by, before it."""


def _factors(model: HookedModel, layer: int) -> _Factors:
    block = model.blocks[layer]  # type: ignore[attr-defined]
    q, k, v = (projection_weights(model, layer, which) for which in ("q", "k", "v"))
    if hasattr(block, "ln1"):
        norm = frozen_norm(block.ln1, v[0, :, 0].to(model.W_E.dtype))  # type: ignore[attr-defined]
        q, k, v = (norm.transposed(each.mT).mT for each in (q, k, v))
    out = output_weights(model, layer)

    def root(matrix: Tensor) -> Tensor:
        upper: Tensor = torch.linalg.qr(matrix, mode="r").R
        return upper

    return _Factors(
        writes=(root(v) @ out).cpu(),
        reads={
            "query": (q @ root(k).mT).cpu(),
            "key": (k @ root(q).mT).cpu(),
            "value": (v @ root(out.mT).mT).cpu(),
        },
    )


def links_of(model: HookedModel, head: Head, *, seed: int) -> tuple[Link, ...]:
    """Its composition with every head of other layers, the farthest above chance first.

    Raises:
        UnsupportedModelError: queries, keys or values are no linear maps of what is read.
    """
    own = _factors(model, head.layer)
    d_model = own.writes.shape[-1]
    generator = torch.Generator().manual_seed(seed)
    ranks = (own.writes.shape[1], own.reads["query"].shape[-1])
    corner = random_corners(d_model, *ranks, generator)
    links: list[Link] = []
    for layer in attention_layers(model):
        if layer == head.layer:
            continue
        others = _factors(model, layer)
        is_later = layer > head.layer
        for way in own.reads:
            if is_later:
                a, b = own.writes[head.head][None], others.reads[way]
            else:
                a, b = others.writes, own.reads[way][head.head][None]
            scores = composition_scores(a, b)
            null, sd = turned(a, b, corner)
            for index in range(len(scores)):
                other = Head(layer, index)
                links.append(
                    Link(
                        writer=head if is_later else other,
                        reader=other if is_later else head,
                        way=way,
                        score=float(scores[index]),
                        null=float(null[index]),
                        null_sd=float(sd[index]),
                    )
                )
    return tuple(sorted(links, key=lambda link: -link.z))


def composition_scores(
    a: Float[Tensor, "#pair rank_a d_model"], b: Float[Tensor, "#pair d_model rank_b"]
) -> Float[Tensor, " pair"]:
    """`‖A B‖ / (‖A‖ ‖B‖)` in Frobenius norms."""
    product, size_a, size_b = (each.flatten(1).norm(dim=1) for each in (a @ b, a, b))
    scores: Tensor = product / (size_a * size_b)
    return scores


def random_corners(
    d_model: int, rank_a: int, rank_b: int, generator: torch.Generator
) -> Float[Tensor, "turn rank_a rank_b"]:
    """Squared entries of the upper left corners of random orthogonal matrices."""
    drawn = torch.randn(TURNS, d_model, rank_b, generator=generator)
    frames: Tensor = torch.linalg.qr(drawn).Q
    return frames[:, :rank_a].square()


def turned(
    a: Float[Tensor, "#pair rank_a d_model"],
    b: Float[Tensor, "#pair d_model rank_b"],
    corners: Float[Tensor, "turn rank_a rank_b"],
) -> tuple[Float[Tensor, " pair"], Float[Tensor, " pair"]]:
    """Mean and standard deviation of the scores where `b` is turned at random.

    Turned by a random orthogonal matrix only its spectrum stays, and a corner of such a matrix is
    all that the norm of the product hangs on.
    """
    spectrum_a, spectrum_b = (torch.linalg.svdvals(each).square() for each in (a, b))
    n = max(len(a), len(b))
    squares = einsum(
        spectrum_a.expand(n, -1), corners, spectrum_b.expand(n, -1),
        "pair a, turn a b, pair b -> pair turn",
    )  # fmt: skip
    sizes = spectrum_a.sum(dim=-1, keepdim=True) * spectrum_b.sum(dim=-1, keepdim=True)
    scores = (squares / sizes).sqrt()
    return scores.mean(dim=1), scores.std(dim=1)
