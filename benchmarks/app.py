"""How long the web page takes from Analyze to its first result, and what it sends.

    python benchmarks/app.py
    python benchmarks/app.py --models toy-gpt2 --rounds 5

The page as visitors have it: `mi-toolkit app` in a process of its own, a real Chromium. First: the
model is not in memory. Then: it is. Seconds are wall-clock, medians over the later rounds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

sys.path[:0] = [str(Path(__file__).parents[1])]

from tests.browser.app_server import Visit, serving, visiting  # noqa: E402 the path comes first
from tests.browser.chromium import chromium_path, launch  # noqa: E402

MODELS = ["toy-gpt2", "smollm2-135m-instruct"]
PROMPT = "When Mary and John went to the store, John gave"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print("| model | first Analyze s | then s | sent KB |\n| --- | --- | --- | --- |")
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = launch(playwright, chromium_path() or "chromium")
        for name in options.models:
            first, later, sent = measured(browser, Path(folder), name, options.rounds)
            print(f"| {name} | {first:.1f} | {statistics.median(later):.2f} | {sent / 1e3:.0f} |")
        browser.close()


def measured(
    browser: Browser, folder: Path, name: str, rounds: int
) -> tuple[float, list[float], int]:
    """Seconds of the first run and of the later ones, and bytes of the last."""
    with (
        serving(folder, "--allow-models", name) as server,
        visiting(browser, server.address) as visit,
    ):
        first = seconds(visit)
        later = [seconds(visit) for _ in range(rounds - 1)]
        with visit.counting_bytes() as sizes:
            later.append(seconds(visit))
            visit.page.wait_for_timeout(15_000)
        return first, later, sum(sizes)


def seconds(visit: Visit) -> float:
    """From pressing Analyze to the first figures of this run on the page."""
    begun = time.perf_counter()
    visit.analyze(PROMPT)
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
