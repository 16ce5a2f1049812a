"""`direct_logit_attribution`: one logit as the sum of what each part writes towards it.

1. The last residual is the embedding plus what every head, attention bias and MLP wrote, each as
   it is added: after a norm of its own and a multiplier, where the model has them
   (a model that has other writers is refused).
2. With the final norm's scale `s` frozen the norm is linear, so a write `w` gives logit `t`
   `c (gain * W_U[:, t]) · P w / s`: `P` takes the mean off (LayerNorm) or nothing (RMSNorm), and
   `c` multiplies the logits of some models (Cohere, Granite).
3. What no part writes is the constant: the final norm's own bias through `W_U`, and `b_U`.
4. Parts and constant add up to the logit; what is left over is stated as the residue.

TransformerLens' own direct logit attribution needs a bridge in compatibility mode, which rewrites
the weights for good; this reads raw weights, and gives the same figures where both can be had.

What each part of a block adds to the residual stream, and the proof that nothing else does.

1. A block's output less its input is `a · N(Σ_h z_h W_O + b_O) + m · MLP`: `N` is the norm after
   attention, where there is one, with its scale frozen; `a` and `m` are multipliers of the model
   (Granite's `residual_multiplier`) and what the frozen scales divide by.
2. `a` and `m` are found at the position that is asked about, by weighted least squares, not read
   off a config: whatever scales a write is in them, whatever it is called.
3. Where no two numbers make the sum, something else writes (a state-space mixer, a second MLP), or
   the stream itself is changed (a norm of the sum): that is refused, with the layer.

All that attributes by parts rests on this.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.core.display import TextTable
from mi_toolkit.core.errors import UnsupportedModelError
from mi_toolkit.core.model import HookedModel, attention_layers, z_hook
from mi_toolkit.core.passes import logits_and_activations
from mi_toolkit.core.predictions import Token, token_id
from mi_toolkit.core.process_state import one_job
from mi_toolkit.core.provenance import Provenance
from mi_toolkit.core.result import Result
from mi_toolkit.core.tokenizer import token_texts
from mi_toolkit.core.tokens import Prompt, tokenise_one
from mi_toolkit.core.tolerances import logit_floor
from mi_toolkit.heads.direct_effect import (
    FrozenNorm,
    frozen_norm,
    output_weights,
    unembedding_weights,
)
from mi_toolkit.models.describe import provenance_of

if TYPE_CHECKING:
    pass


_FLOOR: Mapping[torch.dtype, float] = MappingProxyType(
    {torch.float64: 1e-3, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
)
"""How far rounding may part a block's change from its parts, as a share of their size."""

