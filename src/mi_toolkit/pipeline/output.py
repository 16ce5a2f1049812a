"""What a model predicts behind every token, in the end and at every layer."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.errors import UnsupportedModelError
from mi_toolkit.hooked_model import HookedModel, evaluating
from mi_toolkit.pipeline.stages import LensStage, OutputStage
from mi_toolkit.predictions import kl_divergence, token_ranks, top_predictions
from mi_toolkit.transformer_lens_door import lens_logits

LENS_TOLERANCE = 0.02
"""How far behind the last layer the lens may be from the logits, of their spread: bfloat16 is."""

_LENS_LOGITS = 2**25
"""Logits of the lens that are held at a time."""


def output_stage(
    model: HookedModel,
    ids: Int[Tensor, " position"],
    logits: Float[Tensor, "position vocabulary"],
    residuals: Float[Tensor, "entry position d_model"] | None,
    top_k: int,
) -> OutputStage:
    """The last stage, from the logits and, for the lens, the residual stream before every layer.

    Raises:
        UnsupportedModelError: the lens behind the last layer does not give the logits.
    """
    log_probs = logits.log_softmax(dim=-1)
    top = log_probs.topk(top_k, dim=-1)
    following = ids[1:]
    return OutputStage(
        top_ids=top.indices,
        top_log_probs=top.values,
        entropies=torch.special.entr(log_probs.exp()).sum(dim=-1),
        next_log_probs=log_probs[:-1].gather(-1, following[:, None])[:, 0],
        next_ranks=token_ranks(logits[:-1], following),
        predictions=top_predictions(model.tokenizer, logits[-1], top_k),
        lens=None if residuals is None else _lens(model, logits, residuals, top_k),
    )


def _lens(
    model: HookedModel,
    logits: Float[Tensor, "position vocabulary"],
    residuals: Float[Tensor, "entry position d_model"],
    top_k: int,
) -> LensStage:
    final = logits.argmax(dim=-1)
    parts: dict[str, list[Tensor]] = {}
    read = torch.zeros(0)
    at_once = max(1, _LENS_LOGITS // logits.numel())
    for some in residuals.split(at_once):
        read = _read(model, some)
        log_probs = read.log_softmax(dim=-1)
        top = log_probs.topk(top_k, dim=-1)
        chosen = final.expand(len(read), -1)
        found = {
            "top_ids": top.indices,
            "top_log_probs": top.values,
            "final_ranks": token_ranks(read, chosen),
            "final_log_probs": log_probs.gather(-1, chosen[..., None])[..., 0],
            "divergences": kl_divergence(logits.expand_as(read), read),
        }
        for name, part in found.items():
            parts.setdefault(name, []).append(part)
    _check_last(model, read[-1], logits)
    names = ["embedding", *(f"layer {layer}" for layer in range(len(residuals) - 1))]
    return LensStage(
        names=tuple(names), **{name: torch.cat(several) for name, several in parts.items()}
    )


def _read(
    model: HookedModel, residuals: Float[Tensor, "entry position d_model"]
) -> Float[Tensor, "entry position vocabulary"]:
    weights = model.cfg
    with evaluating(model), torch.no_grad():
        read = lens_logits(model, residuals.to(weights.device, weights.dtype))
    return read.float().cpu()


def _check_last(
    model: HookedModel,
    last: Float[Tensor, "position vocabulary"],
    logits: Float[Tensor, "position vocabulary"],
) -> None:
    apart = float((last - logits).abs().max())
    spread = float((logits - logits.mean(dim=-1, keepdim=True)).abs().max())
    if apart > LENS_TOLERANCE * spread:
        raise UnsupportedModelError(
            f"The logit lens behind the last layer of {model.cfg.model_name} is up to {apart:.3g} "
            f"from its logits (spread {spread:.3g}): the model makes them in another way. Trace it "
            "with lens=False."
        )
