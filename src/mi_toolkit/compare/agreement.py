"""Where models agree: next tokens and continuations, aligned over tokenizers.

Aligning two tokenizers by characters: what one predicts next to what the other predicts. Pure.

1. Each token of a text has a span of characters. A *boundary* is a character position where a token
   ends and no token crosses it (a character of several bytes may be several tokens).
2. At a boundary a model has read a prefix of the text; its *continuation* is the text of the token
   that it finds most probable next.
3. Two continuations *agree* where one is a prefix of the other: ` the` and ` them` do, since the
   shorter one does not say how it goes on; ` the` and `the` do not. A model that ends the text
   (predicts a special token) continues with the empty text, which agrees with itself alone.
4. Chance is the agreement of the same continuations paired at random: with the shares p and q of
   each continuation in either model, the sum of `p(a) q(b)` over all pairs that agree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.core.errors import PromptError
from mi_toolkit.core.model import HookedModel, evaluating
from mi_toolkit.core.passes import check_finite_pass
from mi_toolkit.core.stats import MIN_TEXTS, over_queries, over_texts
from mi_toolkit.core.tokens import TokenBatch
from mi_toolkit.models.facts import ModelFacts

END_OF_TEXT = ""
"""The continuation of a model that ends the text."""


@dataclass(frozen=True, kw_only=True)
class NoText:
    """The continuation of a token that has no text of its own, such as part of a character."""

    is_next: bool
    """Whether it is the token that the text goes on with."""


Continuations = Mapping[int, str | NoText]
"""By the character position of each boundary of one text."""


def boundaries(spans: Sequence[tuple[int, int]]) -> dict[int, int]:
    """The character position after each token that ends at a boundary, to the token's index.

    >>> boundaries([(0, 3), (3, 4), (3, 4), (4, 6)])  # the second character takes two tokens
    {3: 0, 4: 2, 6: 3}
    """
    ends: dict[int, int] = {}
    for index, (_, end) in enumerate(spans):
        is_open = index + 1 < len(spans) and spans[index + 1][0] < end
        if end > 0 and not is_open:
            ends[end] = index
    return ends


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """A part of a text between two places where every model has just finished a token."""

    text: str
    """Its characters."""

    tokens: tuple[range, ...]
    """For each model, the places of the tokens that make it up."""


def aligned(text: str, spans: Sequence[Sequence[tuple[int, int]]]) -> tuple[Stretch, ...]:
    """The text cut where all models end a token, with the tokens of each in every part.

    Args:
        text: what they read.
        spans: for each model, the characters of each of its tokens.

    >>> one, other = [(0, 3), (3, 6)], [(0, 2), (2, 3), (3, 6)]
    >>> [(each.text, each.tokens) for each in aligned("abc de", [one, other])]
    [('abc', (range(0, 1), range(0, 2))), (' de', (range(1, 2), range(2, 3)))]
    """
    ends = [boundaries(each) for each in spans]
    shared = sorted(set.intersection(*(set(each) for each in ends)))
    found, start, first = [], 0, [0] * len(spans)
    for end in shared:
        after = [each[end] + 1 for each in ends]
        tokens = tuple(range(*pair) for pair in zip(first, after, strict=True))
        found.append(Stretch(text=text[start:end], tokens=tokens))
        start, first = end, after
    return tuple(found)


def agrees(one: str, other: str) -> bool:
    """Whether one continuation is a prefix of the other; the empty one agrees with itself alone.

    >>> agrees(" the", " them"), agrees(" the", "the"), agrees("", " the"), agrees("", "")
    (True, False, False, True)
    """
    if not one or not other:
        return one == other
    return one.startswith(other) or other.startswith(one)


def shared_positions(one: Continuations, other: Continuations) -> list[tuple[str, str]]:
    """Both continuations at every boundary that both have, in the order of the text.

    Where one of them has no text its position is left out.
    """
    pairs = ((one[position], other[position]) for position in sorted(one.keys() & other.keys()))
    return [(a, b) for a, b in pairs if isinstance(a, str) and isinstance(b, str)]


def chance_agreement(pairs: Sequence[tuple[str, str]]) -> float:
    """The agreement of the same continuations paired at random; NaN without any.

    >>> chance_agreement([("a", "a"), ("b", "b")])
    0.5
    """
    if not pairs:
        return float("nan")
    ones, others = (Counter(side) for side in zip(*pairs, strict=True))
    # A pair agrees where the one is a prefix of the other: look every prefix up, once if equal.
    agreeing = sum(n * others[same] for same, n in ones.items())
    for longer, shorter in ((ones, others), (others, ones)):
        agreeing += sum(
            n * shorter[text[:size]] for text, n in longer.items() for size in range(1, len(text))
        )
    return agreeing / len(pairs) ** 2


def continues(text: str, position: int, continuation: str | NoText) -> bool:
    """Whether a continuation is what the text goes on with at `position`.

    >>> continues("the cat", 3, " cat"), continues("the cat", 3, " dog"), continues("the", 3, "")
    (True, False, False)
    """
    if isinstance(continuation, NoText):
        return continuation.is_next
    return continuation != END_OF_TEXT and agrees(text[position:], continuation)


LOGITS_BUDGET = 128 * 2**20


def continuations(
    model: HookedModel,
    texts: Sequence[str],
    batch: TokenBatch,
    most_probable: Sequence[Int[Tensor, " position"]] | None = None,
) -> tuple[Continuations, ...]:
    """The text of the most probable next token at each boundary of each text.

    Args:
        model: the model.
        texts: what it reads.
        batch: the tokens of the texts, as far as they are read, with or without a BOS in front.
        most_probable: the next token after each of them, where it is known; None: a pass finds it.

    Raises:
        PromptError: the tokenizer does not say which characters a token stands for.
    """
    text_of = _decoder(model.tokenizer)
    found = []
    tops = top_tokens(model, batch) if most_probable is None else most_probable
    for text, ids, following in zip(texts, _sequences(batch), tops, strict=True):
        spans, n_before = token_spans(model, text, ids)
        read, said = [*ids.tolist(), None], following.tolist()
        at = {position: n_before + index for position, index in boundaries(spans).items()}
        found.append(
            {
                position: NoText(is_next=said[index] == read[index + 1])
                if (its_text := text_of(read[index], said[index])) is None
                else its_text
                for position, index in at.items()
            }
        )
    return tuple(found)


def top_tokens(model: HookedModel, batch: TokenBatch) -> list[Int[Tensor, " position"]]:
    """The most probable next token after each token of each sequence."""
    n_tokens, vocabulary = batch.ids.shape[1], int(model.cfg.d_vocab)
    size = max(1, LOGITS_BUDGET // (n_tokens * vocabulary * torch.float32.itemsize))
    found: list[Tensor] = []
    for start in range(0, len(batch), size):
        part = batch.part(start, min(start + size, len(batch)))
        ids = part.ids.to(model.cfg.device)
        with evaluating(model), torch.no_grad():
            logits = model(ids, return_type="logits", attention_mask=torch.ones_like(ids))
            check_finite_pass(model, ids, logits)
        tops = logits.argmax(dim=-1).cpu()
        found += [tops[row, : int(n)] for row, n in enumerate(part.lengths)]
    return found


def _sequences(batch: TokenBatch) -> list[Tensor]:
    return [batch.sequence(index) for index in range(len(batch))]


def token_spans(model: HookedModel, text: str, ids: Tensor) -> tuple[list[tuple[int, int]], int]:
    """The characters of each token that was read, and how many tokens stand before the text."""
    tokenizer = model.tokenizer
    if not getattr(tokenizer, "is_fast", False):
        raise PromptError(
            f"The tokenizer of {model.cfg.model_name} does not say which characters a token "
            "stands for, so its predictions cannot be aligned with another model's. A fast "
            "tokenizer (tokenizer.json) does."
        )
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    n_before = next(n for n in (0, 1) if _begins(encoded["input_ids"], ids[n:].tolist()))
    return encoded["offset_mapping"][: len(ids) - n_before], n_before


def _begins(whole: Sequence[int], part: Sequence[int]) -> bool:
    return list(whole[: len(part)]) == list(part)


def _decoder(tokenizer: Any) -> Callable[[int, int], str | None]:
    """From a token and the one before it to its text: some tokenizers drop a leading space."""
    special = set(tokenizer.all_special_ids)

    @cache
    def text_of(before: int, token: int) -> str | None:
        if token in special:
            return END_OF_TEXT
        start = tokenizer.decode([before], clean_up_tokenization_spaces=False)
        both = tokenizer.decode([before, token], clean_up_tokenization_spaces=False)
        text = both[len(start) :] if both.startswith(start) else ""
        return None if not text or "\N{REPLACEMENT CHARACTER}" in text else text

    return text_of


PairFigures = tuple[float, float, float, float, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class Agreement:
    """How far the predictions of each pair of models agree; symmetric, in the models' order."""

    share: Float[Tensor, "model model"]
    """Of the shared positions, in [0, 1]; NaN where two models share none. See `compare_models`."""

    chance: Float[Tensor, "model model"]
    """What the same continuations would agree by if they were paired at random."""

    ci_low: Float[Tensor, "model model"]
    """Lower end of the 95% interval of the share: over texts, or, under three of them, over
    their positions; NaN under eight positions there."""

    ci_high: Float[Tensor, "model model"]
    """Upper end of the same."""

    positions: Int[Tensor, "model model"]
    """Character positions at which both models have just finished a token, and both predict one
    that has text of its own: a piece of a character, or a special token, has none."""

    @property
    def lift(self) -> Float[Tensor, "model model"]:
        """`(share - chance) / (1 - chance)`: 0 chance, 1 always the same."""
        return (self.share - self.chance) / (1 - self.chance)


