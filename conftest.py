"""What holds for every test and doctest, before anything of the library is imported.

It must not import mi_toolkit: jaxtyping's hook, which checks shapes in tests, is set up later.
"""

from __future__ import annotations

import os

import pytest


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


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Decide what two workers may share out, and in which order.

    A group (pytest-xdist's `loadgroup`) is a file, whose tests share fixtures, or what a mark
    `xdist_group` names. Groups with slow tests come first, so that no worker begins one when the
    other has nothing left.
    """
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))
    slow = {_group(item) for item in items if any(item.iter_markers("slow"))}
    items.sort(key=lambda item: _group(item) not in slow)


def _group(item: pytest.Item) -> str:
    (mark,) = list(item.iter_markers("xdist_group"))[:1]
    return str(mark.args[0])


@pytest.fixture(autouse=True)
def _examples_write_into_a_folder_of_their_own(request: pytest.FixtureRequest) -> None:
    """What the docs' examples save is not left in the checkout."""
    if isinstance(request.node, pytest.DoctestItem):
        request.getfixturevalue("monkeypatch").chdir(request.getfixturevalue("tmp_path"))
