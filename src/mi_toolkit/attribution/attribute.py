"""`attribute`: which tokens of a prompt the model's next token rests on."""

from __future__ import annotations

import math
from typing import Any

import torch

from mi_toolkit.attribution.attribution import Attribution
from mi_toolkit.attribution.baselines import (
    DEFAULT_BASELINE,
    TokenTarget,
    baseline_embedding,
    embeddings_of,
    objective_of,
    target_ids,
)
from mi_toolkit.attribution.methods import (
    METHODS,
    Method,
    better_baseline,
    completeness_error,
)
from mi_toolkit.attribution.question import Answer, Question, last_logits
from mi_toolkit.core.errors import AttributionError, PromptError, unknown_name
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.passes import check_finite_pass
from mi_toolkit.core.predictions import predictions
from mi_toolkit.core.process_state import one_job
from mi_toolkit.core.tokenizer import token_texts
from mi_toolkit.core.tokens import Prompt, tokenise_one
from mi_toolkit.models.describe import provenance_of

TOKENS_PER_PASS = 1024

LEAST_TOLERANCE = 1e-4
"""A completeness error that rounding alone can make."""

MAX_STEPS = 112
"""With what else runs, the defaults stay within 120 passes of the prompt."""


@one_job
def attribute(
    model: HookedModel,
    prompt: Prompt,
    target: TokenTarget | None = None,
    method: str = "integrated_gradients",
    *,
    objective: str = "logit",
    baseline: int | str | None = None,
    steps: int | None = None,
    max_steps: int = MAX_STEPS,
    tolerance: float = 0.01,
    allow_incomplete: bool = False,
    prepend_bos: bool | None = None,
    attention_mask: Any = None,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> Attribution:
    """A score for each token of a prompt: what the prediction after it rests on.

    The same call gives the same scores. Methods disagree, and none is the truth: `METHODS` says
    what each measures, and each one's docstring when it misleads.

    Args:
        model: a HookedTransformer or a TransformerBridge; it is left as it was.
        prompt: one text, or the ids of one.
        target: the next token to explain: its id, or its exact text (" Paris" is not "Paris"); two
            of them for a contrast, why this and not that; None for the most probable one.
        method: `integrated_gradients`, `input_x_gradient`, `gradient_norm`, `occlusion` or
            `attention_rollout`.
        objective: what is explained of the target: its `logit`, or its `log_prob`, which also moves
            with every other token's logit. Of a contrast both are the same.
        baseline: what stands for no information: the `mean` embedding of the vocabulary (the
            default), `zero`, `bos`, `eos`, `pad`, `unk`, or any token by its id or exact text. For
            methods that have one.
        steps: points of the integral over the whole line, exactly; None to begin with 17 and add
            points where the scores do not add up.
        max_steps: where adding ends, whether or not they do. A point is one forward and backward
            pass of the prompt.
        tolerance: the completeness error that integrated gradients have to reach.
        allow_incomplete: give scores that miss the tolerance all the same; the result says so.
        prepend_bos: put a BOS before a text. None: as the model was trained to read it.
        attention_mask: of ids with padding: 1 where a token is real, in the shape of the ids.
        batch_size: prompts to a pass; None for about 1,024 tokens. It changes memory and time, and
            scores by rounding only.
        progress: a progress bar; None: where somebody looks and it takes long.

    Raises:
        PromptError: more than one sequence, or a target that is not one token.
        UnknownNameError: no such method or objective.
        HookError: the model does not run on the embeddings that it is given.
        AttributionError: integrated gradients that do not add up, unless `allow_incomplete`; or
            what is no number.
        NotFiniteError: what the model computes on the prompt is NaN or infinite.

    Example:
        >>> import mi_toolkit as mi
        >>> model = mi.load_model("toy-gpt2")
        >>> prompt = "When Mary and John went to the store, John gave a drink to"
        >>> why = mi.attribute(model, prompt, (" Mary", " John"))
        >>> why.is_complete, len(why.scores) == len(why.tokens)
        (True, True)
    """
    _check_numbers(steps, max_steps, batch_size, tolerance)
    chosen = _method(method, baseline)
    batch = tokenise_one(
        model, prompt, "attribute", prepend_bos=prepend_bos, attention_mask=attention_mask
    )
    ids = batch.sequence(0)
    named: int | str = DEFAULT_BASELINE if baseline is None else baseline
    # Inside, gradients are on even where the caller's code has them off.
    with torch.enable_grad():
        with torch.no_grad():
            logits = last_logits(model, ids[None])[0].float().cpu()
            check_finite_pass(model, ids[None], logits)
        tokens = target_ids(model, target, logits)
        embeddings = embeddings_of(model, ids)
        question = Question(
            model=model,
            ids=ids,
            objective=objective_of(objective, tokens),
            embeddings=embeddings,
            baseline=baseline_embedding(model, named, embeddings),
            steps=steps,
            max_steps=max_steps,
            tolerance=tolerance,
            batch_size=batch_size or max(1, TOKENS_PER_PASS // len(ids)),
            progress=progress,
            rows_run=[1],
        )
        without, value = question.ends
        answer = chosen.run(question)
        is_short, is_finite = _is_short(question, answer), bool(answer.scores.isfinite().all())
        jumps = answer.jump is not None or not is_finite
        better = better_baseline(question, named) if is_short and jumps else None
    if not is_finite:
        raise _no_numbers(model, named, answer, better)
    error = completeness_error(answer.scores, value, without) if chosen.has_baseline else math.nan
    found = Attribution(
        method=method,
        objective=objective,
        target=predictions(model.tokenizer, logits, torch.tensor(tokens)),
        ids=ids,
        tokens=token_texts(model.tokenizer, ids.tolist()),
        scores=answer.scores.float().cpu(),
        value=value,
        baseline=_in_words(model, named) if chosen.has_baseline else None,
        baseline_value=without if chosen.has_baseline else math.nan,
        completeness_error=error,
        tolerance=tolerance,
        steps=answer.steps,
        n_passes=sum(question.rows_run),
        jump=answer.jump,
        better_baseline=better,
        provenance=provenance_of(model, {"prompt": batch}, seed=0),
    )
    if is_short and not allow_incomplete:
        raise AttributionError(
            f"{found.sum_text()} allow_incomplete=True gives the scores all the same."
        )
    return found


def _method(name: str, baseline: int | str | None) -> Method:
    """The method of that name, once it can use the baseline that was given."""
    if name not in METHODS:
        raise unknown_name("method of attribution", name, METHODS)
    if baseline is not None and not METHODS[name].has_baseline:
        raise PromptError(f"{name} has no baseline: leave baseline out.")
    return METHODS[name]


def _no_numbers(
    model: HookedModel, baseline: int | str, answer: Answer, better: str | None
) -> AttributionError:
    """What to raise where scores are NaN or infinite, with the way out."""
    way_out = "occlusion" if better is None else f"baseline={better!r}"
    jump = "" if answer.jump is None else f", where F jumps by {answer.jump:+.3f}"
    return AttributionError(
        f"Scores of tokens are NaN or infinite in {model.cfg.model_name}, from the baseline "
        f"{baseline!r}{jump}: its gradients are no numbers there. Take {way_out}."
    )


def _is_short(question: Question, answer: Answer) -> bool:
    """Whether an integral misses what it should add up to, or is no number."""
    if answer.steps is None:
        return False
    without, value = question.ends
    return not completeness_error(answer.scores, value, without) <= question.tolerance


def _check_numbers(
    steps: int | None, max_steps: int, batch_size: int | None, tolerance: float
) -> None:
    for name, number in (("steps", steps), ("max_steps", max_steps), ("batch_size", batch_size)):
        if number is not None and number < 1:
            raise PromptError(f"{name}={number}: it has to be 1 or more.")
    if not tolerance >= LEAST_TOLERANCE:
        raise PromptError(
            f"tolerance={tolerance:g}: logits are float32, whose rounding alone is of that size. "
            f"{LEAST_TOLERANCE:g} or more can be asked for."
        )


def _in_words(model: HookedModel, baseline: int | str) -> str:
    """The baseline in words; a token's id as its text, which says more."""
    if isinstance(baseline, int):
        return repr(token_texts(model.tokenizer, [baseline])[0])
    return baseline
