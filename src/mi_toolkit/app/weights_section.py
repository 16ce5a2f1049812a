"""The critical weights of the analyzed prompt's model: what the panel runs, shows and saves."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import gradio as gr
from markupsafe import Markup

from mi_toolkit.app.context import TOP_K, Analysis, Job, Session
from mi_toolkit.app.panel import Builder, Panel
from mi_toolkit.app.tools import Saveable, opening_code
from mi_toolkit.core.errors import WeightError
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.random_sets import Triple
from mi_toolkit.core.tables import table_of
from mi_toolkit.draw.weights import (
    WeightsView,
    perturbation_html,
    shares_html,
    top_html,
    view_weights,
)
from mi_toolkit.weights.prompt_effect import RANDOM, perturbation_effect
from mi_toolkit.weights.score import score_weights

if TYPE_CHECKING:
    from mi_toolkit.weights.prompt_effect import PerturbationEffect


METRICS = {
    "grad_x_weight": "|gradient × weight|",
    "signed_grad_x_weight": "−gradient × weight",
    "grad_squared": "gradient²",
    "weight_integrated_gradients": "gradients on the way from 0 to the weight",
    "wanda": "|weight| × size of its input",
    "magnitude": "|weight|, no text needed",
    "random": "to compare with",
}
"""The scorers that the page offers, those that a few passes are enough for, in plain words."""

TEXTS = {"prompt": "the prompt", "passages": "8 bundled passages"}
"""What weights can be scored on."""

PASSAGES, PASSAGE_TOKENS, BATCH = 8, 64, 2

ALL = "all"
"""Asks for all weights of the table, together."""

MOST = 50


@dataclass(frozen=True, kw_only=True, eq=False)
class Weights:
    """The scored weights of one model. Tables alone: scores of each weight would fill memory."""

    analysis: Analysis
    """What stood on the page."""

    on: str
    """What they were scored on, a key of `TEXTS`."""

    k: int
    """How many were asked for."""

    seconds: float
    """How long scoring took."""

    view: WeightsView
    """The tables, and what zeroing one did, if one was zeroed."""

    chosen: tuple[Triple, ...] = ()
    """The weights that were zeroed, together."""

    new_tokens: int = 0
    """Tokens that were written then, as many as the context has room for."""

    @property
    def effect(self) -> PerturbationEffect | None:
        """What zeroing it did."""
        return self.view.effect


def run_scoring(model: HookedModel, found: Analysis, metric: str, k: int, on: str) -> Weights:
    """Score every weight of attention and MLPs, and keep the highest and the sums.

    Raises:
        UnknownNameError, PromptError, WeightError: as `score_weights` does.
    """
    begun = time.perf_counter()
    if on == "prompt":
        scores = score_weights(model, [found.prompt], metric)
    else:
        scores = score_weights(
            model,
            metric=metric,
            eval_limit=PASSAGES,
            max_length=PASSAGE_TOKENS,
            batch_size=BATCH,
        )
    view = view_weights(scores, min(k, MOST, scores.size), report=found.report, model=model)
    return Weights(
        analysis=found, on=on, k=len(view.top), seconds=time.perf_counter() - begun, view=view
    )


def run_zeroing(model: HookedModel, found: Analysis, scored: Weights, asked: str) -> Weights:
    """Zero weights of the table, look at the prompt, and put them back bit for bit.

    Args:
        model: the one that was scored.
        found: what stands on the page.
        scored: its scores.
        asked: the number of a row, or `ALL`.

    Raises:
        WeightError: no such row.
        MIToolkitError: as `perturbation_effect` does.
    """
    rows = scored.view.top
    if asked != ALL:
        if not asked.isdecimal() or int(asked) >= len(rows):
            raise WeightError(f"The table has no row {asked}.")
        rows = (rows[int(asked)],)
    chosen = tuple((str(row["parameter"]), int(row["row"]), int(row["column"])) for row in rows)
    room = int(model.cfg.n_ctx) - len(found.pipeline.tokens.ids)
    new_tokens = max(0, min(found.max_new_tokens, room))
    effect = perturbation_effect(
        model,
        found.prompt,
        chosen,
        top_k=TOP_K,
        max_new_tokens=new_tokens,
        num_beams=found.num_beams,
    )
    return replace(
        scored,
        analysis=found,
        view=scored.view.with_effect(effect),
        chosen=chosen,
        new_tokens=new_tokens,
    )


def refreshed(found: Analysis, scored: Weights) -> Weights | None:
    """What still holds under a new analysis: scores of its model, an effect on its prompt."""
    before = scored.analysis
    if found is before:
        return scored
    if found.model != before.model:
        return None
    if found.prompt != before.prompt and scored.on == "prompt":
        return None
    return replace(scored, analysis=found, view=scored.view.with_effect(None), chosen=())


def scored_html(scored: Weights) -> Markup:
    """The table, with a button in each row, and the maps."""
    return Markup(
        '<p role="status"><b>{size:,} weights scored on {text} in {seconds:.1f} s.</b> Zero one to '
        'see what the prompt becomes without it.</p>{table}<div class="picks"><button '
        'type="button" data-pick="{all}" aria-pressed="{pressed}">Zero all {n} together</button>'
        "</div>"
    ).format(
        size=scored.view.size,
        text=TEXTS[scored.on],
        seconds=scored.seconds,
        table=Markup(top_html(scored.view, button="Zero", chosen=scored.chosen)),
        all=ALL,
        pressed=str(len(scored.chosen) > 1).lower(),
        n=len(scored.view.top),
    )


def effect_html(scored: Weights) -> str:
    """What zeroing did, or nothing."""
    return "" if scored.effect is None else perturbation_html(scored.effect)


def maps_html(scored: Weights) -> str:
    """Where the scores lie."""
    return f"<h3>Where the scores lie</h3>{shares_html(scored.view)}"


def weights_code(scored: Weights) -> str:
    """The same in Python."""
    found, view = scored.analysis, scored.view
    texts = "prompt, " if scored.on == "prompt" else ""
    limits = (
        ""
        if scored.on == "prompt"
        else f", eval_limit={PASSAGES}, max_length={PASSAGE_TOKENS}, batch_size={BATCH}"
    )
    lines = [
        opening_code(found.model, found.prompt),
        f"scores = mi.score_weights(model, {texts}metric={view.metric!r}{limits})",
        "report = mi.classify_heads(model, prompt)",
        f"top = scores.top({scored.k}, report=report, model=model).head({scored.k})",
    ]
    shown = f"mi.view(scores, {scored.k}, report=report, model=model)"
    effect = scored.effect
    if effect is not None:
        lines += [
            "",
            "effect = mi.weights.perturbation_effect(",
            "    model,",
            "    prompt,",
            f"    {list(scored.chosen)!r},",
            f"    n_random={RANDOM},",
            f"    top_k={TOP_K},",
            f"    max_new_tokens={scored.new_tokens},",
            f"    num_beams={found.num_beams},",
            ")",
        ]
        shown = f"mi.view(scores, {scored.k}, report=report, model=model, effect=effect)"
    return "\n".join([*lines, shown])


def weights_saveable(scored: Weights) -> Saveable:
    """The table, the maps and the effect in files."""
    found, effect = scored.analysis, scored.effect
    about: dict[str, Any] = {
        "model": found.model,
        "prompt": found.prompt,
        "metric": scored.view.metric,
        "scored on": TEXTS[scored.on],
    }
    if effect is not None:
        about["zeroed"] = {
            "weights": [list(weight) for weight in effect.weights],
            "target": {"id": effect.before.token, "text": effect.before.text},
            "probability": {
                "before": effect.before.probability,
                "after": effect.after.probability,
            },
            "kl": effect.kl,
            "texts": dict(zip(("before", "after"), effect.texts, strict=True)),
        }
    rows = [{str(key): value for key, value in row.items()} for row in scored.view.top]
    return Saveable(name="weights", view=scored.view, table=lambda: table_of(rows), about=about)


def _scoring(found: Analysis, metric: str, k: float, on: str) -> Job[Weights]:
    return found.job(lambda model: run_scoring(model, found, metric, int(k), on))


WEIGHTS = Panel(
    name="weights",
    title="Score weights, and zero them",
    help="Each weight of attention and {MLPs|MLP} gets a {score|score of a weight}. A score "
    "predicts; zeroing the weight tests it.",
    button="Score weights",
    is_open=True,
    invitation="Press Score weights.",
    job=_scoring,
    drawings=("weights-top", "weights-effect", "weights-maps"),
    shown=lambda scored: (scored_html(scored), effect_html(scored), maps_html(scored)),
    code=weights_code,
    saveable=weights_saveable,
    still=refreshed,
)


def weights_section(page: Builder) -> None:
    """Metric and number, the table, the effect of zeroing one, and the maps."""
    gr.Markdown("## Critical weights\nWhich single numbers does the model hang on?")
    with page.panel(WEIGHTS) as built, gr.Row(equal_height=True):
        metric = gr.Dropdown(
            [(f"{name} · {said}", name) for name, said in METRICS.items()],
            value="grad_x_weight",
            label="Score by",
            min_width=260,
            scale=2,
            elem_id="weights-metric",
        )
        on = gr.Dropdown(
            [(text, name) for name, text in TEXTS.items()],
            value="prompt",
            label="Score on",
            min_width=180,
            elem_id="weights-on",
        )
        k = gr.Slider(
            1,
            MOST,
            10,
            step=1,
            precision=0,
            label="How many to list",
            min_width=180,
            elem_id="weights-k",
        )
        built.choices = [metric, k, on]

    def zeroing(session: Session, asked: str) -> Job[Weights]:
        found, scored = session.analysed(), page.answer(session, WEIGHTS)
        return found.job(lambda model: run_zeroing(model, found, scored, asked))

    table, *_ = built.drawings
    page.run(table, zeroing, partial(page.answered, WEIGHTS), outputs=built.outputs)
