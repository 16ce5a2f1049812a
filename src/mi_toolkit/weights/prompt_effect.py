"""`perturbation_effect`: one prompt with a few weights changed, and without."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mi_toolkit.core.display import TextTable
from mi_toolkit.core.model import HookedModel, evaluating
from mi_toolkit.core.predictions import kl_divergence
from mi_toolkit.core.process_state import allowing_nan, one_job
from mi_toolkit.core.random_sets import Triple, random_control
from mi_toolkit.core.result import Result
from mi_toolkit.core.tokens import Prompt, TokenBatch, tokenise_one
from mi_toolkit.text.prompt_experiment import PromptEffect, check_n_random, experiment
from mi_toolkit.weights.calibration import run
from mi_toolkit.weights.parameters import weight_matrices
from mi_toolkit.weights.perturb import perturbed, planned, triples
from mi_toolkit.weights.ranking import Ranking

if TYPE_CHECKING:
    from mi_toolkit.core.tables import DataFrame


RANDOM = 10

DONE = {
    "zero": "set to 0",
    "sign_flip": "with the sign flipped",
    "gaussian": "with noise",
    "bit_flip": "with a bit flipped",
    "scale": "scaled",
}
"""Each kind of change in words."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PerturbationEffect(PromptEffect, Result):
    """The most probable token after one prompt, with some weights changed and without."""

    FORMAT: ClassVar[str] = "mi_toolkit perturbation effect 1"

    weights: tuple[Triple, ...]
    """What was changed: parameter, row and column, `[in, out]`."""

    kind: str
    """How, a name in `EDITS`."""

    kl: float
    """KL divergence of the changed prediction from the unchanged one, in nats."""

    random_weights: tuple[tuple[Triple, ...], ...]
    """Random sets: as many weights of the same matrices."""

    random_kl: Float[Tensor, " set"]
    """What changing each of them does, in nats."""

    random_probabilities: Float[Tensor, " set"]
    """What each makes of the token's probability."""

    texts: tuple[str, str]
    """What is written after the prompt, before and under the change; empty where nothing was
    asked for."""

    @property
    def n_less(self) -> int:
        """Random sets that change the prediction less, by its KL divergence."""
        return int((self.random_kl < self.kl).sum())

    def title(self) -> str:
        """What was done, in one line."""
        names = ", ".join(f"{name}[{row}, {column}]" for name, row, column in self.weights[:3])
        more = f" and {len(self.weights) - 3} more" if len(self.weights) > 3 else ""
        return f"{names}{more} of {self.provenance.model}, {DONE[self.kind]}"

    def rows(self) -> list[dict[str, Any]]:
        """One row for the change and one for each random set."""
        sets = [(self.weights, self.after.probability, self.kl)]
        figures = (self.random_probabilities.tolist(), self.random_kl.tolist())
        sets += zip(self.random_weights, *figures, strict=True)
        return [
            {
                "model": self.provenance.model,
                "kind": self.kind,
                "weights": " ".join(f"{n}[{row},{column}]" for n, row, column in weights),
                "is_control": bool(place),
                "target": self.before.text,
                "probability_before": self.before.probability,
                "probability": probability,
                "kl": kl,
            }
            for place, (weights, probability, kl) in enumerate(sets)
        ]

    def text_table(self) -> TextTable:
        """The token before and after, the divergence, the texts."""
        return TextTable(
            title=self.title(),
            header=["", "before", "after"],
            rows=[
                [
                    f"probability of {self.before.text!r}",
                    f"{self.before.probability:.2%}",
                    f"{self.after.probability:.2%}",
                ],
                ["its rank", "1", str(self.after.rank)],
                ["KL (nats)", "0", f"{self.kl:.3g}"],
                ["random sets that change less", "", f"{self.n_less} of {len(self.random_kl)}"],
                ["text", *map(repr, self.texts)],
            ],
        )