def agreement_of(said: Sequence[Sequence[Continuations]]) -> Agreement:
    """The agreement of every pair, from the continuations of each model on each text."""
    n = len(said)
    figures = {
        (one, other): _pair(said[one], said[other]) for one in range(n) for other in range(one, n)
    }
    table = torch.tensor(
        [[figures[min(i, j), max(i, j)] for j in range(n)] for i in range(n)], dtype=torch.float64
    )
    share, chance, low, high, positions = table.unbind(dim=-1)
    return Agreement(
        share=share.float(),
        chance=chance.float(),
        ci_low=low.float(),
        ci_high=high.float(),
        positions=positions.long(),
    )


def own_accuracy(texts: Sequence[str], said: Sequence[Continuations]) -> float:
    """The share of a model's boundaries where its continuation is what the text goes on with.

    A token without text of its own is right where it is the very token that follows. The end of a
    text, after which nothing is known, is left out. NaN without a boundary.
    """
    hits = [
        continues(text, position, continuation)
        for text, found in zip(texts, said, strict=True)
        for position, continuation in found.items()
        if position < len(text)
    ]
    return sum(hits) / len(hits) if hits else float("nan")


def _pair(ones: Sequence[Continuations], others: Sequence[Continuations]) -> PairFigures:
    by_text = [shared_positions(one, other) for one, other in zip(ones, others, strict=True)]
    pairs = [pair for found in by_text for pair in found]
    if not pairs:
        return (float("nan"),) * 4 + (0,)
    low, high = _interval(by_text)
    share = sum(agrees(*pair) for pair in pairs) / len(pairs)
    return share, chance_agreement(pairs), low, high, len(pairs)


