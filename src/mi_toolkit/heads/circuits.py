"""Output-value circuits of a model's heads: what they turn each token into, read off the weights.

1. A token's embedding alone goes through the first block's norm and MLP: the later heads of a
   language model read that rather than the embedding itself (Gould et al. 2024).
2. Each head's layer norm (its scale left out, which moves no argmax), `W_V` and `W_O`, biases left
   out, make of it what the head would write if it attended to that token alone.
3. The direct effect of that on the logits of a class of tokens decides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.heads.direct_effect import (
    effective_unembedding,
    embedding_weights,
    frozen_norm,
    output_weights,
    value_weights,
)
from mi_toolkit.heads.token_maps import (
    CircuitFigures,
    PairHits,
    TokenMap,
    circuit_figures,
    pair_hits,
)
from mi_toolkit.hooked_model import HookedModel, attention_layers
from mi_toolkit.hooked_pass import visit_activations

_ENTRY, _ATTENTION, _MLP = (
    f"blocks.0.hook_{point}" for point in ("resid_pre", "attn_out", "mlp_out")
)


def first_mlp_embeddings(
    model: HookedModel, ids: Int[Tensor, " token"]
) -> Float[Tensor, "token d_model"]:
    """What the first block's MLP makes of each token's embedding, position and attention left out.

    The embedding itself where the first block has no MLP.
    """
    rows = embedding_weights(model)
    embedding = rows[ids.to(rows.device)]
    if _MLP not in model.hook_dict:
        return embedding.float()

    def put_embedding(activation: Tensor, hook: Any) -> Tensor:
        return embedding[:, None].to(activation)

    def leave_out(activation: Tensor, hook: Any) -> Tensor:
        return torch.zeros_like(activation)

    made: list[Tensor] = []
    # Through hooks: on a bridge the MLP of some families (OPT) cannot be called alone.
    with model.hooks(fwd_hooks=[(_ENTRY, put_embedding), (_ATTENTION, leave_out)]):
        visit_activations(model, ids[:, None], [_MLP], lambda _, out: made.append(out[:, 0]))
    return made[0].float()


def circuit_logits(
    model: HookedModel,
    layer: int,
    embedding: Float[Tensor, "token d_model"],
    directions: Float[Tensor, "candidate d_model"],
) -> Float[Tensor, "head token candidate"]:
    """The direct effect of each head's circuit on each candidate's logit, up to a scale."""
    block, values = model.blocks[layer], value_weights(model, layer)  # type: ignore[attr-defined]
    # In the model's dtype and where the block is.
    example = values[0, :, 0].to(model.W_E.dtype)  # type: ignore[attr-defined]
    read = frozen_norm(block.ln1, example)(embedding)
    logits: Tensor = einsum(
        read, values, output_weights(model, layer), directions,
        "token m, head m d, head d out, candidate out -> head token candidate",
    )  # fmt: skip
    return logits


def measure_circuits(model: HookedModel, maps: Sequence[TokenMap], *, bar: float) -> CircuitFigures:
    """Figures of every head for one behaviour's maps, `[layer head]`; NaN where it has none."""
    shape = (int(model.cfg.n_layers), int(model.cfg.n_heads))
    figures = CircuitFigures(*torch.full((6, *shape), math.nan))
    if not maps:
        return figures
    unembedding = effective_unembedding(model)
    read = []
    for each in maps:
        sources = torch.tensor([source for source, _ in each.pairs])
        place = {id_: index for index, id_ in enumerate(each.candidates)}
        target = torch.tensor([place[id_] for _, id_ in each.pairs])
        directions = unembedding.directions(torch.tensor(each.candidates))
        read.append((first_mlp_embeddings(model, sources), directions, target))
    for layer in attention_layers(model):
        hits = [
            pair_hits(circuit_logits(model, layer, embedding, directions).cpu(), target)
            for embedding, directions, target in read
        ]
        together = PairHits(*(torch.cat(part, dim=-1) for part in zip(*hits, strict=True)))
        for all_layers, figure in zip(figures, circuit_figures(together, bar=bar), strict=True):
            all_layers[layer] = figure
    return figures
