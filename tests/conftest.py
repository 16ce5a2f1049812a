from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

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
