"""The standard stimuli, random ids repeated and natural passages, and the table of all.

`repeated_random` shows what a head does where nothing but position and earlier copies can guide
it; `natural` shows what it does on text. They disagree strongly for some behaviours (on GPT-2 the
rank correlation is 0.19 for induction and 0.09 for duplicate tokens), so every figure says which.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch

from mi_toolkit.errors import PromptError
from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.prompts.bos import standard_beginning, text_beginning
from mi_toolkit.prompts.ioi import ioi_prompts
from mi_toolkit.prompts.needle import needle_prompts
from mi_toolkit.prompts.passages import passages as passages
from mi_toolkit.prompts.tokens import TokenBatch, behind
from mi_toolkit.vocabulary import encoded, require_tokenizer

RANDOM_TOKENS = 64
RANDOM_SEQUENCES = 32
NATURAL_TOKENS = 128

_UNUSED_ROW = re.compile(
    r"madeupword\d+|<?\[?(unused|reserved|extra)[\w -]*\d+\]?>?|<\|(reserved|extra).*"
)


def usable_ids(model: HookedModel) -> list[int]:
    """The ids that stand for text: no specials, no padding, no vocabulary row without a token."""
    tokenizer, vocabulary = model.tokenizer, model.cfg.d_vocab
    if tokenizer is None:
        return list(range(vocabulary))
    special = set(tokenizer.all_special_ids)
    special |= {
        id_
        for id_, token in getattr(tokenizer, "added_tokens_decoder", {}).items()
        if token.special
    }
    return sorted(
        id_
        for token, id_ in tokenizer.get_vocab().items()
        if id_ < vocabulary and id_ not in special and not _UNUSED_ROW.fullmatch(token)
    )


def repeated_random(
    model: HookedModel,
    *,
    n_tokens: int = RANDOM_TOKENS,
    n_sequences: int = RANDOM_SEQUENCES,
    seed: int = 0,
) -> TokenBatch:
    """Sequences of a BOS and `n_tokens` distinct random ids, given twice.

    Where the tokenizer has no BOS, the document separator stands in for it: random ids have no
    convention. They are ids from the start, never text: decoding and encoding again would change
    them. Where the context is short, so are the sequences.

    Raises:
        PromptError: the vocabulary has fewer than `n_tokens` usable ids.
    """
    beginning = standard_beginning(model)
    n_tokens = min(n_tokens, (model.cfg.n_ctx - len(beginning.ids)) // 2)
    ids = torch.tensor(usable_ids(model))
    if len(ids) < n_tokens:
        raise PromptError(
            f"{model.cfg.model_name} has {len(ids)} usable token ids, too few to draw {n_tokens} "
            "distinct ones."
        )
    generator = torch.Generator().manual_seed(seed)
    drawn = [
        ids[torch.randperm(len(ids), generator=generator)[:n_tokens]] for _ in range(n_sequences)
    ]
    return behind(beginning, [[*once.tolist(), *once.tolist()] for once in drawn])


def natural(
    model: HookedModel,
    *,
    n_tokens: int = NATURAL_TOKENS,
    texts: Sequence[str] | None = None,
    seed: int = 0,
    as_trained: bool = False,
    prepend_bos: bool | None = None,
) -> TokenBatch:
    """The 64 bundled passages or other texts, each cut to `n_tokens` tokens after a BOS.

    Args:
        model: whose tokenizer and context count.
        n_tokens: of each passage, beside the BOS; fewer where the context is shorter.
        texts: other texts to read; None for the passages.
        seed: changes nothing: the passages are always the same, in the same order.
        as_trained: False for the standard protocol, where the document separator stands in for a
            BOS that the tokenizer lacks; True to read them as any text is read.
        prepend_bos: with `as_trained`: as `text_beginning` takes it.

    Raises:
        PromptError: the model has no tokenizer.
    """
    tokenizer = require_tokenizer(model, "the natural passages")
    beginning = text_beginning(model, prepend_bos) if as_trained else standard_beginning(model)
    room = min(n_tokens, model.cfg.n_ctx - len(beginning.ids))
    read = passages() if texts is None else texts
    return behind(beginning, [encoded(tokenizer, text)[:room] for text in read])


STANDARD_STIMULI = ("repeated_random", "natural")
"""Those of the standard protocol."""

STIMULI: Mapping[str, Callable[..., TokenBatch]] = MappingProxyType(
    {
        "repeated_random": repeated_random,
        "natural": natural,
        "ioi": ioi_prompts,
        "needle": needle_prompts,
    }
)
"""Every stimulus by its name; each takes a model and a `seed`."""
