"""`copying_scores`: whether heads raise or lower the token that an earlier copy points to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from mi_toolkit.core.attention_masks import sights
from mi_toolkit.core.display import TextTable
from mi_toolkit.core.head import Head
from mi_toolkit.core.model import HookedModel, attention_layers, z_hook
from mi_toolkit.core.passes import visit_activations
from mi_toolkit.core.process_state import one_job
from mi_toolkit.core.progress import track
from mi_toolkit.core.provenance import Provenance
from mi_toolkit.core.result import Result
from mi_toolkit.core.sight import Sight
from mi_toolkit.core.stimuli import repeated_random
from mi_toolkit.core.tokens import TokenBatch
from mi_toolkit.heads.behaviours import chosen
from mi_toolkit.heads.copying import CopyingMeasurement, CopyQueriesOfPlan
from mi_toolkit.heads.direct_effect import (
    embedding_weights,
    output_weights,
    unembedding_weights,
    value_weights,
    values_are_linear,
)
from mi_toolkit.heads.plan import make_plan
from mi_toolkit.heads.protocol import pattern_behaviours
from mi_toolkit.models.describe import describe_model, provenance_of

if TYPE_CHECKING:
    pass


BATCH = 8
STIMULUS = "repeated_random"
FIGURES = ("effect", "ci_low", "ci_high", "eigenvalue_ratio")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class CopyingScores(Result):
    """How strongly each head copies what it would find after an earlier copy of the token."""

    FORMAT: ClassVar[str] = "mi_toolkit copying scores 1"

    effect: Float[Tensor, "layer head"]
    """Mean direct effect on the logit of the token to copy, against the vocabulary's mean, in
    standard deviations over the vocabulary, the final norm's scale frozen. Above 0 it copies,
    below 0 it suppresses. Of every head, whether it looks there or not."""

    ci_low: Float[Tensor, "layer head"]
    """Lower end of the 95% interval of the effect: a jackknife over sequences."""

    ci_high: Float[Tensor, "layer head"]
    """Upper end of the same."""

    eigenvalue_ratio: Float[Tensor, "layer head"]
    """`Σλ / Σ|λ|` of `W_E W_V W_O W_U`, in [-1, 1]: what the weights alone would copy from
    embedding to logits (Elhage et al. 2021). It decides nothing here: a head reads what earlier
    layers made of the embedding, and plain induction heads of SmolLM2 have ratios below -0.4. NaN
    where values are no linear map of the stream (multi-head latent attention)."""

    n_sequences: int
    """Random sequences that the effect rests on."""

    n_queries: int
    """Queries with a token to copy."""

    provenance: Provenance
    """Model, protocol and versions."""

    def heads(self, *, suppressing: bool = False) -> list[Head]:
        """The heads whose interval lies above 0 (below 0 for suppressing ones), strongest first.

        Most of them do not look for anything to copy: `classify_heads` labels those that do.
        """
        sign = -1 if suppressing else 1
        certain = self.ci_high < 0 if suppressing else self.ci_low > 0
        found = [Head(*index) for index in certain.nonzero().tolist()]
        return sorted(found, key=lambda head: -sign * float(self.effect[head]))

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """One row per head."""
        n_layers, n_heads = self.effect.shape
        for head in (Head(layer, head) for layer in range(n_layers) for head in range(n_heads)):
            yield {
                "model": self.provenance.model,
                "layer": head.layer,
                "head": head.head,
                "name": str(head),
                **{name: float(getattr(self, name)[head]) for name in FIGURES},
            }

    def text_table(self) -> TextTable:
        """The heads that copy most and those that suppress most."""

        def shown(heads: list[Head]) -> str:
            return ", ".join(f"{head} {float(self.effect[head]):+z.1f}" for head in heads[:6])

        return TextTable(
            title=(
                f"CopyingScores of {self.provenance.model}: {self.n_queries} queries in "
                f"{self.n_sequences} random sequences, effects in sd over the vocabulary"
            ),
            rows=[
                ("copying", shown(self.heads())),
                ("suppressing", shown(self.heads(suppressing=True))),
            ],
        )


@one_job
def copying_scores(
    model: HookedModel, *, seed: int = 0, progress: bool | None = None
) -> CopyingScores:
    """Each head's direct effect on the token that it would copy, on random tokens given twice.

    One pass over the standard protocol's 32 sequences, which stops after the last head. The
    effect is direct: what later layers make of a head's output is not in it.

    Args:
        model: a HookedTransformer or a TransformerBridge; it is left as it was.
        seed: of the random stimulus.
        progress: a progress bar; None: where somebody looks and it takes long.

    Raises:
        UnsupportedModelError: no attention to hook, or no single norm before the unembedding.
        HookError: a head's hook did not fire.

    Example:
        >>> import mi_toolkit as mi
        >>> scores = mi.heads.copying_scores(mi.load_model("toy-gpt2"))
        >>> scores.heads()[0]  # the toy's induction head
        L2H0
    """
    facts, layers = describe_model(model), attention_layers(model)
    batch = repeated_random(model, seed=seed)
    windows = sights(model, layers, facts.windows, int(batch.lengths.max()))
    queries = {window: _induction_queries(batch, window) for window in set(windows.values())}
    measurement = CopyingMeasurement(model, windows, queries)
    layer_of = {z_hook(layer): layer for layer in layers}
    starts = range(0, len(batch), BATCH)
    for start in track(
        starts, total=len(starts), label="copying scores", unit="batch", show=progress
    ):
        part = batch.part(start, min(start + BATCH, len(batch)))

        def keep(name: str, z: Tensor, start: int = start) -> None:
            measurement.add(layer_of[name], z, range(start, start + len(z)))

        visit_activations(model, part.ids, list(layer_of), keep)
    figures = measurement.figures()
    return CopyingScores(
        effect=figures.effect,
        ci_low=figures.ci_low,
        ci_high=figures.ci_high,
        eigenvalue_ratio=eigenvalue_ratios(model, layers),
        n_sequences=figures.n_sequences,
        n_queries=figures.n_queries,
        provenance=provenance_of(model, {STIMULUS: batch}, seed=seed),
    )


def _induction_queries(batch: TokenBatch, window: Sight) -> CopyQueriesOfPlan:
    plan = make_plan(batch, pattern_behaviours(chosen(["induction"])), window, STIMULUS)
    return CopyQueriesOfPlan(plan, 0)


def eigenvalue_ratios(model: HookedModel, layers: list[int]) -> Float[Tensor, "layer head"]:
    """`Σλ / Σ|λ|` of each head's `W_E W_V W_O W_U`.

    NaN in layers that are not given, and in those whose values are no linear map of the stream.
    The eigenvalues other than 0 of that `d_vocab` square matrix are those of
    `W_O (W_U W_E) W_V`, of size `d_head`.
    """
    n_heads = int(model.cfg.n_heads)
    ratios = torch.full((int(model.cfg.n_layers), n_heads), torch.nan)
    across = (unembedding_weights(model) @ embedding_weights(model)).float()
    for layer in layers:
        if not values_are_linear(model, layer):
            continue
        values = value_weights(model, layer)
        small = einsum(output_weights(model, layer) @ across, values, "h a m, h m b -> h a b")
        eigenvalues = torch.linalg.eigvals(small)
        ratios[layer] = (eigenvalues.sum(dim=-1).real / eigenvalues.abs().sum(dim=-1)).cpu()
    return ratios
