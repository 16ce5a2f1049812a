"""`trace_pipeline`: one hooked pass, read stage by stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.core.attention_masks import sights
from mi_toolkit.core.errors import PromptError, ReportError, UnsupportedModelError
from mi_toolkit.core.head import Head
from mi_toolkit.core.model import (
    HookedModel,
    attention_layers,
    evaluating,
    mlp_layers,
    neuron_count,
    pattern_hook,
)
from mi_toolkit.core.passes import logits_and_activations
from mi_toolkit.core.predictions import (
    divergence,
    most_probable,
    token_ranks,
    top_predictions,
)
from mi_toolkit.core.process_state import one_job
from mi_toolkit.core.progress import track, working
from mi_toolkit.core.sight import Sight
from mi_toolkit.core.tl_compat import lens_logits
from mi_toolkit.core.tokenizer import token_texts
from mi_toolkit.core.tokens import Prompt, TokenBatch, tokenise_one
from mi_toolkit.heads.classify import ReportOfPass
from mi_toolkit.heads.direct_effect import embedding_weights
from mi_toolkit.heads.report import HeadReport
from mi_toolkit.heads.scores import PatternRows, diffuse_terms
from mi_toolkit.models.describe import describe_model, provenance_of
from mi_toolkit.text.pipeline import (
    AttentionStage,
    EmbeddingStage,
    LensStage,
    MlpStage,
    OutputStage,
    Pipeline,
    TokenStage,
)

LENS_TOLERANCE = 0.02
"""How far after the last layer the lens may be from the logits, of their spread: bfloat16 is."""

_LENS_LOGITS = 2**23
"""Logits of the lens that are made at a time: in between, others have the model, and Stop stops."""


def output_stage(
    model: HookedModel,
    ids: Int[Tensor, " position"],
    logits: Float[Tensor, "position vocabulary"],
    residuals: Float[Tensor, "entry position d_model"] | None,
    top_k: int,
) -> OutputStage:
    """The last stage, from the logits and, for the lens, the residual stream before every layer.

    Raises:
        UnsupportedModelError: the lens after the last layer does not give the logits.
    """
    log_probs = logits.log_softmax(dim=-1)
    top, following = most_probable(logits, top_k), ids[1:]
    return OutputStage(
        top_ids=top,
        top_log_probs=log_probs.gather(-1, top),
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
    final, ours = logits.argmax(dim=-1), logits.float().log_softmax(dim=-1)
    parts: dict[str, list[Tensor]] = {}
    read = torch.zeros(0)
    at_once = max(1, _LENS_LOGITS // logits.numel())
    pieces = residuals.split(at_once)
    for some in track(
        pieces,
        total=len(pieces),
        label="logit lens",
        unit="piece",
        show=False,
        at_rest=model,
    ):
        read = _read(model, some)
        log_probs = read.log_softmax(dim=-1)
        top = most_probable(read, top_k)
        chosen = final.expand(len(read), -1)
        found = {
            "top_ids": top,
            "top_log_probs": log_probs.gather(-1, top),
            "final_ranks": token_ranks(read, chosen),
            "final_log_probs": log_probs.gather(-1, chosen[..., None])[..., 0],
            "divergences": divergence(ours, log_probs),
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
            f"The logit lens after the last layer of {model.cfg.model_name} is up to {apart:.3g} "
            f"from its logits (spread {spread:.3g}): the model makes them in another way. Trace it "
            "with lens=False."
        )


MOST_BYTES = 2**30
"""Memory that the patterns of one prompt may take."""

Seen = dict[str, Tensor]
"""One sequence's activations by hook name, without the batch axis, in float32 on the CPU."""


