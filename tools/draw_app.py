"""Draw the pictures of `docs/web_page.md` from the page itself: `python tools/draw_app.py`.

The page as `mi-toolkit app` serves it, a real Chromium, each section in light and in dark. Needs
Chromium and the extra `test`.
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from playwright.sync_api import expect, sync_playwright

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT)]

from tests.browser.app_server import Visit, serving, visiting  # noqa: E402 the path comes first
from tests.browser.chromium import chromium_path, launch  # noqa: E402

PAPERS = ("light", "dark")
PICTURES = ROOT / "docs/pictures/app"
PROMPT = "When Mary and John went to the store, John gave a drink to"
MODELS = ("toy-gpt2", "toy-pythia", "toy-qwen2")
HIGHEST = 3200
"""Pixels of a picture; a card goes on below, part after part."""

COLOURS = 192
"""A page has few: with a palette, a picture takes a third of the space."""


def main() -> None:
    """Draw them all."""
    with (
        sync_playwright() as playwright,
        tempfile.TemporaryDirectory() as folder,
        serving(Path(folder), "--allow-models", *MODELS) as server,
    ):
        browser = launch(playwright, chromium_path() or "chromium")
        for paper in PAPERS:
            with visiting(
                browser, server.address, dark=paper == "dark", width=1400, height=900
            ) as visit:
                visit.analyze(PROMPT)
                visit.page.locator("#beam-texts .mi *").first.wait_for()
                for name, prepare in SHOTS.items():
                    keep(visit, prepare(visit), f"{name}-{paper}.png")
        browser.close()


def keep(visit: Visit, selector: str, name: str) -> None:
    """Write a picture of a part of the page; of its first screen where no part is named."""
    visit.page.wait_for_timeout(800)
    if selector:
        drawn = visit.page.locator(selector).screenshot()
    else:
        visit.page.evaluate("scrollTo(0, 0)")
        drawn = visit.page.screenshot()
    PICTURES.mkdir(parents=True, exist_ok=True)
    picture = Image.open(io.BytesIO(drawn)).convert("RGB")
    picture = picture.crop((0, 0, picture.width, min(picture.height, HIGHEST)))
    picture.quantize(COLOURS).save(PICTURES / name, optimize=True)
    print(PICTURES / name)


def first_screen(visit: Visit) -> str:
    """The form and what the model is."""
    return ""


def attention(visit: Visit) -> str:
    """The map of heads, and the pattern of one."""
    visit.page.locator("#head-map [data-pick=L2H0]").click()
    visit.page.locator("#head table").first.wait_for()
    return "#attention"


def output(visit: Visit) -> str:
    """Predictions at a position, and the lens."""
    return "#output"


def generation(visit: Visit) -> str:
    """Beams as texts and as a tree."""
    return "#generation"


def ablate(visit: Visit) -> str:
    """Heads ablated, next to random ones."""
    visit.page.click("#ablate-run")
    visit.page.locator("#ablate-shown table").first.wait_for(timeout=120_000)
    return "#ablate"


def card(visit: Visit) -> str:
    """The card of a head, all parts of it."""
    visit.unfold("card")
    visit.page.click("#card-map [data-pick=L2H0]")
    shown = visit.page.locator("#card-shown")
    expect(shown).to_contain_text("What hangs on it", timeout=240_000)
    expect(visit.page.locator("#card-next")).not_to_contain_text("Still to come")
    return "#card"


def compare(visit: Visit) -> str:
    """Three models that differ in their positions above all."""
    visit.unfold("compare")
    visit.page.click("#compare-presets [data-pick=positions]")
    expect(visit.model_box("compare-model-3")).to_have_value(MODELS[-1])
    visit.page.click("#compare-run")
    visit.page.locator("#compare-heads .value-grid").first.wait_for(timeout=240_000)
    return "#compare"


def weights(visit: Visit) -> str:
    """The weights that a score ranks highest, the first of them set to zero."""
    visit.page.click("#weights-run")
    visit.page.locator("#weights-top [data-pick='0']").click(timeout=240_000)
    visit.page.locator("#weights-effect table").first.wait_for(timeout=60_000)
    return "#weights"


SHOTS: dict[str, Callable[[Visit], str]] = {
    "first_screen": first_screen,
    "attention": attention,
    "output": output,
    "generation": generation,
    "ablate": ablate,
    "card": card,
    "compare": compare,
    "weights": weights,
}


if __name__ == "__main__":
    main()
