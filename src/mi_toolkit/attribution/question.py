"""What every method of attribution is asked, in one record, and the baselines that it starts from.

Token embeddings are read at `hook_embed`, and put in place of a prompt's own there. The hook stands
after the embedding of tokens, with the factor (Gemma, Granite) or the norm (BLOOM) that a model
gives it, and before positions are added: a zero baseline is zero there. Where a model projects its
embeddings (OPT-350m), it stands before that too. So its width need not be the model's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.core.errors import AttributionError, HookError, PromptError, unknown_name
from mi_toolkit.core.model import HookedModel, attached, evaluating, uncached
from mi_toolkit.core.passes import visit_activations
from mi_toolkit.core.predictions import Token, token_id
from mi_toolkit.core.progress import track
from mi_toolkit.core.tokenizer import bos_token_id

EMBED_HOOK = "hook_embed"
_ROWS, _LONGEST = 16, 512


def embeddings_of(
    model: HookedModel, ids: Int[Tensor, " position"]
) -> Float[Tensor, "position d_embed"]:
    """The embedding of each id, as a forward pass looks it up; the pass ends there."""
    kept: list[Tensor] = []

    def keep(_: str, found: Tensor) -> None:
        kept.append(found[0].clone())

    visit_activations(model, ids[None], [EMBED_HOOK], keep)
    return kept[0]


def mean_embedding(model: HookedModel) -> Float[Tensor, " d_embed"]:
    """The mean over the vocabulary, every row of the embedding counted once."""
    length = min(_LONGEST, int(model.cfg.n_ctx))
    total = torch.zeros((), dtype=torch.float64)

    def add(_: str, found: Tensor) -> None:
        nonlocal total
        total = total + found.double().sum(dim=(0, 1)).cpu()

    vocabulary = torch.arange(int(model.cfg.d_vocab))
    for part in vocabulary.split(_ROWS * length):
        whole = len(part) // length * length
        for rows in (part[:whole].view(-1, length), part[None, whole:]):
            if rows.numel():
                visit_activations(model, rows, [EMBED_HOOK], add)
    return (total / len(vocabulary)).float()


@contextmanager
def replaced_embeddings(
    model: HookedModel, embeddings: Float[Tensor, "row position d_embed"]
) -> Iterator[None]:
    """Inside, a pass runs on these embeddings, whatever its ids; positions are added as ever.

    Raises:
        HookError: nothing looked an embedding up.
    """
    fired = []

    def put(found: Tensor, hook: object) -> Tensor:
        fired.append(hook)
        return embeddings

    with model.hooks(fwd_hooks=[(EMBED_HOOK, put)]):
        yield
    if not fired:
        raise HookError(
            f"{EMBED_HOOK} of {model.cfg.model_name} did not fire, so nothing can be attributed to "
            "its tokens."
        )


_SPECIAL: Mapping[str, Callable[[Any], int | None]] = MappingProxyType(
    {
        "bos": bos_token_id,
        "eos": lambda tokenizer: tokenizer.eos_token_id,
        "pad": lambda tokenizer: tokenizer.pad_token_id,
        "unk": lambda tokenizer: tokenizer.unk_token_id,
    }
)

BASELINES = ("mean", "zero", *_SPECIAL)
"""The baselines with names. Any token serves as well, by its id or by its exact text."""

DEFAULT_BASELINE = "mean"
"""From zero, a norm leaps at once: in a deep model with RMSNorm no integral from there adds up."""


def baseline_embedding(
    model: HookedModel, baseline: int | str, like: Float[Tensor, "position d_embed"]
) -> Float[Tensor, "position d_embed"]:
    """The baseline's embedding at every position, in the shape, dtype and place of `like`.

    Raises:
        PromptError: the tokenizer has no such token, or the text is not one token.
    """
    if baseline == "zero":
        return torch.zeros_like(like)
    if baseline == "mean":
        return mean_embedding(model).to(like).expand_as(like)
    token = _token(model, baseline)
    return embeddings_of(model, torch.tensor([token])).to(like).expand_as(like)


def _token(model: HookedModel, baseline: int | str) -> int:
    if isinstance(baseline, str) and baseline in _SPECIAL and model.tokenizer is not None:
        token = _SPECIAL[baseline](model.tokenizer)
        if token is None:
            raise PromptError(
                f"The tokenizer of {model.cfg.model_name} has no {baseline} token to take as the "
                f"baseline. Take one of {', '.join(BASELINES)}, or any token."
            )
        return int(token)
    try:
        return token_id(model, baseline)
    except PromptError as error:
        raise PromptError(
            f"No such baseline: {error} Baselines with names: {', '.join(BASELINES)}."
        ) from error


TokenTarget = Token | Sequence[Token]
"""A token, or two: F is then the first one's less the second one's."""

Objective = Callable[[Tensor], Tensor]
"""`logits ["row vocabulary"] -> F ["row"]`."""


def _logit(logits: Float[Tensor, "row vocabulary"]) -> Float[Tensor, "row vocabulary"]:
    return logits


def _log_prob(logits: Float[Tensor, "row vocabulary"]) -> Float[Tensor, "row vocabulary"]:
    return logits.log_softmax(dim=-1)


OBJECTIVES: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"logit": _logit, "log_prob": _log_prob}
)
"""What a token's figure is. A logit answers for this token alone, and moves too when all tokens'
logits do; a log-probability (in nats) answers for it against all others. Of a contrast both give
the same."""


def target_ids(
    model: HookedModel, target: Any, logits: Float[Tensor, " vocabulary"]
) -> tuple[int, ...]:
    """The id of the target, or both of a contrast; None is the most probable next token.

    Raises:
        PromptError: a text that is not one token, an id outside the vocabulary, or a token against
            itself.
    """
    if target is None:
        return (int(logits.argmax()),)
    several = isinstance(target, Sequence | Tensor | np.ndarray) and not isinstance(target, str)
    if not several or getattr(target, "ndim", 1) == 0:
        return (token_id(model, target),)
    tokens: list[Token] = list(target)
    if len(tokens) != 2:
        raise PromptError(
            f"A contrast is of two tokens, (this, not that); the one given has {len(tokens)}."
        )
    ids = tuple(token_id(model, token) for token in tokens)
    if ids[0] == ids[1]:
        raise PromptError(f"A contrast of {tokens[0]!r} with itself is 0 on every prompt.")
    return ids


def objective_of(name: str, ids: tuple[int, ...]) -> Objective:
    """F for one token, or for one less another.

    Raises:
        UnknownNameError: no such objective.
    """
    if name not in OBJECTIVES:
        raise unknown_name("objective", name, OBJECTIVES)

    def objective(logits: Float[Tensor, "row vocabulary"]) -> Float[Tensor, " row"]:
        figures = OBJECTIVES[name](logits.float())
        return figures[:, ids[0]] - (figures[:, ids[1]] if len(ids) == 2 else 0.0)

    return objective


@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """A model, a prompt, and the number F that its tokens are to be made answerable for."""

    model: HookedModel
    """The model; it is left as it was."""

    ids: Int[Tensor, " position"]
    """The prompt."""

    objective: Objective
    """Gives F, from the logits at the last position."""

    embeddings: Float[Tensor, "position d_embed"]
    """The prompt's token embeddings, as the model looks them up."""

    baseline: Float[Tensor, "position d_embed"]
    """What stands for no information."""

    steps: int | None
    """Points of an integral; None to add some where it is not complete."""

    max_steps: int
    """Points of an integral at most."""

    tolerance: float
    """The completeness error that is good enough."""

    batch_size: int
    """Rows of embeddings to a forward pass."""

    progress: bool | None
    """A progress bar; None: where somebody looks."""

    rows_run: list[int] = field(default_factory=list)
    """Rows of every pass so far: each is the prompt once through the model."""

    @cached_property
    def ends(self) -> tuple[float, float]:
        """F on the baseline and on the prompt.

        Raises:
            AttributionError: one of them is no number.
        """
        with torch.no_grad():
            rows = torch.stack([self.baseline, self.embeddings])
            without, value = self.values(rows).double().tolist()
        for where, figure in (("baseline", without), ("prompt", value)):
            if not abs(figure) < float("inf"):
                raise AttributionError(
                    f"F is {figure} on the {where} in {self.model.cfg.model_name}, so no token can "
                    f"be given a share of it. Take another {where}, or load the model in float32."
                )
        return without, value

    def values(self, embeddings: Float[Tensor, "row position d_embed"]) -> Float[Tensor, " row"]:
        """F of each row of embeddings, differentiable in them.

        Raises:
            HookError: the model did not run on them.
        """
        self.rows_run.append(len(embeddings))
        ids = self.ids.expand(len(embeddings), -1)
        with replaced_embeddings(self.model, embeddings):
            return self.objective(last_logits(self.model, ids))

    def gradients(
        self, embeddings: Float[Tensor, "row position d_embed"]
    ) -> tuple[Float[Tensor, " row"], Float[Tensor, "row position d_embed"]]:
        """F of each row of embeddings, and its gradient there; no parameter gets any.

        Raises:
            HookError: F does not depend on what was put at the hook.
        """
        at = embeddings.detach().requires_grad_()
        values = self.values(at)
        found = None
        if values.requires_grad:
            (found,) = torch.autograd.grad(values.sum(), at, allow_unused=True)
        if found is None:
            raise HookError(
                f"No gradient reaches the embeddings of {self.model.cfg.model_name}: its forward "
                "pass does not let one through. Take occlusion, which needs none."
            )
        return values.detach(), found

    def on_the_line(self, points: Float[Tensor, " row"]) -> Float[Tensor, "row position d_embed"]:
        """Embeddings on the straight line from the baseline, at 0, to the prompt, at 1."""
        way = self.embeddings - self.baseline
        return self.baseline + points[:, None, None].to(way) * way

    def in_batches(self, n_rows: int, label: str) -> Iterator[slice]:
        """Slices of `batch_size` rows that cover `n_rows`, with a progress bar."""
        starts = range(0, n_rows, self.batch_size)
        for start in track(
            starts,
            total=len(starts),
            label=label,
            unit="pass",
            show=self.progress,
            at_rest=self.model,
        ):
            yield slice(start, min(start + self.batch_size, n_rows))


def last_logits(
    model: HookedModel, ids: Int[Tensor, "row position"]
) -> Float[Tensor, "row vocabulary"]:
    """The logits after each row of ids, at its last position; no other is unembedded."""
    ids = ids.to(model.cfg.device)
    with evaluating(model), _unembedding_the_last(model):
        logits: Tensor = model(
            ids, return_type="logits", attention_mask=torch.ones_like(ids), **uncached(model)
        )
    return logits[:, -1]


@contextmanager
def _unembedding_the_last(model: HookedModel) -> Iterator[None]:
    """Inside, the unembedding is given the last position alone."""
    unembed = getattr(model, "unembed", None)
    if unembed is None:
        yield
        return
    hook = unembed.register_forward_pre_hook
    with attached([hook(lambda _, given: (given[0][:, -1:], *given[1:]), prepend=True)]):
        yield


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """A score for each token."""

    scores: Float[Tensor, " position"]
    """One score per token, in float64."""

    steps: int | None = None
    """Points of the integral, if there was one."""

    jump: float | None = None
    """By how much F jumps at the baseline, where that kept the integral from adding up."""
