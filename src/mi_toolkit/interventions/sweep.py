"""`ablation_sweep`: every head ablated alone, and what that does to one prediction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.core.display import TextTable
from mi_toolkit.core.errors import unknown_name
from mi_toolkit.core.head import Head
from mi_toolkit.core.model import HookedModel, attention_layers
from mi_toolkit.core.predictions import Prediction, Token, predictions, token_id
from mi_toolkit.core.process_state import one_job
from mi_toolkit.core.progress import track
from mi_toolkit.core.provenance import Provenance
from mi_toolkit.core.result import Result
from mi_toolkit.core.tokenizer import token_texts
from mi_toolkit.core.tokens import Prompt, tokenise_one
from mi_toolkit.interventions.components import Component
from mi_toolkit.interventions.effect import FIGURES, Runs
from mi_toolkit.models.describe import provenance_of
from mi_toolkit.text.prompt_experiment import readings

if TYPE_CHECKING:
    pass


HEADER = ("head", "log-probability", "logit", "rank then", "KL", "loss of the prompt")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class AblationSweep(Result):
    """What each head's ablation changes, head by head; a layer without attention is NaN.

    One head's figure stands among those of all others: they are its controls.
    """

    FORMAT: ClassVar[str] = "mi_toolkit ablation sweep 2"

    log_prob: Float[Tensor, "layer head"]
    """Change of the target's log-probability, in nats; below 0 where the head helps it."""

    logit: Float[Tensor, "layer head"]
    """Change of the target's logit."""

    rank: Float[Tensor, "layer head"]
    """Change of the target's rank; above 0 where other tokens overtake it."""

    kl: Float[Tensor, "layer head"]
    """KL divergence of the prediction after the prompt from the clean one, in nats."""

    loss: Float[Tensor, "layer head"]
    """Change of the mean loss of the prompt's own tokens, in nats."""

    clean: Prediction
    """The target after the prompt, with nothing ablated."""

    clean_loss: float
    """Mean cross-entropy of the prompt's own tokens, with nothing ablated."""

    ids: Int[Tensor, " position"]
    """The prompt, as it ran."""

    texts: tuple[str, ...]
    """The prompt's tokens as text."""

    how: str
    """The kind of ablation."""

    reference: str
    """What the values put in place come from, in words."""

    provenance: Provenance
    """Model, prompt and versions."""

    def __getitem__(self, figure: str) -> Float[Tensor, "layer head"]:
        """One figure by its name.

        Raises:
            UnknownNameError: no such figure.
        """
        if figure not in FIGURES:
            raise unknown_name("figure", figure, FIGURES)
        values: Tensor = getattr(self, figure)
        return values

    def top(self, n: int = 10, figure: str = "log_prob") -> list[tuple[Head, float]]:
        """The heads whose ablation changes a figure most, up or down, the furthest first."""
        values = self[figure]
        known = [Head(*place) for place in (~values.isnan()).nonzero().tolist()]
        ordered = sorted(known, key=lambda head: -abs(float(values[head])))
        return [(head, float(values[head])) for head in ordered[:n]]

    def rows(self) -> Iterable[Mapping[str, Any]]:
        """One row per head, a column for each figure."""
        n_layers, n_heads = self.log_prob.shape
        heads = [Head(layer, head) for layer in range(n_layers) for head in range(n_heads)]
        facts = {"model": self.provenance.model, "how": self.how, "target": self.clean.text}
        return (
            {
                **facts,
                "layer": head.layer,
                "head": head.head,
                "name": str(head),
                **{figure: float(self[figure][head]) for figure in FIGURES},
            }
            for head in heads
        )

    def title(self) -> str:
        """What was done, in one line."""
        return f"Every head of {self.provenance.model} under {self.how} ablation, one at a time"

    def cells(self, n: int = 10) -> list[list[str]]:
        """The heads that change the target's log-probability most, in words, under `HEADER`."""
        return [
            [
                str(head),
                f"{change:+z.3f}",
                f"{float(self.logit[head]):+z.3f}",
                str(self.clean.rank + int(self.rank[head])),
                f"{float(self.kl[head]):.3f}",
                f"{float(self.loss[head]):+z.3f}",
            ]
            for head, change in self.top(n)
        ]

    def text_table(self) -> TextTable:
        """The heads that change the target's log-probability most."""
        about = f"target {self.clean} clean, at rank {self.clean.rank}"
        return TextTable(title=f"{self.title()}: {about}", header=HEADER, rows=self.cells())


