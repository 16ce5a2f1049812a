"""What a hostile client sends past the page: other names, other origins, nulls, wrong kinds."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from mi_toolkit.app.dashboard import MISUSED, Dashboard, build
from mi_toolkit.app.settings import Settings
from mi_toolkit.cards.card import PARTS
from mi_toolkit.core.errors import MIToolkitError
from tests.browser.app_server import serving

# Gradio's server runs in this process here, and uses what pandas and asyncio will give up.
pytestmark = pytest.mark.filterwarnings("ignore")

PROMPT = "one two three one two three one"
JOIN = "/gradio_api/queue/join"


@pytest.fixture(scope="module")
def page() -> Iterator[Dashboard]:
    async def launched() -> Dashboard:
        page = build(Settings(allow_models=("toy-gpt2", "toy-opt")))
        page.launch(quiet=True, prevent_thread_lock=True)
        return page

    # Where no loop runs, gradio makes one for each of its locks, and leaves it open.
    page = asyncio.run(launched())
    yield page
    page.close()


def asked(
    page: Dashboard, path: str = "/", body: bytes | None = None, **headers: str
) -> tuple[int, str]:
    """The status and the text of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", page.server_port, timeout=60)
    given = {"content-type": "application/json", **headers}
    connection.request("GET" if body is None else "POST", path, body, given)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def told(
    page: Dashboard, session: str, listener: int, asked_for: Sequence[tuple[Any, Any]]
) -> list[str | None]:
    """What a listener answers with, for values and an event each: its errors, or None."""
    waiting: dict[str, tuple[Any, Any]] = {}
    for data, event in asked_for:
        sent = {"fn_index": listener, "data": data, "session_hash": session, "event_data": event}
        status, text = asked(page, JOIN, json.dumps(sent).encode())
        assert status == 200, text
        waiting[json.loads(text)["event_id"]] = (data, event)
    heard: list[str | None] = []
    connection = http.client.HTTPConnection("127.0.0.1", page.server_port, timeout=120)
    connection.request("GET", f"/gradio_api/queue/data?session_hash={session}")
    for line in connection.getresponse():
        message = json.loads(line[5:]) if line.startswith(b"data:") else {}
        if message.get("msg") == "process_completed":
            values = waiting.pop(message["event_id"])
            error = None if message["success"] else message["output"]["error"]
            assert message["success"] or error is not None, (listener, values)
            heard.append(error)
            if not waiting:
                break
    connection.close()
    assert not waiting
    return heard


@pytest.mark.slow
def test_the_page_answers_to_this_machines_names_alone(page: Dashboard) -> None:
    for own in ("localhost", "127.0.0.1:7860", "[::1]:7860", "LOCALHOST"):
        assert asked(page, host=own)[0] == 200
    for other in ("evil.example", "127.0.0.1.evil.example", "192.168.0.7", "localhost.", "[", ""):
        assert asked(page, host=other) == (403, "This server is not called so.")


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1"])
def test_another_page_can_neither_read_nor_send(page: Dashboard, origin: str) -> None:
    own = {"host": "localhost:7860", "origin": "http://localhost:7860"}
    assert asked(page, "/config", **own)[0] == 200
    foreign = {**own, "origin": origin}
    assert asked(page, "/config", **foreign)[0] == 403
    assert asked(page, JOIN, b"{}", **foreign)[0] == 403


def test_nothing_is_uploaded_or_called_by_another_way(page: Dashboard) -> None:
    for path in ("upload", "api/predict", "run/predict", "call/x", "process_recording"):
        assert asked(page, f"/gradio_api/{path}", b"{}")[0] == 403
    assert asked(page, JOIN, b"{}" + b" " * 2**20)[0] == 413


JUNK = [
    "null",
    "[]",
    "{",
    '{"fn_index": -1}',
    '{"data": null, "fn_index": 1e9}',
    "\x00",
    '"x"',
    "NaN",
]
"""What is no request of the page's: bodies, and, of a path, its changing parts."""


def status(page: Dashboard, method: str, path: str, body: str | None) -> int:
    """The status of an answer, whose text may never end."""
    connection = http.client.HTTPConnection("127.0.0.1", page.server_port, timeout=20)
    try:
        connection.request(method, path, body, {"content-type": "application/json"})
        return connection.getresponse().status
    finally:
        connection.close()


