from __future__ import annotations

import os
import secrets
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# A machine that is busy is no failure.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")
# The same cases each time, as a mutant is killed by what a test finds and not by chance.
settings.register_profile("mutants", deadline=None, database=None, derandomize=True)

ROOT = Path(__file__).parent.parent

# Inherited by the workers, and by what tests start: one seed for the whole run.
FIRE_SEED = int(os.environ.setdefault("FIRE_SEED", str(secrets.randbelow(2**32))))
FIRE_SHARE = float(os.environ.get("FIRE_SHARE", "1"))


def cases(n: int) -> int:
    """How many cases to try of those that `make fire` does: `FIRE_SHARE` of them."""
    return max(1, round(FIRE_SHARE * n))


# What touches TransformerLens, or another package at the oldest release that we support, and so
# may differ between the two sets of constraints: runs on both (mark `backend`). All else is
# tensors, text and pages of our own, and runs once, on the newest.
BACKEND = (
    "activations/test_record.py",
    "activations/test_statistics.py",
    "attribution/test_attribute.py",
    "attribution/test_methods.py",
    "cards/test_card.py",
    "cards/test_profile.py",
    "cli/test_process.py",
    "families",
    "text",
    "heads/test_chunked_attention.py",
    "heads/test_classify.py",
    "heads/test_copying.py",
    "heads/test_direct_effect.py",
    "heads/test_effective_weights.py",
    "heads/test_further.py",
    "interventions/test_ablation.py",
    "interventions/test_effects.py",
    "interventions/test_patching.py",
    "models/test_adapters.py",
    "models/test_blocks_on_disk.py",
    "models/test_describe.py",
    "models/test_gguf_cache.py",
    "models/test_hub_cache.py",
    "models/test_load_errors.py",
    "models/test_loading.py",
    "models/test_probe.py",
    "weights/test_coordinates.py",
    "weights/test_perturb.py",
    "weights/test_score.py",
    "weights/test_super_weights.py",
    "core/test_saved_result.py",
    "verification",
    "draw/test_attention.py",
    "draw/test_figures.py",
)

# Of the five bundled models these run on the newest set alone. Their families are rows of
# `families`, which runs on both; a claim about all five needs two of them there: learned positions
# (toy-gpt2), and rotary ones with grouped heads (toy-qwen2).
ON_THE_NEWEST = {"toy-gpt-neo", "toy-pythia", "toy-opt"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    gone = [entry for entry in BACKEND if not (here / entry).exists()]
    if gone:
        raise pytest.UsageError(f"BACKEND names what is not in tests: {gone}")
    for item in items:
        if not item.path.is_relative_to(here):
            continue
        name = item.path.relative_to(here).as_posix()
        is_listed = any(name == entry or name.startswith(f"{entry}/") for entry in BACKEND)
        parameters = getattr(item, "callspec", None)
        model = parameters.params.get("name") if parameters else None
        if is_listed and model not in ON_THE_NEWEST:
            item.add_marker("backend")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout that the tests run in."""
    return ROOT


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What tests counted (`record_property`), summed up, and the seed that does it again."""
    counted: Counter[str] = Counter()
    said = []
    for report in (each for reports in terminalreporter.stats.values() for each in reports):
        if getattr(report, "when", None) in ("call", "setup"):
            for name, value in report.user_properties:
                if isinstance(value, int):
                    counted[name] += value
                else:
                    said.append(f"{name}: {value}")
    if counted or said:
        terminalreporter.section(f"figures (FIRE_SEED={FIRE_SEED} does the same cases again)")
        for line in (*(f"{name}: {n:,}" for name, n in counted.items()), *said):
            terminalreporter.line(line)
