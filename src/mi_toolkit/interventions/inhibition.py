"""S-inhibition put to the test: what name movers look at once a head is taken out.

1. On prompts of indirect object identification, a name mover's preference is its attention from END
   to IO, less that to S1 and S2; mean over the name movers given.
2. Each head is ablated alone, and the preference of the name movers in later layers measured again.
3. The effect is the preference that is lost: above 0 the head kept them off the subject. Its
   interval is a jackknife over prompts.

After Wang et al. 2022, "Interpretability in the Wild" (arXiv 2211.00593), section 3.2.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mi_toolkit.core.display import TextTable
from mi_toolkit.core.errors import PromptError
from mi_toolkit.core.head import Head, HeadName
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.passes import visit_patterns
from mi_toolkit.core.process_state import one_job
from mi_toolkit.core.progress import track
from mi_toolkit.core.result import Result
from mi_toolkit.core.stats import over_texts
from mi_toolkit.core.stimuli import ioi_prompts
from mi_toolkit.core.tokens import TokenBatch
from mi_toolkit.interventions.ablation import ablating

FIGURES = ("clean", "effect", "ci_low", "ci_high")
ROLES = ("end", "io", "s1", "s2")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class InhibitionEffects(Result):
    """What each head's ablation costs the name movers after it of their preference for the IO."""

    FORMAT: ClassVar[str] = "mi_toolkit inhibition effects 1"

    heads: tuple[Head, ...]
    """The heads that were ablated, one at a time."""

    name_movers: tuple[Head, ...]
    """The heads whose attention was measured."""

    clean: Float[Tensor, " head"]
    """Preference with nothing ablated, of the name movers in layers after each head, in [-1, 1];
    NaN where there is none."""

    effect: Float[Tensor, " head"]
    """Clean preference less that with the head ablated: above 0 the head kept the name movers off
    the subject, below 0 it drew them to it."""

    ci_low: Float[Tensor, " head"]
    """Lower end of the effect's 95% interval; NaN under 3 prompts."""

    ci_high: Float[Tensor, " head"]
    """Upper end of the same."""

    n_prompts: int
    """Prompts that the effects rest on."""

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """One row per head that was ablated."""
        for place, head in enumerate(self.heads):
            figures = {name: float(getattr(self, name)[place]) for name in FIGURES}
            yield {"layer": head.layer, "head": head.head, "name": str(head), **figures}

    def text_table(self) -> TextTable:
        """Each head's effect with its interval."""
        rows = zip(self.heads, self.effect, self.ci_low, self.ci_high, self.clean, strict=True)
        movers = ", ".join(map(str, self.name_movers))
        return TextTable(
            title=f"InhibitionEffects on the preference of {movers}, {self.n_prompts} prompts",
            rows=[
                (str(head), f"{effect:+z.3f} [{low:+z.3f}, {high:+z.3f}] of {clean:+z.3f}")
                if not clean.isnan()
                else (str(head), "no name mover stands after it")
                for head, effect, low, high, clean in rows
            ],
        )


