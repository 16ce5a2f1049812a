"""`attribution_patching`: TransformerLens' own, checked, with our names and results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.core.model import HookedModel, evaluating, z_hook
from mi_toolkit.core.passes import check_finite_figures
from mi_toolkit.core.process_state import one_job
from mi_toolkit.core.progress import track
from mi_toolkit.core.tl_compat import attribution_scores
from mi_toolkit.core.tokens import Prompt
from mi_toolkit.interventions.patching import Pairs, PairsResult, Tokens, check_every_layer
from mi_toolkit.models.describe import provenance_of


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class AttributionPatching(PairsResult):
    """For each part and position, an estimate of what putting its clean activation in would do.

    In units of the metric: the estimates of all parts do not add up to its difference, and where
    the model is far from linear between the two prompts they mislead.
    """

    FORMAT: ClassVar[str] = "mi_toolkit attribution patching 1"

    heads: Float[Tensor, "layer head position"]
    """Estimate for each head's output before `W_O`."""

    mlps: Float[Tensor, "layer position"]
    """Estimate for each MLP's output."""

    embedding: Float[Tensor, " position"]
    """Estimate for each token's embedding."""

    positions: tuple[str, ...]
    """The tokens, of both prompts where they differ."""

    def top(self, n: int = 10) -> list[tuple[str, str, float]]:
        """Part, place and estimate of what would change the metric most, up or down.

        A place is named by its token and its position: `' to' at 14`.
        """
        rows = self._rows()
        rows.sort(key=lambda row: -abs(row[3]))
        return [
            (part, f"{self.positions[position]!r} at {position}", value)
            for part, _, position, value in rows[:n]
        ]

    def rows(self) -> Iterable[Mapping[str, Any]]:
        """One row per part and position."""
        return (
            {
                "model": self.provenance.model,
                "part": part,
                "layer": layer,
                "position": position,
                "token": self.positions[position],
                "estimate": value,
                "share": value / (self.clean - self.corrupted),
            }
            for part, layer, position, value in self._rows()
        )

    def _rows(self) -> list[tuple[str, int, int, float]]:
        n_layers, n_heads, n_positions = self.heads.shape
        found = []
        for position in range(n_positions):
            found.append(("embedding", -1, position, float(self.embedding[position])))
            for layer in range(n_layers):
                found += [
                    (f"L{layer}H{head}", layer, position, float(self.heads[layer, head, position]))
                    for head in range(n_heads)
                ]
                mlp = float(self.mlps[layer, position])
                found.append((f"L{layer}.mlp", layer, position, mlp))
        return found

    def title(self) -> str:
        """What was done, in one line."""
        return f"Attribution patching of {self.provenance.model}"

    def header(self) -> list[str]:
        """What the columns of `top` are."""
        return ["part", "at token", "estimated change"]


@one_job
def attribution_patching(
    model: HookedModel,
    clean: Prompt,
    corrupted: Prompt,
    *,
    target: Tokens,
    other: Tokens | None = None,
    progress: bool | None = None,
) -> AttributionPatching:
    """Estimate by one gradient what activation patching would find for every part and position.

    `(a_clean - a_corrupted) · gradient`, the gradient of the metric at the corrupted run, as
    TransformerLens has it: two forward passes and a backward one for each pair, whatever the size
    of the model. It is a first-order estimate: check what it finds with `activation_patching`.

    Args:
        model: a HookedTransformer or a TransformerBridge; it is left as it was.
        clean: as in `activation_patching`.
        corrupted: as in `activation_patching`.
        target: as in `activation_patching`.
        other: as in `activation_patching`.
        progress: a progress bar; None: where somebody looks and it takes long.

    Raises:
        PromptError: no pairs, different lengths, not one token, or prompts that do not differ.
        UnsupportedModelError: TransformerLens refuses the model; the message says why.
        NotFiniteError: what the model computes, or its gradient, is NaN or infinite.

    Example:
        >>> import mi_toolkit as mi
        >>> model = mi.load_model("toy-gpt2")
        >>> clean, corrupted = "Mary and John went to", "Mary and John went in"
        >>> found = mi.interventions.attribution_patching(model, clean, corrupted, target=" the")
        >>> found.heads.shape  # layer, head, position
        torch.Size([4, 4, 6])
    """
    pairs = Pairs.of(model, clean, corrupted, target, other)
    full, none = pairs.both_metrics(model)
    n_layers, n_heads = int(model.cfg.n_layers), int(model.cfg.n_heads)
    check_every_layer(model, [z_hook(layer) for layer in range(n_layers)], "z")
    n_positions = pairs.clean.ids.shape[1]
    heads = torch.zeros(n_layers, n_heads, n_positions)
    mlps, embedding = torch.zeros(n_layers, n_positions), torch.zeros(n_positions)
    for found in scores_of_pairs(model, pairs, "node", progress):
        for node, score in found.node_scores.items():
            share = score / len(pairs.clean)
            if node.kind == "embed":
                embedding[node.position] += share
            elif node.kind == "mlp_out":
                mlps[node.layer, node.position] += share
            else:
                heads[node.layer, node.head, node.position] += share
    for figures in (heads, mlps, embedding):
        check_finite_figures(model, "The estimates", figures)
    return AttributionPatching(
        heads=heads,
        mlps=mlps,
        embedding=embedding,
        clean=full,
        corrupted=none,
        positions=pairs.positions(model),
        metric=pairs.in_words(model),
        provenance=provenance_of(
            model, {"clean": pairs.clean, "corrupted": pairs.corrupted}, seed=0
        ),
    )