_SAME = 1e-2
"""The share of the floor under which two fits are the same."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BlockWrites:
    """What one block adds to the residual stream at one position; together its whole change."""

    heads: Float[Tensor, "head d_model"]
    """Each head; zeros in a layer without attention."""

    attention_bias: Float[Tensor, " d_model"]
    """Attention's output bias."""

    mlp: Float[Tensor, " d_model"]
    """The MLP, biases and all; zeros where there is none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ResidualWrites:
    """The residual stream at the last position as a sum of writes, and what is read from it."""

    embedding: Float[Tensor, " d_model"]
    """What enters the first block."""

    blocks: tuple[BlockWrites, ...]
    """What each block writes, first block to last."""

    final: Float[Tensor, " d_model"]
    """The stream after the last block: the embedding and all writes, to rounding."""

    logits: Float[Tensor, " vocabulary"]
    """The logits that the model itself gives."""


def residual_writes(model: HookedModel, ids: Int[Tensor, " position"]) -> ResidualWrites:
    """One pass, taken apart at its last position; all in float32 on the CPU.

    Raises:
        UnsupportedModelError: a block's change is no sum of what its heads and its MLP write.
        HookError: a part's hook did not fire.
    """
    layers, n_layers = set(attention_layers(model)), int(model.cfg.n_layers)
    named = model.hook_dict
    # An attention-only HookedTransformer has the hook, which never fires.
    with_mlp = range(0 if getattr(model.cfg, "attn_only", False) else n_layers)
    has_mlp = {layer for layer in with_mlp if _mlp_hook(layer) in named}
    names: list[str] = []
    for layer in range(n_layers):
        names.append(f"blocks.{layer}.hook_resid_pre")
        names += [z_hook(layer)] if layer in layers else []
        names += [_mlp_hook(layer)] if layer in has_mlp else []
        names.append(f"blocks.{layer}.hook_resid_post")
    seen: dict[str, Tensor] = {}
    dtypes: set[torch.dtype] = set()

    def keep(name: str, activation: Tensor) -> None:
        # One sequence: its last position is the last row, with or without a batch axis.
        trailing = activation.shape[-2:] if name.endswith("hook_z") else activation.shape[-1:]
        seen[name] = activation.reshape(-1, *trailing)[-1].float().cpu()
        dtypes.add(activation.dtype)

    logits = logits_and_activations(model, ids[None], names, keep)[0, -1].float().cpu()
    rounding = max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)
    blocks = []
    for layer in range(n_layers):
        before, after = (seen[f"blocks.{layer}.hook_resid_{end}"] for end in ("pre", "post"))
        parts = BlockWrites(
            heads=before.new_zeros(int(model.cfg.n_heads), len(before)),
            attention_bias=torch.zeros_like(before),
            mlp=seen[_mlp_hook(layer)] if layer in has_mlp else torch.zeros_like(before),
        )
        if layer in layers:
            parts = replace(parts, **_attention(model, layer, seen[z_hook(layer)]))
        scaled = _scaled(parts, before, after, rounding)
        if scaled is None:
            raise UnsupportedModelError(
                f"In layer {layer} of {model.cfg.model_name} something writes into the residual "
                "stream that is neither a head nor the MLP, or a norm is taken of the stream "
                "itself: what its parts write does not add up to the block's change."
            )
        blocks.append(scaled)
    return ResidualWrites(
        embedding=seen["blocks.0.hook_resid_pre"],
        blocks=tuple(blocks),
        final=seen[f"blocks.{n_layers - 1}.hook_resid_post"],
        logits=logits,
    )


def _mlp_hook(layer: int) -> str:
    return f"blocks.{layer}.hook_mlp_out"


def _attention(
    model: HookedModel, layer: int, z: Float[Tensor, "head d_head"]
) -> dict[str, Tensor]:
    """What each head and the bias write, up to the scale of a norm after them."""
    weights = output_weights(model, layer)
    heads = einsum(z.to(weights), weights, "head d, head d m -> head m")
    block: Any = model.blocks[layer]  # type: ignore[attr-defined]
    bias: Tensor | None = getattr(block.attn, "b_O", None)
    bias = torch.zeros_like(heads[0]) if bias is None else bias.detach().to(heads)
    if hasattr(block, "ln1_post"):
        # In the model's dtype and where the block is.
        example = heads[0].to(model.W_E.dtype)  # type: ignore[attr-defined]
        bias = frozen_norm(block.ln1_post, example)(bias)
    return {"heads": heads.cpu(), "attention_bias": bias.cpu()}


def _scaled(
    parts: BlockWrites, before: Tensor, after: Tensor, dtype: torch.dtype
) -> BlockWrites | None:
    """The parts with the two numbers that make the block's change of them; None where none do."""
    attention = parts.heads.sum(dim=0) + parts.attention_bias
    sides = torch.stack([attention, parts.mlp], dim=-1).double()
    change = after.double() - before.double()
    # What rounding does to each coordinate: in the stream, and in the sums inside the parts.
    size = torch.stack([*sides.T, change]).square().mean(dim=-1).sqrt().max()
    in_stream = 4 * torch.finfo(dtype).eps * (before.abs() + after.abs()).double()
    weight = 1 / (in_stream + _FLOOR[dtype] * size).clamp_min(torch.finfo(torch.float32).tiny)
    weighted = sides * weight[:, None]
    found = torch.linalg.lstsq(weighted, (change * weight)[:, None]).solution[:, 0]

    def off(scales: Tensor) -> float:
        return float((weighted @ scales - change * weight).abs().max())

    ones = torch.ones_like(found)
    # Two parts that point the same way leave the fit open: then it is as the hooks show them.
    scales = ones if off(ones) <= max(2 * off(found), _SAME) else found
    if not off(scales) <= 1:
        return None
    of_attention, of_mlp = scales.tolist()
    return BlockWrites(
        heads=of_attention * parts.heads,
        attention_bias=of_attention * parts.attention_bias,
        mlp=of_mlp * parts.mlp,
    )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class DirectAttribution(Result):
    """What each part writes towards one logit, or towards one against another.

    Only the direct path counts: what a head changes in later parts is written by those. A part
    that raises every token's logit alike shows here and changes no probability: set two tokens
    against each other to leave that out.
    """

    FORMAT: ClassVar[str] = "mi_toolkit direct logit attribution 1"

    heads: Float[Tensor, "layer head"]
    """What each head writes."""

    attention_biases: Float[Tensor, " layer"]
    """What each layer's attention writes besides its heads: its output bias."""

    mlps: Float[Tensor, " layer"]
    """What each MLP writes."""

    embedding: float
    """What the token's embedding gives, its position's included."""

    constant: float
    """What no part writes: the final norm's own bias through the unembedding, and `b_U`."""

    logit: float
    """The logit that they add up to, or the difference of two."""

    residue: float
    """The logit less all of these: rounding, and what a soft cap takes of the sum (Gemma 2)."""

    asked: str
    """The tokens in words."""

    texts: tuple[str, ...]
    """The prompt's tokens as text."""

    provenance: Provenance
    """Model, prompt and versions."""

    def parts(self) -> dict[str, float]:
        """Every part by name, in the order of the model, without the residue."""
        found = {"embedding": self.embedding}
        n_layers, n_heads = self.heads.shape
        for l in range(n_layers):
            found |= {f"L{l}H{head}": float(self.heads[l, head]) for head in range(n_heads)}
            found[f"L{l} attention bias"] = float(self.attention_biases[l])
            found[f"L{l}.mlp"] = float(self.mlps[l])
        return found | {"constant": self.constant}

    def top(self, n: int = 10) -> list[tuple[str, float]]:
        """The parts that write most, for or against it."""
        return sorted(self.parts().items(), key=lambda part: -abs(part[1]))[:n]

    def rows(self) -> Iterable[Mapping[str, Any]]:
        """One row per part."""
        model = self.provenance.model
        return (
            {"model": model, "part": name, "write": value} for name, value in self.parts().items()
        )

    def title(self) -> str:
        """What was done, in one line."""
        return f"What writes the {self.asked} in {self.provenance.model}"

    def text_table(self) -> TextTable:
        """The parts that write most."""
        title = f"{self.title()}: {self.logit:+z.3f}, residue {self.residue:+.1e}"
        rows = [[name, f"{value:+z.3f}"] for name, value in self.top()]
        return TextTable(title=title, header=["part", "write"], rows=rows)


