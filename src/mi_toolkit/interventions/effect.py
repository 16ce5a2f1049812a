"""`ablation_effect`: chosen components ablated, one prediction read before and after.

Random components to set next to chosen ones: as many of each kind, where such are.

1. Heads and neurons: as many others of the same layer.
2. Whole parts (`L5.attn`, `L5.mlp`, `L5`): as many of the same kind in other layers, since a layer
   has one. Early and late layers differ, so this says less.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.core.display import TextTable
from mi_toolkit.core.errors import PromptError, unknown_name
from mi_toolkit.core.head import Head
from mi_toolkit.core.model import HookedModel, neuron_count
from mi_toolkit.core.passes import LaterBlocks, check_finite_pass
from mi_toolkit.core.predictions import (
    Token,
    kl_divergence,
)
from mi_toolkit.core.process_state import one_job
from mi_toolkit.core.random_sets import random_sets
from mi_toolkit.core.result import Result
from mi_toolkit.core.tokenizer import token_texts
from mi_toolkit.core.tokens import Prompt, TokenBatch, tokenise, tokenise_one
from mi_toolkit.interventions.ablation import KINDS, check_kind, in_place
from mi_toolkit.interventions.components import (
    Apply,
    Component,
    ComponentName,
    Hooks,
    Part,
    Target,
    checked_components,
    in_words,
    targets_of,
)
from mi_toolkit.interventions.confirm.losses import LOGITS_BUDGET, MAX_ROWS
from mi_toolkit.text.prompt_experiment import PromptEffect, check_n_random, experiment, losses

if TYPE_CHECKING:
    pass

ComponentSet = tuple[Component, ...]


def random_controls(
    model: HookedModel, components: Sequence[Component], *, n_sets: int, seed: int
) -> tuple[ComponentSet, ...]:
    """Up to `n_sets` distinct random sets; all there are, where there are no more."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [
        _drawn(model, part, [c for c in components if c.part == part], n_sets, generator)
        for part in dict.fromkeys(component.part for component in components)
    ]
    # A kind without another set leaves its part of the sets empty.
    together = list(product(*(sets for sets in drawn if sets))) if any(drawn) else []
    order = torch.randperm(len(together), generator=generator)[:n_sets].tolist()
    return tuple(tuple(sorted(c for part in together[i] for c in part)) for i in order)


def _drawn(
    model: HookedModel,
    part: Part,
    components: Sequence[Component],
    n_sets: int,
    generator: torch.Generator,
) -> list[ComponentSet]:
    """Random sets of one kind.

    The draw knows groups and places in them: a head's or neuron's group is its layer; whole parts
    are one group, in which their layers are the places.
    """
    sizes = {
        "head": int(model.cfg.n_heads),
        "neuron": min(neuron_count(model, c.layer) for c in components),
    }
    made: Callable[[Head], Component]
    if part in sizes:
        chosen = [Head(c.layer, int(c.index or 0)) for c in components]
        made = lambda place: Component(place.layer, part, place.head)  # noqa: E731
    else:
        chosen = [Head(0, c.layer) for c in components]
        made = lambda place: Component(place.head, part)  # noqa: E731
    n_places = sizes.get(part, int(model.cfg.n_layers))
    found = random_sets(chosen, n_heads=n_places, n_sets=n_sets, generator=generator)
    return [tuple(made(place) for place in places) for places in found.sets]


class PrefixCachedRuns:
    """One sequence, to be run under many ablations."""

    clean: Float[Tensor, "position d_vocab"]
    """The logits with nothing ablated."""

    reuses: bool
    """Whether runs begin at the first ablated layer."""

    def __init__(self, model: HookedModel, ids: Int[Tensor, " position"]) -> None:
        """Run the sequence clean, and keep what each block puts out.

        Args:
            model: the model; hooks that are active now must be so in later runs too.
            ids: the sequence.
        """
        self.model = model
        self._runs = LaterBlocks(model, ids[None])
        self.clean, self.reuses = self._runs.clean[0].clone(), self._runs.check()

    def logits(
        self, targets: Sequence[Target], hooks: Hooks, n_rows: int
    ) -> Float[Tensor, "row position d_vocab"]:
        """The logits under the hooks, which replace the targets; a row of them is one ablation.

        Raises:
            HookError: a target's hook did not fire.
            NotFiniteError: the logits are NaN or infinite.
        """
        first = min((target.layer for target in targets), default=len(self._runs.blocks))
        with in_place(self.model, targets, hooks):
            logits = self._runs.logits(first, n_rows)
            ids = self._runs.ids.repeat_interleave(n_rows, dim=0)
            check_finite_pass(self.model, ids, logits)
        return logits


