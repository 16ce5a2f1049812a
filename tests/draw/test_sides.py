"""Results side by side: rows, bars and strips say the figures that they are drawn from."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from mi_toolkit import ablation_effect, compare_models
from mi_toolkit.compare.agreement import aligned
from mi_toolkit.compare.models import read_prompt
from mi_toolkit.core.predictions import Prediction
from mi_toolkit.draw.ablation import effect_html, finding, strips_html
from mi_toolkit.draw.comparison import (
    agreement_html,
    aligned_html,
    class_html,
    labels_html,
    models_html,
    shared_labels,
)
from mi_toolkit.draw.markup import bars_html
from mi_toolkit.draw.pipeline import tokens_html
from mi_toolkit.interventions.effect import FIGURES, AblationEffect
from mi_toolkit.text.trace import trace_pipeline
from tests.models_here import loaded

PROMPT = "one two three four one two three four one two"


def made(token: int, text: str, log_prob: float, rank: int) -> Prediction:
    return Prediction(token=token, text=text, logit=0.0, log_prob=log_prob, rank=rank)


@pytest.fixture(scope="module")
def effect() -> AblationEffect:
    return ablation_effect(loaded("toy-gpt2"), PROMPT, ["L2H0"], n_random=3, top_k=4)


def test_a_target_that_is_not_among_the_first_has_a_row_of_its_own() -> None:
    first = [made(5, " a", -0.5, 1), made(6, "<b>", -1.5, 2)]
    shown = bars_html("Next <i>", first, target=made(9, " z", -7.0, 1204))
    assert shown.count("<tr") == 4
    assert shown.endswith(
        '<tr class="target"><td>1,204</td><td title="id 9">·z</td><td><i style="width:0.1%;'
        'background:#0072b2"></i><span>0.1%</span></td></tr></table></figure>'
    )
    assert "&lt;b&gt;" in shown
    assert "<figcaption>Next &lt;i&gt;" in shown


def test_tokens_that_look_alike_are_told_apart_by_id() -> None:
    alike = [made(5, "a", -0.5, 1), made(6, "a", -1.5, 2)]
    shown = bars_html("", alike, target=alike[1])
    assert shown.count('class="target"') == 1
    assert shown.index('class="target"') > shown.index("id 5")


def test_a_finding_says_what_happened_and_what_chance_does(effect: AblationEffect) -> None:
    before, after = effect.before, effect.after
    assert finding(effect) == (
        f"With L2H0 ablated the probability of {before.text.replace(' ', '·')} falls to "
        f"{after.probability:.1%}, from {before.probability:.1%} (rank 1 to {after.rank}). "
        "3 of 3 random sets of as many heads change its log-probability less."
    )
    alone = replace(
        effect,
        controls=(),
        control_changes={name: values[:0] for name, values in effect.control_changes.items()},
    )
    assert finding(alone).endswith(f"(rank 1 to {after.rank}).")
    assert "so nothing says whether" in strips_html(alone)


def test_a_strip_holds_a_dot_for_every_random_set_in_its_place(effect: AblationEffect) -> None:
    strips = strips_html(effect).split("<figure>")[1:]
    assert len(strips) == len(FIGURES)
    for name, strip in zip(FIGURES, strips, strict=True):
        at = [float(x) for x in re.findall(r'cx="([\d.]+)"', strip)]
        change = float(re.search(r'class="change"[^>]* d="M([\d.]+)', strip)[1])  # type: ignore[index]
        drawn = [*at, change]
        given = [*effect.control_changes[name].tolist(), effect.change[name]]
        low, high = min(0.0, *given), max(0.0, *given)
        for x, figure in zip(drawn, given, strict=True):
            assert x == pytest.approx(8 + (figure - low) / (high - low) * 264, abs=0.06)


def test_ablating_nothing_changes_nothing_and_can_be_drawn() -> None:
    same = ablation_effect(loaded("toy-gpt2"), PROMPT, [], n_random=0)
    assert "With nothing ablated" in effect_html(same)
    assert "stays at" in finding(same)


def test_models_have_a_row_per_label_with_counts_and_depths() -> None:
    comparison = compare_models([loaded("toy-gpt2"), loaded("toy-qwen2")], PROMPT)
    shown = labels_html(comparison)
    row = next(each for each in shown.split("<tr>") if ">induction<" in each)
    cells = row.split("<td>")[1:]
    for name, cell in zip(comparison.models, cells, strict=True):
        profile = next(p for p in comparison.profiles(name) if p.label == "induction")
        assert cell.startswith(f"<b>{profile.count}</b> ({profile.share:.0%})")
        assert cell.count("<circle") == len(set(profile.depths))
        assert f"strongest {profile.strongest}" in cell
    assert "needs two prompts or more" in shown
    share = float(comparison.agreement.share[0, 1])
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", agreement_html(comparison))
    assert cells[:2] == ["toy-gpt2, toy-qwen2", f"{share:.0%}"]


def test_what_models_differ_in_is_marked_and_the_rest_is_folded() -> None:
    comparison = compare_models([loaded("toy-gpt2"), loaded("toy-opt")], PROMPT)
    differing, shared = models_html(comparison).split("<details>")
    row = '<tr class="differs"><th scope="row">activation</th><td>gelu_new</td><td>relu</td></tr>'
    assert row in differing
    assert '<tr class="shared"><th scope="row">positions</th><td>learned</td>' in shared


def test_tokens_of_two_models_stand_in_columns_of_the_same_characters() -> None:
    names, text = ("toy-gpt2", "toy-qwen2"), "naïve 🙂 Mary"
    readings = {name: read_prompt(loaded(name), text) for name in names}
    shown = aligned_html(text, readings)
    first, second = shown.split("<tr>")[1:]
    assert first.count("<td>") == second.count("<td>") > 1
    for name, row in zip(names, (first, second), strict=True):
        assert row.count("<span>") == len(readings[name].spans)
    stretches = aligned(text, [each.spans for each in readings.values()])
    assert "".join(each.text for each in stretches) == text


def test_the_same_class_of_heads_stands_side_by_side() -> None:
    names = ("toy-gpt2", "toy-opt")
    text = "one two three four one two three four one two"
    readings = {name: read_prompt(loaded(name), text) for name in names}
    assert shared_labels(readings)[0] in {"induction", "previous_token", "first_token"}
    shown = class_html(readings, "induction")
    for read in readings.values():
        head = read.reading.report.heads("induction")[0]
        assert f"Attention pattern of {head} of toy-" in shown
    nothing = class_html({name: read_prompt(loaded(name), "Hi there") for name in names}, "diffuse")
    assert nothing.count("no head beyond doubt; the nearest") == 2
    # The head that looks there most is an induction head, which does the opposite: not near.
    none = class_html(readings, "prefix_suppression")
    assert none.count("no head does it beyond doubt") == 2
    assert "Attention pattern" not in none


@pytest.mark.parametrize("character", ["🙂", "\N{ARABIC LETTER SHEEN}"])
def test_a_character_of_several_tokens_is_one_chip(character: str) -> None:
    traced = trace_pipeline(loaded("toy-qwen2"), f"a {character} b")
    texts = traced.tokens.texts
    parts = [text for text in texts if text.startswith("<0x")]
    assert len(parts) > 1
    shown = tokens_html(traced)
    assert shown.count("<span") == len(texts) - len(parts) + 1
    assert f'title="One character in {len(parts)} tokens">' in shown
    assert character in shown
    assert "&lt;0x" not in shown