@one_job
def direct_logit_attribution(
    model: HookedModel,
    prompt: Prompt,
    *,
    target: Token | None = None,
    other: Token | None = None,
    prepend_bos: bool | None = None,
    attention_mask: Any = None,
) -> DirectAttribution:
    """Split the logit after a prompt into what embedding, heads and MLPs write towards it.

    Args:
        model: a HookedTransformer or a TransformerBridge with its raw weights; left as it was.
        prompt: one text, or its ids.
        target: the token, as its id or exact text; None for the most probable one.
        other: a token to set it against: then it is the difference of their logits that is split.
        prepend_bos: put a BOS before a text; None: as the model was trained to read it.
        attention_mask: of ids with padding: 1 where a token is real, in the shape of the ids.

    Raises:
        PromptError: not one prompt, or a token that is not one.
        UnsupportedModelError: something other than one norm and a multiplier stands between the
            last block and the logits, or something other than heads and MLPs writes.
        NotFiniteError: what the model computes is NaN or infinite.

    Example:
        >>> import mi_toolkit as mi
        >>> model = mi.load_model("toy-gpt2")
        >>> found = mi.direct_logit_attribution(model, "Mary and John went to", target=" the")
        >>> abs(sum(found.parts().values()) - found.logit) < 1e-3
        True
    """
    batch = tokenise_one(
        model,
        prompt,
        "direct_logit_attribution",
        prepend_bos=prepend_bos,
        attention_mask=attention_mask,
    )
    ids = batch.sequence(0)
    written = residual_writes(model, ids)
    asked = [int(written.logits.argmax()) if target is None else token_id(model, target)]
    asked += [] if other is None else [token_id(model, other)]
    signs = torch.tensor([1.0, -1.0])[: len(asked)]
    readout = _readout(model, written)
    reader = readout.reader(asked, signs)
    heads = torch.stack([block.heads @ reader for block in written.blocks])
    biases = torch.stack([block.attention_bias @ reader for block in written.blocks])
    mlps = torch.stack([block.mlp @ reader for block in written.blocks])
    embedding = float(written.embedding @ reader)
    constant = float((readout.constant[asked] * signs).sum())
    logit = float((written.logits[asked] * signs).sum())
    total = float(heads.sum() + biases.sum() + mlps.sum()) + embedding + constant
    texts = token_texts(model.tokenizer, asked)
    return DirectAttribution(
        heads=heads,
        attention_biases=biases,
        mlps=mlps,
        embedding=embedding,
        constant=constant,
        logit=logit,
        residue=logit - total,
        asked=f"logit of {texts[0]!r}" + (f" less that of {texts[1]!r}" if len(texts) > 1 else ""),
        texts=token_texts(model.tokenizer, ids.tolist()),
        provenance=provenance_of(model, {"prompt": batch}, seed=0),
    )