class Runs:
    """One sequence and one kind of ablation."""

    def __init__(
        self, model: HookedModel, batch: TokenBatch, *, how: str, reference: Prompt | None
    ) -> None:
        """Check the kind; nothing runs yet.

        Args:
            model: the model.
            batch: the sequence.
            how: the kind of ablation.
            reference: what `mean` and `resample` take from.

        Raises:
            UnknownNameError: no such kind.
            PromptError: `resample` without a reference.
        """
        check_kind(how)
        self.model, self.batch, self.how = model, batch, how
        self.given = None if reference is None else tokenise(model, reference)
        if how == "resample" and self.given is None:
            raise PromptError(
                "A resample ablation takes the output on another sequence: give one as "
                "reference, at least as long as the prompt."
            )
        if how == "resample" and self.given is not None and len(self.given) > 1:
            raise PromptError(
                f"The reference has {len(self.given)} sequences: resampling one prompt takes one, "
                "or each set would be ablated otherwise."
            )
        self.reference = batch if how == "pattern_preserving" else self.given

    @cached_property
    def later(self) -> PrefixCachedRuns:
        """The clean run, and runs that begin after it."""
        return PrefixCachedRuns(self.model, self.batch.sequence(0))

    def logits(
        self, sets: Sequence[ComponentSet], apply: Apply, *, batch_size: int | None
    ) -> Iterator[tuple[list[int], Float[Tensor, "set position d_vocab"]]]:
        """Which sets ran together, and their logits, pass by pass.

        Sets that begin in one layer run together, so that none runs a layer in vain.
        """
        for indices in self.chunks(sets, batch_size):
            targets = targets_of(self.model, [sets[index] for index in indices])
            yield indices, self.later.logits(targets, apply(targets), len(indices))

    def chunks(self, sets: Sequence[ComponentSet], batch_size: int | None) -> list[list[int]]:
        """Which sets run together."""
        by_layer: dict[int, list[int]] = {}
        for index, components in enumerate(sets):
            by_layer.setdefault(components[0].layer, []).append(index)
        vocabulary, length = int(self.model.cfg.d_vocab), self.batch.ids.shape[1]
        fitting = LOGITS_BUDGET // (vocabulary * length * 4)
        size = batch_size or max(1, min(MAX_ROWS, fitting))
        return [
            indices[start : start + size]
            for _, indices in sorted(by_layer.items())
            for start in range(0, len(indices), size)
        ]

    def prepared(self, sets: Sequence[ComponentSet]) -> Apply:
        """The kind of ablation, with all that it takes from the reference for these sets."""
        needed = sorted({component for components in sets for component in components})
        return KINDS[self.how](self.model, targets_of(self.model, [needed]), self.reference)

    def reference_in_words(self) -> str:
        """What the kind of ablation took its values from."""
        if self.how == "zero":
            return "nothing"
        if self.how == "pattern_preserving":
            return "the clean run on the prompt"
        if self.given is None:
            return "natural text"
        return f"a reference of {len(self.given)} sequences ({self.given.digest[:12]})"


FIGURES: Mapping[str, str] = {
    "log_prob": "log-probability of the target (nats)",
    "logit": "logit of the target",
    "rank": "rank of the target",
    "kl": "KL from the clean prediction (nats)",
    "loss": "loss of the prompt's own tokens (nats)",
}
"""The five figures, and what they are of."""

HEADER = ("", "clean", "ablated", "change", "random sets: mean, range", "changes more than")