def scores_of_pairs(
    model: HookedModel,
    pairs: Pairs,
    granularity: Literal["node", "edge"],
    progress: bool | None,
) -> Iterator[Any]:
    """TransformerLens' result for each pair.

    Raises:
        UnsupportedModelError: TransformerLens refuses.
    """
    # The weights need no gradient; what is embedded starts the graph.
    start = [("hook_embed", lambda embedded, hook: embedded.detach().requires_grad_())]
    n = len(pairs.clean)
    for index in track(range(n), total=n, label="Estimating effects", unit="pair", show=progress):
        pair = pairs.one(index)
        ours, theirs = (b.ids.to(model.cfg.device) for b in (pair.clean, pair.corrupted))
        with evaluating(model), torch.enable_grad(), model.hooks(fwd_hooks=start):
            found = attribution_scores(model, ours, theirs, pair.metric, granularity=granularity)
        yield found


_NAMES = {
    "embed": "embedding",
    "attn_head_out": "L{layer}H{head}",
    "mlp_out": "L{layer}.mlp",
    "q_input": "L{layer}H{head} q",
    "k_input": "L{layer}H{head} k",
    "v_input": "L{layer}H{head} v",
    "mlp_in": "L{layer}.mlp",
    "logits": "logits",
}


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class EdgeAttribution(PairsResult):
    """For each path from what one part writes to what another reads, what a clean write would do.

    In units of the metric, of first order, at one position each: a path stays at its position.
    """

    FORMAT: ClassVar[str] = "mi_toolkit edge attribution 1"

    scores: Float[Tensor, " edge"]
    """The estimated change of the metric."""

    writers: tuple[str, ...]
    """Per edge what writes: `embedding`, `L5H1` or `L5.mlp`."""

    readers: tuple[str, ...]
    """Per edge what reads: `L6H2 q`, `L6H2 k`, `L6H2 v`, `L6.mlp` or `logits`."""

    at: Int[Tensor, " edge"]
    """Per edge its position."""

    positions: tuple[str, ...]
    """The tokens, of both prompts where they differ."""

    def top(self, n: int = 10) -> list[tuple[str, str, str, float]]:
        """Writer, reader, place and estimate of what would change the metric most, up or down.

        A place is named by its token and its position: `' to' at 14`.
        """
        order = self.scores.abs().argsort(descending=True)[:n].tolist()
        return [
            (
                self.writers[index],
                self.readers[index],
                f"{self.positions[int(self.at[index])]!r} at {int(self.at[index])}",
                float(self.scores[index]),
            )
            for index in order
        ]

    def rows(self) -> Iterable[Mapping[str, Any]]:
        """One row per edge."""
        edges = zip(self.writers, self.readers, self.at.tolist(), self.scores.tolist(), strict=True)
        return (
            {
                "model": self.provenance.model,
                "writer": writer,
                "reader": reader,
                "position": position,
                "token": self.positions[position],
                "estimate": score,
            }
            for writer, reader, position, score in edges
        )

    def title(self) -> str:
        """What the table shows, in one line."""
        return f"Paths between parts of {self.provenance.model}"

    def header(self) -> list[str]:
        """What the columns of `top` are."""
        return ["from", "to", "at token", "estimated change"]


@one_job
def edge_attribution(
    model: HookedModel,
    clean: Prompt,
    corrupted: Prompt,
    *,
    target: Tokens,
    other: Tokens | None = None,
    progress: bool | None = None,
) -> EdgeAttribution:
    """Estimate which paths between parts carry the difference between prompts.

    `(clean - corrupted) · gradient`, of what the writer writes, at the reader's input, by
    TransformerLens (4.x, in a TransformerBridge). A part's paths add up to its own estimate in
    `attribution_patching`. There are many paths: this suits small models and short prompts.

    Args:
        model: a TransformerBridge; it is left as it was.
        clean: as in `activation_patching`.
        corrupted: as in `activation_patching`.
        target: as in `activation_patching`.
        other: as in `activation_patching`.
        progress: a progress bar; None: where somebody looks and it takes long.

    Raises:
        PromptError: no pairs, different lengths, not one token, or prompts that do not differ.
        UnsupportedModelError: TransformerLens refuses the model; the message says why. Where keys
            and values are shared (GQA), no head has an input of its own to read them by.
        NotFiniteError: what the model computes, or its gradient, is NaN or infinite.
    """
    pairs = Pairs.of(model, clean, corrupted, target, other)
    full, none = pairs.both_metrics(model)
    totals: dict[tuple[Any, Any], float] = {}
    for found in scores_of_pairs(model, pairs, "edge", progress):
        for edge, score in found.edge_scores.items():
            totals[edge] = totals.get(edge, 0.0) + score / len(pairs.clean)
    scores = torch.tensor(list(totals.values()), dtype=torch.float32)
    check_finite_figures(model, "The estimates", scores)
    return EdgeAttribution(
        scores=scores,
        writers=tuple(_name(writer) for writer, _ in totals),
        readers=tuple(_name(reader) for _, reader in totals),
        at=torch.tensor([writer.position for writer, _ in totals]),
        clean=full,
        corrupted=none,
        positions=pairs.positions(model),
        metric=pairs.in_words(model),
        provenance=provenance_of(
            model, {"clean": pairs.clean, "corrupted": pairs.corrupted}, seed=0
        ),
    )


def _name(node: Any) -> str:
    return _NAMES[node.kind].format(layer=node.layer, head=node.head)
