"""The experiments of the page, as visitors run them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.app_server import Visit
from tests.browser.conftest import OpenApp

REPEATING = "one two three four one two three four one two"
HOSTILE = "</script><img src=x onerror=alert(1)> one </script><img src=x onerror=alert(1)> one"

RUN_AGAIN = "setInterval(() => document.querySelector('#ablate-run:enabled')?.click(), 50)"

WATCH_CARD = """() => {
  window.cards = [];
  new MutationObserver(() => {
    const shown = document.querySelector("#card-shown .mi")?.textContent ?? "";
    const head = shown.match(/^(L\\d+H\\d+) of/)?.[1];
    if (!head) return;
    const next = document.querySelector("#card-next .mi")?.textContent ?? "";
    const missing = next.match(/Still to come: (.*)\\./)?.[1].split(", ").length ?? 0;
    const seen = `${head} ${missing}`;
    if (window.cards.at(-1) !== seen) window.cards.push(seen);
  }).observe(document.querySelector("#card"), { childList: true, subtree: true });
}"""
"""Notes each state of a card: the head, and how many of its parts are still to come."""

EMPTY = re.compile("run it again|Choose a token")

pytestmark = pytest.mark.browser


def run(visit: Visit, panel: str, shows: str) -> str:
    """Run an experiment and give the text of what it shows; `shows` is a selector within."""
    visit.unfold(panel)
    visit.page.click(f"#{panel}-run:enabled")
    visit.page.wait_for_selector(f"#{panel}-shown {shows}", timeout=60_000)
    return visit.page.inner_text(f"#{panel}-shown .mi")


def code(visit: Visit, panel: str) -> str:
    visit.page.click(f"#{panel} .tools > button")
    return visit.page.locator(f"#{panel}-code .cm-content").inner_text(timeout=10_000)


def test_without_its_induction_head_a_model_loses_the_next_token(open_app: OpenApp) -> None:
    visit = open_app()
    visit.analyze(REPEATING)
    visit.page.wait_for_selector("#ablate-labels button")
    assert "L2H0 · induction" in visit.page.inner_text("#ablate-heads")
    shown = run(visit, "ablate", ".sides")
    figures = re.search(r"probability of \S+\s+([\d.]+)%\s+([\d.]+)%", shown)
    assert figures is not None
    original, ablated = map(float, figures.groups())
    assert original > 50 > 1 > ablated
    assert "3 of 3 random sets of as many heads change its log-probability less" in shown
    assert visit.page.locator("#ablate-shown .bars").count() == 2
    assert visit.page.locator("#ablate-shown .strips circle").count() == 5 * 3
    assert "mi.ablation_effect(" in code(visit, "ablate")
    with visit.page.expect_download(timeout=30_000) as download:
        visit.page.click("#ablate-save-json")
    kept = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    assert kept["heads"] == ["L2H0"]
    assert kept["probability"]["ablated"] * 100 == pytest.approx(ablated, abs=0.006)
    visit.page.click("#ablate-labels button[data-pick=diffuse]")
    visit.page.wait_for_function(
        "document.querySelectorAll('#ablate-heads .token').length > 5", timeout=10_000
    )
    visit.page.fill("#prompt textarea", "The capital of France is")
    visit.page.click("#analyze")
    visit.page.wait_for_selector("#ablate-shown .caption", timeout=60_000)
    assert "run it again" in visit.page.inner_text("#ablate-shown")
    visit.clean()


def test_who_ablates_is_not_seen_in_another_session(open_app: OpenApp) -> None:
    reader, ablating = open_app(), open_app()
    joined: list[str] = []
    reader.unfold("attribute")

    def read() -> tuple[str, ...]:
        reader.page.fill("#prompt textarea", REPEATING)
        reader.page.click("#analyze")
        reader.page.locator("#attribute-shown .caption", has_text=EMPTY).wait_for(timeout=120_000)
        why = run(reader, "attribute", ".heat")
        target = reader.page.locator("#ablate-target input").input_value()
        return target, reader.page.inner_text("#ablate-labels"), why

    alone = read()
    assert alone[0].startswith("·t")
    ablating.analyze(REPEATING)
    run(ablating, "ablate", ".sides")
    ablating.page.on(
        "request", lambda asked: joined.append(asked.url) if "queue/join" in asked.url else None
    )
    ablating.page.evaluate(RUN_AGAIN)
    for _ in range(3):
        assert read() == alone
    assert len(joined) > 3
    reader.clean()
    ablating.clean()


def test_a_prediction_is_attributed_by_another_method_to_another_token(open_app: OpenApp) -> None:
    visit = open_app()
    visit.analyze(REPEATING)
    visit.page.wait_for_selector("#ablate-labels button")
    shown = run(visit, "attribute", ".heat")
    assert "What ' t' rests on in toy-gpt2, by integrated gradients" in shown
    assert "The scores add up to" in shown
    assert visit.page.locator("#attribute-shown .heat span").count() == 30
    visit.choose("attribute-method", "gradient norm")
    visit.page.wait_for_selector("#attribute-baseline input:disabled")
    visit.choose("attribute-other", "Finland")
    visit.page.click("#attribute-run")
    title = visit.page.locator("#attribute-shown [role=status]", has_text="rather than ' Finland'")
    title.wait_for(timeout=30_000)
    assert "by gradient norm" in title.inner_text()
    assert "baseline" not in code(visit, "attribute")
    visit.clean()


def test_models_stand_side_by_side_on_one_prompt(open_app: OpenApp) -> None:
    visit = open_app()
    page = visit.page
    visit.analyze(REPEATING)
    page.wait_for_selector("#ablate-labels button")
    visit.unfold("compare")
    expect(visit.model_box("compare-model-1")).to_have_value("toy-gpt2")
    page.click("#compare-presets [data-pick=activation]")
    expect(visit.model_box("compare-model-3")).to_have_value("toy-qwen2")
    visit.choose_model("toy-gpt-neo", "compare-model-4")
    shown = run(visit, "compare", ".depths")
    assert "toy-gpt2, toy-opt, toy-qwen2, toy-gpt-neo on the same prompt" in shown
    differing = page.locator("#compare-shown .differs", has_text="activation").locator("td")
    assert differing.all_inner_texts() == ["gelu_new", "relu", "silu, gated", "gelu_new"]
    assert page.locator("#compare-shown .aligned tr").count() == 4
    assert page.locator("#compare-shown .bars").count() == 4
    heads = page.locator("#compare-heads")
    expect(heads.locator(".value-grid")).to_have_count(4)
    heads.locator("[data-pick=induction]").click()
    expect(heads.locator("[data-pick=induction]")).to_have_attribute("aria-pressed", "true")
    expect(heads.locator(".card", has_text="toy-gpt2")).to_contain_text("L2H0")
    for field in ("compare-model-2", "compare-model-3", "compare-model-4"):
        visit.choose_model("toy-gpt2", field)
    page.click("#compare-run")
    assert "Choose two models or more" in visit.toast()
    visit.clean()


def test_a_click_on_a_head_brings_its_card_part_by_part(open_app: OpenApp) -> None:
    visit = open_app()
    page = visit.page
    visit.analyze(REPEATING)
    page.wait_for_selector("#ablate-labels button")
    visit.unfold("card")
    page.evaluate(WATCH_CARD)
    page.click("#card-map [data-pick=L0H0]")
    shown = page.locator("#card-shown")
    expect(shown).to_contain_text("What hangs on it", timeout=120_000)
    expect(page.locator("#card-next")).not_to_contain_text("Still to come")
    seen = page.evaluate("window.cards")
    states = [state for state in dict.fromkeys(seen) if state != "L0H0 0"]
    # A browser that is busy may draw two parts that came one after the other at once.
    assert states == [f"L0H0 {left}" for left in (4, 3, 2, 1) if f"L0H0 {left}" in states]
    assert len(states) >= 2
    expect(page.locator("#card-map [data-pick=L0H0]")).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#card-head input")).to_have_value(re.compile("^L0H0"))
    assert "'L0H0'" in code(visit, "card")
    page.click("#card-map [data-pick=L1H1]")
    expect(shown).to_contain_text("L1H1 of toy-gpt2", timeout=120_000)
    page.click("#card-map [data-pick=L2H0]")  # before the other head's card is whole
    expect(shown).to_contain_text("L2H0 of toy-gpt2", timeout=120_000)
    expect(shown).to_contain_text("What hangs on it", timeout=120_000)
    expect(page.locator("#card-next")).not_to_contain_text("Still to come")
    heads = [seen.split()[0] for seen in page.evaluate("window.cards")]
    assert heads == sorted(heads, key=["L0H0", "L1H1", "L2H0"].index)  # none comes back
    visit.clean()


def test_what_was_chosen_otherwise_since_is_marked(open_app: OpenApp) -> None:
    visit = open_app()
    visit.analyze(REPEATING)
    visit.page.wait_for_selector("#ablate-labels button")
    run(visit, "ablate", ".sides")
    marked = visit.page.locator("#ablate.stale-choices")
    expect(marked).to_have_count(0)
    visit.choose("ablate-how", "mean")
    expect(marked).to_have_count(1)
    visit.choose("ablate-how", "zero: the")
    expect(marked).to_have_count(0)
    visit.clean()


def test_a_hostile_prompt_stays_text_in_every_experiment(open_app: OpenApp) -> None:
    visit = open_app(width=390, height=844)
    visit.analyze(HOSTILE)
    visit.page.wait_for_selector("#ablate-labels button")
    visit.page.click("#ablate-labels button >> nth=0")
    visit.page.wait_for_selector("#ablate-heads .token")
    run(visit, "ablate", ".sides")
    run(visit, "attribute", ".heat")
    run(visit, "compare", ".depths")
    assert visit.page.locator("img[src=x]").count() == 0
    wide = visit.page.evaluate("document.documentElement.scrollWidth")
    assert wide <= 390
    visit.clean()
