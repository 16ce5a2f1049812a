"""`ablation_effect`: chosen components ablated, one prediction read before and after.

Random components to set next to chosen ones: as many of each kind, where such are.

1. Heads and neurons: as many others of the same layer.
2. Whole parts (`L5.attn`, `L5.mlp`, `L5`): as many of the same kind in other layers, since a layer
   has one. Early and late layers differ, so this says less.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import product
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from mi_toolkit.core.errors import PromptError
from mi_toolkit.core.head import Head
from mi_toolkit.core.later_blocks import LaterBlocks
from mi_toolkit.core.model import HookedModel, neuron_count
from mi_toolkit.core.passes import check_finite_pass
from mi_toolkit.core.predictions import (
    Token,
    kl_divergence,
    predictions,
    token_id,
    token_ranks,
    top_predictions,
)
from mi_toolkit.core.process_state import one_job
from mi_toolkit.core.progress import track
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
    targets_of,
)
from mi_toolkit.interventions.confirm.hypotheses import random_sets
from mi_toolkit.interventions.confirm.losses import LOGITS_BUDGET, MAX_ROWS
from mi_toolkit.interventions.effect_result import FIGURES, AblationEffect, FreeText
from mi_toolkit.models.describe import provenance_of
from mi_toolkit.text.generate import generate

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


@dataclass(frozen=True, kw_only=True, eq=False)
class Readings:
    """The figures of one run or of several."""

    log_prob: Float[Tensor, "*run"]
    """Log-probability of the target after the last token, in nats."""

    logit: Float[Tensor, "*run"]
    """Its logit."""

    rank: Float[Tensor, "*run"]
    """Its rank: 1 for the most probable token."""

    kl: Float[Tensor, "*run"]
    """KL divergence of the prediction after the last token from the clean one, in nats."""

    loss: Float[Tensor, "*run"]
    """Mean cross-entropy of the sequence's own tokens, each after those before it, in nats; NaN
    for a sequence of one token."""

    def in_order(self, places: Sequence[int]) -> Readings:
        """The same runs, each put where `places` says that it belongs."""
        order = torch.tensor(places).argsort()
        return Readings(**{f.name: getattr(self, f.name)[order] for f in fields(Readings)})


def readings(
    logits: Float[Tensor, "run position d_vocab"],
    clean: Float[Tensor, "position d_vocab"],
    ids: Int[Tensor, " position"],
    target: int,
) -> Readings:
    """The figures of each run, on the CPU.

    Args:
        logits: of runs of one sequence.
        clean: the logits of its clean run.
        ids: the sequence.
        target: the token that is asked about after the last one.
    """
    last = logits[:, -1].float()
    asked = torch.full((len(last),), target, device=last.device)
    figures = Readings(
        log_prob=last.log_softmax(dim=-1)[:, target],
        logit=last[:, target],
        rank=token_ranks(last, asked).float(),
        kl=kl_divergence(clean[-1].float().expand_as(last), last),
        loss=losses(logits, ids).mean(dim=-1),
    )
    return Readings(**{f.name: getattr(figures, f.name).cpu() for f in fields(Readings)})


def losses(
    logits: Float[Tensor, "run position d_vocab"], ids: Int[Tensor, " position"]
) -> Float[Tensor, "run position-1"]:
    """Cross-entropy of each token after those before it."""
    following = ids[1:].to(logits.device)
    # Run by run: the softmax of all of them would take as much memory as the logits again.
    runs = [cross_entropy(run[:-1].float(), following, reduction="none") for run in logits]
    return torch.stack(runs)


def joined(parts: Sequence[Readings]) -> Readings:
    """The figures of several groups of runs, one after the other."""
    return Readings(
        **{f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Readings)}
    )


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
                "A resample ablation takes the output on another sequence: pass one, at least as "
                "long as the prompt, as reference=."
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
    if n_random < 0:
        raise PromptError(f"n_random counts random sets: 0 or more, not {n_random}.")
    chosen = checked_components(model, components)
    batch = tokenise_one(
        model, prompt, "ablation_effect", prepend_bos=prepend_bos, attention_mask=attention_mask
    )
    runs = Runs(model, batch, how=how, reference=reference)
    ids, clean = batch.sequence(0), runs.later.clean
    asked = int(clean[-1].argmax()) if target is None else token_id(model, target)
    controls = random_controls(model, chosen, n_sets=n_random, seed=seed) if n_random else ()
    apply = runs.prepared([chosen, *controls]) if chosen else None
    ablated, beside = clean, None
    if apply is not None:
        ablated = next(logits for _, logits in runs.logits([chosen], apply, batch_size=1))[0]
        beside = _beside(runs, controls, apply, asked, batch_size, progress)
    own = readings(clean[None], clean, ids, asked)
    tokenizer, token = model.tokenizer, torch.tensor([asked])
    before, after = clean.float().cpu(), ablated.float().cpu()
    return AblationEffect(
        components=chosen,
        how=how,
        reference=runs.reference_in_words(),
        ids=ids,
        texts=token_texts(tokenizer, ids.tolist()),
        before=predictions(tokenizer, before[-1], token)[0],
        after=predictions(tokenizer, after[-1], token)[0],
        top_before=top_predictions(tokenizer, before[-1], top_k),
        top_after=top_predictions(tokenizer, after[-1], top_k),
        kl=kl_divergence(before, after),
        losses_before=losses(before[None], ids)[0],
        losses_after=losses(after[None], ids)[0],
        controls=controls,
        control_changes={
            name: (
                getattr(beside, name) - getattr(own, name) if beside is not None else torch.zeros(0)
            )
            for name in FIGURES
        },
        free_text=_free_text(runs, chosen, apply, max_new_tokens),
        provenance=provenance_of(model, {"prompt": batch}, seed=seed),
    )


def _free_text(
    runs: Runs, chosen: ComponentSet, apply: Apply | None, max_new_tokens: int | None
) -> FreeText | None:
    """What is generated after the prompt, without ablation and under it."""
    model, ids = runs.model, runs.batch.sequence(0)
    n_tokens = max_new_tokens
    if n_tokens is None:
        room = int(model.cfg.n_ctx) - len(ids)
        n_tokens = min(GENERATED, room) if runs.how in ("zero", "mean") else 0
    if not n_tokens:
        return None
    before = after = generate(model, runs.batch, max_new_tokens=n_tokens).sequences[0]
    if apply is not None:
        targets = targets_of(model, [chosen])
        with in_place(model, targets, apply(targets)):
            after = generate(model, runs.batch, max_new_tokens=n_tokens).sequences[0]
    return FreeText(
        before=tuple(before.ids.tolist()),
        after=tuple(after.ids.tolist()),
        texts=(before.text, after.text),
    )


def _beside(
    runs: Runs,
    controls: Sequence[ComponentSet],
    apply: Apply,
    target: int,
    batch_size: int | None,
    progress: bool | None,
) -> Readings | None:
    """The figures of the random sets."""
    if not controls:
        return None
    later, ids = runs.later, runs.batch.sequence(0)
    passes = track(
        runs.logits(controls, apply, batch_size=batch_size),
        total=len(runs.chunks(controls, batch_size)),
        label="ablating random sets",
        unit="pass",
        show=progress,
    )
    found = {
        tuple(indices): readings(logits, later.clean, ids, target) for indices, logits in passes
    }
    together, order = joined(list(found.values())), [i for indices in found for i in indices]
    return together.in_order(order)
