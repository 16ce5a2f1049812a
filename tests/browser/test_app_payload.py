from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from mi_toolkit.models.load import load_model
from tests.browser.app_server import AppServer, serving, visiting
from tests.hub_cache import hub_config, lay_out

pytestmark = pytest.mark.browser

TWELVE_TOKENS = "When Mary and John went to the store, John gave"


@pytest.fixture(scope="module")
def gpt2_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppServer]:
    """A server that has a GPT-2 of twelve layers of twelve heads in its hub cache, but narrow."""
    folder = tmp_path_factory.mktemp("payload")
    cache = folder / "hub"
    narrow = {**hub_config("gpt2"), "n_embd": 96, "n_head": 12}
    lay_out(cache, "gpt2", narrow, load_model("toy-gpt2").tokenizer)
    with serving(folder, "--allow-models", "gpt2", hub_cache=cache) as server:
        yield server


def test_an_analysis_of_gpt2_sends_less_than_a_megabyte(
    browser: Browser, gpt2_server: AppServer
) -> None:
    with visiting(browser, gpt2_server.address) as visit, visit.counting_bytes() as sizes:
        visit.analyze(TWELVE_TOKENS)
        visit.page.locator("#tokens .chips").wait_for()
        assert visit.page.locator("#tokens .chips span").count() == 12
        visit.page.locator("#beam-texts li").first.wait_for()
        visit.settle()
        assert 10_000 < sum(sizes) < 1_000_000
        visit.clean()


def test_nor_does_the_longest_prompt_that_the_page_takes(
    browser: Browser, gpt2_server: AppServer
) -> None:
    seven_tokens = "Mary and John went to the store "
    with visiting(browser, gpt2_server.address) as visit, visit.counting_bytes() as sizes:
        visit.analyze((seven_tokens * 18).strip())
        visit.page.locator("#tokens .chips").wait_for()
        assert visit.page.locator("#tokens .chips span").count() == 127
        visit.page.locator("#beam-texts li").first.wait_for()
        visit.settle()
        assert 10_000 < sum(sizes) < 1_000_000
        visit.clean()