@one_job
def ablation_sweep(
    model: HookedModel,
    prompt: Prompt,
    *,
    target: Token | None = None,
    how: str = "zero",
    reference: Prompt | None = None,
    batch_size: int | None = None,
    prepend_bos: bool | None = None,
    attention_mask: Any = None,
    progress: bool | None = None,
) -> AblationSweep:
    """Ablate every head alone, and read the prediction after a prompt each time.

    The heads of a layer run together, a row of the batch each, from that layer on: what the layers
    before it compute is the clean run's. So a sweep costs about half of a run for each head.

    A single prompt is an anecdote: the heads that matter for it need not matter for the next. A
    head's own figure stands among those of all others.

    Args:
        model: a HookedTransformer or a TransformerBridge; it is left as it was.
        prompt: one text, or its ids.
        target: the token to ask about, as its id or exact text; None for the most probable one.
        how: the kind of ablation, as in `ablating`.
        reference: text or ids that `mean` and `resample` take from.
        batch_size: heads to a pass; None for all of a layer that fit. It changes figures by
            rounding only.
        prepend_bos: put a BOS before a text; None: as the model was trained to read it.
        attention_mask: of ids with padding: 1 where a token is real, in the shape of the ids.
        progress: a progress bar; None: where somebody looks and it takes long.

    Raises:
        UnknownNameError: no such kind of ablation.
        PromptError: not one prompt, or a target that is not one token; a reference is missing.
        HookError: a head's hook did not fire.

    Example:
        >>> import mi_toolkit as mi
        >>> model = mi.load_model("toy-gpt2")
        >>> sweep = mi.ablation_sweep(model, "Mary and John went to", target=" the")
        >>> sweep.log_prob.shape
        torch.Size([4, 4])
    """
    batch = tokenise_one(
        model, prompt, "ablation_sweep", prepend_bos=prepend_bos, attention_mask=attention_mask
    )
    runs = Runs(model, batch, how=how, reference=reference)
    ids, clean = batch.sequence(0), runs.later.clean
    asked = int(clean[-1].argmax()) if target is None else token_id(model, target)
    heads = [
        Head(layer, head)
        for layer in attention_layers(model)
        for head in range(int(model.cfg.n_heads))
    ]
    own = readings(clean[None], clean, ids, asked)
    shape = (int(model.cfg.n_layers), int(model.cfg.n_heads))
    changes = {figure: torch.full(shape, torch.nan) for figure in FIGURES}
    sets = [(Component.of(head),) for head in heads]
    passes = runs.logits(sets, runs.prepared(sets), batch_size=batch_size)
    total = len(runs.chunks(sets, batch_size))
    for indices, logits in track(
        passes, total=total, label="ablating heads", unit="pass", show=progress
    ):
        found = readings(logits, clean, ids, asked)
        for figure, values in changes.items():
            change = getattr(found, figure) - getattr(own, figure)
            for place, index in enumerate(indices):
                values[heads[index]] = change[place]
    return AblationSweep(
        **changes,
        clean=predictions(model.tokenizer, clean[-1].float().cpu(), torch.tensor([asked]))[0],
        clean_loss=float(own.loss),
        ids=ids,
        texts=token_texts(model.tokenizer, ids.tolist()),
        how=how,
        reference=runs.reference_in_words(),
        provenance=provenance_of(model, {"prompt": batch}, seed=0),
    )
