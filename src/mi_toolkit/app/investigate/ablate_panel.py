"""The panel that ablates heads."""

from __future__ import annotations

from typing import Any

import gradio as gr

from mi_toolkit.app.analysis import Analysis
from mi_toolkit.app.desk import Desk
from mi_toolkit.app.glossary import help_text
from mi_toolkit.app.investigate.ablate import (
    HOW,
    MOST_RANDOM,
    Ablated,
    ablated_code,
    ablated_html,
    ablated_saveable,
    head_choices,
    labels_html,
    run_ablation,
    suggested,
    with_label,
)
from mi_toolkit.app.investigate.experiment import (
    FIRST,
    analysed_or_told,
    if_fresh,
    keep_fresh,
    note,
    token_choices,
)
from mi_toolkit.app.picking import drawing, picked
from mi_toolkit.app.tools import tools

HELP = (
    "Take heads out and see what becomes of the prediction: the {target}'s probability and {rank}, "
    "and the {KL divergence}. Random heads ({random controls|random control}) show what any "
    "{ablation} of this size does."
)
INVITATION = "Choose heads, then Run. The same number of random heads runs beside them."


def ablate_panel(desk: Desk, analysis: gr.State, analysed: Any) -> None:
    """Take heads out and see what becomes of the prediction."""
    answer, last_model = gr.State(None, time_to_live=3600), gr.State("")
    with gr.Accordion("Ablate heads", elem_id="ablate"):
        help_text(HELP)
        heads = gr.Dropdown(
            [],
            value=[],
            multiselect=True,
            label="Heads to ablate",
            info="L2H0 is head 0 of layer 2. They are ablated together.",
            elem_id="ablate-heads",
        )
        labels = drawing(elem_id="ablate-labels")
        with gr.Row():
            target = gr.Dropdown(
                [],
                label="Token to ask about",
                info="The most probable ones behind the prompt.",
                elem_id="ablate-target",
            )
            how = gr.Dropdown(
                [(text, name) for name, text in HOW.items()],
                value="zero",
                label="How",
                info="What stands in the heads' place.",
                elem_id="ablate-how",
            )
            n_random = gr.Slider(
                0,
                MOST_RANDOM,
                20,
                step=1,
                label="Random sets",
                info="As many heads of the same layers.",
                elem_id="ablate-random",
            )
        reference = gr.Textbox(
            label="Another text",
            info="At least as long as the prompt.",
            lines=2,
            max_length=desk.settings.most_letters,
            visible=False,
            elem_id="ablate-reference",
        )
        button = gr.Button("Run", variant="primary", interactive=False, elem_id="ablate-run")
        shown = drawing(note(FIRST), elem_id="ablate-shown")
        code = tools("ablate", [answer], if_fresh(ablated_saveable))

    def run(
        found: Analysis | None,
        chosen: list[str],
        token: int,
        kind: str,
        sets: float,
        text: str,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[Ablated, str, str]:
        began = analysed_or_told(found)
        done = desk.run(
            lambda model: run_ablation(
                model,
                began,
                chosen,
                target=int(token),
                how=kind,
                n_random=min(int(sets), MOST_RANDOM),
                reference=text or "",
                settings=desk.settings,
            ),
            model=began.model,
            request=request,
            progress=progress,
        )
        return done, ablated_html(done), ablated_code(done)

    ran = button.click(
        run,
        inputs=[analysis, heads, target, how, n_random, reference],
        outputs=[answer, shown, code],
        api_visibility="private",
        concurrency_limit=8,
        concurrency_id="models",
    )
    analysed.success(
        _filled,
        inputs=[analysis, heads, last_model],
        outputs=[heads, target, labels, button, last_model],
        api_visibility="private",
    )
    keep_fresh(analysis, analysed, ran, answer, [shown, code], INVITATION)
    labels.pick(_picked, inputs=[analysis, heads], outputs=heads, api_visibility="private")
    how.change(
        lambda kind: gr.update(visible=kind == "resample"),
        inputs=how,
        outputs=reference,
        api_visibility="private",
    )


def _filled(found: Analysis, chosen: list[str], last_model: str) -> tuple[Any, ...]:
    """What can be chosen now; the heads stay chosen while the model is the same."""
    choices = head_choices(found.report)
    kept = chosen if found.model == last_model else suggested(found.report)
    targets = token_choices(found.pipeline.output.predictions)
    return (
        gr.update(choices=choices, value=kept),
        gr.update(choices=targets, value=targets[0][1]),
        labels_html(found.report),
        gr.update(interactive=True),
        found.model,
    )


def _picked(found: Analysis | None, chosen: list[str], event: gr.EventData) -> list[str]:
    return with_label(analysed_or_told(found).report, chosen, picked(event))
