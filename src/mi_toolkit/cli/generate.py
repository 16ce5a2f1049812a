"""`mi-toolkit generate`: what a model goes on with, with beams, and under ablation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import mi_toolkit as mi
from mi_toolkit.cli.options import (
    DEFAULT_LOADING,
    DEFAULT_MODEL,
    DEFAULT_PROMPT,
    Count,
    LoadOptions,
    ModelName,
    Several,
    Switch,
)
from mi_toolkit.cli.output import DEFAULT_OUTPUT, OutputOptions, columns
from mi_toolkit.cli.terminal import (
    FOR_READING,
    bold,
    third_parties_kept_off_stdout,
    width,
)

if TYPE_CHECKING:
    from mi_toolkit.core.model import HookedModel
    from mi_toolkit.text.generation import Generation


def generate(
    prompt: str = DEFAULT_PROMPT,
    /,
    *,
    model: ModelName = DEFAULT_MODEL,
    max_new_tokens: Count = 20,
    num_beams: Count = 1,
    length_penalty: float = 1.0,
    early_stopping: Switch = False,
    top_k: Count = 5,
    ablate: Several[str] = None,
    how: Literal["zero", "mean"] = "zero",
    bos: bool | None = None,
    out: OutputOptions = DEFAULT_OUTPUT,
    load: LoadOptions = DEFAULT_LOADING,
) -> None:
    """Go on with a prompt, by greedy or beam search; with --ablate, without some of its heads.

    Args:
        prompt: The text, in quotes. Without it: one with repeated names.
        model: Name or alias (see mi-toolkit models --all), hub id, folder, or .gguf file.
        max_new_tokens: Tokens to write at most.
        num_beams: Sequences to follow side by side; 1 is greedy search.
        length_penalty: Sequences are ordered by their log-probability over their length to this
            power.
        early_stopping: Stop at as many ended sequences as there are beams.
        top_k: Alternatives to show in each token's place.
        ablate: Heads whose output is replaced while it writes (L5H1 6.9).
        how: What stands in for their output: zeros, or their mean over natural text.
        bos: Put a beginning-of-sequence token before the prompt. Without the option: as the model
            was trained to read text, GPT-2 with one, Pythia and Qwen2.5 without.
        out: What it gives; Generation.load reads generation.safetensors.
        load: How the model is loaded.
    """
    out.check()
    hooked = load.load(model)

    with third_parties_kept_off_stdout(), _ablating(hooked, ablate, how):
        found = mi.generate(
            hooked,
            prompt,
            max_new_tokens=max_new_tokens,
            num_beams=num_beams,
            length_penalty=length_penalty,
            early_stopping=early_stopping,
            top_k=top_k,
            prepend_bos=bos,
        )
    kinds = ("tokens", "alternatives", "beams")
    out.deliver(
        found,
        name="generation",
        record=lambda: _record(found),
        lines=lambda: _lines(found),
        tables={f"{rows}.csv": partial(found.to_pandas, rows) for rows in kinds},
    )


def _ablating(
    model: HookedModel, heads: list[str] | None, how: str
) -> AbstractContextManager[None]:
    if not heads:
        return nullcontext()

    return mi.ablating(model, heads, how)


def _record(found: Generation) -> dict[str, Any]:
    record = found.record()
    del record["tree"]  # all tensors: its nodes are among the rows
    return {**record, **{kind: list(found.rows(kind)) for kind in found.kinds}}


def _lines(found: Generation) -> Iterator[str]:
    table, room = found.text_table(), width(elsewhere=FOR_READING)
    yield bold(table.title)
    yield from columns([table.header, *table.rows], width=room, align=">>><")
    yield ""
    yield from columns(_best(found), width=room, align="><>")


def _best(found: Generation) -> list[list[str]]:
    """The best sequence token by token: probability, and what else was probable."""
    best = found.sequences[0]
    rows = [["step", "token", "probability", "most probable"]]
    for step, token in enumerate(found.tokens(best.ids)):
        choices = zip(
            found.tokens(best.alternative_ids[step]),
            best.alternative_log_probs[step].tolist(),
            strict=True,
        )
        listed = "  ".join(f"{text!r} {math.exp(log_prob):.1%}" for text, log_prob in choices)
        share = f"{math.exp(float(best.log_probs[step])):.1%}"
        rows.append([str(step), repr(token), share, listed])
    return rows
