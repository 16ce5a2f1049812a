"""What every method of attribution is asked, in one record."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.attribution.baselines import Objective, replaced_embeddings
from mi_toolkit.core.errors import AttributionError, HookError
from mi_toolkit.core.model import HookedModel, attached, evaluating, uncached
from mi_toolkit.core.progress import track


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