@one_job
def trace_pipeline(
    model: HookedModel,
    prompt: Prompt,
    *,
    report: HeadReport | None = None,
    top_k: int = 5,
    n_nearest: int = 5,
    n_neurons: int = 5,
    lens: bool = True,
    prepend_bos: bool | None = None,
    attention_mask: Any = None,
    allow_nan: bool = False,
    progress: bool | None = None,
) -> Pipeline:
    """A prompt's way through a model: tokens, embedding, attention, MLP, output.

    One hooked pass, in which heads are labelled on this prompt, unless a report is given. A label
    from one prompt is a hypothesis about this prompt. Hooks that are active stay active, so inside
    `ablating(...)` it is the ablated model's way.

    Args:
        model: the model; it comes back as it was.
        prompt: one text, or the ids of one sequence.
        report: labels from `classify_heads`, of the standard protocol for instance.
        top_k: predictions to keep at every position.
        n_nearest: nearest tokens to keep of every embedding.
        n_neurons: most active neurons to keep of every layer.
        lens: read every layer's residual stream through the final norm and the unembedding, by
            TransformerLens' own logit lens where it has one (4.x).
        prepend_bos: put a BOS before a text. None: as the model was trained to read it.
        attention_mask: of ids with padding: 1 where a token is real, in the shape of the ids.
        allow_nan: show the way all the same where what the model computes is NaN or infinite.
        progress: a progress bar; None: where somebody looks and it takes long.

    Raises:
        PromptError: not one prompt, an empty one, one beyond the context, impossible ids, one
            whose patterns fill the memory, or less than one of something.
        UnsupportedModelError: no attention to hook, or no lens that gives the model's logits.
        HookError: a hook did not fire.
        NotFiniteError: what the model computes is NaN or infinite; the message names the first
            module where it is.

    Example:
        >>> import mi_toolkit as mi
        >>> model = mi.load_model("toy-gpt2")
        >>> traced = mi.trace_pipeline(model, "Mary and John went to")
        >>> traced.output.predictions[0].text, traced.attention.patterns.shape
        (' the', torch.Size([4, 4, 6, 6]))
    """
    batch = tokenise_one(
        model, prompt, "trace_pipeline", prepend_bos=prepend_bos, attention_mask=attention_mask
    )
    counts = {"top_k": top_k, "n_nearest": n_nearest, "n_neurons": n_neurons}
    if isinstance(report, HeadReport):
        report.check_model(model)
    elif report is not None:
        raise ReportError(
            f"report is what classify_heads returned, not of type {type(report).__name__}: "
            "HeadReport.load reads one from a file."
        )
    traced, _ = _traced(model, prompt, batch, report, counts, lens=lens, progress=progress)
    return traced


@one_job
def trace_and_classify(
    model: HookedModel, prompt: Prompt, *, top_k: int = 5, progress: bool | None = None
) -> tuple[Pipeline, HeadReport]:
    """What `trace_pipeline` finds, and the report that its labels are from, in one pass.

    Args:
        model: the model; it comes back as it was.
        prompt: one text, or the ids of one sequence.
        top_k: predictions to keep at every position.
        progress: a progress bar; None: where somebody looks and it takes long.

    Raises:
        MIToolkitError: as `trace_pipeline` does.

    Example:
        >>> import mi_toolkit as mi
        >>> traced, report = mi.text.trace_and_classify(mi.load_model("toy-gpt2"), "Mary and John")
        >>> report.scope.shape == traced.attention.patterns.shape[:2]
        True
    """
    batch = tokenise_one(model, prompt, "trace_and_classify")
    counts = {"top_k": top_k, "n_nearest": 5, "n_neurons": 5}
    return _traced(model, prompt, batch, None, counts, lens=True, progress=progress)


