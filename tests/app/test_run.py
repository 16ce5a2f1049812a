"""What a visitor is told of a job that runs."""

from __future__ import annotations

from typing import Any

import pytest

from mi_toolkit.app import context
from mi_toolkit.app.context import Session, _Run


def test_the_time_to_go_is_that_of_the_items_that_were_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[tuple[Any, str]] = []
    run: Any = _Run(None, Session(), lambda share, desc: told.append((share, desc)))  # type: ignore[arg-type]
    for done, now in ((0, 100.0), (1, 103.0), (2, 110.0)):
        monkeypatch.setattr(context.time, "perf_counter", lambda now=now: now)
        run.report("Ablating", done, 4)
    run.report("Another loop", 0, 3)
    run.report("Of nobody knows how many", 5, None)
    assert told == [
        ((0, 4), "Ablating"),
        ((1, 4), "Ablating, about 9 s to go"),
        ((2, 4), "Ablating, about 10 s to go"),
        ((0, 3), "Another loop"),
        ((5, None), "Of nobody knows how many"),
    ]