@one_job
def s_inhibition_effects(
    model: HookedModel,
    heads: Iterable[HeadName],
    name_movers: Iterable[HeadName],
    *,
    prompts: TokenBatch | None = None,
    how: str = "mean",
    seed: int = 0,
    progress: bool | None = None,
) -> InhibitionEffects:
    """Ablate heads one at a time, and see whether name movers turn to the subject.

    The label `s_inhibition` says that a head looks from END to S2. Whether it acts as such heads do
    in the paper, through the queries of name movers, is what this measures. A head in or after
    the name movers' last layer cannot act on them; its effect is NaN.

    Args:
        model: a HookedTransformer or a TransformerBridge; it is left as it was.
        heads: what to ablate, such as `report.heads("s_inhibition")`.
        name_movers: whose attention to measure, such as `report.heads("name_mover")`.
        prompts: with the roles `end`, `io`, `s1` and `s2`; None for `ioi_prompts(model)`.
        how: as in `ablating`; `mean` takes the head's mean over the prompts themselves.
        seed: of the prompts.
        progress: a progress bar; None: where somebody looks and it takes long.

    Raises:
        PromptError: no name mover, or prompts without the roles.
        UnknownNameError: no such head, or no such kind of ablation.

    Example:
        >>> import mi_toolkit as mi
        >>> model = mi.load_model("toy-gpt2")
        >>> prompts = mi.core.ioi_prompts(model, n_prompts=16)
        >>> effects = mi.interventions.s_inhibition_effects(
        ...     model, ["L1H0"], ["L2H0"], prompts=prompts
        ... )
        >>> effects.heads
        (L1H0,)
    """
    movers = tuple(Head.of(head) for head in name_movers)
    if not movers:
        raise PromptError("There is no name mover to measure: give at least one.")
    batch = ioi_prompts(model, seed=seed) if prompts is None else prompts
    missing = [role for role in ROLES if role not in batch.roles]
    if missing:
        raise PromptError(
            f"The prompts do not say where {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'}: ioi_prompts(model) makes prompts that do."
        )
    if how == "pattern_preserving":
        raise PromptError(
            "pattern_preserving keeps the patterns that are measured here: take zero, mean or "
            "resample."
        )
    reference = _next_ones(batch) if how == "resample" else batch
    ablated = tuple(Head.of(head) for head in heads)
    clean = _preferences(model, batch, movers)
    before, lost = [], []
    for head in track(
        ablated, total=len(ablated), label="Ablating heads", unit="head", show=progress
    ):
        later = torch.tensor([mover.layer > head.layer for mover in movers])
        after = clean
        if later.any():
            with ablating(model, [head], how, reference):
                after = _preferences(model, batch, movers)
        before.append(clean[:, later].mean(dim=-1))
        lost.append((clean - after)[:, later].mean(dim=-1))
    units = torch.stack(lost, dim=1) if lost else clean.new_zeros(len(batch), 0)
    low, high = over_texts(units, torch.ones(len(batch), 1), bounds=None).ends()
    return InhibitionEffects(
        heads=ablated,
        name_movers=movers,
        clean=torch.stack(before).mean(dim=1) if before else torch.zeros(0),
        effect=units.mean(dim=0),
        ci_low=low,
        ci_high=high,
        n_prompts=len(batch),
    )


def _next_ones(batch: TokenBatch) -> TokenBatch:
    """After each prompt the next, the first after the last: of itself it would take what it has.

    Raises:
        PromptError: there is no other prompt, or prompts are of different lengths.
    """
    if len(batch) < 2:
        raise PromptError("Resampling takes the output on another prompt: give two or more.")
    if len(batch.lengths.unique()) > 1:
        raise PromptError(
            "Resampling takes the output at the same position of another prompt, and these are of "
            "different lengths: give prompts of one length, chosen by prompts.chosen(…)."
        )
    return batch.chosen([*range(1, len(batch)), 0])


def _preferences(
    model: HookedModel, batch: TokenBatch, movers: Sequence[Head]
) -> Float[Tensor, "prompt mover"]:
    """Each mover's attention from END to IO less that to both mentions of the subject."""
    found = torch.zeros(len(batch), len(movers))
    end, io, s1, s2 = (batch.roles[role][:, 0] for role in ROLES)
    prompt = torch.arange(len(batch))

    def keep(layer: int, patterns: Tensor) -> None:
        rows = patterns.float().cpu()[prompt, :, end]
        preference = rows[prompt, :, io] - rows[prompt, :, s1] - rows[prompt, :, s2]
        for index, mover in enumerate(movers):
            if mover.layer == layer:
                found[:, index] = preference[:, mover.head]

    visit_patterns(model, batch.ids, sorted({mover.layer for mover in movers}), keep)
    return found