def _traced(
    model: HookedModel,
    prompt: Prompt,
    batch: TokenBatch,
    report: HeadReport | None,
    counts: Mapping[str, int],
    *,
    lens: bool,
    progress: bool | None,
) -> tuple[Pipeline, HeadReport]:
    _check(model, batch, counts)
    layers, with_mlp = attention_layers(model), mlp_layers(model)
    with working(total=1, label="Tracing a prompt", unit="pass", show=progress) as passed:
        if report is None:
            reading = ReportOfPass(model, batch)
            seen, logits = _run(model, batch, layers, with_mlp, reading)
            labelled = reading.report()
        else:
            seen, logits = _run(model, batch, layers, with_mlp)
            labelled = report
        passed()
    shapes: dict[str, dict[str, tuple[int, ...]]] = {"tokens": {"ids": tuple(batch.ids[0].shape)}}
    for name, activation in seen.items():
        shapes.setdefault(_stage(name), {})[name] = tuple(activation.shape)
    shapes["output"] = {"logits": tuple(logits.shape), **shapes.get("output", {})}
    has_bos = bool(batch.has_bos[0])
    residuals = _residuals(model, seen, lens=lens)
    output = output_stage(model, batch.ids[0], logits, residuals, counts["top_k"])
    embedding = _embedding(model, batch, seen, counts["n_nearest"])
    ids = [batch.ids, embedding.nearest_ids, output.top_ids]
    ids += [] if output.lens is None else [output.lens.top_ids]
    every = sorted({token for each in ids for token in each.flatten().tolist()})
    texts = dict(zip(every, token_texts(model.tokenizer, every), strict=True))
    own = tuple(texts[token] for token in batch.ids[0].tolist())
    traced = Pipeline(
        prompt=prompt if isinstance(prompt, str) else "".join(own[has_bos:]),
        tokens=TokenStage(ids=batch.ids[0], texts=own, has_bos=has_bos),
        embedding=embedding,
        attention=_attention(model, seen, layers, labelled, given=report is not None),
        mlp=_mlp(seen, with_mlp, counts["n_neurons"], has_bos=has_bos),
        output=output,
        shapes=shapes,
        texts=texts,
        provenance=provenance_of(model, {"prompt": batch}, seed=0),
    )
    return traced, labelled


def _check(model: HookedModel, batch: TokenBatch, counts: Mapping[str, int]) -> None:
    vocabulary = int(model.cfg.d_vocab)
    widths = [neuron_count(model, layer) for layer in mlp_layers(model)]
    d_mlp = min(widths, default=counts["n_neurons"])
    most = {"top_k": vocabulary, "n_nearest": vocabulary - 1, "n_neurons": d_mlp}
    for name, count in counts.items():
        if not 1 <= count <= most[name]:
            raise PromptError(f"{name}={count}: it must be between 1 and {most[name]}.")
    length, n_patterns = int(batch.lengths[0]), int(model.cfg.n_layers * model.cfg.n_heads)
    longest = int((MOST_BYTES / (4 * n_patterns)) ** 0.5)
    if length > longest:
        raise PromptError(
            f"The patterns of {n_patterns} heads on {length} tokens would fill "
            f"{4 * n_patterns * length**2 / 2**30:.1f} GiB: trace {longest} tokens at most."
        )


def _run(
    model: HookedModel,
    batch: TokenBatch,
    layers: list[int],
    with_mlp: list[int],
    reading: ReportOfPass | None = None,
) -> tuple[Seen, Float[Tensor, "position vocabulary"]]:
    # A bridge names the hook of position embeddings where there are none, too.
    learned = model.cfg.positional_embedding_type == "standard"
    names = ["hook_embed", *(["hook_pos_embed"] if learned else []), "blocks.0.hook_resid_pre"]
    names += [pattern_hook(layer) for layer in layers]
    names += [
        f"blocks.{layer}.{tail}" for layer in with_mlp for tail in ("mlp.hook_post", "hook_mlp_out")
    ]
    names += [f"blocks.{layer}.hook_resid_post" for layer in range(model.cfg.n_layers)]
    seen: Seen = {}

    kept, read = set(names), set(() if reading is None else reading.names)

    def visit(name: str, activation: Tensor) -> None:
        if name in kept:
            seen[name] = activation[0].to(device="cpu", dtype=torch.float32, copy=True)
        if reading is not None and name in read:
            reading.read(name, activation)

    logits = logits_and_activations(model, batch.ids, [*names, *(read - kept)], visit)
    return {name: seen[name] for name in names}, logits[0].float().cpu()


