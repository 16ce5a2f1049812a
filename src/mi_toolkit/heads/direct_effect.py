"""Direct effects on the logits: what a head writes, read through final norm and unembedding.

1. A head writes `w = z W_O` into the residual stream. With its scale `s` frozen the final norm is
   linear, so logit `v` gets `e_v · w / s`, where `e_v = P (gain * W_U[:, v])` and `P` takes the
   mean off (LayerNorm) or nothing (RMSNorm).
2. Set against the vocabulary, in standard deviations over it, that is
   `(e_t - mean_v e_v) · w / sd_v(e_v · w)`: `s` cancels, as does all that scales every logit.
3. `sd_v(e_v · w)` is `sqrt(z M z)` with `M = W_O C W_O'` and `C` the covariance of `e_v` over the
   vocabulary, so no logits are ever computed.

Mean and covariance depend on the weights alone, and cost as much as a short forward pass: they are
kept for as long as the model lives, and made anew where its unembedding or final norm has changed.

Logits here are before a soft cap, where a model has one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from einops import einsum, repeat
from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.core.effective_weights import effective_matrix, module_at
from mi_toolkit.core.errors import UnsupportedModelError
from mi_toolkit.core.model import HookedModel

VOCABULARY_BLOCK = 8192
"""Vocabulary rows that are made float32 and normed together."""

_TINY = torch.finfo(torch.float32).tiny

_PROBE = 100.0
"""Size of the vectors that a norm is probed with: next to it the norm's epsilon is nothing."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FrozenNorm:
    """The linear map that a norm is where its scale is held fixed, up to that scale."""

    gain: Float[Tensor, " d_model"]
    """What each coordinate is multiplied by."""

    centred: bool
    """Whether the mean is taken off first, as LayerNorm does and RMSNorm does not."""

    def __call__(self, write: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """What the norm makes of a vector in the residual stream."""
        return self._centre(write) * self.gain

    def transposed(
        self, reader: Float[Tensor, "*batch d_model"]
    ) -> Float[Tensor, "*batch d_model"]:
        """What a vector that reads the norm's output reads from its input."""
        return self._centre(reader * self.gain)

    def _centre(self, vector: Tensor) -> Tensor:
        return vector - vector.mean(dim=-1, keepdim=True) if self.centred else vector


def frozen_norm(norm: Callable[[Tensor], Tensor], example: Tensor) -> FrozenNorm:
    """The linear map of a norm, found by what it does, whatever its weights are called.

    Args:
        norm: LayerNorm or RMSNorm over the last axis.
        example: a tensor of the norm's width, dtype and device.

    Raises:
        UnsupportedModelError: an odd width.
    """
    d_model = example.shape[-1]
    if d_model % 2:
        raise UnsupportedModelError(f"A norm of odd width, {d_model}, cannot be probed.")
    signs = torch.ones(d_model, dtype=example.dtype, device=example.device)
    signs[1::2] = -1
    probes = _PROBE * torch.stack([torch.zeros_like(signs), signs, signs.abs()])
    with torch.no_grad():
        nothing, alternating, constant = norm(probes[:, None])[:, 0].float()
    gain = (alternating - nothing) * signs
    moved = (constant - nothing).abs().max()
    return FrozenNorm(gain=gain, centred=bool(moved < 0.1 * gain.abs().max()))


@dataclass(frozen=True, kw_only=True, eq=False)
class EffectiveUnembedding:
    """Unembedding and final norm as one: the direction that raises each token's logit."""

    unembedding: Float[Tensor, "d_model d_vocab"]
    """The model's own `W_U`, in its dtype."""

    norm: FrozenNorm
    """The final norm."""

    _kept: dict[str, Tensor] = field(default_factory=dict)
    """Mean and covariance, once they were asked for."""

    @property
    def mean(self) -> Float[Tensor, " d_model"]:
        """The mean direction over the vocabulary."""
        if "mean" not in self._kept:
            self._kept["mean"] = self.norm.transposed(self.unembedding.float().mean(dim=-1))
        return self._kept["mean"]

    @property
    def covariance(self) -> Float[Tensor, "d_model d_model"]:
        """Of the directions over the vocabulary: `w C w` is the variance that a write `w` gives."""
        if "covariance" not in self._kept:
            d_model, d_vocab = self.unembedding.shape
            total = self.unembedding.new_zeros(d_model, d_model, dtype=torch.float32)
            for start in range(0, d_vocab, VOCABULARY_BLOCK):
                block = self._directions(self.unembedding[:, start : start + VOCABULARY_BLOCK])
                total.addmm_(block.T, block)
            self._kept["covariance"] = total / d_vocab
        return self._kept["covariance"]

    def directions(self, ids: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch d_model"]:
        """What raises each token's logit against the vocabulary's mean, up to the frozen scale."""
        columns = self.unembedding[:, ids.flatten().to(self.unembedding.device)]
        return self._directions(columns).reshape(*ids.shape, -1)

    def _directions(self, columns: Tensor) -> Tensor:
        return self.norm.transposed(columns.T.float()) - self.mean


def reads_one_norm(model: HookedModel) -> bool:
    """Whether nothing but one norm stands between the residual stream and the unembedding."""
    parts: Any = model
    return hasattr(parts, "ln_final") and parts.W_U.shape[0] == model.cfg.d_model


def effective_unembedding(model: HookedModel) -> EffectiveUnembedding:
    """The model's unembedding with its final norm folded in; its weights are not touched.

    Raises:
        UnsupportedModelError: something other than one norm stands before the unembedding.
    """
    if not reads_one_norm(model):
        raise UnsupportedModelError(
            f"The direct effect of a head on the logits of {model.cfg.model_name} is not known: "
            "between its residual stream and its unembedding stands something other than one norm."
        )
    parts: Any = model
    unembedding = unembedding_weights(model)
    norm = frozen_norm(parts.ln_final, unembedding[:, 0])
    content = _content(unembedding, norm)
    before = _kept_of.get(model)
    if before is None or not _equal(before[0], content):
        before = _kept_of[model] = (content, {})
    return EffectiveUnembedding(unembedding=unembedding, norm=norm, _kept=before[1])


_kept_of: WeakKeyDictionary[Any, tuple[tuple[Tensor, ...], dict[str, Tensor]]] = WeakKeyDictionary()
"""For each model that is in memory: the content that its mean and covariance were made of."""


def _content(unembedding: Float[Tensor, "d_model d_vocab"], norm: FrozenNorm) -> tuple[Tensor, ...]:
    """What mean and covariance depend on: the norm, and the sum of each coordinate's bits.

    An address and torch's version counter would not see an edit through `.data`. The bits are
    summed as integers, exactly, so that one changed value always shows, in the time of one reading.
    What keeps every sum is the same values in another order of tokens, which changes neither.
    """
    by_token = unembedding.T.is_contiguous()
    held = unembedding.T if by_token else unembedding.contiguous()
    # Eight bytes at a time where they fit: torch sums shorter integers ten times as slowly.
    sizes = (held.shape[-1] * held.element_size(), held.storage_offset() * held.element_size())
    whole = next(kind for kind in _INTEGERS if all(size % kind.itemsize == 0 for size in sizes))
    sums = held.view(whole).sum(dim=0 if by_token else -1)
    return sums, torch.tensor(unembedding.shape), norm.gain, torch.tensor(norm.centred)


_INTEGERS = (torch.int64, torch.int32, torch.int16)


def _equal(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> bool:
    """Whether two contents are the same, of the same dtypes and on the same devices."""
    return all(
        (a.dtype, a.device, a.shape) == (b.dtype, b.device, b.shape) and torch.equal(a, b)
        for a, b in zip(one, other, strict=True)
    )


def unembedding_weights(model: HookedModel) -> Float[Tensor, "d_model d_vocab"]:
    """The `W_U` that the model applies, in its dtype, an adapter that is not merged included."""
    found: Tensor | None = effective_matrix(model, "unembed", int(model.cfg.d_model))
    return model.W_U.detach() if found is None else found  # type: ignore[attr-defined]


def embedding_weights(model: HookedModel) -> Float[Tensor, "d_vocab d_model"]:
    """The `W_E` that the model applies, in its dtype, an adapter that is not merged included."""
    held: Tensor = model.W_E.detach()  # type: ignore[attr-defined]
    found: Tensor | None = effective_matrix(model, "embed", len(held))
    return held if found is None else found


def output_weights(model: HookedModel, layer: int) -> Float[Tensor, "head d_head d_model"]:
    """A layer's `W_O` in float32, with the norm after it where there is one (Gemma 2, OLMo 2).

    An adapter that is not merged is in it.

    Raises:
        UnsupportedModelError: the model's own output projection is no matrix.
    """
    block, n_heads = model.blocks[layer], int(model.cfg.n_heads)  # type: ignore[attr-defined]
    place, width = f"blocks.{layer}.attn.o", n_heads * int(model.cfg.d_head)
    found: Tensor | None = effective_matrix(model, place, width)
    by_input: Tensor = block.attn.W_O.detach().flatten(end_dim=-2) if found is None else found
    # By heads, whatever the width of their values is cut into.
    weights: Tensor = by_input.unflatten(0, (n_heads, -1))
    if not hasattr(block, "ln1_post"):
        return weights.float()
    return frozen_norm(block.ln1_post, by_input[0])(weights.float())


def values_are_linear(model: HookedModel, layer: int) -> bool:
    """Whether a layer's values are a linear map of what its attention reads.

    With multi-head latent attention they are not: a norm stands inside, and no module makes them.
    """
    is_bridge = hasattr(model, "original_model")
    return not is_bridge or module_at(model, f"blocks.{layer}.attn.v") is not None


def value_weights(model: HookedModel, layer: int) -> Float[Tensor, "head d_model d_head"]:
    """A layer's `W_V` in float32, for each query head its own, where several share one.

    An adapter that is not merged is in it.

    Raises:
        UnsupportedModelError: values are no linear map of what attention reads.
    """
    return projection_weights(model, layer, "v")


def projection_weights(
    model: HookedModel, layer: int, which: Literal["q", "k", "v"]
) -> Float[Tensor, "head d_model d_head"]:
    """A layer's `W_Q`, `W_K` or `W_V`, as `value_weights` gives the last of them.

    Raises:
        UnsupportedModelError: they are no linear map of what attention reads.
    """
    cfg = model.cfg
    if not values_are_linear(model, layer):
        raise UnsupportedModelError(
            f"The values of layer {layer} of {cfg.model_name} are no linear map of what its "
            "attention reads (multi-head latent attention has a norm inside), so its "
            "output-value circuits are not known."
        )
    found: Tensor | None = effective_matrix(model, f"blocks.{layer}.attn.{which}", int(cfg.d_model))
    if found is None:
        held: Any = model.blocks[layer].attn  # type: ignore[attr-defined]
        weights: Tensor = getattr(held, f"W_{which.upper()}").detach().float()
    else:
        weights = found.float().view(len(found), -1, int(cfg.d_head)).transpose(0, 1)
    group = int(cfg.n_heads) // len(weights)
    return repeat(weights, "kv m d -> (kv group) m d", group=group)


def vocabulary_spread(
    weights: Float[Tensor, "head d_head d_model"], covariance: Float[Tensor, "d_model d_model"]
) -> Float[Tensor, "head d_head d_head"]:
    """`W_O C W_O'` of each head: `z M z` is the variance over the vocabulary that its `z` gives."""
    return einsum(weights @ covariance, weights, "head a d_model, head b d_model -> head a b")


def direct_effect(
    z: Float[Tensor, "query head d_head"],
    weights: Float[Tensor, "head d_head d_model"],
    directions: Float[Tensor, "query d_model"],
    spread: Float[Tensor, "head d_head d_head"],
) -> Float[Tensor, "query head"]:
    """Each head's effect along each query's direction, in standard deviations over the vocabulary.

    0 where a head writes nothing that the unembedding reads.

    Args:
        z: the heads' outputs before `W_O`.
        weights: their `W_O`.
        directions: what raises the logit that is asked about, against the vocabulary's mean.
        spread: their `vocabulary_spread`.
    """
    read = einsum(directions, weights, "query d_model, head d_head d_model -> query head d_head")
    spread_z = einsum(z, spread, "query head a, head a b -> query head b")
    along, variance = (z * read).sum(dim=-1), (z * spread_z).sum(dim=-1)
    return torch.where(variance > 0, along / variance.clamp_min(_TINY).sqrt(), 0.0)
