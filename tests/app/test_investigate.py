"""The experiments without a browser: what they show, the code that repeats them, their files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mi_toolkit.app import ablation_panel as ablate
from mi_toolkit.app import attribution_panel as attribute
from mi_toolkit.app import card_panel as card
from mi_toolkit.app import comparison_panel as compare
from mi_toolkit.app.context import Analysis, Session, analyse
from mi_toolkit.app.panel import _next_step, of_same_analysis, token_choices
from mi_toolkit.app.settings import Settings
from mi_toolkit.app.tools import FORMATS, Saveable
from mi_toolkit.attribution.methods import METHODS
from mi_toolkit.cards.card import PARTS
from mi_toolkit.core.errors import ComparisonError, PromptError
from mi_toolkit.core.head import Head
from mi_toolkit.core.model import HookedModel
from mi_toolkit.models.describe import describe_model
from mi_toolkit.models.specs import MODELS
from tests.models_here import loaded

REPEATING = "one two three four one two three four one two"
HOSTILE = "</script><img src=x onerror=alert(1)> {value} ${value} </script><img src=x onerror="
SETTINGS = Settings()


@cache
def analysed(prompt: str = REPEATING, *, beams: int = 2) -> Analysis:
    return analyse(
        loaded("toy-gpt2"),
        "toy-gpt2",
        prompt,
        num_beams=beams,
        max_new_tokens=4,
        settings=SETTINGS,
    )


def ablated(found: Analysis, **options: Any) -> ablate.Ablated:
    asked: dict[str, Any] = {
        "target": found.pipeline.output.predictions[0].token,
        "how": "zero",
        "n_random": 3,
        "reference": "",
        "settings": SETTINGS,
        **options,
    }
    return ablate.run_ablation(loaded("toy-gpt2"), found, ["L2H0", "L1H3"], **asked)


@cache
def attributed(prompt: str, method: str = "integrated_gradients") -> attribute.Attributed:
    found = analysed(prompt)
    target = found.pipeline.output.predictions[1].token
    return attribute.run_attribution(
        loaded("toy-gpt2"),
        found,
        method=method,
        target=target,
        objective="log_prob",
        baseline="mean",
    )


@contextmanager
def lent(name: str) -> Iterator[HookedModel]:
    yield loaded(name)


COMPARED = ("toy-gpt2", "toy-qwen2", "toy-opt", "toy-gpt-neo")


@cache
def compared(prompt: str) -> compare.Compared:
    return compare.run_comparison(lent, analysed(prompt), COMPARED, settings=SETTINGS)


@cache
def carded(prompt: str = REPEATING, n_parts: int = len(PARTS)) -> card.Carded:
    model = loaded("toy-gpt2")
    done = card.begin_card(model, analysed(prompt), "L2H0", None)
    for _ in range(n_parts):
        done = card.with_next_part(model, done)
    return done


def executed(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - that it runs is what the page promises
    return names


@pytest.mark.parametrize("how", ablate.HOW)
def test_the_code_of_an_ablation_gives_its_figures(how: str) -> None:
    reference = f"{REPEATING} three four five six" if how == "resample" else ""
    done = ablated(analysed(), how=how, reference=reference)
    names = executed(ablate.ablated_code(done))
    pd.testing.assert_frame_equal(names["effect"].to_pandas(), done.effect.to_pandas())
    assert names["effect"].top_after == done.effect.top_after
    if how in ablate.WRITING:
        assert done.effect.free_text is not None
        assert names["effect"].free_text.texts == done.effect.free_text.texts
        assert done.beams is not None
        for name, kept in zip(("original", "ablated"), done.beams, strict=True):
            written = [each.text for each in names[name].sequences]
            assert written == [each.text for each in kept.sequences]
    else:
        assert done.effect.free_text is None
        assert "Nothing is written under this kind" in ablate.ablated_html(done)


@pytest.mark.parametrize("method", METHODS)
def test_the_code_of_an_attribution_gives_its_scores(method: str) -> None:
    done = attributed(REPEATING, method)
    why = executed(attribute.attributed_code(done))["why"]
    pd.testing.assert_frame_equal(why.to_pandas(), done.attribution.to_pandas())
    assert (why.target, why.baseline) == (done.attribution.target, done.attribution.baseline)


def test_the_code_of_a_contrast_gives_its_scores() -> None:
    found = analysed()
    this, that = (each.token for each in found.pipeline.output.predictions[:2])
    done = attribute.run_attribution(
        loaded("toy-gpt2"),
        found,
        method="occlusion",
        target=this,
        other=that,
        objective="logit",
        baseline="zero",
    )
    why = executed(attribute.attributed_code(done))["why"]
    assert [each.token for each in why.target] == [this, that]
    pd.testing.assert_frame_equal(why.to_pandas(), done.attribution.to_pandas())


def test_the_code_of_a_comparison_gives_its_figures() -> None:
    done = compared(REPEATING)
    names = executed(compare.compared_code(done))
    pd.testing.assert_frame_equal(names["comparison"].to_pandas(), done.comparison.to_pandas())
    for name, reading in done.readings.items():
        given = names["readings"][name].traced.output.predictions
        assert given == reading.traced.output.predictions


def test_the_code_of_a_card_gives_its_figures() -> None:
    done = carded()
    assert done.card is not None
    given = executed(card.card_code(done))["card"]
    pd.testing.assert_frame_equal(given.to_pandas(), done.card.to_pandas())


def test_a_card_grows_part_by_part_and_says_what_is_to_come() -> None:
    begun, grown, whole = carded(n_parts=0), carded(n_parts=1), carded()
    told, to_come = card.shown(begun)
    assert "When it acts" not in told
    assert "Still to come: when it acts, what it reads and writes," in to_come
    told, to_come = card.shown(grown)
    assert "<h3>When it acts</h3>" in told
    assert "<h3>What hangs on it</h3>" not in told
    assert "when it acts" not in to_come
    told, to_come = card.shown(whole)
    assert "<h3>What hangs on it</h3>" in told
    assert not to_come
    assert card.with_next_part(loaded("toy-gpt2"), whole) is whole


def test_the_pass_over_the_texts_serves_all_heads_of_a_model_and_no_other_model() -> None:
    first, model = carded(), loaded("toy-gpt2")
    again = card.begin_card(model, first.analysis, "L0H0", first)
    assert again.profiles is first.profiles
    assert again.card is not None
    assert again.card.head == Head(0, 0)
    anew = replace(first.analysis)
    kept = card.still(anew, first)
    assert kept is not None
    assert (kept.profiles, kept.card) == (first.profiles, None)
    assert card.still(replace(anew, model="toy-opt"), first) is None
    with pytest.raises(PromptError, match="Click a head"):
        card.card_saveable(kept)
    with pytest.raises(PromptError, match="Choose a head"):
        card.begin_card(model, first.analysis, "", None)


def test_a_step_that_another_answer_overtook_is_dropped() -> None:
    session, begun, newer = Session(), carded(n_parts=0), carded(n_parts=1)
    session.answers["card"] = begun

    def overtaken(model: HookedModel, done: card.Carded) -> card.Carded:
        session.answers["card"] = newer
        return card.with_next_part(model, done)

    assert _next_step(replace(card.CARD, step=overtaken), session, lent) is None
    assert session.answers["card"] is newer
    gone_on = _next_step(card.CARD, session, lent)
    assert gone_on is not None
    assert session.answers["card"] is gone_on
    assert gone_on.card is not None
    assert gone_on.card.parts == ("examples", "circuits")
    session.answers.clear()
    assert _next_step(card.CARD, session, lent) is None


def test_original_and_ablated_stand_side_by_side() -> None:
    done = ablated(analysed())
    shown = ablate.ablated_html(done)
    for each in (done.effect.before, done.effect.after):
        assert f">{each.probability:.2%}</td>" in shown
    assert f"{float(done.effect.kl[-1]):.3f}</td>" in shown
    assert done.effect.free_text is not None
    for text in done.effect.free_text.texts:
        assert f">{text}</td>" in shown
    assert "beam 2" in shown
    assert "3 of 3 random sets" in shown


@pytest.mark.parametrize(
    ("shown", "saveable"),
    [
        (
            lambda prompt: ablate.ablated_html(ablated(analysed(prompt))),
            lambda prompt: ablate.ablated_saveable(ablated(analysed(prompt))),
        ),
        (
            lambda prompt: attribute.attributed_html(attributed(prompt)),
            lambda prompt: attribute.attributed_saveable(attributed(prompt)),
        ),
        (
            lambda prompt: compare.compared_html(compared(prompt)),
            lambda prompt: compare.compared_saveable(compared(prompt)),
        ),
        (
            lambda prompt: card.shown(carded(prompt, 1))[0],
            lambda prompt: card.card_saveable(carded(prompt, 1)),
        ),
    ],
    ids=["ablate", "attribute", "compare", "card"],
)
def test_a_hostile_prompt_stays_text_on_the_page_and_in_files(
    shown: Any, saveable: Any, tmp_path: Path
) -> None:
    html = shown(HOSTILE)
    assert "<img src" not in html
    assert "<script" not in html
    kept: Saveable = saveable(HOSTILE)
    for ending in FORMATS:
        kept.save(tmp_path / f"kept.{ending}")
    page = (tmp_path / "kept.html").read_text(encoding="utf-8")
    assert "<img src=x" not in page
    assert (tmp_path / "kept.png").read_bytes().startswith(b"\x89PNG")
    table, record = (
        pd.read_csv(tmp_path / "kept.csv"),
        json.loads((tmp_path / "kept.json").read_text()),
    )
    assert record["prompt"] == HOSTILE
    assert list(table.columns) == list(kept.table().columns)
    assert len(table) == len(record["rows"]) == len(kept.table())


def test_code_with_a_hostile_prompt_runs_nothing_of_it() -> None:
    done = ablated(analysed('""" + exit() + """\nimport nothing # '), n_random=0)
    assert executed(ablate.ablated_code(done))["prompt"] == done.analysis.prompt


def test_every_head_can_be_chosen_and_those_of_a_label_at_once() -> None:
    report = analysed().report
    choices = ablate.head_choices(report)
    assert len(choices) == 16
    assert ("L2H0 · induction", "L2H0") in choices
    assert ablate.suggested(report) == ["L2H0"]
    label = report.label_names[report.label_names.index("diffuse")]
    heads = ablate.with_label(report, ["L2H0"], label)
    assert [Head.of(each) for each in heads] == sorted({Head(2, 0), *report.heads(label)})
    assert ablate.with_label(report, heads, "") == []
    buttons = ablate.labels_html(report)
    carried = [name for name in report.label_names if report.heads(name)]
    assert buttons.count("data-pick=") == len(carried) + 1
    assert "duplicate_token" not in buttons


def test_a_prompt_too_short_for_labels_has_a_head_to_begin_with() -> None:
    report = analysed("The capital of France is").report
    assert not any(report.heads(name) for name in ablate.FAVOURITES)
    strongest = next(
        report.strongest(name) for name in ablate.FAVOURITES if report.applicable[name]
    )
    assert ablate.suggested(report) == [str(strongest)]


def test_tokens_are_chosen_by_id_where_they_look_alike() -> None:
    found = analysed().pipeline.output.predictions
    twice = (found[0], replace(found[1], text=found[0].text))
    assert [token for _, token in token_choices(twice)] == [found[0].token, found[1].token]


def test_no_heads_and_texts_that_are_too_long_are_told() -> None:
    found = analysed()
    with pytest.raises(PromptError, match="Choose one head or more"):
        ablate.run_ablation(
            loaded("toy-gpt2"),
            found,
            [],
            target=1,
            how="zero",
            n_random=0,
            reference="",
            settings=SETTINGS,
        )
    short = Settings(most_prompt_tokens=5)
    with pytest.raises(PromptError, match="this page takes 5"):
        ablated(found, how="resample", reference=REPEATING, settings=short)
    with pytest.raises(PromptError, match="has 101 letters; this page takes 100"):
        ablated(found, how="resample", reference="x" * 101, settings=short)
    with pytest.raises(PromptError, match="this page takes 5"):
        compare.run_comparison(lent, found, COMPARED, settings=short)


def test_a_model_is_not_compared_with_itself_by_any_of_its_names() -> None:
    with pytest.raises(ComparisonError, match="Choose two models or more"):
        compare.models_named(SETTINGS, ["gpt2", " openai-community/gpt2", "", " "])
    assert compare.models_named(SETTINGS, ["", "toy-gpt2", "toy-opt"]) == ["toy-gpt2", "toy-opt"]


def test_no_two_models_are_held_at_a_time() -> None:
    held = list[str]()

    @contextmanager
    def one_at_a_time(name: str) -> Iterator[HookedModel]:
        assert not held
        held.append(name)
        yield loaded(name)
        held.remove(name)

    done = compare.run_comparison(one_at_a_time, analysed(), COMPARED, settings=SETTINGS)
    assert done.comparison.models == COMPARED


@pytest.mark.parametrize("preset", compare.PRESETS)
def test_a_preset_is_of_models_that_differ_in_what_it_says(preset: str) -> None:
    fact = {
        "positions": lambda spec: spec.positional,
        "activation": lambda spec: spec.activation,
        "norm": lambda spec: spec.normalisation,
        "scale": lambda spec: spec.n_layers,
    }[preset]
    shown = compare.PRESETS[preset]
    assert len({fact(MODELS[name]) for name in shown.models}) > 1
    if shown.bundled:
        assert len({fact(describe_model(loaded(name))) for name in shown.bundled}) > 1
    assert compare.preset_models(SETTINGS, preset) == (shown.bundled or shown.models)


def test_a_prompt_that_fills_the_context_is_ablated_without_writing() -> None:
    model = loaded("toy-gpt2")
    roomy = Settings(most_prompt_tokens=int(model.cfg.n_ctx))
    text = "a" + " t" * (int(model.cfg.n_ctx) - 2)
    found = analyse(model, "toy-gpt2", text, num_beams=1, max_new_tokens=3, settings=roomy)
    assert len(found.pipeline.tokens.ids) == model.cfg.n_ctx
    done = ablated(found, n_random=0)
    assert (done.new_tokens, done.beams) == (0, None)
    assert "fills the context" in ablate.ablated_html(done)


def test_an_answer_is_kept_only_for_the_analysis_it_began_with() -> None:
    done = attributed(REPEATING)
    assert of_same_analysis(done.analysis, done) is done
    assert of_same_analysis(replace(done.analysis), done) is None


def test_the_analyzed_model_is_among_those_compared() -> None:
    filled = partial(compare.with_first, Settings())
    assert filled("toy-gpt2", ["", "", ""]) == ["toy-gpt2", "toy-qwen2"]
    assert filled("toy-qwen2", [""]) == ["toy-qwen2", "toy-gpt2"]
    assert filled("toy-opt", ["toy-gpt2", "toy-qwen2"]) == ["toy-opt", "toy-qwen2"]
    assert filled("toy-opt", ["toy-gpt2", "toy-opt"]) == ["toy-gpt2", "toy-opt"]
    alone = Settings(allow_models=("toy-opt",))
    assert compare.with_first(alone, "toy-opt", [""]) == ["toy-opt"]
