"""Prompts of indirect object identification, and the positions that play a part in them.

"Then, Mary and John went to the store. John gave a drink to Mary": the last name is the answer; it
is the indirect object, first named at IO. John is the subject, first S1, then S2. END is the token
before the answer, which is predicted there, so that nothing at END has seen it. Half of the prompts
have the IO's name first (ABBA), half the subject's (BABA), so that no head can find the IO by its
place. After Wang et al. 2022, "Interpretability in the Wild" (arXiv 2211.00593).
"""

from __future__ import annotations

from dataclasses import replace

import torch

from mi_toolkit.errors import PromptError
from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.prompts.bos import standard_beginning
from mi_toolkit.prompts.tokens import TokenBatch, from_sequences
from mi_toolkit.vocabulary import encoded, require_tokenizer, single_token_ids

IOI_PROMPTS = 64
MIN_NAMES = 4

NAMES = (
    "Aaron Adam Alan Alex Alice Amy Andrew Anna Anne Anthony Arthur Ben Bob Brian Carl Carol "
    "Charles Chris Christine Claire Dan Daniel David Diana Ed Elizabeth Emily Emma Eric Eve Fiona "
    "Frank Fred Gary George Grace Greg Harry Helen Henry Irene Ivan Jack James Jane Jason "
    "Jennifer Jessica Jim Joe John Josh Julia Karen Kate Kelly Kevin Kim Laura Leo Linda Lisa "
    "Louis Lucy Maria Mark Martin Mary Matt Max Michael Michelle Mike Nick Nora Oliver Olivia "
    "Oscar Patrick Paul Peter Philip Rachel Rebecca Richard Robert Roger Rosa Ryan Sam Sara Sarah "
    "Scott Simon Sophie Stephen Steve Susan Thomas Tim Tina Tom Tony Victor Wendy William "
).split()

TEMPLATES = (
    "Then, {first} and {second} went to the {place}. {s} gave a {gift} to",
    "When {first} and {second} came home from the {place}, {s} showed the {gift} to",
    "After {first} and {second} had left the {place}, {s} sent a {gift} to",
    "The friends {first} and {second} met at the {place}, where {s} offered a {gift} to",
    "Last week {first} and {second} worked together at the {place}. Today {s} brought a {gift} to",
    "While {first} and {second} were waiting at the {place}, {s} decided to give the {gift} to",
)
PLACES = "store school garden station office park house hospital".split()
GIFTS = "drink book ring letter ball present picture basket".split()


def ioi_prompts(model: HookedModel, *, n_prompts: int = IOI_PROMPTS, seed: int = 0) -> TokenBatch:
    """Prompts of indirect object identification, each behind a BOS where the tokenizer has one.

    Its roles are single positions: `io`, `s1`, `s1_next` (the token behind S1), `s2`, `end`, and
    behind it `answer`, the token of `io` again, so that a loss on it can be taken.

    Args:
        model: whose tokenizer is used; names are chosen that are single tokens in it.
        n_prompts: how many, half of them ABBA, half BABA.
        seed: of names, templates, places and gifts.

    Raises:
        PromptError: no tokenizer, or under 4 of the names are single tokens in it.

    Example:
        >>> import mi_toolkit as mi
        >>> prompts = mi.ioi_prompts(mi.load_model("toy-gpt2"), n_prompts=8)
        >>> sorted(prompts.roles)
        ['answer', 'end', 'io', 's1', 's1_next', 's2']
    """
    tokenizer = require_tokenizer(model, "IOI prompts")
    ids = single_token_ids(tokenizer, NAMES)
    if len(ids) < MIN_NAMES:
        raise PromptError(
            f"The tokenizer of {model.cfg.model_name} has {len(ids)} of {len(NAMES)} English first "
            f"names as single tokens; IOI prompts need {MIN_NAMES}, as roles are single positions."
        )
    beginning = standard_beginning(model)
    generator = torch.Generator().manual_seed(seed)
    names = list(ids)
    sequences, roles = [], []
    for index in range(n_prompts):
        io, s = (names[i] for i in torch.randperm(len(names), generator=generator)[:2])
        first, second = (io, s) if index % 2 == 0 else (s, io)
        text = _drawn(TEMPLATES, generator).format(
            first=first,
            second=second,
            s=s,
            place=_drawn(PLACES, generator),
            gift=_drawn(GIFTS, generator),
        )
        sequence = [*beginning.ids, *encoded(tokenizer, text), ids[io]]
        sequences.append(sequence)
        roles.append(_positions(sequence, io=ids[io], s=ids[s], text=text))
    batch = from_sequences(sequences, beginning.bos_id, [beginning.kind] * len(sequences))
    spans = {
        role: torch.tensor([[each[role], each[role] + 1] for each in roles]) for role in roles[0]
    }
    return replace(batch, roles=spans)


def _drawn(choices: tuple[str, ...] | list[str], generator: torch.Generator) -> str:
    return choices[int(torch.randint(len(choices), (), generator=generator))]


def _positions(sequence: list[int], *, io: int, s: int, text: str) -> dict[str, int]:
    at_io = [place for place, id_ in enumerate(sequence) if id_ == io]
    at_s = [place for place, id_ in enumerate(sequence) if id_ == s]
    if len(at_io) != 2 or len(at_s) != 2:
        raise PromptError(f"The names in {text!r} are not found as single tokens.")
    return {
        "io": at_io[0],
        "s1": at_s[0],
        "s1_next": at_s[0] + 1,
        "s2": at_s[1],
        "end": len(sequence) - 2,
        "answer": len(sequence) - 1,
    }
