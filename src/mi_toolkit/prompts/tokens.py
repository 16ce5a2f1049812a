"""Token batches: what a model is fed, with its lengths and its beginning-of-sequence token.

A string becomes ids through the model's own tokenizer, with a BOS by one policy for every model; a
tensor of ids is used as given. Batches are padded on the right: under causal attention a real
query never sees a later key, so padding cannot change a figure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mi_toolkit.errors import PromptError
from mi_toolkit.hooked_model import HookedModel

DOCUMENT_SEPARATOR = "<|endoftext|>"
CHAT_TURN_END = "<|im_end|>"


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenBatch:
    """Sequences of token ids, padded on the right."""

    ids: Int[Tensor, "sequence position"]
    """Token ids; positions from a sequence's length on are padding."""

    lengths: Int[Tensor, " sequence"]
    """Real tokens of each sequence."""

    bos_id: int | None
    """The id that marks the beginning of a sequence, None where the tokenizer has none."""

    roles: Mapping[str, Int[Tensor, "sequence 2"]] = field(default_factory=dict)
    """Positions that play a part in the text, by role: where each sequence's begin and stop. A
    sequence without the role has an empty span."""

    @property
    def has_bos(self) -> Bool[Tensor, " sequence"]:
        """Whether a sequence's position 0 is a BOS: if and only if its id is the BOS id."""
        if self.bos_id is None:
            return torch.zeros(len(self.ids), dtype=torch.bool)
        return self.ids[:, 0] == self.bos_id

    def __len__(self) -> int:
        return len(self.ids)

    def sequence(self, index: int) -> Int[Tensor, " position"]:
        """One sequence without its padding."""
        return self.ids[index, : int(self.lengths[index])]

    def roles_of(self, index: int) -> dict[str, range]:
        """The positions of each role in one sequence."""
        return {role: range(*spans[index].tolist()) for role, spans in self.roles.items()}

    def part(self, start: int, stop: int) -> TokenBatch:
        """Sequences `start` to `stop`, with no more padding than they need."""
        return self.chosen(range(start, stop))

    def chosen(self, sequences: Sequence[int]) -> TokenBatch:
        """Some of the sequences, in the order given, with no more padding than they need."""
        places = list(sequences)
        lengths = self.lengths[places]
        return TokenBatch(
            ids=self.ids[places, : int(lengths.max())],
            lengths=lengths,
            bos_id=self.bos_id,
            roles={role: spans[places] for role, spans in self.roles.items()},
        )

    @property
    def digest(self) -> str:
        """SHA-256 over lengths and ids, in hexadecimal: equal for equal prompts, on any machine."""
        sha = hashlib.sha256()
        for index in range(len(self)):
            ids = self.sequence(index).tolist()
            sha.update(f"{len(ids)}:{','.join(map(str, ids))};".encode())
        return sha.hexdigest()


Prompt = str | Sequence[str] | Tensor | TokenBatch
"""A string, several strings, or token ids: a tensor of one sequence or of several of equal length,
or a batch with lengths and roles of its own."""


def bos_token_id(tokenizer: Any) -> int | None:
    """The id to put in front of a text, None where the tokenizer has none.

    The tokenizer's own BOS; where it has none (Qwen2.5), `<|endoftext|>`, its document separator.
    TransformerLens writes the end-of-turn token into the BOS slot of a chat tokenizer without one;
    that is no beginning of anything, so it counts as none.
    """
    if tokenizer is None:
        return None
    if tokenizer.bos_token not in (None, CHAT_TURN_END):
        return int(tokenizer.bos_token_id)
    separator = tokenizer.get_vocab().get(DOCUMENT_SEPARATOR)
    return None if separator is None else int(separator)


def from_sequences(sequences: Sequence[Sequence[int]], bos_id: int | None) -> TokenBatch:
    """A batch of the given ids, padded on the right with the last id of each sequence."""
    lengths = torch.tensor([len(ids) for ids in sequences])
    longest = int(lengths.max())
    padded = [[*ids, *[ids[-1]] * (longest - len(ids))] for ids in sequences]
    return TokenBatch(ids=torch.tensor(padded), lengths=lengths, bos_id=bos_id)


