"""Token batches: what a model is fed, with its lengths and its beginning-of-sequence token.

1. What people pass in, texts, chat messages, ids in any container, becomes rows of ids: a text by
   the tokenizer and the policy of `bos`, chat messages by the tokenizer's own template, ids as they
   are, without the positions that an attention mask leaves out.
2. Rows become one batch, padded on the right: under causal attention a real query never sees a
   later key, so padding cannot change a figure.
"""

from __future__ import annotations

import hashlib
import operator
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from jinja2 import TemplateError
from numpy.typing import NDArray
from torch import Tensor

from mi_toolkit.core.errors import PromptError, short_repr
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.tokenizer import Beginning, Bos, bos_token_id, text_beginning
from mi_toolkit.core.vocabulary import encoded, require_tokenizer


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

    beginnings: tuple[str, ...] = ()
    """What each sequence begins with (see `Bos`); empty where nothing was put in front of any."""

    @property
    def has_bos(self) -> Bool[Tensor, " sequence"]:
        """Whether a sequence's position 0 is a BOS: if and only if its id is the BOS id."""
        if self.bos_id is None:
            return torch.zeros(len(self.ids), dtype=torch.bool)
        return self.ids[:, 0] == self.bos_id

    @property
    def bos(self) -> str:
        """What the sequences begin with: `own`, `stand-in`, `none` or `in the text`.

        Where they differ, each of these that occurs, with "and" between.
        """
        given = ("in the text" if has else "none" for has in self.has_bos.tolist())
        return " and ".join(dict.fromkeys(self.beginnings or given))

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
            beginnings=tuple(self.beginnings[place] for place in places if self.beginnings),
        )

    @property
    def digest(self) -> str:
        """SHA-256 over lengths and ids, in hexadecimal: equal for equal prompts, on any machine."""
        sha = hashlib.sha256()
        for index in range(len(self)):
            ids = self.sequence(index).tolist()
            sha.update(f"{len(ids)}:{','.join(map(str, ids))};".encode())
        return sha.hexdigest()


if TYPE_CHECKING:
    Prompt = str | Sequence[Any] | Mapping[str, Any] | Tensor | NDArray[Any] | TokenBatch
else:
    Prompt = Any  # what is none of these is refused by `tokenise`, which says what there is
"""A string, or several; a list of chat messages (`{"role": …, "content": …}`), or several lists; or
token ids: a tensor, an array or a list of one sequence or of several, what a tokenizer returns
(`input_ids`, `attention_mask`), or a batch with lengths and roles of its own."""

