"""The page and the picture of a confirmation: every trial is there, with its verdict."""

from __future__ import annotations

import re
from functools import cache

from mi_toolkit import Confirmation, Page, confirm_each_head, confirm_heads, view_confirmation
from mi_toolkit.views.figures import confirmation_figure
from tests.models_here import loaded

CLAIMED = {"induction": ["L2H0", "L2H2"], "previous_token": ["L0H0"], "duplicate_token": []}


@cache
def found(*, by_head: bool) -> Confirmation:
    confirm = confirm_each_head if by_head else confirm_heads
    return confirm(loaded("toy-gpt2"), CLAIMED, n_sequences=8, alpha=0.3)


def test_a_page_shows_every_trial_among_its_random_sets() -> None:
    for by_head in (False, True):
        shown = found(by_head=by_head)
        body = view_confirmation(shown).section().body
        assert body.count("<svg") == len(shown.trials)
        dots = sum(len(trial.random_sets) + 1 for trial in shown.trials)
        assert body.count("<circle") == dots
        for trial in shown.trials:
            assert f"{trial.verdict}: {trial.reason}" in body
        assert "not tested: no head carries it" in body
        assert ("in its layer" in body) == by_head
        places = [float(x) for x in re.findall(r'cx="([\d.-]+)"', body)]
        assert min(places) >= 0
        assert max(places) <= 260


def test_confirmations_stand_on_a_page_with_others(tmp_path) -> None:
    views = [view_confirmation(found(by_head=by_head)) for by_head in (False, True)]
    Page(views).save_html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Labels of toy-gpt2 under mean ablation" in page
    assert "Single heads of toy-gpt2 under mean ablation" in page
    assert repr(views[0]) == "ConfirmationView(Labels of toy-gpt2 under mean ablation)"


def test_a_picture_has_a_panel_to_a_label_and_a_row_to_a_trial(tmp_path) -> None:
    shown = found(by_head=True)
    figure = confirmation_figure(shown)
    induction, previous = figure.axes
    assert induction.get_title(loc="left") == "induction on repeated_random"
    names = [label.get_text() for label in induction.get_yticklabels()]
    assert names == ["L2H0", "L2H2"]
    assert [label.get_text() for label in previous.get_yticklabels()] == ["L0H0"]
    changes = [trial.effect.change for trial in shown["induction"]]
    drawn = [line.get_xdata()[0] for line in induction.lines if line.get_marker() == "D"]
    assert drawn == changes
    low, high = induction.get_xlim()
    assert low < min(0, *changes) <= max(changes) < high
    view_confirmation(shown).save_png(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
