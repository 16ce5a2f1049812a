"""What every check is given: the hooked model, the reference beside it, and something to read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.errors import UnsupportedModelError
from mi_toolkit.hooked_model import HookedModel, attention_layers, evaluating
from mi_toolkit.hooked_pass import check_finite_pass
from mi_toolkit.models.checkpoints import Loading
from mi_toolkit.models.facts import ModelFacts
from mi_toolkit.prompts.bos import text_beginning
from mi_toolkit.prompts.passages import passages
from mi_toolkit.prompts.tokens import TokenBatch, behind, check_fits, from_sequences
from mi_toolkit.verification.completions import Completion
from mi_toolkit.vocabulary import encoded

SHIFT = 7
_SHORTEST, _LONGEST_WINDOW, _BEYOND = 48, 512, 8


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """One model to check."""

    model: HookedModel
    """The model, hooked."""

    reference: Any
    """The same checkpoint as transformers runs it, read a second time, wrapped by nothing."""

    loading: Loading
    """What became of the checkpoint's tensors."""

    facts: ModelFacts
    """What the model says it is."""

    batch: TokenBatch
    """One sequence of natural text, longer than the model's windows, if they are not huge; random
    ids where the model has no tokenizer."""

    completions: tuple[Completion, ...]
    """What the model goes on with behind the prompts; nothing where it has no tokenizer."""

    def attention_layers(self) -> list[int]:
        """The layers with attention heads; none in a recurrent model."""
        try:
            return attention_layers(self.model)
        except UnsupportedModelError:
            return []

    def reference_patterns(
        self, ids: Int[Tensor, "1 position"] | None = None, **options: Any
    ) -> dict[int, Float[Tensor, "1 head query key"]]:
        """Hugging Face's own attention on the text, or other ids, by layer; none where none is."""
        layers = self.attention_layers()
        read = self.ids if ids is None else ids
        with torch.no_grad():
            out = self.reference(read, output_attentions=True, use_cache=False, **options)
        found = getattr(out, "attentions", None) or ()
        # A hybrid model gives them for its layers with attention, or None for the others.
        if len(found) == len(layers):
            by_layer = dict(zip(layers, found, strict=True))
        else:
            by_layer = {layer: each for layer, each in enumerate(found) if layer in layers}
        return {layer: each for layer, each in by_layer.items() if each is not None}

    @property
    def ids(self) -> Int[Tensor, "1 position"]:
        """The text, where the model is."""
        return self.batch.ids.to(self.model.cfg.device)

    def logits(self, **options: Any) -> Float[Tensor, "position vocabulary"]:
        """The hooked model's logits on the text, on the CPU in float32."""
        ids = self.ids
        if hasattr(self.model, "original_model"):
            options["use_cache"] = False
        with evaluating(self.model), torch.no_grad():
            found: Tensor = self.model(
                ids, return_type="logits", attention_mask=torch.ones_like(ids), **options
            )
            check_finite_pass(self.model, ids, found)
        return found[0].float().cpu()

    def reference_logits(self, **options: Any) -> Float[Tensor, "position vocabulary"]:
        """The reference's logits on the text, on the CPU in float32."""
        with torch.no_grad():
            found: Tensor = self.reference(self.ids, use_cache=False, **options).logits
        return found[0].float().cpu()


def text_for(model: HookedModel, facts: ModelFacts) -> TokenBatch:
    """Natural text as the model reads it, longer than its sliding windows; else random ids."""
    windows = [window for window in facts.windows if window and window <= _LONGEST_WINDOW]
    length = max([_SHORTEST, *(window + _BEYOND for window in windows)])
    length = min(length, int(model.cfg.n_ctx) - SHIFT)
    if model.tokenizer is None:
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(int(model.cfg.d_vocab), (length,), generator=generator)
        return from_sequences([ids.tolist()], None)
    beginning = text_beginning(model)
    text = encoded(model.tokenizer, "\n".join(passages()))[: length - len(beginning.ids)]
    batch = behind(beginning, [text])
    check_fits(model, batch)
    return batch