@dataclass(frozen=True, kw_only=True, eq=False)
class FreeText:
    """What was generated greedily after the prompt, before and under ablation.

    From the first token that differs on, the two answer different texts: that they differ is an
    effect, how much they differ is none.
    """

    before: tuple[int, ...]
    """Ids without ablation."""

    after: tuple[int, ...]
    """Ids under ablation."""

    texts: tuple[str, str]
    """Both continuations as text."""

    @property
    def same(self) -> int:
        """How many tokens they share from the beginning on."""
        pairs = enumerate(zip(self.before, self.after, strict=False))
        shortest = min(len(self.before), len(self.after))
        return next((place for place, (one, other) in pairs if one != other), shortest)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class AblationEffect(PromptEffect, Result):
    """One prompt and one target token, with some components ablated and without."""

    FORMAT: ClassVar[str] = "mi_toolkit ablation effect 2"

    components: tuple[Component, ...]
    """What was ablated, together."""

    how: str
    """The kind of ablation."""

    reference: str
    """What the values put in place come from, in words."""

    ids: Int[Tensor, " position"]
    """The prompt, as it ran."""

    texts: tuple[str, ...]
    """The prompt's tokens as text."""

    kl: Float[Tensor, " position"]
    """At each position, KL divergence of the prediction from the clean one, in nats."""

    losses_before: Float[Tensor, " position-1"]
    """Cross-entropy of each of the prompt's tokens but the first, with nothing ablated."""

    losses_after: Float[Tensor, " position-1"]
    """Cross-entropy of the same tokens under ablation."""

    controls: tuple[tuple[Component, ...], ...]
    """Random sets of the same size, from the same layers; whole parts from other layers."""

    control_changes: Mapping[str, Float[Tensor, " control"]]
    """Per figure, what it changed by under each random set."""

    free_text: FreeText | None
    """What was generated freely; None where nothing was asked for."""

    @property
    def change(self) -> dict[str, float]:
        """What each figure changed by: `log_prob`, `logit`, `rank`, `kl` and `loss`."""
        return {
            "log_prob": self.after.log_prob - self.before.log_prob,
            "logit": self.after.logit - self.before.logit,
            "rank": float(self.after.rank - self.before.rank),
            "kl": float(self.kl[-1]),
            "loss": float((self.losses_after - self.losses_before).mean()),
        }

    @property
    def measured(self) -> dict[str, str]:
        """What each figure is, by its name; without the loss, which a prompt of one token has not.

        In the order of `change`.
        """
        return {name: FIGURES[name] for name, value in self.change.items() if value == value}

    def share_beyond(self, figure: str) -> float:
        """The share of random sets that change a figure less, up or down.

        NaN without any, and where the figure is: the loss of a prompt of one token.

        Raises:
            UnknownNameError: no such figure.
        """
        if figure not in FIGURES:
            raise unknown_name("figure", figure, FIGURES)
        changes, change = self.control_changes[figure], self.change[figure]
        if not len(changes) or math.isnan(change):
            return float("nan")
        return float((changes.abs() < abs(change)).float().mean())

    def rows(self) -> list[dict[str, Any]]:
        """One row for the ablation and one for each random set, a column for each figure."""
        sets = [self.components, *self.controls]
        return [
            {
                "model": self.provenance.model,
                "how": self.how,
                "components": " ".join(map(str, components)),
                "is_control": bool(place),
                "target": self.before.text,
                **(
                    {name: float(self.control_changes[name][place - 1]) for name in FIGURES}
                    if place
                    else self.change
                ),
            }
            for place, components in enumerate(sets)
        ]

    def title(self) -> str:
        """What was done, in one line."""
        names = in_words(self.components) or "Nothing"
        return f"{names} of {self.provenance.model} under {self.how} ablation"

    def cells(self) -> list[list[str]]:
        """The five figures in words, under `HEADER`."""
        loss = [float(each.mean()) for each in (self.losses_before, self.losses_after)]
        values = {
            "log_prob": (self.before.log_prob, self.after.log_prob),
            "logit": (self.before.logit, self.after.logit),
            "rank": (float(self.before.rank), float(self.after.rank)),
            "kl": (0.0, float(self.kl[-1])),
            "loss": (loss[0], loss[1]),
        }
        return [
            [
                FIGURES[name],
                *(_number(value, name) for value in values[name]),
                _number(change, name, sign=True),
                *self._beside(name),
            ]
            for name, change in self.change.items()
        ]

    def _beside(self, name: str) -> tuple[str, str]:
        random = self.control_changes[name]
        if not len(random) or math.isnan(self.change[name]):
            return "", ""
        mean, low, high = (
            _number(float(value), name if name != "rank" else "", sign=True)
            for value in (random.mean(), random.min(), random.max())
        )
        share = round(self.share_beyond(name) * len(random))
        return f"{mean}, {low} to {high}", f"{share} of {len(random)}"

    def text_table(self) -> TextTable:
        """The target's probability before and after, and the five figures."""
        about = f"{self.before} clean, {self.after.probability:.1%} ablated"
        title = f"{self.title()}: target {about}"
        return TextTable(title=title, header=HEADER, rows=self.cells())


def _number(value: float, name: str, *, sign: bool = False) -> str:
    if name == "rank":
        return f"{value:+z.0f}" if sign else f"{value:.0f}"
    if math.isnan(value):
        return "–"
    if name == "kl":  # small ones are of many sizes
        return f"{value:+.4g}" if sign else f"{value:.4g}"
    return f"{value:+z.3f}" if sign else f"{value:.3f}"


TOP = 10
CONTROLS = 20
GENERATED = 20


