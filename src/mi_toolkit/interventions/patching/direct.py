"""`direct_logit_attribution`: one logit as the sum of what each part writes towards it.

1. The last residual is the embedding plus what every head, attention bias and MLP wrote. With the
   final norm's scale `s` frozen the norm is linear, so a write `w` gives logit `t`
   `(gain * W_U[:, t]) · P w / s`, where `P` takes the mean off (LayerNorm) or nothing (RMSNorm).
2. What no part writes is the constant: the final norm's own bias through `W_U`, and `b_U`.
3. Parts and constant add up to the logit; what is left over is stated as the residue.

TransformerLens' own direct logit attribution needs a bridge in compatibility mode, which rewrites
the weights for good; this reads raw weights, and gives the same figures where both can be had.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from mi_toolkit.errors import UnsupportedModelError
from mi_toolkit.heads.direct_effect import frozen_norm, output_weights, reads_one_norm
from mi_toolkit.heads.provenance import provenance_of
from mi_toolkit.hooked_model import HookedModel, attention_layers, evaluating, uncached, z_hook
from mi_toolkit.hooked_pass import visit_activations
from mi_toolkit.interventions.effects.runs import one_sequence
from mi_toolkit.predictions import Token, token_id
from mi_toolkit.prompts.token_texts import token_texts
from mi_toolkit.prompts.tokens import Prompt
from mi_toolkit.provenance import Provenance
from mi_toolkit.saved_result import SavedResult
from mi_toolkit.shown import ShownAsTable, TextTable

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class DirectAttribution(SavedResult, ShownAsTable):
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
    """The logit less all of these: rounding, unless something else stands before the logits, as a
    soft cap does."""

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

    def to_pandas(self) -> DataFrame:
        """One row per part."""
        from mi_toolkit.tables import table_of

        model = self.provenance.model
        return table_of(
            {"model": model, "part": name, "write": value} for name, value in self.parts().items()
        )

    def title(self) -> str:
        """What was done, in one line."""
        return f"What writes the {self.asked} in {self.provenance.model}"

    def text_table(self) -> TextTable:
        """The parts that write most."""
        title = f"{self.title()}: {self.logit:+.3f}, residue {self.residue:+.1e}"
        rows = [[name, f"{value:+.3f}"] for name, value in self.top()]
        return TextTable(title=title, header=["part", "write"], rows=rows)


def direct_logit_attribution(
    model: HookedModel,
    prompt: Prompt,
    *,
    target: Token | None = None,
    other: Token | None = None,
    prepend_bos: bool | None = None,
    attention_mask: Any = None,
) -> DirectAttribution:
    """Split the logit behind a prompt into what embedding, heads and MLPs write towards it.

    Args:
        model: a HookedTransformer or a TransformerBridge with its raw weights; left as it was.
        prompt: one text, or its ids.
        target: the token, as its id or exact text; None for the most probable one.
        other: a token to set it against: then it is the difference of their logits that is split.
        prepend_bos: put a BOS before a text; None: as the model was trained to read it.
        attention_mask: of ids with padding: 1 where a token is real, in the shape of the ids.

    Raises:
        PromptError: not one prompt, or a token that is not one.
        UnsupportedModelError: something other than one norm stands before the unembedding, or a
            norm stands behind an attention or MLP: then their writes are not sums over heads.

    Example:
        >>> import mi_toolkit as mi
        >>> model = mi.load_model("toy-gpt2")
        >>> found = mi.direct_logit_attribution(model, "Mary and John went to", target=" the")
        >>> abs(sum(found.parts().values()) - found.logit) < 1e-3
        True
    """
    batch = one_sequence(model, prompt, prepend_bos=prepend_bos, attention_mask=attention_mask)
    _check_writes(model)
    ids = batch.sequence(0)
    written = _written(model, ids)
    with evaluating(model), torch.no_grad():
        logits = model(ids[None].to(model.cfg.device), **uncached(model))[0, -1].float()
    asked = [int(logits.argmax()) if target is None else token_id(model, target)]
    asked += [] if other is None else [token_id(model, other)]
    signs = torch.tensor([1.0, -1.0], device=logits.device)[: len(asked)]
    parts: Any = model
    norm = frozen_norm(parts.ln_final, parts.W_U.detach()[:, 0])
    unembedded = (parts.W_U.detach()[:, asked].float() * signs).sum(dim=-1)
    reader = norm.transposed(unembedded) / written["ln_final.hook_scale"]
    layers, n_layers = attention_layers(model), int(model.cfg.n_layers)
    heads = torch.zeros(n_layers, int(model.cfg.n_heads))
    biases, mlps = torch.zeros(n_layers), torch.zeros(n_layers)
    for layer in range(n_layers):
        mlps[layer] = written[f"blocks.{layer}.hook_mlp_out"] @ reader
        if layer in layers:
            z, weights = written[z_hook(layer)], output_weights(model, layer)
            heads[layer] = einsum(z, weights, reader, "h d, h d m, m -> h").cpu()
            attention = written[f"blocks.{layer}.hook_attn_out"] @ reader
            biases[layer] = attention.cpu() - heads[layer].sum()
    embedding = float(written["blocks.0.hook_resid_pre"] @ reader)
    constant = float(_constant(parts, unembedded) + (_output_bias(parts)[asked] * signs).sum())
    logit = float((logits[asked] * signs).sum())
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


def _check_writes(model: HookedModel) -> None:
    parts: Any = model
    if not reads_one_norm(model) or any(hasattr(block, "ln1_post") for block in parts.blocks):
        raise UnsupportedModelError(
            f"The logits of {model.cfg.model_name} are no sum of what its parts write: a norm "
            "stands behind its attention, or something other than one norm before its unembedding."
        )


def _written(model: HookedModel, ids: Tensor) -> dict[str, Tensor]:
    """What every part writes at the last position, and the final norm's scale there."""
    layers = attention_layers(model)
    names = ["blocks.0.hook_resid_pre"]
    for layer in range(int(model.cfg.n_layers)):
        if layer in layers:
            names += [z_hook(layer), f"blocks.{layer}.hook_attn_out"]
        names.append(f"blocks.{layer}.hook_mlp_out")
    kept: dict[str, Tensor] = {}

    def keep(name: str, activation: Tensor) -> None:
        # One sequence: its last position is the last row, with or without a batch axis.
        trailing = activation.shape[-2:] if name.endswith("hook_z") else activation.shape[-1:]
        kept[name] = activation.reshape(-1, *trailing)[-1].float().clone()

    visit_activations(model, ids[None], [*names, "ln_final.hook_scale"], keep)
    return kept


def _constant(parts: Any, unembedded: Tensor) -> Tensor:
    """What the final norm's bias gives."""
    nothing = torch.zeros(1, 1, len(unembedded), dtype=parts.W_U.dtype, device=parts.W_U.device)
    with torch.no_grad():
        bias: Tensor = parts.ln_final(nothing)[0, 0].float()
    return bias @ unembedded


def _output_bias(parts: Any) -> Tensor:
    bias: Tensor | None = getattr(parts, "b_U", None)
    if bias is None:
        return torch.zeros(parts.W_U.shape[-1], device=parts.W_U.device)
    return bias.detach().float()
