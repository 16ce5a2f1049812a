"""Token embeddings at `hook_embed`: read, and put in place of a prompt's own.

The hook stands behind the embedding of tokens and before positions are added; where a model
projects its embeddings (OPT-350m), before that too. So its width need not be the model's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.errors import HookError
from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.hooked_pass import visit_activations

EMBED_HOOK = "hook_embed"
_ROWS, _LONGEST = 16, 512


def embeddings_of(
    model: HookedModel, ids: Int[Tensor, " position"]
) -> Float[Tensor, "position d_embed"]:
    """The embedding of each id, as a forward pass looks it up; the pass ends there."""
    kept: list[Tensor] = []

    def keep(_: str, found: Tensor) -> None:
        kept.append(found[0].clone())

    visit_activations(model, ids[None], [EMBED_HOOK], keep)
    return kept[0]


def mean_embedding(model: HookedModel) -> Float[Tensor, " d_embed"]:
    """The mean over the vocabulary, every row of the embedding counted once."""
    length = min(_LONGEST, int(model.cfg.n_ctx))
    total = torch.zeros((), dtype=torch.float64)

    def add(_: str, found: Tensor) -> None:
        nonlocal total
        total = total + found.double().sum(dim=(0, 1)).cpu()

    vocabulary = torch.arange(int(model.cfg.d_vocab))
    for part in vocabulary.split(_ROWS * length):
        whole = len(part) // length * length
        for rows in (part[:whole].view(-1, length), part[None, whole:]):
            if rows.numel():
                visit_activations(model, rows, [EMBED_HOOK], add)
    return (total / len(vocabulary)).float()


@contextmanager
def replaced_embeddings(
    model: HookedModel, embeddings: Float[Tensor, "row position d_embed"]
) -> Iterator[None]:
    """Inside, a pass runs on these embeddings, whatever its ids; positions are added as ever.

    Raises:
        HookError: nothing looked an embedding up.
    """
    fired = []

    def put(found: Tensor, hook: object) -> Tensor:
        fired.append(hook)
        return embeddings

    with model.hooks(fwd_hooks=[(EMBED_HOOK, put)]):
        yield
    if not fired:
        raise HookError(
            f"{EMBED_HOOK} of {model.cfg.model_name} did not fire, so nothing can be attributed to "
            "its tokens."
        )
