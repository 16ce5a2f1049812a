"""Classify a model's attention heads.

1. The prompt becomes token batches; without one, the two standard stimuli do.
2. For each stimulus and each window among the layers, find target keys, eligible queries, chance.
3. Run the model once over each batch; read each block of patterns as it appears and drop it.
4. Sum up: score, chance, lift, interval; labels where a figure clears its bar beyond doubt.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from mi_toolkit.errors import PromptError
from mi_toolkit.heads.assemble import assembled
from mi_toolkit.heads.behaviours import chosen
from mi_toolkit.heads.combine import combined
from mi_toolkit.heads.kinds import Behaviour
from mi_toolkit.heads.labels import DEFAULT_FDR, DEFAULT_MIN_LIFT
from mi_toolkit.heads.protocol import (
    blank_report,
    circuit_report,
    home_stimuli,
    pattern_behaviours,
    widened,
)
from mi_toolkit.heads.report import HeadReport
from mi_toolkit.heads.resume import Checkpoint
from mi_toolkit.heads.stimulus_run import StimulusRun
from mi_toolkit.heads.token_maps import WEIGHTS
from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.process_state import one_job
from mi_toolkit.progress import track
from mi_toolkit.prompts.tokens import Prompt, tokenise

OWN_PROMPT = "prompt"
"""What a report calls the stimulus that the caller gave."""


@one_job
def classify_heads(
    model: HookedModel,
    prompt: Prompt | None = None,
    *,
    behaviours: Sequence[str | Behaviour] | None = None,
    min_lift: float = DEFAULT_MIN_LIFT,
    fdr: float | None = DEFAULT_FDR,
    prepend_bos: bool | None = None,
    attention_mask: Any = None,
    batch_size: int | None = None,
    seed: int = 0,
    progress: bool | None = None,
    resume: str | os.PathLike[str] | None = None,
    allow_nan: bool = False,
) -> HeadReport:
    """What each attention head attends to, against chance, with an interval and labels.

    One pass of the model over the prompt, which stops behind the last layer's attention. Patterns
    are scored in blocks of queries as they appear, and dropped, so memory grows with a prompt's
    length, not with its square. Where something wants whole patterns (a hook on them, a behaviour
    of yours, an architecture whose attention cannot be taken over), it holds one layer's at a time;
    `report.provenance.attention` says which.
    A head that matches a prefix is labelled `induction`, or `prefix_suppression` where its direct
    effect lowers the token that it finds there (see `copying_scores`).

    A label is a hypothesis about this prompt: `first_token` above all is a state as much as a
    class, since a head rests on the sink where it has nothing to do.

    Args:
        model: a HookedTransformer or a TransformerBridge; it is left as it was.
        prompt: a string, several, or token ids (a tensor of one sequence or a batch, or a
            `TokenBatch`, whose roles some behaviours need). None: the standard protocol, 32
            sequences of random ids given twice and 64 natural passages, with each behaviour judged
            on its home stimulus and `report.on(...)` for the other. Behaviours beyond the standard
            ones bring the home stimulus of each; `successor` is read off the weights.
        behaviours: names from `BEHAVIOURS`, or behaviours themselves; None for those of `STANDARD`.
        min_lift: the lift that a mask behaviour's label says is exceeded.
        fdr: the share of false labels, in expectation, among all that the report gives: Benjamini
            and Hochberg over all heads and behaviours. None: each head alone, by its 95% interval.
        prepend_bos: put a BOS before each string; None: as the model was trained to read it.
        attention_mask: of ids with padding: 1 where a token is real, in the shape of the ids.
        batch_size: sequences to a forward pass; None: as many as memory has room for, up to where
            more are no quicker. It changes figures by rounding only.
        seed: of the random stimulus.
        progress: a progress bar with the time to go; None: where somebody looks and it takes long.
        resume: a file for the sums of the batches that are done. After an interruption, the same
            call goes on from it, to the same figures bit for bit; it stays, and may be deleted.
        allow_nan: give the report all the same where what the model computes is NaN or infinite.
            Figures that this touches are NaN, and the report names it as the reason.

    Raises:
        PromptError: the prompt is empty, too long, or has an id outside the vocabulary.
        UnknownNameError: no such behaviour.
        BehaviourError: a behaviour from outside cannot be imported, or its mask is none.
        UnsupportedModelError: no layer has an attention pattern to hook.
        HookError: a pattern's hook did not fire.
        NotFiniteError: what the model computes is NaN or infinite: the message names the first
            module where it is.
        ReportError: `resume` is the file of another run, or none of a run.

    Example:
        >>> import mi_toolkit as mi
        >>> model = mi.load_model("toy-gpt2")
        >>> report = mi.classify_heads(model, "When Mary and John went to the store, John")
        >>> report["previous_token"].shape
        torch.Size([4, 4])
    """
    if fdr is not None and not 0 < fdr < 1:
        raise PromptError(f"fdr is a share of false labels, between 0 and 1, or None; not {fdr}.")
    table = chosen(behaviours)
    patterns = pattern_behaviours(table)
    if batch_size is not None and batch_size < 1:
        raise PromptError(
            f"batch_size is the number of sequences to a pass, 1 or more, not {batch_size}."
        )
    if prompt is not None:
        own = tokenise(model, prompt, prepend_bos=prepend_bos, attention_mask=attention_mask)
        stimuli = {OWN_PROMPT: own}
    else:
        if prepend_bos is not None or attention_mask is not None:
            raise PromptError(
                "prepend_bos and attention_mask go with a prompt of your own: the standard stimuli "
                "begin with a "
                "BOS, or with the document separator where the tokenizer has none."
            )
        stimuli = home_stimuli(model, table, seed=seed)
    runs = {
        name: StimulusRun(model, batch, patterns, name, batch_size)
        for name, batch in stimuli.items()
        if patterns
    }
    checkpoint = Checkpoint(resume, runs, seed)
    batches = checkpoint.remaining()
    for name, batch in track(
        batches, total=len(batches), label="classifying heads", unit="batch", show=progress
    ):
        runs[name].measure(batch)
        checkpoint.finished(name)
    parts = {
        name: widened(assembled(run, min_lift, fdr, seed), table) for name, run in runs.items()
    }
    if OWN_PROMPT in parts:
        return parts[OWN_PROMPT]
    if prompt is not None:
        own = stimuli[OWN_PROMPT]
        return blank_report(model, table, OWN_PROMPT, own, min_lift=min_lift, fdr=fdr, seed=seed)
    circuits = circuit_report(model, table, min_lift=min_lift, fdr=fdr, seed=seed)
    if circuits is not None:
        parts[WEIGHTS] = widened(circuits, table)
    return combined(parts)