def _interval(by_text: Sequence[Sequence[tuple[str, str]]]) -> tuple[float, float]:
    hits = [torch.tensor([float(agrees(*pair)) for pair in found]) for found in by_text if found]
    lengths = [len(found) for found in hits]
    if len(hits) >= MIN_TEXTS:
        numerator = torch.stack([found.sum() for found in hits])[:, None]
        denominator = torch.tensor(lengths, dtype=numerator.dtype)[:, None]
        estimate = over_texts(numerator, denominator, bounds=(0.0, 1.0))
    else:
        numerator = torch.cat(hits)[:, None]
        ones = torch.ones_like(numerator)
        estimate = over_queries(numerator, ones, lengths=lengths, bounds=(0.0, 1.0))
    low, high = estimate.ends()
    return float(low), float(high)


SAME_SIZE = 1.5
"""Models are of one size up to this ratio of parameters, the embeddings left out."""


@dataclass(frozen=True, kw_only=True)
class ModelGroup:
    """Models that share one thing and differ in another."""

    varies: Literal["architecture", "scale"]
    """What differs: the family at one size, or the size within one family."""

    shared: str
    """What they share: the size, such as `85M parameters`, or the family, such as `Pythia`."""

    models: tuple[str, ...]
    """Their names, in the order of the comparison or, where scale differs, of size."""


def size_classes(parameters: Mapping[str, int]) -> dict[str, int]:
    """Each model's size class: the parameters of the smallest model in it.

    From the smallest model up, a class takes all that have at most 1.5 times its first one's.

    >>> size_classes({"a": 85, "b": 302, "c": 100, "d": 391})
    {'a': 85, 'c': 85, 'b': 302, 'd': 302}
    """
    classes: dict[str, int] = {}
    first = 0
    for name in sorted(parameters, key=lambda name: parameters[name]):
        if parameters[name] > SAME_SIZE * first:
            first = parameters[name]
        classes[name] = first
    return classes


def groups_of(facts: Mapping[str, ModelFacts]) -> tuple[ModelGroup, ...]:
    """Same-size models of several families, then same-family models of several sizes.

    Sizes are `ModelFacts.parameters`: attention and MLPs, without embeddings.
    """
    sizes = size_classes({name: fact.parameters for name, fact in facts.items()})
    groups = []
    for size in sorted(set(sizes.values())):
        names = tuple(name for name in facts if sizes[name] == size)
        if len({facts[name].family for name in names}) > 1:
            most = max(facts[name].parameters for name in names)
            shared = (
                _count(size)
                if _count(size) == _count(most)
                else f"{_count(size)} to {_count(most)}"
            )
            groups.append(
                ModelGroup(varies="architecture", shared=f"{shared} parameters", models=names)
            )
    for family in dict.fromkeys(fact.family for fact in facts.values()):
        names = tuple(
            sorted(
                (name for name in facts if facts[name].family == family),
                key=lambda name: facts[name].parameters,
            )
        )
        if len({sizes[name] for name in names}) > 1:
            groups.append(ModelGroup(varies="scale", shared=family, models=names))
    return tuple(groups)


def _count(n: int) -> str:
    """Two digits and a unit: `85M`, `0.79M`."""
    if n >= 10**9:
        return f"{n / 1e9:.2g}B"
    return f"{n / 1e6:.0f}M" if n >= 10**7 else f"{n / 1e6:.2g}M"
