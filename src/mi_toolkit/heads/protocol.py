"""What is measured on what: the stimuli that behaviours call for, and one report from each.

Patterns are measured on texts, circuits on weights. Every part of a report has a row for each
behaviour asked for: one that a part cannot show is "not applicable" there, never left out.

Output-value circuits of a model's heads: what they turn each token into, read off the weights.

1. A token's embedding alone goes through the first block's norm and MLP: the later heads of a
   language model read that rather than the embedding itself (Gould et al. 2024).
2. Each head's layer norm (its scale left out, which moves no argmax), `W_V` and `W_O`, biases left
   out, make of it what the head would write if it attended to that token alone.
3. The direct effect of that on the logits of a class of tokens decides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.core.errors import BehaviourError, unknown_name
from mi_toolkit.core.model import HookedModel, attention_layers
from mi_toolkit.core.passes import visit_activations
from mi_toolkit.core.stats import MIN_QUERIES
from mi_toolkit.core.stimuli import STANDARD_STIMULI, STIMULI
from mi_toolkit.core.tokenizer import bos_token_id
from mi_toolkit.core.tokens import TokenBatch, from_sequences
from mi_toolkit.heads.behaviours import STANDARD, AnyBehaviour
from mi_toolkit.heads.direct_effect import (
    effective_unembedding,
    embedding_weights,
    frozen_norm,
    output_weights,
    value_weights,
)
from mi_toolkit.heads.kinds import (
    WEIGHTS,
    Behaviour,
    CircuitBehaviour,
    CircuitFigures,
    PairHits,
    TokenMap,
    Weighting,
    circuit_figures,
    pair_hits,
)
from mi_toolkit.heads.labels import BarFigures, bar_of, label_heads, label_names, scope_of_heads
from mi_toolkit.heads.report import FIGURES, HeadReport
from mi_toolkit.heads.summary import NOT_APPLICABLE, TOO_FEW
from mi_toolkit.models.describe import describe_model, provenance_of

_ENTRY, _ATTENTION, _MLP = (
    f"blocks.0.hook_{point}" for point in ("resid_pre", "attn_out", "mlp_out")
)


def effective_embedding(
    model: HookedModel, ids: Int[Tensor, " token"], *, layer: int
) -> Float[Tensor, "token d_model"]:
    """What a layer's heads find of each token alone, position and attention left out.

    From layer 1 on what the first block's MLP makes of its embedding. In layer 0, which comes
    before that MLP or next to it, the embedding itself; so too where the first block has no MLP.
    """
    rows = embedding_weights(model)
    embedding = rows[ids.to(rows.device)]
    if layer == 0 or _MLP not in model.hook_dict:
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
    layers = attention_layers(model)
    # Layer 0 reads one thing, and all layers after it read what layer 1 does.
    read: dict[int, list[tuple[Tensor, Tensor, Tensor]]] = {min(each, 1): [] for each in layers}
    for each in maps:
        sources = torch.tensor([source for source, _ in each.pairs])
        place = {id_: index for index, id_ in enumerate(each.candidates)}
        target = torch.tensor([place[id_] for _, id_ in each.pairs])
        directions = unembedding.directions(torch.tensor(each.candidates))
        for layer, found in read.items():
            embedding = effective_embedding(model, sources, layer=layer)
            found.append((embedding, directions, target))
    for layer in layers:
        hits = [
            pair_hits(circuit_logits(model, layer, embedding, directions).cpu(), target)
            for embedding, directions, target in read[min(layer, 1)]
        ]
        together = PairHits(*(torch.cat(part, dim=-1) for part in zip(*hits, strict=True)))
        for all_layers, figure in zip(figures, circuit_figures(together, bar=bar), strict=True):
            all_layers[layer] = figure
    return figures


BY_PAIRS = "jackknife over pairs of tokens"


def pattern_behaviours(behaviours: Sequence[Behaviour]) -> tuple[AnyBehaviour, ...]:
    """Those that are measured on attention patterns."""
    return tuple(behaviour for behaviour in behaviours if isinstance(behaviour, AnyBehaviour))


def home_stimuli(
    model: HookedModel, behaviours: Sequence[Behaviour], *, seed: int
) -> dict[str, TokenBatch]:
    """The texts that the behaviours call for, each by its name.

    The two standard ones for any of the standard behaviours, and the home of every other.

    Raises:
        BehaviourError: a behaviour's home is no stimulus.
        PromptError: the model cannot be given one of them.
    """
    standard = any(behaviour.name in STANDARD for behaviour in behaviours)
    names = list(STANDARD_STIMULI if standard else ())
    for behaviour in pattern_behaviours(behaviours):
        if behaviour.home not in STIMULI:
            unknown = unknown_name("stimulus", behaviour.home, STIMULI)
            raise BehaviourError(f"The home of the behaviour {behaviour.name!r}: {unknown}")
        names.append(behaviour.home)
    if model.tokenizer is None and standard:
        # Passages are text: what they are the home of is measured on random ids, or not at all.
        names = [name for name in names if name != "natural"]
    return {name: STIMULI[name](model, seed=seed) for name in STIMULI if name in names}


def circuit_report(
    model: HookedModel,
    behaviours: Sequence[Behaviour],
    *,
    min_lift: float,
    fdr: float | None,
    weighting: Weighting,
    seed: int,
) -> HeadReport | None:
    """The figures of the circuit behaviours, measured on the weights; None without any."""
    circuits = [b for b in behaviours if isinstance(b, CircuitBehaviour)]
    if not circuits:
        return None
    maps = {circuit.name: circuit.maps(model.tokenizer) for circuit in circuits}
    n_pairs = {name: sum(len(each.pairs) for each in own) for name, own in maps.items()}
    sources = dict.fromkeys(s for own in maps.values() for each in own for s, _ in each.pairs)
    measured = [
        measure_circuits(model, maps[circuit.name], bar=bar_of(circuit.facts, min_lift))
        for circuit in circuits
    ]
    score, null, lift, ci_low, ci_high, p = (
        torch.stack(figure) for figure in zip(*measured, strict=True)
    )
    pairs = torch.tensor(list(n_pairs.values()))[:, None, None]
    facts = {circuit.name: circuit.facts for circuit in circuits}
    return replace(
        empty_report(
            model,
            circuits,
            WEIGHTS,
            from_sequences([[id_] for id_ in sources] or [[0]], bos_token_id(model.tokenizer)),
            min_lift=min_lift,
            fdr=fdr,
            weighting=weighting,
            seed=seed,
        ),
        score=score,
        null=null,
        lift=lift,
        ci_low=ci_low,
        ci_high=ci_high,
        p=p,
        head_queries=torch.where(score.isnan(), 0, pairs),
        labels=label_heads(
            dict(zip(facts, map(BarFigures, score, ci_low, ci_high, p), strict=True)),
            {},  # what circuits write is what they are judged by
            facts,
            min_lift=min_lift,
            fdr=fdr,
        ),
        applicable={name: n > 0 for name, n in n_pairs.items()},
        interval={
            name: NOT_APPLICABLE if n == 0 else TOO_FEW if n < MIN_QUERIES else BY_PAIRS
            for name, n in n_pairs.items()
        },
        n_sequences={name: len(own) for name, own in maps.items()},
        n_queries=n_pairs,
    )


def empty_report(
    model: HookedModel,
    behaviours: Sequence[Behaviour],
    stimulus: str,
    batch: TokenBatch,
    *,
    min_lift: float,
    fdr: float | None,
    weighting: Weighting,
    seed: int,
) -> HeadReport:
    """A report in which nothing was applicable."""
    described = describe_model(model)
    facts = {behaviour.name: behaviour.facts for behaviour in behaviours}
    names = tuple(facts)
    shape = (int(model.cfg.n_layers), int(model.cfg.n_heads))
    nowhere = torch.full(shape, math.nan)
    return HeadReport(
        behaviours=names,
        facts=facts,
        **_nothing(len(names), shape),
        coverage=nowhere,
        labels=torch.zeros(len(label_names(facts)), *shape, dtype=torch.bool),
        label_names=label_names(facts),
        scope=scope_of_heads(nowhere, nowhere, nowhere),
        windows=described.windows,
        attention_layers=tuple(attention_layers(model)),
        applicable=dict.fromkeys(names, False),
        interval=dict.fromkeys(names, NOT_APPLICABLE),
        n_sequences=dict.fromkeys(names, 0),
        n_queries=dict.fromkeys(names, 0),
        stimulus=dict.fromkeys(names, stimulus),
        min_lift=min_lift,
        fdr=fdr,
        weighting=weighting,
        n_kv_heads=described.n_kv_heads,
        provenance=provenance_of(model, {stimulus: batch}, seed=seed),
        tokens={stimulus: batch},
        parts={},
    )


def pad_behaviours(part: HeadReport, behaviours: Sequence[Behaviour]) -> HeadReport:
    """A part with a row for each of the behaviours, in their order; new ones not applicable."""
    names = tuple(behaviour.name for behaviour in behaviours)
    if part.behaviours == names:
        return part
    (stimulus,) = part.tokens
    facts = {behaviour.name: behaviour.facts for behaviour in behaviours}
    shape = part.scope.shape
    figures = _nothing(len(names), tuple(shape))
    for row, name in enumerate(names):
        if name in part.behaviours:
            for field, values in figures.items():
                values[row] = getattr(part, field)[part.index(name)]
    labels = torch.zeros(len(label_names(facts)), *shape, dtype=torch.bool)
    for row, name in enumerate(label_names(facts)):
        if name in part.label_names:
            labels[row] = part.labels[part.label_names.index(name)]

    def entries(known: Mapping[str, Any], *, absent: Any) -> dict[str, Any]:
        return {name: known.get(name, absent) for name in names}

    return replace(
        part,
        behaviours=names,
        facts=facts,
        **figures,
        labels=labels,
        label_names=label_names(facts),
        applicable=entries(part.applicable, absent=False),
        interval=entries(part.interval, absent=NOT_APPLICABLE),
        n_sequences=entries(part.n_sequences, absent=0),
        n_queries=entries(part.n_queries, absent=0),
        stimulus=dict.fromkeys(names, stimulus),
    )


def _nothing(n_behaviours: int, shape: tuple[int, ...]) -> dict[str, Any]:
    """What a report's figures are where nothing was measured."""
    figures: dict[str, Any] = {
        field: torch.full((n_behaviours, *shape), math.nan) for field in FIGURES
    }
    return figures | {"head_queries": torch.zeros(n_behaviours, *shape, dtype=torch.long)}
