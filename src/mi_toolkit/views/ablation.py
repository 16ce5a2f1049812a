"""Ablations as pages and pictures: one effect, or a sweep over every head."""

from __future__ import annotations

import html

from mi_toolkit.interventions.effects import AblationEffect, AblationSweep
from mi_toolkit.interventions.effects.result import HEADER
from mi_toolkit.interventions.effects.sweep import HEADER as SWEEP_HEADER
from mi_toolkit.predictions import Prediction
from mi_toolkit.provenance import Provenance
from mi_toolkit.views.picture import PictureView, wide_table
from mi_toolkit.views.tokens import visible

HEADS_LISTED = 15


def view_ablation(result: AblationEffect | AblationSweep) -> PictureView:
    """An ablation to look at: in a notebook, as a page, as a picture.

    Example:
        >>> import mi_toolkit as mi
        >>> model = mi.load_model("toy-gpt2")
        >>> mi.view_ablation(mi.ablation_sweep(model, "one two three one two"))
        PictureView of Every head of toy-gpt2 under zero ablation, one at a time
    """
    return _sweep_view(result) if isinstance(result, AblationSweep) else _effect_view(result)


def _sweep_view(sweep: AblationSweep) -> PictureView:
    from mi_toolkit.views.figures import sweep_maps

    return PictureView(
        title=sweep.title(),
        caption=(
            f"What the model makes of {visible(sweep.clean.text)!r} behind the prompt, which it "
            f"gives {sweep.clean.probability:.1%} (rank {sweep.clean.rank}), when one head is "
            "ablated. Orange is a fall, purple a rise. Each figure is of this one prompt: a head "
            "that matters here need not matter for the next."
        ),
        draw=lambda: sweep_maps(sweep),
        body=_prompt(sweep.texts)
        + "<h3>The heads that change the log-probability most</h3>"
        + wide_table(SWEEP_HEADER, sweep.rows(HEADS_LISTED))
        + _facts(sweep.provenance, sweep.how, sweep.reference),
    )


def _effect_view(effect: AblationEffect) -> PictureView:
    from mi_toolkit.views.figures import effect_picture

    beside = (
        f"{len(effect.controls)} random sets of the same size stand beside it: a change within "
        "theirs is no finding."
        if effect.controls
        else "No random set stands beside it."
    )
    return PictureView(
        title=effect.title(),
        caption=(
            f"The prediction behind the prompt with nothing ablated, and with "
            f"{' '.join(map(str, effect.components)) or 'nothing'} ablated; the target is "
            f"{visible(effect.before.text)!r}. {beside}"
        ),
        draw=lambda: effect_picture(effect),
        body=_prompt(effect.texts)
        + "<h3>Before and after</h3>"
        + wide_table(HEADER, effect.rows())
        + "<h3>The most probable next tokens</h3>"
        + wide_table(
            ["rank", "clean", "probability", "ablated", "probability"],
            _side_by_side(effect.top_before, effect.top_after),
        )
        + _free_text(effect)
        + _facts(effect.provenance, effect.how, effect.reference),
    )


def _side_by_side(before: tuple[Prediction, ...], after: tuple[Prediction, ...]) -> list[list[str]]:
    return [
        [
            str(rank),
            visible(one.text),
            f"{one.probability:.2%}",
            visible(other.text),
            f"{other.probability:.2%}",
        ]
        for rank, (one, other) in enumerate(zip(before, after, strict=True), start=1)
    ]


def _free_text(effect: AblationEffect) -> str:
    free = effect.free_text
    if free is None:
        return ""
    rows = [["clean", free.texts[0]], ["ablated", free.texts[1]]]
    note = (
        f"Greedily, {free.same} tokens alike. From the first that differs on, each goes on from "
        "its own text: how much they differ measures nothing."
    )
    return f"<h3>Generated freely</h3><p>{note}</p>" + wide_table(["", "text"], rows)


def _prompt(texts: tuple[str, ...]) -> str:
    return f"<p>Prompt: <code>{html.escape(''.join(texts))}</code></p>"


def _facts(made: Provenance, how: str, reference: str) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in made.versions.items())
    return (
        f'<p class="facts">{html.escape(made.model)} in {made.dtype} as {made.backend}. {how} '
        f"ablation, values from {html.escape(reference)}. {html.escape(versions)}.</p>"
    )