_OTHERWISE = (
    "The logits of {name} are no sum of what its parts write: between its last block and its "
    "logits stands something other than one norm and a multiplier."
)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Readout:
    """The logits as a linear map of the last residual, the final norm's scale frozen."""

    unembedding: Float[Tensor, "d_model vocabulary"]
    norm: FrozenNorm | None
    scale: float
    """What the norm's output is divided by, over the multiplier of the logits."""

    constant: Float[Tensor, " vocabulary"]
    """Each logit of a residual of zeros."""

    def reader(self, asked: list[int], signs: Tensor) -> Float[Tensor, " d_model"]:
        """The direction in the residual stream that gives the logits that are asked about."""
        columns = self.unembedding[:, asked].float().cpu() @ signs
        return (columns if self.norm is None else self.norm.transposed(columns)) / self.scale


def _readout(model: HookedModel, written: ResidualWrites) -> _Readout:
    """How this model reads its last residual, held against its own logits.

    Raises:
        UnsupportedModelError: it is read by something else than one norm and a multiplier.
    """
    parts: Any = model
    unembedding: Tensor = unembedding_weights(model)
    if len(unembedding) != len(written.final):
        raise UnsupportedModelError(_OTHERWISE.format(name=model.cfg.model_name))
    norm, bias, scale = None, torch.zeros_like(written.final), 1.0
    if hasattr(parts, "ln_final"):
        example = unembedding[:, 0]
        norm = frozen_norm(parts.ln_final, example)
        rows = torch.stack([torch.zeros_like(written.final), written.final]).to(example)
        with torch.no_grad():
            bias, normed = parts.ln_final(rows[:, None])[:, 0].float().cpu()
        norm = replace(norm, gain=norm.gain.cpu())
        linear = norm(written.final)
        scale = float(linear @ linear / (linear @ (normed - bias)))

    def through(vector: Tensor) -> Tensor:
        return (vector.to(unembedding) @ unembedding).float().cpu()

    constant = through(bias) + _output_bias(parts)
    read = written.final if norm is None else norm(written.final) / scale
    plain = through(read) + constant
    uncapped, floor = _uncapped(model, written.logits), _floor(unembedding.dtype, plain)
    multiplier = float(uncapped @ plain / (plain @ plain))
    if (plain - uncapped).abs().max() <= floor:
        multiplier = 1.0
    elif not (multiplier * plain - uncapped).abs().max() <= floor:
        raise UnsupportedModelError(_OTHERWISE.format(name=model.cfg.model_name))
    return _Readout(
        unembedding=unembedding,
        norm=norm,
        scale=scale / multiplier,
        constant=multiplier * constant,
    )


def _uncapped(model: HookedModel, logits: Tensor) -> Tensor:
    """The logits before the soft cap, `cap · tanh(logit / cap)`, of a model that has one."""
    config = getattr(getattr(model, "original_model", None), "config", None)
    cap = getattr(config, "final_logit_softcapping", None)
    if not cap:
        cap = getattr(model.cfg, "output_logits_soft_cap", None) or 0.0
    return logits if cap <= 0 else cap * torch.atanh((logits / cap).clamp(-_BELOW_1, _BELOW_1))


_BELOW_1 = 1 - 1e-7
"""The largest share of its cap that a capped float32 logit has."""


def _floor(dtype: torch.dtype, logits: Tensor) -> float:
    return _ROUNDING * logit_floor(str(dtype).removeprefix("torch."), logits)


_ROUNDING = 10.0
"""A frozen norm is probed and its scale fitted: rounding beyond that of two equal passes."""


def _output_bias(parts: Any) -> Tensor:
    bias: Tensor | None = getattr(parts, "b_U", None)
    if bias is None:
        return torch.zeros(parts.W_U.shape[-1])
    return bias.detach().float().cpu()