def _stage(name: str) -> str:
    if name in ("hook_embed", "hook_pos_embed", "blocks.0.hook_resid_pre"):
        return "embedding"
    if name.endswith("hook_pattern"):
        return "attention"
    return "mlp" if ".mlp" in name or "mlp_out" in name else "output"


def _residuals(
    model: HookedModel, seen: Seen, *, lens: bool
) -> Float[Tensor, "entry position d_model"] | None:
    if not lens:
        return None
    after = [seen[f"blocks.{layer}.hook_resid_post"] for layer in range(model.cfg.n_layers)]
    return torch.stack([seen["blocks.0.hook_resid_pre"], *after])


def _embedding(model: HookedModel, batch: TokenBatch, seen: Seen, n_nearest: int) -> EmbeddingStage:
    table = embedding_weights(model)
    unit = torch.nn.functional.normalize(table.detach().float(), dim=-1)
    ids = batch.ids[0].to(unit.device)
    cosines = unit[ids] @ unit.T
    cosines.scatter_(1, ids[:, None], -torch.inf)
    nearest = cosines.topk(n_nearest, dim=-1)
    positions = seen.get("hook_pos_embed")
    return EmbeddingStage(
        token_norms=seen["hook_embed"].norm(dim=-1),
        position_norms=None if positions is None else positions.norm(dim=-1),
        input_norms=seen["blocks.0.hook_resid_pre"].norm(dim=-1),
        nearest_ids=nearest.indices.cpu(),
        nearest_cosines=nearest.values.cpu(),
    )


def _attention(
    model: HookedModel, seen: Seen, layers: list[int], report: HeadReport, *, given: bool
) -> AttentionStage:
    patterns = torch.stack([seen[pattern_hook(layer)] for layer in layers])
    n_heads = patterns.shape[1]
    seeing = sights(model, layers, describe_model(model).windows, patterns.shape[-1])
    labels = [
        (head, tuple(report.labels_of(head)))
        for head in (Head(layer, head) for layer in layers for head in range(n_heads))
    ]
    return AttentionStage(
        layers=tuple(layers),
        patterns=patterns,
        entropies=attention_spread(patterns, [seeing[layer] for layer in layers]),
        labels=tuple((head, carried) for head, carried in labels if carried),
        labelled_on=" and ".join(report.tokens) if given else "this prompt",
    )


def attention_spread(
    patterns: Float[Tensor, "layer head query key"], seen: Sequence[Sight]
) -> Float[Tensor, "layer head"]:
    """How diffuse each head is over all queries but the first, in layers that see so much."""
    numerator, denominator = zip(
        *(
            diffuse_terms(PatternRows(patterns=layer, window=sight), first_query=1)
            for layer, sight in zip(patterns, seen, strict=True)
        ),
        strict=True,
    )
    return torch.stack(numerator).sum(dim=-1) / torch.stack(denominator).sum(dim=-1)


def _mlp(seen: Seen, layers: list[int], n_neurons: int, *, has_bos: bool) -> MlpStage:
    norms, residual, found = [], [], []
    for layer in layers:
        norms.append(seen[f"blocks.{layer}.hook_mlp_out"].norm(dim=-1))
        residual.append(seen[f"blocks.{layer}.hook_resid_post"].norm(dim=-1))
        post = seen[f"blocks.{layer}.mlp.hook_post"]
        start = int(has_bos and len(post) > 1)
        peaks = post[start:].abs().max(dim=0)
        neurons = peaks.values.topk(n_neurons).indices
        positions = peaks.indices[neurons] + start
        found.append((neurons, positions, post[positions, neurons]))
    length = len(seen["hook_embed"])
    empty = torch.zeros(0, n_neurons)
    return MlpStage(
        layers=tuple(layers),
        norms=torch.stack(norms) if norms else torch.zeros(0, length),
        residual_norms=torch.stack(residual) if residual else torch.zeros(0, length),
        neurons=torch.stack([each[0] for each in found]) if found else empty.long(),
        positions=torch.stack([each[1] for each in found]) if found else empty.long(),
        activations=torch.stack([each[2] for each in found]) if found else empty,
    )
