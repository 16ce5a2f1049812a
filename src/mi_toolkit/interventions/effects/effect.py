"""`ablation_effect`: chosen components ablated, one prediction read before and after."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from mi_toolkit.errors import PromptError
from mi_toolkit.generation.generate import generate
from mi_toolkit.heads.provenance import provenance_of
from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.interventions.ablation.component import ComponentName, checked_components
from mi_toolkit.interventions.ablation.context import in_place
from mi_toolkit.interventions.ablation.target import Apply, targets_of
from mi_toolkit.interventions.effects.controls import ComponentSet, random_controls
from mi_toolkit.interventions.effects.readings import Readings, joined, losses, readings
from mi_toolkit.interventions.effects.result import FIGURES, AblationEffect, FreeText
from mi_toolkit.interventions.effects.runs import Runs, one_sequence
from mi_toolkit.predictions import Token, kl_divergence, predictions, token_id, top_predictions
from mi_toolkit.process_state import one_job
from mi_toolkit.progress import track
from mi_toolkit.prompts.token_texts import token_texts
from mi_toolkit.prompts.tokens import Prompt

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
    """What ablating components does to the prediction behind a prompt.

    The prompt's own ids run with the components ablated and without, and one token is asked about
    behind them. The same is done with random sets of the same size from the same layers: much of
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
        n_random: random sets to stand beside; 0 for none.
        top_k: how many of the most probable tokens are kept, before and after.
        max_new_tokens: tokens to generate greedily behind the prompt, before and under ablation;
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
    batch = one_sequence(model, prompt, prepend_bos=prepend_bos, attention_mask=attention_mask)
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
    """What is generated behind the prompt, without ablation and under it."""
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