def test_no_end_of_the_server_breaks_by_what_is_sent_to_it(
    page: Dashboard, capfd: pytest.CaptureFixture[str]
) -> None:
    ends = {
        (method, each.path)
        for each in page.server_app.routes
        for method in getattr(each, "methods", None) or ()
    }
    assert len(ends) > 20
    broken = []
    for method, path in sorted(ends):
        for filled in ("x", "..%2f..%2fetc%2fpasswd", "-1"):
            asked_for = re.sub(r"\{[^}]*\}", filled, path)
            for body in [None] if method in ("GET", "HEAD", "OPTIONS") else JUNK:
                got = status(page, method, asked_for, body)
                if got >= 500:
                    broken.append((method, asked_for, body, got))
            if asked_for == path:
                break
    for query in ("", "?session_hash=", "?session_hash=x", "?session_hash=%00", "?fn_index=x"):
        for path in ("queue/data", "queue/status", "reset", "cancel", "info", "startup-events"):
            got = status(page, "GET", f"/gradio_api/{path}{query}", None)
            if got >= 500:
                broken.append(("GET", path, query, got))
    assert broken == []
    assert "Traceback" not in "".join(capfd.readouterr())


def test_a_page_that_strangers_would_reach_has_to_be_built_for_them(page: Dashboard) -> None:
    for options in ({"server_name": "0.0.0.0"}, {"share": True}):
        with pytest.raises(MIToolkitError, match=r"Settings\(public=True\)"):
            page.launch(prevent_thread_lock=True, **options)


def test_nothing_that_comes_while_its_like_is_under_way_is_left_out(page: Dashboard) -> None:
    """A click on another head, or the page that a second analysis needs."""
    ours = [each for each in page.fns.values() if each.name in ("listen", "listen_to_pick")]
    assert len(ours) > 30
    assert {each.trigger_mode for each in ours} == {"always_last", "multiple"}


def test_steps_of_a_card_run_also_where_those_of_a_card_before_are_under_way(
    page: Dashboard,
) -> None:
    """Gradio leaves an event out that is under way already, and the card would never be whole."""
    steps = [
        listener
        for listener in page.fns.values()
        if listener.concurrency_id == "models"
        and listener.trigger_after is not None
        and "card-shown" in [getattr(each, "elem_id", None) for each in listener.outputs]
    ]
    assert len(steps) == len(PARTS)
    assert {each.trigger_mode for each in steps} == {"multiple"}


def analyzed(page: Dashboard, session: str) -> None:
    """Have a session analyze the prompt."""
    by_id = {each._id: each for each in page.blocks.values()}
    form = {"model": "toy-gpt2", "prompt": PROMPT, "beams": 2, "new-tokens": 2}
    for number, listener in page.fns.items():
        names = [getattr(by_id[each._id], "elem_id", None) for each in listener.inputs]
        if names == list(form):
            assert told(page, session, number, [(list(form.values()), None)]) == [None]
    assert page.context.sessions.of(session).analysis is not None


WRONG = [None, "x", -1, 1e9, True, {"a": 1}, [1], ["L9H9"], "L0H00"]
PICKS = [{"pick": each} for each in (None, "", "99", "-1", "L9H9", "x", 7, {"a": 1}, "²")]


@pytest.mark.slow
@pytest.mark.parametrize("session", ["empty", "analyzed"])
def test_wrong_values_are_told_in_a_sentence_and_leave_no_traceback(
    page: Dashboard, session: str, capfd: pytest.CaptureFixture[str]
) -> None:
    if session == "analyzed":
        analyzed(page, session)
    heard: set[str | None] = set()
    for number, listener in page.fns.items():
        if listener.fn is None or any(name == "unload" for _, name in listener.targets):
            continue
        given = [[each] * len(listener.inputs) for each in WRONG]
        is_pick = any(name == "pick" for _, name in listener.targets)
        events = [*PICKS, {}, None, "x"] if is_pick else [None]
        wrong = [*given, []] if listener.inputs else [[], [None]]
        picked = [([""] * len(listener.inputs), event) for event in events]
        heard |= {*told(page, session, number, [*((data, None) for data in wrong), *picked])}
    assert any(each is not None and each.startswith(MISUSED[:40]) for each in heard)
    assert len(page._queue.event_analytics) <= 1
    assert not page._queue.cached_event_analytics_summary["functions"]
    said = "".join(capfd.readouterr())
    assert "Traceback" not in said


@pytest.mark.slow
def test_a_host_that_others_reach_means_a_public_server(tmp_path: Path) -> None:
    with serving(tmp_path, "--host", "0.0.0.0", "--allow-hosts", "page.example") as server:
        port = urlsplit(server.address).port

        def got(host: str) -> tuple[int, str]:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("GET", "/config", headers={"host": host})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

        assert [got(each)[0] for each in ("page.example", "10.0.0.7", "evil.example")] == [
            200,
            200,
            403,
        ]
        config = got("page.example")[1]
        assert "toy-gpt2" in config
        assert "pythia-160m" not in config
