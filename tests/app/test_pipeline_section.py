from __future__ import annotations

from functools import cache
from pathlib import Path

import pandas as pd
import pytest

from mi_toolkit import classify_heads
from mi_toolkit.app.context import Analysis, analyse
from mi_toolkit.app.pipeline_section import (
    SHOWS_MOST,
    first_look,
    head_code,
    head_of,
    head_saveable,
    map_html,
    offer_for,
    output_code,
    output_saveable,
    report_code,
    report_saveable,
    stage_code,
    stage_saveable,
    within,
)
from mi_toolkit.app.settings import Settings
from mi_toolkit.core.errors import UnknownNameError
from mi_toolkit.core.head import Head
from mi_toolkit.draw.head_listing import can_show
from tests.app.ran import check_files, ran
from tests.models_here import TOYS, loaded

HOSTILE = "</script><img src=x onerror=alert(1)> Mary and John"


@cache
def found(prompt: str = HOSTILE, model: str = "toy-gpt2") -> Analysis:
    return analyse(loaded(model), model, prompt, num_beams=2, max_new_tokens=4, settings=Settings())


@pytest.mark.parametrize("table", ["tokens", "mlp"])
def test_the_code_of_a_stage_gives_its_table(table: str) -> None:
    pd.testing.assert_frame_equal(
        ran(stage_code(found(), table)), found().pipeline.to_pandas(table)
    )


def test_the_code_of_the_map_gives_every_heads_figures() -> None:
    pd.testing.assert_frame_equal(ran(report_code(found())), found().report.to_pandas())


def test_the_code_of_a_head_gives_its_pattern() -> None:
    head = Head(2, 1)
    given = ran(head_code(found(), head))
    pd.testing.assert_frame_equal(given, found().pipeline.pattern_to_pandas(head))
    assert (given.groupby("query")["attention"].sum() - 1).abs().max() < 1e-5


def test_the_code_of_the_output_gives_the_predictions_of_that_token() -> None:
    given = ran(output_code(found(), 3, 4))
    assert set(given["position"]) == {3}
    assert given["rank"].tolist() == [1, 2, 3, 4]
    saveable = output_saveable(found(), 3, 4)
    pd.testing.assert_frame_equal(given, saveable.table())


@pytest.mark.slow
def test_the_files_of_every_panel_load_and_let_no_prompt_through(tmp_path: Path) -> None:
    panels = {
        "mlp": stage_saveable("mlp", "mlp", found()),
        "heads": report_saveable(found()),
        "head": head_saveable(found(), "L2H1"),
        "output": output_saveable(found(), 3, 4),
    }
    for name, saveable in panels.items():
        (tmp_path / name).mkdir()
        check_files(saveable, tmp_path / name, said="toy-gpt2")


def test_the_first_head_that_is_shown_carries_a_label_where_one_does() -> None:
    repeated = found(SHOWS_MOST).report
    assert "induction" in repeated.labels_of(first_look(repeated))
    nothing = found("Hi").report
    assert first_look(nothing) == Head(0, 0)


def test_heads_without_the_chosen_label_are_pale() -> None:
    repeated = found(SHOWS_MOST)
    n_heads = repeated.report.scope.numel()
    n_carriers = len(repeated.report.heads("induction"))
    assert map_html(repeated, "induction", Head(0, 0)).count(" pale") == n_heads - n_carriers
    assert " pale" not in map_html(repeated, "", Head(0, 0))
    assert " pale" not in map_html(found("Hi"), "induction", Head(0, 0))


@pytest.mark.parametrize("model", TOYS)
def test_the_prompt_that_is_offered_lets_every_behaviour_show_that_one_text_can(
    model: str,
) -> None:
    report = classify_heads(loaded(model), SHOWS_MOST, progress=False)
    for label in report.label_names:
        assert can_show(report, label) == (offer_for(label) is not None), label


@pytest.mark.parametrize("name", ["L9H0", "L0H9"])
def test_a_head_that_the_model_does_not_have_is_refused(name: str) -> None:
    with pytest.raises(UnknownNameError, match=f"no head {name}: 4 layers of 4"):
        head_of(found().report, name)


def test_a_position_left_over_from_a_longer_prompt_is_the_last() -> None:
    assert within(found("Hi"), 99) == len(found("Hi").pipeline.tokens.texts) - 1
    assert within(found("Hi"), -3) == 0