def tokenise(model: HookedModel, prompt: Prompt, *, prepend_bos: bool | None = None) -> TokenBatch:
    """Token ids of `prompt`, checked against the model's vocabulary and context.

    Args:
        model: whose tokenizer, vocabulary and context count.
        prompt: a string, several strings, or a tensor of ids or a batch of them, which is used as
            given.
        prepend_bos: put a BOS before each string. None: wherever the tokenizer has one.

    Raises:
        PromptError: nothing to feed, a prompt longer than the context, an id outside the
            vocabulary, a BOS asked for where there is none, or a string without a tokenizer.
    """
    bos_id = bos_token_id(model.tokenizer)
    if isinstance(prompt, TokenBatch):
        batch = _from_batch(prompt, prepend_bos)
    elif isinstance(prompt, Tensor):
        batch = _from_ids(prompt, bos_id, prepend_bos)
    else:
        batch = _from_texts(model, prompt, bos_id, prepend_bos)
    check_fits(model, batch)
    return batch


def _from_batch(batch: TokenBatch, prepend_bos: bool | None) -> TokenBatch:
    if prepend_bos:
        raise PromptError("A batch of ids is used as given: prepend_bos goes with strings.")
    return batch


def _from_ids(prompt: Tensor, bos_id: int | None, prepend_bos: bool | None) -> TokenBatch:
    if prepend_bos:
        raise PromptError(
            "A tensor of ids is used as given: prepend_bos goes with strings. Put the BOS id "
            f"({bos_id}) in front of the ids yourself, or leave prepend_bos out."
        )
    if prompt.is_floating_point() or prompt.is_complex() or prompt.dtype == torch.bool:
        raise PromptError(f"Token ids are integers, but the tensor given is of {prompt.dtype}.")
    if prompt.ndim not in (1, 2) or prompt.numel() == 0:
        raise PromptError(
            "Token ids come as one sequence [position] or a batch [sequence position] with at "
            f"least one token; the tensor given has shape {list(prompt.shape)}."
        )
    ids = prompt.detach().cpu().long()
    ids = ids[None] if ids.ndim == 1 else ids
    lengths = torch.full((len(ids),), ids.shape[1])
    return TokenBatch(ids=ids, lengths=lengths, bos_id=bos_id)


def _from_texts(
    model: HookedModel, prompt: str | Sequence[str], bos_id: int | None, prepend_bos: bool | None
) -> TokenBatch:
    texts = [prompt] if isinstance(prompt, str) else list(prompt)
    if not texts:
        raise PromptError("The list of prompts is empty: give at least one.")
    if model.tokenizer is None:
        raise PromptError(
            f"{model.cfg.model_name} has no tokenizer, so it cannot read text. Give token ids, or "
            "load it with load_model(..., tokenizer=...)."
        )
    if prepend_bos and bos_id is None:
        raise PromptError(
            f"The tokenizer of {model.cfg.model_name} has no BOS token to prepend; leave "
            "prepend_bos out, or pass False."
        )
    head = [] if prepend_bos is False or bos_id is None else [bos_id]
    encoded = [model.tokenizer.encode(text, add_special_tokens=False) for text in texts]
    for index, ids in enumerate(encoded):
        if not ids:
            raise PromptError(
                f"Prompt {index} of {len(texts)} is empty: {texts[index]!r} has no tokens."
            )
    return from_sequences([[*head, *ids] for ids in encoded], bos_id)


def check_fits(model: HookedModel, batch: TokenBatch) -> None:
    """Check a batch against the model's context and vocabulary.

    Raises:
        PromptError: a sequence is longer than the context, or an id is not in the vocabulary.
    """
    longest, context = int(batch.lengths.max()), model.cfg.n_ctx
    if longest > context:
        raise PromptError(
            f"Prompt {int(batch.lengths.argmax())} is {longest} tokens long (BOS included), but "
            f"the context of {model.cfg.model_name} is {context} tokens. Shorten or split it."
        )
    vocabulary = model.cfg.d_vocab
    wrong = (batch.ids < 0) | (batch.ids >= vocabulary)
    if wrong.any():
        sequence, position = (int(index) for index in wrong.nonzero()[0])
        raise PromptError(
            f"Token id {int(batch.ids[sequence, position])} (sequence {sequence}, position "
            f"{position}) is outside the vocabulary of {model.cfg.model_name}: "
            f"0 to {vocabulary - 1}."
        )
