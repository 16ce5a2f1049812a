"""`mi-toolkit attribute`: which tokens of a prompt the next token rests on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from mi_toolkit.cli.options import (
    DEFAULT_LOADING,
    DEFAULT_MODEL,
    DEFAULT_PROMPT,
    Count,
    CountOrNone,
    LoadOptions,
    ModelName,
    Switch,
    token_named,
)
from mi_toolkit.cli.output import DEFAULT_OUTPUT, OutputOptions, columns, wrapped
from mi_toolkit.cli.terminal import (
    FOR_READING,
    UsageError,
    bold,
    third_parties_kept_off_stdout,
    width,
)

if TYPE_CHECKING:
    from mi_toolkit.attribution.attribute import Attribution

BAR = 24


def attribute(
    prompt: str = DEFAULT_PROMPT,
    /,
    *,
    model: ModelName = DEFAULT_MODEL,
    target: str | None = None,
    against: str | None = None,
    method: Literal[
        "integrated_gradients",
        "input_x_gradient",
        "gradient_norm",
        "occlusion",
        "attention_rollout",
    ] = "integrated_gradients",
    objective: Literal["logit", "log_prob"] = "logit",
    baseline: str | None = None,
    steps: CountOrNone = None,
    max_steps: Count = 112,
    allow_incomplete: Switch = False,
    bos: bool | None = None,
    out: OutputOptions = DEFAULT_OUTPUT,
    load: LoadOptions = DEFAULT_LOADING,
) -> None:
    """Score each token of a prompt: how much does the next token rest on it?

    Args:
        prompt: The text, in quotes.
        model: Name or alias (see mi-toolkit models --all), hub id, folder, or .gguf file.
        target: The next token to explain, exactly, in quotes: " Paris" is not "Paris". Or its id,
            as id:42. Without it: the most probable one.
        against: Explain why the target rather than this token.
        method: What to score by. Methods disagree: docs/attribution.md says when each misleads.
        objective: What is explained of the target: its logit, or its log-probability.
        baseline: What stands for no information: mean (the default), zero, bos, eos, pad, unk, or
            a token, as for --target.
        steps: Points of the integral. Without it as many as it takes for the scores to add up.
        max_steps: Where that ends; each is one forward and backward pass of the prompt.
        allow_incomplete: Give the scores of integrated gradients even where they do not add up.
        bos: Put a beginning-of-sequence token before the prompt. Without the option: as the model
            was trained to read text, GPT-2 with one, Pythia and Qwen2.5 without.
        out: What it gives; Attribution.load reads attribution.safetensors.
        load: How the model is loaded.
    """
    if against is not None and target is None:
        raise UsageError(msg="--against goes with a --target.")
    out.check()
    this, that, no_information = map(token_named, (target, against, baseline))
    hooked = load.load(model)
    import mi_toolkit

    with third_parties_kept_off_stdout():
        found = mi_toolkit.attribute(
            hooked,
            prompt,
            this if this is None or that is None else (this, that),
            method,
            objective=objective,
            baseline=no_information,
            steps=steps,
            max_steps=max_steps,
            allow_incomplete=allow_incomplete,
            prepend_bos=bos,
        )
    out.deliver(
        found, name="attribution", record=lambda: _record(found), lines=lambda: _lines(found)
    )


def _record(found: Attribution) -> dict[str, object]:
    return {
        **found.record(),
        "ids": found.ids.tolist(),
        "scores": found.scores.tolist(),
        "is_complete": found.is_complete,
    }


def _lines(found: Attribution) -> Iterator[str]:
    yield bold(f"{found.title()}, by {found.method}")
    for token in found.target:
        yield f"{token.text!r}: {token.probability:.2%}, rank {token.rank:,}"
    largest = float(found.scores.abs().max()) or 1.0
    against = found.scores.min() < 0
    longest = BAR // 2 if against else BAR
    rows = []
    for place, (text, score) in enumerate(zip(found.tokens, found.scores.tolist(), strict=True)):
        bar = "▇" * round(longest * abs(score) / largest)
        # On the page by colour, here by side: against the target to the left, for it to the right.
        sides = [bar if score < 0 else "", bar if score > 0 else ""]
        rows.append([str(place), repr(text), f"{score:+z.3f}", *sides])
    header = ["", "token", "score", "against", "for"]
    if not against:
        header, rows = ["", "token", "score", ""], [[*row[:3], row[4]] for row in rows]
    room = width(elsewhere=FOR_READING)
    yield ""
    yield from columns([header, *rows], width=room, align="><>>" if against else "><>")
    if found.sum_text():
        yield ""
        yield from wrapped(found.sum_text(), room)
