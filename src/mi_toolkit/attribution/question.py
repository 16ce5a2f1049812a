"""What every method of attribution is asked, in one record."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.attribution.embeddings import replaced_embeddings
from mi_toolkit.attribution.objectives import Objective
from mi_toolkit.errors import HookError
from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.progress import track


@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """A model, a prompt, and the number F that its tokens are to be made answerable for."""

    model: HookedModel
    """The model; it is left as it was."""

    ids: Int[Tensor, " position"]
    """The prompt."""

    objective: Objective
    """From logits at the last position to F."""

    embeddings: Float[Tensor, "position d_embed"]
    """The prompt's token embeddings, as the model looks them up."""

    baseline: Float[Tensor, "position d_embed"]
    """What stands for no information."""

    steps: int | None
    """Points of an integral; None to add some where it is not complete."""

    max_steps: int
    """Where adding ends."""

    tolerance: float
    """The completeness error that is good enough."""

    batch_size: int
    """Rows to a pass."""

    progress: bool | None
    """A progress bar; None: where somebody looks."""

    def values(self, embeddings: Float[Tensor, "row position d_embed"]) -> Float[Tensor, " row"]:
        """F of each row of embeddings, differentiable in them.

        Raises:
            HookError: the model did not run on them.
        """
        ids = self.ids.expand(len(embeddings), -1).to(embeddings.device)
        options: dict[str, Any] = {"attention_mask": torch.ones_like(ids)}
        if hasattr(self.model, "original_model"):
            # Transformers would keep every layer's keys and values for a next token.
            options["use_cache"] = False
        with replaced_embeddings(self.model, embeddings):
            logits: Tensor = self.model(ids, return_type="logits", **options)
        return self.objective(logits[:, -1])

    def gradients(
        self, embeddings: Float[Tensor, "row position d_embed"]
    ) -> Float[Tensor, "row position d_embed"]:
        """The gradient of F at each row of embeddings; no parameter gets any.

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
        return found

    def in_batches(self, n_rows: int, label: str) -> Iterator[slice]:
        """Slices of `batch_size` rows that cover `n_rows`, with a progress bar."""
        starts = range(0, n_rows, self.batch_size)
        for start in track(starts, total=len(starts), label=label, unit="pass", show=self.progress):
            yield slice(start, min(start + self.batch_size, n_rows))


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """A score for each token."""

    scores: Float[Tensor, " position"]
    """In float64."""

    steps: int | None = None
    """Points of the integral, if there was one."""
