"""How long the web page takes from Analyze to its first result, and what it sends.

    python benchmarks/app.py
    python benchmarks/app.py --models toy-gpt2 --rounds 5
    python benchmarks/app.py --sessions 20 --models smollm2-135m-instruct

The page as visitors have it: `mi-toolkit app` in a process of its own, a real Chromium. First: the
model is not in memory. Then: it is. Seconds are wall-clock, medians over the later rounds.

With `--sessions`, a load run, by the requests that the page sends: one session alone, then so many
at a time, one of them with the longest prompt that the page takes. Printed are ratios, which hold
on any machine: latency over that of one session alone, and what the server holds over its
`--memory`. How long Stop takes while the longest prompt runs is printed in seconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from urllib.request import Request, urlopen

import psutil
from playwright.sync_api import Browser, sync_playwright

sys.path[:0] = [str(Path(__file__).parents[1])]

from tests.browser.app_server import AppServer, Visit, serving, visiting  # noqa: E402 the path comes first
from tests.browser.chromium import chromium_path, launch  # noqa: E402

MODELS = ["toy-gpt2", "smollm2-135m-instruct"]
PROMPT = "When Mary and John went to the store, John gave"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sessions", type=int, default=0)
    options = parser.parse_args()
    if options.sessions:
        for name in options.models:
            load_run(name, options.sessions)
        return
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


MEMORY_GIB = 2.0
LONG = ("Mary and John went to the store " * 18).strip()


class Client:
    """One visitor's session, by the requests that the page itself sends."""

    def __init__(self, address: str) -> None:
        """A session of its own at the page's server."""
        self.address, self.session = address.rstrip("/"), uuid.uuid4().hex
        with urlopen(f"{self.address}/config") as answer:
            self.config = json.load(answer)
        self.ids = {each["props"].get("elem_id"): each["id"] for each in self.config["components"]}

    def listener(self, *targets: str, takes: int | None = None) -> int:
        """The number of the listener to a button's click."""
        wanted = [[self.ids[each], "click"] for each in targets]
        return next(
            each["id"]
            for each in self.config["dependencies"]
            if [list(target) for target in each["targets"]] == wanted
            and (takes is None or len(each["inputs"]) == takes)
        )

    def send(self, listener: int, *values: object) -> None:
        """Ask for something."""
        asked = {"fn_index": listener, "data": values, "session_hash": self.session}
        headers = {"content-type": "application/json"}
        body = json.dumps(asked).encode()
        urlopen(Request(f"{self.address}/gradio_api/queue/join", body, headers)).close()

    def answer(self) -> bool:
        """Wait for the answer: whether it is one."""
        query = f"{self.address}/gradio_api/queue/data?session_hash={self.session}"
        with urlopen(query, timeout=1200) as stream:
            for line in stream:
                message = json.loads(line[5:]) if line.startswith(b"data:") else {}
                if message.get("msg") == "process_completed":
                    return bool(message["success"])
        return False

    def analyze(self, model: str, prompt: str) -> float:
        """Seconds from Analyze to its answer."""
        begun = time.perf_counter()
        self.send(self.listener("analyze", takes=4), model, prompt, 1, 1)
        if not self.answer():
            raise RuntimeError(f"{model} did not analyze {prompt[:40]!r}.")
        return time.perf_counter() - begun


def load_run(name: str, n_sessions: int) -> None:
    """One session, many at a time, and Stop during the longest prompt; printed as ratios."""
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(Path(folder), "--allow-models", name, "--memory", str(MEMORY_GIB)) as server,
    ):
        process = psutil.Process(server.process.pid)
        first = Client(server.address)
        first.analyze(name, PROMPT)  # loads the model
        idle = process.memory_info().rss
        alone = statistics.median(first.analyze(name, PROMPT) for _ in range(3))
        long_alone = first.analyze(name, LONG)
        clients = [Client(server.address) for _ in range(n_sessions)]
        prompts = [LONG, *[PROMPT] * (n_sessions - 1)]
        analyze = partial(Client.analyze, model=name)
        with ThreadPoolExecutor(n_sessions) as pool:
            waiting = [
                pool.submit(analyze, each, prompt=prompt)
                for each, prompt in zip(clients, prompts, strict=True)
            ]
            long, *short = (each.result() for each in waiting)
        held = process.memory_info().rss - idle
        in_turn = long_alone + alone * (n_sessions - 1)
        print(f"{name}, {n_sessions} sessions at a time, one with {len(LONG.split())} words")
        print(f"  alone: {alone:.2f} s, the long one {long_alone:.2f} s")
        print(f"  short ones, times that: median {statistics.median(short) / alone:.1f}")
        print(f"  short ones, times that: slowest {max(short) / alone:.1f}")
        print(f"  the long one, times that: {long / long_alone:.1f}")
        print(f"  all, of the time of one after the other: {max(long, *short) / in_turn:.2f}")
        print(f"  held beyond the model, of --memory: {held / (MEMORY_GIB * 2**30):.2f}")
        print(f"  Stop: {stop_seconds(first, server, name):.2f} s")


def stop_seconds(client: Client, server: AppServer, name: str) -> float:
    """From Stop, pressed while the longest prompt runs, to the end of its run."""
    client.send(client.listener("analyze", takes=4), name, LONG, 1, 1)
    time.sleep(1)
    begun = time.perf_counter()
    client.send(client.listener("stop"))
    # The next one begins only once that has ended.
    other = Client(server.address)
    other.analyze(name, "Hi")
    stopped = time.perf_counter() - begun
    return max(0.0, stopped - other.analyze(name, "Hi"))


if __name__ == "__main__":
    main()