@one_job
def perturbation_effect(
    model: HookedModel,
    prompt: Prompt,
    weights: DataFrame | Ranking | str | Iterable[str | Triple],
    kind: str = "zero",
    *,
    n_random: int = RANDOM,
    top_k: int = 10,
    max_new_tokens: int = 20,
    num_beams: int = 1,
    prepend_bos: bool | None = None,
    attention_mask: Any = None,
    seed: int = 0,
    progress: bool | None = None,
) -> PerturbationEffect:
    """What changing single weights does to the prediction after a prompt.

    It is of this one prompt: a weight that changes nothing here may matter elsewhere, which
    `perturbation_test` measures on text. The model comes back bit for bit.

    Args:
        model: any hooked model.
        prompt: one text, or its ids.
        weights: as `perturbed` takes them; they are changed together.
        kind: as in `perturbed`.
        n_random: random sets of as many weights of the same matrices, to set next to them.
        top_k: how many of the most probable tokens are kept.
        max_new_tokens: tokens to write after the prompt, before and under the change; 0 for none.
        num_beams: beams to write them with; 1 is greedy search.
        prepend_bos: put a BOS before a text; None: as the model was trained to read it.
        attention_mask: of ids with padding: 1 where a token is real, in the shape of the ids.
        seed: of the random sets, and of noise and bits.
        progress: a progress bar; None: where somebody looks and it takes long.

    Raises:
        UnknownNameError: no such kind, parameter, row or column.
        WeightError: no weight, or one whose new value is the old one.
        PromptError: not one prompt.
        GenerationError: prompt and new tokens do not fit the context.
        NotFiniteError: the model computes NaN or infinity, unchanged, or while it writes.

    Example:
        >>> import mi_toolkit as mi
        >>> model = mi.load_model("toy-gpt2")
        >>> weight = ("blocks.0.attn.W_O", 3, 5)
        >>> effect = mi.weights.perturbation_effect(model, "Mary and John", [weight], n_random=2)
        >>> effect.to_pandas()["is_control"].tolist()
        [False, True, True]
    """
    batch = tokenise_one(
        model, prompt, "perturbation_effect", prepend_bos=prepend_bos, attention_mask=attention_mask
    )
    check_n_random(n_random)
    chosen = tuple(triples(weights))
    matrices = weight_matrices(model)
    planned(matrices, chosen, kind)  # it checks the names
    shapes = {matrix.name: matrix.shape for matrix in matrices}
    generator = torch.Generator().manual_seed(seed)
    sets = [tuple(random_control(chosen, shapes, generator)) for _ in range(n_random)]
    found = experiment(
        model,
        batch,
        _Perturbing(model, batch, kind, seed),
        chosen,
        sets,
        target=None,
        top_k=top_k,
        max_new_tokens=max_new_tokens,
        num_beams=num_beams,
        seed=seed,
        label="Changing random weights",
        progress=progress,
    )
    before, after = [each.text for each in found.written] if found.written else ("", "")
    return PerturbationEffect(
        **vars(found.effect),
        weights=chosen,
        kind=kind,
        kl=float(kl_divergence(found.clean[-1], found.changed[-1])),
        random_weights=tuple(sets),
        random_kl=found.controls.kl,
        random_probabilities=found.controls.log_prob.exp(),
        texts=(before, after),
    )


class _Perturbing:
    """The change of weights as an intervention; noise and bits are the same each time."""

    def __init__(self, model: HookedModel, batch: TokenBatch, kind: str, seed: int) -> None:
        self.model, self.batch, self.kind, self.seed = model, batch, kind, seed
        self.clean = self._logits()

    def _logits(self) -> Float[Tensor, "position d_vocab"]:
        with evaluating(self.model), torch.no_grad():
            return run(self.model, self.batch)[0]

    def applied(self, chosen: tuple[Triple, ...]) -> AbstractContextManager[object]:
        """The model with the weights changed."""
        noise = torch.Generator().manual_seed(self.seed)
        return perturbed(self.model, chosen, self.kind, generator=noise)

    def n_passes(self, sets: Sequence[tuple[Triple, ...]]) -> int:
        """A set needs a model of its own."""
        return len(sets)

    def passes(
        self, sets: Sequence[tuple[Triple, ...]]
    ) -> Iterator[tuple[list[int], Float[Tensor, "set position d_vocab"]]]:
        """A run of the changed model for each set."""
        for index, each in enumerate(sets):
            # A flipped bit may give NaN, and that is its effect.
            with self.applied(each), allowing_nan():
                logits = self._logits()
            yield [index], logits[None]
