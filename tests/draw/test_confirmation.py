"""The page and the picture of a confirmation: every trial is there, with its verdict."""

from __future__ import annotations

import re
from functools import cache

from markupsafe import escape

from mi_toolkit import Page, confirm_heads
from mi_toolkit.core.stimuli import repeated_random
from mi_toolkit.draw.confirmation import view_confirmation
from mi_toolkit.draw.figures.confirmation import confirmation_figure
from mi_toolkit.interventions.confirm.confirmation import (
    Confirmation,
    HypothesisTest,
    LayerPart,
    details,
)
from mi_toolkit.interventions.confirm.label_sets import confirm_each_head
from tests.models_here import loaded

CLAIMED = {"induction": ["L0H1", "L2H0"], "previous_token": ["L0H0"], "duplicate_token": []}


@cache
def found(*, by_head: bool) -> Confirmation:
    model = loaded("toy-gpt2")
    ids = repeated_random(model, n_tokens=16, n_sequences=4, seed=5).ids
    asked = {"stimulus": ids, "n_sequences": 4, "how": "zero", "alpha": 0.3}
    if by_head:
        return confirm_each_head(model, CLAIMED, **asked)
    return confirm_heads(model, CLAIMED, shapley=True, **asked)


def layers_of(trial: HypothesisTest) -> tuple[LayerPart, ...]:
    return trial.explanation.layers if trial.explanation else ()


def test_a_page_shows_every_trial_among_its_random_sets() -> None:
    for by_head in (False, True):
        shown = found(by_head=by_head)
        body = view_confirmation(shown).section().body
        layers = [part for trial in shown.trials for part in layers_of(trial)]
        assert len(layers) == (0 if by_head else 2)
        assert body.count("<svg") == len(shown.trials) + len(layers)
        dots = sum(len(trial.random_sets) for trial in shown.trials)
        assert body.count("<circle") == dots + sum(len(part.others) for part in layers)
        assert body.count('class="change"') == body.count("<svg")
        for trial in shown.trials:
            assert f"{trial.verdict}: {trial.reason}" in body
            for cells in details(trial):
                assert all(escape(cell) in body for cell in cells)
        assert "not tested: no head carries it" in body
        assert ("in its layer" in body) == by_head
        places = [float(x) for x in re.findall(r'cx="([\d.-]+)"', body)]
        assert min(places) >= 0
        assert max(places) <= 260


def test_confirmations_stand_on_a_page_with_others(tmp_path) -> None:
    views = [view_confirmation(found(by_head=by_head)) for by_head in (False, True)]
    Page(views).save_html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Labels of toy-gpt2 under zero ablation" in page
    assert "Single heads of toy-gpt2 under zero ablation" in page
    assert repr(views[0]) == "View of Labels of toy-gpt2 under zero ablation"


def test_a_picture_has_a_panel_to_a_label_and_a_row_to_a_trial(tmp_path) -> None:
    shown = found(by_head=True)
    figure = confirmation_figure(shown)
    induction, previous = figure.axes
    assert induction.get_title(loc="left") == "induction on prompt"
    names = [label.get_text() for label in induction.get_yticklabels()]
    assert names == ["L2H0", "L0H1"]
    assert [label.get_text() for label in previous.get_yticklabels()] == ["L0H0"]
    changes = [trial.effect.change for trial in shown["induction"]]
    drawn = [line.get_xdata()[0] for line in induction.lines if line.get_marker() == "D"]
    assert drawn == changes
    low, high = induction.get_xlim()
    assert low < min(0, *changes) <= max(changes) < high
    of_sets = confirmation_figure(found(by_head=False)).axes[0]
    names = [label.get_text() for label in of_sets.get_yticklabels()]
    assert names == ["L0H1 L2H0", "only L0H1", "only L2H0"]
    view_confirmation(shown).save_png(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
