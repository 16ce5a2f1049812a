"""Heads and labels as buttons, their lists, and what is known of one head."""

from __future__ import annotations

import re

import torch

from mi_toolkit.core.head import Head
from mi_toolkit.draw.head_listing import (
    OFFER,
    can_show,
    head_buttons,
    head_html,
    label_buttons,
    listing_html,
)
from mi_toolkit.draw.head_maps import label_map
from mi_toolkit.draw.markup import pick_button
from mi_toolkit.draw.primitives import LABELS, in_words
from mi_toolkit.heads.classify import classify_heads
from mi_toolkit.text.trace import trace_pipeline
from tests.draw.made import made_report
from tests.models_here import loaded

NEVER = torch.full((2, 3), torch.nan)


def report_of_two_labels():
    previous, first = torch.zeros(2, 3), torch.zeros(2, 3)
    previous[0, 1] = first[0, 1] = previous[1, 2] = 0.9
    return made_report(
        {"previous_token": previous, "first_token": first, "induction": NEVER},
        windows=[None, 4],
    )


def tags(drawn: str) -> dict[str, str]:
    found = re.findall("<button.*?>", drawn)
    return {re.search(r'data-pick="(.*?)"', tag)[1]: tag for tag in found}


def pressed(buttons: dict[str, str]) -> list[str]:
    return [name for name, tag in buttons.items() if 'aria-pressed="true"' in tag]


def test_every_head_is_a_button_that_says_its_name_and_labels_on_their_colours() -> None:
    drawn = head_buttons(label_map(report_of_two_labels()), layers=(0, 1), chosen=Head(0, 1))
    buttons = tags(drawn)
    assert list(buttons) == ["L0H0", "L0H1", "L0H2", "L1H0", "L1H1", "L1H2"]
    assert 'aria-label="L0H1: previous_token, first_token"' in buttons["L0H1"]
    assert buttons["L0H1"].index(LABELS["previous_token"]) < buttons["L0H1"].index(
        LABELS["first_token"]
    )
    assert 'aria-label="L0H0: unclassified"' in buttons["L0H0"]
    assert 'class="nothing"' in buttons["L0H0"]
    assert pressed(buttons) == ["L0H1"]
    assert [name for name, tag in buttons.items() if 'tabindex="0"' in tag] == ["L0H1"]
    assert "1 (window 4)" in drawn


def test_other_heads_are_pale_and_layers_without_a_pattern_cannot_be_clicked() -> None:
    drawn = head_buttons(label_map(report_of_two_labels()), layers=(1,), lit=[Head(1, 2)])
    buttons = tags(drawn)
    assert list(buttons) == ["L1H0", "L1H1", "L1H2"]
    assert [name for name, tag in buttons.items() if " pale" not in tag] == ["L1H2"]
    assert 'tabindex="0"' in buttons["L1H0"]


def test_labels_count_their_heads_and_those_that_could_not_show_are_grey() -> None:
    report = report_of_two_labels()
    drawn = label_buttons(report, "first_token")
    buttons = tags(drawn)
    assert [name for name, tag in buttons.items() if "cannot" in tag] == [
        "induction",
        "prefix_suppression",
    ]
    assert pressed(buttons) == ["first_token"]
    assert "previous token <small>2</small>" in drawn
    assert "induction <small>not on this prompt</small>" in drawn
    assert can_show(report, "unclassified")


def test_a_label_lists_its_heads_with_lift_and_interval() -> None:
    report = report_of_two_labels()
    drawn = listing_html(report, "previous_token")
    assert set(tags(drawn)) == {"L0H1", "L1H2"}
    assert drawn.count("0.90 [0.85, 0.95]") == 2
    assert "Looks at the token just before." in drawn
    assert set(tags(listing_html(report, "unclassified"))) == {"L0H0", "L0H2", "L1H0", "L1H1"}


def test_what_no_prompt_like_this_can_show_says_why_and_offers_one_that_can() -> None:
    report = report_of_two_labels()
    drawn = listing_html(report, "induction", offer="A <b> A")
    assert "it needs a prompt in which a token occurs twice" in drawn
    assert list(tags(drawn)) == [OFFER]
    assert "A &lt;b&gt; A" in drawn
    assert "No single prompt can" in listing_html(report, "induction")


def test_a_label_that_no_head_carries_names_the_nearest() -> None:
    report = made_report({"previous_token": torch.tensor([[0.1, 0.2]])})
    assert list(tags(listing_html(report, "previous_token"))) == ["L0H1"]


def test_a_head_tells_its_figures_its_spread_and_whom_it_shares_keys_with() -> None:
    model = loaded("toy-qwen2")
    report = classify_heads(model, "Mary and John went to the store", progress=False)
    traced = trace_pipeline(model, "Mary and John went to the store", report=report)
    assert report.n_kv_heads < report.score.shape[-1]
    drawn = head_html(report, traced, Head(1, 0))
    spread = float(traced.attention.entropies[1, 0])
    assert f"Spread {spread:.2f}" in drawn
    assert "Reads KV head 0, as L1H1 do" in drawn
    for behaviour in report.behaviours:
        assert f"<th>{in_words(behaviour)}</th>" in drawn
    assert "nan" not in drawn
    assert drawn.count("not on this prompt") == sum(not can for can in report.applicable.values())


def test_what_a_button_stands_for_is_escaped() -> None:
    assert pick_button('"><script>', "x", tip="<b>", kind='"') == (
        '<button type="button" data-pick="&#34;&gt;&lt;script&gt;" aria-label="&lt;b&gt;" '
        'title="&lt;b&gt;" class="&#34;">x</button>'
    )