@one_job
def ablation_effect(
    model: HookedModel,
    prompt: Prompt,
    components: ComponentName | Iterable[ComponentName],
    *,
    target: Token | None = None,
    how: str = "zero",
    reference: Prompt | None = None,
    n_random: int = CONTROLS,
    top_k: int = TOP,
    max_new_tokens: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    prepend_bos: bool | None = None,
    attention_mask: Any = None,
    progress: bool | None = None,
) -> AblationEffect:
    """What ablating components does to the prediction after a prompt.

    The prompt's own ids run with the components ablated and without, and one token is asked about
    after them. The same is done with random sets of the same size from the same layers: much of
    what ablation does, it does whatever is ablated. A change within their range is no finding.

    That a part matters here does not say what it does, and that it does not matter does not say
    that it is idle: other parts may stand in for it.

    What is generated freely, before and under ablation, is reported apart, as `free_text`: from the
    first token that differs on, the two go on from different texts.

    Args:
        model: a HookedTransformer or a TransformerBridge; it is left as it was.
        prompt: one text, or its ids.
        components: as in `ablating`: `L5H1`, `L5N300`, `L5.attn`, `L5.mlp`, `L5`.
        target: the token to ask about, as its id or exact text (" Paris" is not "Paris"); None
            for the one that the model finds most probable with nothing ablated.
        how: the kind of ablation, as in `ablating`; `pattern_preserving` keeps the prompt's own
            patterns.
        reference: text or ids that `mean` and `resample` take from.
        n_random: random sets to set next to it; 0 for none.
        top_k: how many of the most probable tokens are kept, before and after.
        max_new_tokens: tokens to generate greedily after the prompt, before and under ablation;
            None for 20, and none for the kinds that take from the text that runs.
        batch_size: sets to a pass; None for as many as fit. It changes figures by rounding only.
        seed: of the random sets.
        prepend_bos: put a BOS before a text; None: as the model was trained to read it.
        attention_mask: of ids with padding: 1 where a token is real, in the shape of the ids.
        progress: a progress bar; None: where somebody looks and it takes long.

    Raises:
        UnknownNameError: no such component, or no such kind of ablation.
        PromptError: not one prompt, or a target that is not one token; a reference is missing.
        HookError: a component's hook did not fire.

    Example:
        >>> import mi_toolkit as mi
        >>> model = mi.load_model("toy-gpt2")
        >>> effect = mi.ablation_effect(model, "Mary and John went to", ["L2H0"], target=" the")
        >>> sorted(effect.change)
        ['kl', 'log_prob', 'logit', 'loss', 'rank']
    """
    check_n_random(n_random)
    chosen = checked_components(model, components)
    batch = tokenise_one(
        model, prompt, "ablation_effect", prepend_bos=prepend_bos, attention_mask=attention_mask
    )
    runs = Runs(model, batch, how=how, reference=reference)
    controls = random_controls(model, chosen, n_sets=n_random, seed=seed) if n_random else ()
    if max_new_tokens is None:
        room = int(model.cfg.n_ctx) - batch.ids.shape[1]
        max_new_tokens = min(GENERATED, room) if how in ("zero", "mean") else 0
    found = experiment(
        model,
        batch,
        _Ablating(runs, [chosen, *controls], batch_size),
        chosen,
        controls,
        target=target,
        top_k=top_k,
        max_new_tokens=max_new_tokens,
        seed=seed,
        label="ablating random sets",
        progress=progress,
    )
    ids = batch.sequence(0)
    return AblationEffect(
        **vars(found.effect),
        components=chosen,
        how=how,
        reference=runs.reference_in_words(),
        ids=ids,
        texts=token_texts(model.tokenizer, ids.tolist()),
        kl=kl_divergence(found.clean, found.changed),
        losses_before=losses(found.clean[None], ids)[0],
        losses_after=losses(found.changed[None], ids)[0],
        controls=controls,
        control_changes={
            name: getattr(found.controls, name) - getattr(found.own, name) for name in FIGURES
        },
        free_text=found.written
        and FreeText(
            before=tuple(found.written[0].ids.tolist()),
            after=tuple(found.written[1].ids.tolist()),
            texts=(found.written[0].text, found.written[1].text),
        ),
    )


class _Ablating:
    """The ablation as an intervention."""

    def __init__(self, runs: Runs, sets: Sequence[ComponentSet], batch_size: int | None) -> None:
        self.runs, self.sets, self.batch_size = runs, sets, batch_size
        self.clean = runs.later.clean

    @cached_property
    def apply(self) -> Apply:
        """The kind of ablation, with all that it takes from the reference."""
        return self.runs.prepared(self.sets)

    def applied(self, chosen: ComponentSet) -> AbstractContextManager[None]:
        """The model with the components ablated."""
        targets = targets_of(self.runs.model, [chosen])
        return in_place(self.runs.model, targets, self.apply(targets))

    def n_passes(self, sets: Sequence[ComponentSet]) -> int:
        """Sets that begin in one layer run together."""
        return len(self.runs.chunks(sets, self.batch_size))

    def passes(
        self, sets: Sequence[ComponentSet]
    ) -> Iterator[tuple[list[int], Float[Tensor, "set position d_vocab"]]]:
        """The runs, from the first ablated layer on."""
        return self.runs.logits(sets, self.apply, batch_size=self.batch_size)
