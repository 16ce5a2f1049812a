"""What every check is given, and what it finds: a figure, its limit, a verdict and a sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.core.errors import UnsupportedModelError
from mi_toolkit.core.model import HookedModel, attention_layers, evaluating
from mi_toolkit.core.passes import check_finite_pass
from mi_toolkit.core.stimuli import passages
from mi_toolkit.core.tokenizer import text_beginning
from mi_toolkit.core.tokens import TokenBatch, check_fits, from_sequences, tokenise, with_beginning
from mi_toolkit.core.vocabulary import encoded
from mi_toolkit.models.checkpoints import Loading
from mi_toolkit.models.facts import ModelFacts
from mi_toolkit.text.generate import generate

Verdict = Literal["passed", "failed", "not applicable"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One check of one model."""

    figure: float
    """What was measured; the sentence says what it is. NaN where nothing was."""

    limit: float
    """What the figure is held to."""

    at_least: bool
    """Whether the figure has to reach the limit; else it must not exceed it."""

    sentence: str
    """What the figure is, and what it means here."""

    @property
    def verdict(self) -> Verdict:
        """Whether the figure kept to its limit; a figure that is no number did not."""
        if math.isnan(self.limit):
            return "not applicable"
        kept = self.figure >= self.limit if self.at_least else self.figure <= self.limit
        return "passed" if kept else "failed"


def at_most(limit: float, figure: float, sentence: str) -> Outcome:
    """Passed up to the limit."""
    return Outcome(figure=figure, limit=limit, at_least=False, sentence=sentence)


def at_least(limit: float, figure: float, sentence: str) -> Outcome:
    """Passed from the limit on."""
    return Outcome(figure=figure, limit=limit, at_least=True, sentence=sentence)


def not_applicable(sentence: str) -> Outcome:
    """Nothing to check, and why."""
    return Outcome(figure=math.nan, limit=math.nan, at_least=False, sentence=sentence)


PROMPTS = ("The capital of France is", "2 + 2 =", "Count to 5:")
MOST_OF_CHANCE = 0.5
MOST_REPEATED = 0.9


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What a model goes on with, taking the most probable token each time."""

    prompt: str
    """The prompt."""

    text: str
    """The text that the model goes on with."""

    loss: float
    """Mean negative log-probability of the tokens that follow, in nats: how unsure it was."""

    prompt_loss: float
    """The same of the prompt's own tokens: how much the model expected them. In nats."""

    repetition: float
    """The share of runs of three tokens that were there before, in [0, 1]."""


def repetition(ids: Sequence[int], run: int = 3) -> float:
    """The share of runs of tokens that repeat an earlier one; 0 where there are too few.

    >>> repetition([1, 2, 3, 1, 2, 3, 1])
    0.4
    """
    runs = [tuple(ids[start : start + run]) for start in range(len(ids) - run + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def complete(model: HookedModel, prompt: str, max_new_tokens: int) -> Completion:
    """A greedy completion with its figures; it stops where the model ends its text."""
    ids = tokenise(model, prompt).ids.to(model.cfg.device)
    room = min(max_new_tokens, int(model.cfg.n_ctx) - ids.shape[1])
    said = generate(model, prompt, max_new_tokens=room, top_k=1).sequences[0]
    with evaluating(model), torch.no_grad():
        logits = model(ids, return_type="logits", attention_mask=torch.ones_like(ids))
    log_probs = logits[0, :-1].float().log_softmax(dim=-1)
    return Completion(
        prompt=prompt,
        text=said.text,
        loss=float(-said.log_probs.mean()),
        prompt_loss=float(-log_probs.gather(-1, ids[0, 1:, None]).mean()),
        repetition=repetition(said.ids.tolist()),
    )


_WORDLESS = not_applicable(
    "The model has no tokenizer to write with: give its folder one (`tokenizer.save_pretrained`)."
)


def coherence_loss(subject: CheckInput) -> Outcome:
    """Whether the model is surer of what it writes than a model that knows nothing."""
    if not subject.completions:
        return _WORDLESS
    chance = math.log(subject.facts.d_vocab)
    mean = sum(each.loss for each in subject.completions) / len(subject.completions)
    return at_most(
        MOST_OF_CHANCE * chance,
        mean,
        f"Mean loss of the three completions in nats; knowing nothing costs {chance:.2f}, and the "
        "limit is half of it.",
    )


def coherence_repetition(subject: CheckInput) -> Outcome:
    """Whether the model says more than one thing over and over."""
    if not subject.completions:
        return _WORDLESS
    mean = sum(each.repetition for each in subject.completions) / len(subject.completions)
    return at_most(
        MOST_REPEATED,
        mean,
        "Mean share of runs of three tokens, in the three completions, that were there before.",
    )


SHIFT = 7
_SHORTEST, _LONGEST_WINDOW, _BEYOND = 48, 512, 8


@dataclass(frozen=True, kw_only=True, eq=False)
class CheckInput:
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
    """What the model goes on with after the prompts; nothing where it has no tokenizer."""

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
    batch = with_beginning(beginning, [text])
    check_fits(model, batch)
    return batch
