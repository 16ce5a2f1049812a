"""What holds for every test and doctest, before anything of the library is imported.

It must not import mi_toolkit: jaxtyping's hook, which checks shapes in tests, is set up later.
"""

from __future__ import annotations

import os

import jaxtyping
import pytest

from tests.shapes import only_shapes

jaxtyping.jaxtyped = only_shapes(jaxtyping.jaxtyped)


def pytest_configure(config: pytest.Config) -> None:
    os.environ["MPLBACKEND"] = "agg"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["WANDB_MODE"] = "disabled"
    os.environ.pop("COLUMNS", None)  # tables are as wide as they are for a pipe
    if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
        # Workers share the processor: torch would start a thread per core in each.
        cores, workers = os.cpu_count() or 1, int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // workers)))
    if config.option.markexpr != "hub":
        # huggingface_hub reads these once, when it is imported.
        os.environ["HF_HUB_OFFLINE"] = "1"
        os.environ["HF_DATASETS_OFFLINE"] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with slow tests first: no worker begins one when the other has nothing left.

    The pretended accelerator comes before all: torch has to know of it before any backward pass.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(
        key=lambda item: (item.path.name != "test_pretended_device.py", item.path not in slow)
    )


@pytest.fixture(autouse=True)
def _examples_write_into_a_folder_of_their_own(request: pytest.FixtureRequest) -> None:
    """What the docs' examples save is not left in the checkout."""
    if isinstance(request.node, pytest.DoctestItem):
        request.getfixturevalue("monkeypatch").chdir(request.getfixturevalue("tmp_path"))