_FORMS = (
    "a string, several, a list of chat messages, token ids (a tensor, an array, a list), or what a "
    "tokenizer returns"
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One sequence as it was given."""

    ids: list[int]
    """Its ids, and what was put in front of them."""

    beginning: Bos
    """What it begins with."""

    from_text: bool
    """Whether a tokenizer made the ids here."""


def from_sequences(
    sequences: Sequence[Sequence[int]], bos_id: int | None, beginnings: Sequence[str] = ()
) -> TokenBatch:
    """A batch of the given ids, padded on the right with the last id of each sequence."""
    lengths = torch.tensor([len(ids) for ids in sequences])
    longest = int(lengths.max())
    padded = [[*ids, *[ids[-1]] * (longest - len(ids))] for ids in sequences]
    return TokenBatch(
        ids=torch.tensor(padded), lengths=lengths, bos_id=bos_id, beginnings=tuple(beginnings)
    )


def with_beginning(beginning: Beginning, texts: Iterable[Sequence[int]]) -> TokenBatch:
    """A batch of texts' ids, each after what belongs in front of it."""
    rows = [beginning.before(ids) for ids in texts]
    return from_sequences([ids for ids, _ in rows], beginning.bos_id, [kind for _, kind in rows])


def tokenise(
    model: HookedModel,
    prompt: Prompt,
    *,
    prepend_bos: bool | None = None,
    attention_mask: Any = None,
) -> TokenBatch:
    """Token ids of `prompt`, checked against the model's vocabulary and context.

    Args:
        model: whose tokenizer, vocabulary and context count.
        prompt: a string, several, chat messages, or ids, which are used as given.
        prepend_bos: put a BOS before each string. None: as the model was trained to read text,
            which is never after a stand-in (`text_beginning`).
        attention_mask: of ids with padding: 1 where a token is real, in the shape of the ids.

    Raises:
        PromptError: nothing to feed, a prompt longer than the context, an id outside the
            vocabulary, a BOS asked for where there is none, a mask that does not fit, a string
            without a tokenizer, or something that is no prompt.
    """
    if isinstance(prompt, TokenBatch):
        if prepend_bos:
            raise PromptError("A batch of ids is used as given: prepend_bos goes with strings.")
        if attention_mask is not None:
            raise PromptError("A batch has lengths of its own: leave attention_mask out.")
        batch = prompt
    else:
        batch = batched(
            model, rows_of(model, prompt, prepend_bos=prepend_bos, attention_mask=attention_mask)
        )
    check_fits(model, batch)
    return batch


def tokenise_one(
    model: HookedModel,
    prompt: Prompt,
    asking: str,
    *,
    prepend_bos: bool | None = None,
    attention_mask: Any = None,
    otherwise: str = "call it for each",
) -> TokenBatch:
    """The ids of one prompt (see `tokenise`), for what takes no more than one.

    Args:
        model: as in `tokenise`.
        prompt: as in `tokenise`.
        asking: what takes it, as an error names it.
        prepend_bos: as in `tokenise`.
        attention_mask: as in `tokenise`.
        otherwise: what to do with several.

    Raises:
        PromptError: several prompts, or one that cannot be fed.
    """
    batch = tokenise(model, prompt, prepend_bos=prepend_bos, attention_mask=attention_mask)
    if len(batch) != 1:
        raise PromptError(
            f"{asking} takes one prompt at a time, and {len(batch)} were given: {otherwise}."
        )
    return batch


def batched(model: HookedModel, rows: Sequence[Row]) -> TokenBatch:
    """The rows as one batch."""
    return from_sequences(
        [row.ids for row in rows],
        bos_token_id(model.tokenizer),
        [row.beginning for row in rows],
    )


def rows_of(
    model: HookedModel,
    prompt: Prompt,
    *,
    prepend_bos: bool | None = None,
    attention_mask: Any = None,
    limit: int | None = None,
) -> list[Row]:
    """The sequences of a prompt (the first `limit`), however long (see `tokenise`)."""
    given, mask = _unwrapped(prompt, attention_mask)
    entries = _entries(given)
    if mask is not None:
        entries = _without_padding(entries, mask)
    else:
        _warn_of_padding(model, entries)
    if prepend_bos and not all(isinstance(entry, str) for entry in entries):
        raise PromptError(
            "A tensor of ids is used as given, and so are other ids and chat messages: prepend_bos "
            f"goes with strings. Put the BOS id ({bos_token_id(model.tokenizer)}) in front of the "
            "ids yourself, or leave prepend_bos out."
        )
    if not all(isinstance(entry, list) for entry in entries):
        require_tokenizer(model)
    beginning = text_beginning(model, prepend_bos)
    return [
        _row(
            model,
            entry,
            beginning,
            "The prompt" if len(entries) == 1 else f"Prompt {index} of {len(entries)}",
        )
        for index, entry in enumerate(entries[:limit])
    ]


@dataclass(frozen=True)
class _Chat:
    """Messages of one conversation."""

    messages: tuple[Mapping[str, Any], ...]


_Entry = str | _Chat | list[int]


def _row(model: HookedModel, entry: _Entry, beginning: Beginning, place: str) -> Row:
    as_given = Beginning(ids=(), kind="none", bos_id=beginning.bos_id)
    if isinstance(entry, list):
        ids, kind = as_given.before(entry)
        return Row(ids=ids, beginning=kind, from_text=False)
    text = entry if isinstance(entry, str) else _rendered(model, entry)
    found = encoded(model.tokenizer, text)
    if not found:
        raise PromptError(f"{place} is empty: {text!r} has no tokens.")
    # A template writes all that a conversation begins with.
    ids, kind = (beginning if isinstance(entry, str) else as_given).before(found)
    return Row(ids=ids, beginning=kind, from_text=True)


def _rendered(model: HookedModel, chat: _Chat) -> str:
    """A conversation as text, and where its last message is not the model's, what begins a reply.

    Raises:
        PromptError: the tokenizer has no template, or its template refuses the messages.
    """
    name = model.cfg.model_name
    if not getattr(model.tokenizer, "chat_template", None):
        raise PromptError(
            f"The tokenizer of {name} has no chat template, so it cannot read messages. Give the "
            "text as its model was trained to read it."
        )
    replies = chat.messages[-1].get("role") == "assistant"
    try:
        text: str = model.tokenizer.apply_chat_template(
            [dict(message) for message in chat.messages],
            tokenize=False,
            add_generation_prompt=not replies,
        )
    except (TemplateError, KeyError, TypeError, ValueError) as error:
        raise PromptError(
            f"The chat template of {name} cannot read these messages: {error}"
        ) from error
    return text


def _unwrapped(prompt: Any, attention_mask: Any) -> tuple[Any, Any]:
    """The ids and the mask of what a tokenizer returned; anything else as it is."""
    if not isinstance(prompt, Mapping) or _is_message(prompt):
        return prompt, attention_mask
    if "input_ids" not in prompt:
        held = ", ".join(repr(key) for key in prompt) or "nothing"
        raise PromptError(
            f"A mapping with {held} is no prompt: give input_ids (and attention_mask), as a "
            "tokenizer returns them, or a message with a role and its content."
        )
    if attention_mask is None:
        attention_mask = prompt.get("attention_mask")
    return prompt["input_ids"], attention_mask


def _entries(prompt: Any) -> list[_Entry]:
    """The texts, conversations or sequences of ids that a prompt holds."""
    if isinstance(prompt, str):
        return [prompt]
    if _is_message(prompt):
        return [_Chat((prompt,))]
    if _is_array(prompt):
        return list(_id_rows(prompt))
    if isinstance(prompt, bytes | bytearray) or not isinstance(prompt, Iterable):
        raise PromptError(f"{_named(prompt)} is no prompt: give {_FORMS}.")
    refuse_table(prompt)
    items = list(prompt)
    if not items:
        raise PromptError("The list of prompts is empty: give at least one.")
    if all(map(_is_message, items)):
        return [_Chat(tuple(items))]
    if all(map(_is_id, items)):
        return [list(map(operator.index, items))]
    return [_entry(item, f"{index} of {len(items)}") for index, item in enumerate(items)]


def _entry(item: Any, place: str) -> _Entry:
    """One of several prompts."""
    given, mask = _unwrapped(item, None)
    found = _entries(given)
    if mask is not None:
        found = _without_padding(found, mask)
    if len(found) != 1:
        raise PromptError(f"Prompt {place} holds {len(found)} prompts: give a flat list of them.")
    return found[0]


def refuse_table(texts: object) -> None:
    """Refuse a table of pandas: what it gives one by one are the names of its columns.

    Raises:
        PromptError: it is one.
    """
    columns = getattr(texts, "columns", None)
    if columns is not None and hasattr(texts, "iloc"):
        first = next(iter(columns), "text")
        raise PromptError(
            f"A table is no text, nor several: give the column that holds them, as in "
            f"table[{first!r}]."
        )


def one_sequence_of_ids(given: Any) -> list[int] | None:
    """One sequence of token ids, as a prompt may hold it; None for anything else."""
    try:
        entry = _entry(given, "0")
    except PromptError:
        return None
    return entry if isinstance(entry, list) else None


def _id_rows(prompt: Any) -> list[list[int]]:
    """The sequences of a tensor or an array of ids."""
    kind = "tensor" if isinstance(prompt, Tensor) else "array"
    ids = prompt.detach().cpu() if isinstance(prompt, Tensor) else np.asarray(prompt)
    if not _holds_integers(ids):
        raise PromptError(f"Token ids are integers, but the {kind} given is of {ids.dtype}.")
    if ids.ndim not in (1, 2) or 0 in ids.shape:
        raise PromptError(
            "Token ids come as one sequence [position] or a batch [sequence position] with at "
            f"least one token; the {kind} given has shape {list(ids.shape)}."
        )
    rows: list[list[int]] = ids.reshape(-1, ids.shape[-1]).tolist()
    return rows


def _without_padding(entries: Sequence[_Entry], attention_mask: Any) -> list[_Entry]:
    """Sequences of ids without the positions that the mask leaves out.

    Raises:
        PromptError: texts, a mask of another shape, or one that is no run of ones in a row.
    """
    rows = [entry for entry in entries if isinstance(entry, list)]
    if len(rows) < len(entries):
        raise PromptError("attention_mask goes with token ids: a text has no padding.")
    masks = torch.as_tensor(attention_mask).cpu() if _is_array(attention_mask) else attention_mask
    listed = masks.tolist() if isinstance(masks, Tensor) else list(masks)
    if listed and not isinstance(listed[0], Iterable):
        listed = [listed]
    keep = [[bool(each) for each in mask] for mask in listed]
    if [len(mask) for mask in keep] != [len(row) for row in rows]:
        raise PromptError(
            "attention_mask has another shape than the ids: it holds "
            f"{_sizes(keep)}, the ids {_sizes(rows)}."
        )
    found: list[_Entry] = []
    for index, (row, mask) in enumerate(zip(rows, keep, strict=True)):
        real = [place for place, kept in enumerate(mask) if kept]
        if not real or real[-1] - real[0] + 1 != len(real):
            what = "gaps between its real tokens" if real else "no real token"
            raise PromptError(
                f"attention_mask leaves sequence {index} with {what}: padding stands before a "
                "text or after it."
            )
        found.append(row[real[0] : real[-1] + 1])
    return found


def _sizes(rows: Sequence[Sequence[Any]]) -> str:
    return f"{len(rows)} rows of {', '.join(sorted({str(len(row)) for row in rows}))}"


def _warn_of_padding(model: HookedModel, entries: Sequence[_Entry]) -> None:
    """Warn of ids that begin or end with padding: without a mask they are read as tokens.

    Where the padding id is the BOS id too, one of it at the beginning is a BOS.
    """
    pad = getattr(model.tokenizer, "pad_token_id", None)
    if pad is None:
        return
    spared = int(pad == bos_token_id(model.tokenizer))
    for index, row in enumerate(entries):
        if not isinstance(row, list) or len(row) < 2:
            continue
        if (row[0] == row[spared] == pad) or row[-1] == pad:
            warnings.warn(
                f"Sequence {index} begins or ends with the padding id ({pad}), which is read as a "
                "token: pass attention_mask=, 1 where a token is real, if it is padding.",
                stacklevel=4,
            )
            return


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and "role" in value


def _is_array(value: Any) -> bool:
    """Whether it holds numbers as a tensor or an array does."""
    if isinstance(value, Tensor):
        return True
    return hasattr(value, "__array__") and np.asarray(value).dtype.kind in "biufc"


def _holds_integers(values: Any) -> bool:
    if isinstance(values, Tensor):
        real = not values.is_floating_point() and not values.is_complex()
        return real and values.dtype != torch.bool
    return bool(values.dtype.kind in "iu")


def _is_id(value: Any) -> bool:
    """Whether it is one whole number: Python's, numpy's, or that of a tensor without axes."""
    if isinstance(value, Tensor | np.ndarray):
        return value.ndim == 0 and _holds_integers(value)
    return isinstance(value, Integral) and not isinstance(value, bool)


def _named(value: Any) -> str:
    """What was given instead of a prompt, in a few words."""
    if value is None or isinstance(value, bool):
        return repr(value)
    return f"{type(value).__name__} {short_repr(value, most=40)}"


def check_fits(model: HookedModel, batch: TokenBatch) -> None:
    """Check a batch against the model's context and vocabulary.

    Raises:
        PromptError: a sequence is longer than the context, or an id is not in the vocabulary.
    """
    longest, context = int(batch.lengths.max()), model.cfg.n_ctx
    if longest > context:
        which = "The prompt" if len(batch) == 1 else f"Prompt {int(batch.lengths.argmax())}"
        raise PromptError(
            f"{which} is {longest} tokens long (BOS included), but the context of "
            f"{model.cfg.model_name} is {context} tokens. Shorten or split it."
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
