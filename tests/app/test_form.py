"""What a page's address may ask for, whoever wrote it."""

from __future__ import annotations

import pytest

from mi_toolkit.app.form import asked_for
from mi_toolkit.app.settings import Settings
from mi_toolkit.core.head import Head

SETTINGS = Settings(most_beams=5, most_new_tokens=20)


def test_the_address_fills_in_the_form_and_the_results() -> None:
    query = {
        "model": "toy-opt",
        "prompt": "Mary & John",
        "beams": "2",
        "tokens": "7",
        "head": "L1H2",
        "position": "3",
        "panel": "ablate",
    }
    assert asked_for(query, SETTINGS) == {
        "model": "toy-opt",
        "prompt": "Mary & John",
        "beams": 2,
        "tokens": 7,
        "head": Head(1, 2),
        "position": 3,
    }


@pytest.mark.parametrize("wrong", ["", "x", "-1", "1e3", "²", "9" * 5000, "L9", "\0"])
def test_what_cannot_be_had_is_left_out_or_held_to_the_servers_bounds(wrong: str) -> None:
    names = ("beams", "tokens", "head", "position")
    found = asked_for(dict.fromkeys(names, wrong), SETTINGS)
    assert found.get("beams", 1) in (1, 5)
    assert found.get("tokens", 1) in (1, 20)
    assert "head" not in found
    assert len(asked_for({"prompt": "x" * 10**6}, SETTINGS)["prompt"]) == SETTINGS.most_letters + 1
