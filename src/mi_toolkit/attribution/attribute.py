"""`attribute`: which tokens of a prompt the next token rests on, a score for each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.attribution.methods import (
    METHODS,
    Method,
    better_baseline,
    completeness_error,
)
from mi_toolkit.attribution.question import (
    DEFAULT_BASELINE,
    Answer,
    Question,
    TokenTarget,
    baseline_embedding,
    embeddings_of,
    last_logits,
    objective_of,
    target_ids,
)
from mi_toolkit.core.display import TextTable, counted
from mi_toolkit.core.errors import AttributionError, PromptError, unknown_name
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.passes import check_finite_pass
from mi_toolkit.core.predictions import Prediction, predictions
from mi_toolkit.core.process_state import one_job
from mi_toolkit.core.provenance import Provenance
from mi_toolkit.core.result import Result
from mi_toolkit.core.tokenizer import token_texts
from mi_toolkit.core.tokens import Prompt, tokenise_one
from mi_toolkit.models.describe import provenance_of

if TYPE_CHECKING:
    pass


_SHOWN = 5


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Attribution(Result):
    """Scores of a prompt's tokens for one prediction, and how far they add up."""

    FORMAT: ClassVar[str] = "mi_toolkit attribution 2"

    method: str
    """The method, by its name in `METHODS`."""

    objective: str
    """What F is of the target: its `logit`, or its `log_prob` in nats."""

    target: tuple[Prediction, ...]
    """The token that is explained, as the model rates it after the prompt; of a contrast both: F
    is the first one's figure less the second one's."""

    ids: Int[Tensor, " position"]
    """The prompt."""

    tokens: tuple[str, ...]
    """Its tokens as text."""

    scores: Float[Tensor, " position"]
    """A score for each token, in the unit of F; of `attention_rollout` a share. Of a method with a
    baseline, above 0 the token speaks for the target and below 0 against it."""

    value: float
    """F on the prompt."""

    baseline: str | None
    """What stands for no information; None where the method needs nothing for it."""

    baseline_value: float
    """F with every token replaced by the baseline; NaN without one."""

    completeness_error: float
    """|Σ scores − (value − baseline_value)| / |value − baseline_value|. Of `integrated_gradients`
    the error of the integral; of others with a baseline, how far from linear F is. NaN without."""

    tolerance: float
    """The completeness error that integrated gradients had to reach."""

    steps: int | None
    """Points of the integral; None where there is none."""

    n_passes: int
    """How often the prompt went through the model, forward or forward and backward: a pass of n
    rows counts n."""

    jump: float | None
    """By how much F changes in the first 1/16,384 of the line from the baseline, where that is more
    than the tolerance lets be missed and the scores do not add up; None elsewhere."""

    better_baseline: str | None
    """A baseline from which F does not jump, where it jumps from this one."""

    provenance: Provenance
    """Model, prompt and versions."""

    @property
    def is_signed(self) -> bool:
        """Whether scores below 0 can be: those of a method with a baseline."""
        return self.baseline is not None

    @property
    def is_complete(self) -> bool:
        """Whether the scores add up, to the tolerance."""
        return self.completeness_error <= self.tolerance

    def top(self, k: int = _SHOWN) -> list[tuple[int, str, float]]:
        """The tokens with the largest scores by size: position, text and score."""
        order = self.scores.abs().sort(descending=True, stable=True).indices[:k].tolist()
        return [(place, self.tokens[place], float(self.scores[place])) for place in order]

    def title(self) -> str:
        """What is explained, in one line."""
        return f"What {self.target_text()} rests on in {self.provenance.model}"

    def target_text(self) -> str:
        """The target in words: `' Mary'`, or `' Mary' rather than ' John'`."""
        return " rather than ".join(repr(token.text) for token in self.target)

    def sum_text(self) -> str:
        """Whether the scores add up, in one sentence; empty where they are not meant to."""
        if not self.is_signed:
            return ""
        total, whole = float(self.scores.double().sum()), self.value - self.baseline_value
        adds = f"The scores add up to {total:+z.3f} of {whole:+z.3f}, error {_percent(self)}"
        if self.steps is None:
            return f"{adds}."
        steps, passes = counted(self.steps, "step"), counted(self.n_passes, "pass", "passes")
        adds = f"{adds} with {steps}, {passes} of the prompt"
        return f"{adds}." if self.is_complete else f"{adds}: {self._shortfall()}"

    def _shortfall(self) -> str:
        """That the scores do not add up, why, and the way out."""
        said = f"NOT within {100 * self.tolerance:g}%. Do not trust single scores; "
        if self.jump is None:
            contrast = "ask a contrast of two tokens, in which what moves all logits falls away, "
            return (
                f"{said}raise max_steps (and leave steps out), "
                f"{contrast if len(self.target) == 1 else ''}or take occlusion."
            )
        other = "another baseline, or occlusion"
        if self.better_baseline is not None:
            other = f"baseline={self.better_baseline!r}"
        return (
            f"{said}no number of steps mends it, as F jumps by {self.jump:+z.3f} right after the "
            f"baseline {self.baseline!r}: take {other}."
        )

    def rows(self) -> Iterable[Mapping[str, Any]]:
        """One row per token: position, id, text, score."""
        rows = zip(self.ids.tolist(), self.tokens, self.scores.tolist(), strict=True)
        return (
            {"position": place, "id": token, "token": text, "score": score}
            for place, (token, text, score) in enumerate(rows)
        )

    def text_table(self) -> TextTable:
        """The tokens with the largest scores, in words."""
        rows = [[f"{score:+z.3f}", f"{text!r} at {place}"] for place, text, score in self.top()]
        if len(self.tokens) > _SHOWN:
            rows.append(["", f"and {len(self.tokens) - _SHOWN} more"])
        title = " ".join(filter(None, [f"{self.title()}, by {self.method}.", self.sum_text()]))
        return TextTable(title=title, rows=rows)


def _percent(found: Attribution) -> str:
    error = found.completeness_error
    return f"{error:.2%}" if error < 10 else f"{error:.3g} times"


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
    jump = "" if answer.jump is None else f", where F jumps by {answer.jump:+z.3f}"
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
