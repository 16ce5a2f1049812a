from __future__ import annotations

import json
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from tests.cli.process import MODULE, finished

PROMPT = "When Mary and John went to the store, John gave a drink to Mary and John."


@pytest.fixture(scope="session")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the run `classified` writes to."""
    return tmp_path_factory.mktemp("cli") / "made" / "here"


@pytest.fixture(scope="session")
def classified(output: Path) -> CompletedProcess[str]:
    """The default model on a prompt, some behaviours, a folder and a page, at 80 columns."""
    some = ["--behaviours", "induction", "previous_token", "--behaviours", "diffuse", "locality"]
    files = ["--output", str(output), "--html", str(output / "page.html")]
    return finished("classify", PROMPT, *some, *files, columns=80)


@pytest.fixture(scope="session")
def standard_json() -> tuple[CompletedProcess[str], dict[str, Any]]:
    """The standard protocol on a model with grouped queries, as JSON."""
    done = finished("classify", "--model", "toy-qwen2", "--json", command=MODULE)
    return done, json.loads(done.stdout)
