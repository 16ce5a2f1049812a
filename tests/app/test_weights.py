from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd
import pytest
import torch

from mi_toolkit.app.context import Analysis, AppContext, Session, analyse, errors_shown
from mi_toolkit.app.model_pool import ModelPool
from mi_toolkit.app.settings import Settings
from mi_toolkit.app.weights_section import (
    ALL,
    METRICS,
    MOST,
    Weights,
    refreshed,
    run_scoring,
    run_zeroing,
    scored_html,
    weights_code,
    weights_saveable,
)
from mi_toolkit.core.errors import WeightError
from mi_toolkit.core.model import weights_digest
from mi_toolkit.weights.scorers import SCORERS

NAME, PROMPT = "toy-gpt2", "When Mary and John went to the store, John gave a drink to"


@pytest.fixture(scope="module")
def context() -> AppContext:
    return AppContext(Settings(), ModelPool())


@pytest.fixture(scope="module")
def found(context: AppContext) -> Analysis:
    with context.pool.acquire(NAME) as model:
        return analyse(
            model, NAME, PROMPT, num_beams=2, max_new_tokens=4, settings=context.settings
        )


@pytest.fixture(scope="module")
def zeroed(context: AppContext, found: Analysis) -> Weights:
    with context.pool.acquire(NAME) as model:
        scored = run_scoring(model, found, "grad_x_weight", 5, "prompt")
        return run_zeroing(model, found, scored, "1")


def test_the_page_offers_scorers_that_there_are() -> None:
    assert set(METRICS) <= set(SCORERS)


def test_the_code_gives_the_same_table_and_the_same_effect(zeroed: Weights) -> None:
    names: dict[str, Any] = {}
    exec(weights_code(zeroed), names)  # noqa: S102 the code that the page shows
    assert names["top"].to_dict("records") == list(zeroed.view.top)
    assert zeroed.effect is not None
    assert names["effect"].weights == zeroed.effect.weights
    assert names["effect"].kl == pytest.approx(zeroed.effect.kl, rel=1e-4)
    assert names["effect"].texts == zeroed.effect.texts
    # One beam and two write the same here, so the texts alone would not tell.
    assert "max_new_tokens=4,\n    num_beams=2," in weights_code(zeroed)


def test_the_code_of_bundled_passages_gives_the_same_table(
    context: AppContext, found: Analysis
) -> None:
    with context.pool.acquire(NAME) as model:
        scored = run_scoring(model, found, "signed_grad_x_weight", 3, "passages")
    names: dict[str, Any] = {}
    exec(weights_code(scored), names)  # noqa: S102 the code that the page shows
    assert names["top"].to_dict("records") == list(scored.view.top)
    assert "effect" not in names


def test_the_files_hold_the_table_and_the_effect(zeroed: Weights, tmp_path: Path) -> None:
    saveable = weights_saveable(zeroed)
    for ending in ("csv", "json", "html", "png"):
        saveable.save(tmp_path / f"weights.{ending}")
    table = pd.read_csv(tmp_path / "weights.csv")
    assert table["parameter"].tolist() == [row["parameter"] for row in zeroed.view.top]
    told = json.loads((tmp_path / "weights.json").read_text("utf-8"))
    assert len(told["rows"]) == 5
    assert told["zeroed"]["weights"] == [list(weight) for weight in zeroed.chosen]
    page = (tmp_path / "weights.html").read_text("utf-8")
    assert zeroed.chosen[0][0] in page
    assert "Changed" in page
    assert (tmp_path / "weights.png").read_bytes().startswith(b"\x89PNG")


def test_ties_and_greed_leave_the_table_short(context: AppContext, found: Analysis) -> None:
    with context.pool.acquire(NAME) as model:
        assert len(run_scoring(model, found, "magnitude", 9999, "prompt").view.top) == MOST


def test_a_row_that_is_not_there_is_refused(
    context: AppContext, found: Analysis, zeroed: Weights
) -> None:
    with context.pool.acquire(NAME) as model, pytest.raises(WeightError, match="no row 5"):
        run_zeroing(model, found, zeroed, "5")


def test_all_of_the_table_are_zeroed_together(
    context: AppContext, found: Analysis, zeroed: Weights
) -> None:
    with context.pool.acquire(NAME) as model:
        together = run_zeroing(model, found, zeroed, ALL)
    assert together.effect is not None
    assert len(together.effect.weights) == 5
    assert scored_html(together).count('aria-pressed="true"') == 6
    names: dict[str, Any] = {}
    exec(weights_code(together), names)  # noqa: S102 the code that the page shows
    assert names["effect"].kl == pytest.approx(together.effect.kl, rel=1e-4)


def test_each_row_has_a_button_and_the_zeroed_one_is_pressed(zeroed: Weights) -> None:
    shown = scored_html(zeroed)
    assert shown.count("data-pick=") == 6
    assert shown.count('data-pick="1" aria-pressed="true"') == 1
    assert shown.count('aria-pressed="true"') == 1


def test_scores_stay_with_their_model_and_an_effect_with_its_prompt(
    found: Analysis, zeroed: Weights
) -> None:
    assert refreshed(found, zeroed) is zeroed
    assert refreshed(replace(found, model="toy-opt"), zeroed) is None
    assert refreshed(replace(found, prompt="Another"), zeroed) is None
    on_passages = replace(zeroed, on="passages")
    still = refreshed(replace(found, prompt="Another"), on_passages)
    assert still is not None
    assert still.effect is None
    assert still.chosen == ()
    assert still.view.top == zeroed.view.top


def test_the_weights_are_the_same_bit_for_bit_where_the_work_fails(
    context: AppContext, found: Analysis, zeroed: Weights
) -> None:
    with context.pool.acquire(NAME) as model:
        before = weights_digest(model)
    inside: list[str] = []

    def fails(activation: torch.Tensor, hook: object) -> None:
        inside.append(weights_digest(model))
        if inside[-1] != before:
            raise WeightError("it broke <b>here</b>")

    def work(acquire: Any) -> Weights:
        with acquire.hooks(fwd_hooks=[("blocks.0.hook_resid_post", fails)]):
            return run_zeroing(acquire, found, zeroed, ALL)

    with pytest.raises(gr.Error, match="it broke &lt;b&gt;here"), errors_shown():
        context.run(found.job(work), session=Session(), progress=gr.Progress())
    assert before in inside
    assert inside[-1] != before
    with context.pool.acquire(NAME) as model:
        assert weights_digest(model) == before
