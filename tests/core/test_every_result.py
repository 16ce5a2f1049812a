"""Every result of the library: what is saved comes back, and its table is its rows."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

import mi_toolkit as mi
from mi_toolkit.core.result import Result, SavedResult
from tests.every_job import FURTHER, JOBS, differences, figures_of
from tests.models_here import loaded

FOLDERS = ("ModelComparison", "LengthSweep")
"""Results whose reports are files of their own."""

NOT_MADE_HERE = ("RunComparison",)
"""Of folders that commands wrote: `tests/weights/test_run_comparison.py`."""


def subclasses(kind: type) -> Iterator[type]:
    for found in kind.__subclasses__():
        yield found
        yield from subclasses(found)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SavedResult]:
    """One of each kind, found on a small model."""
    model, folder = loaded("toy-gpt2"), tmp_path_factory.mktemp("jobs")
    found: dict[str, SavedResult] = {}
    for name, job in {**JOBS, **FURTHER}.items():
        if name.startswith("score_weights") and "WeightScores" in found:
            continue
        made = job(model, folder)
        if isinstance(made, SavedResult):
            found.setdefault(type(made).__name__, made)
    return found


def test_every_kind_of_result_of_the_package_is_among_those_tried(
    results: dict[str, SavedResult],
) -> None:
    for module in pkgutil.walk_packages(mi.__path__, "mi_toolkit."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    known = {
        kind.__name__
        for kind in subclasses(Result)
        if kind.__module__.startswith("mi_toolkit.") and not inspect.isabstract(kind)
    }
    assert known <= {*results, *NOT_MADE_HERE}


def test_what_is_saved_comes_back_to_the_bit(
    results: dict[str, SavedResult], tmp_path: Path
) -> None:
    for name, found in results.items():
        place = tmp_path / name
        found.save(place)
        again = type(found).load(place)
        assert differences(figures_of(found), figures_of(again)) == [], name
        assert repr(again) == repr(found), name


def test_a_table_is_its_rows(results: dict[str, SavedResult]) -> None:
    for name, found in results.items():
        if not isinstance(found, Result):
            continue
        rows, table = list(found.rows()), found.to_pandas()
        assert len(rows) == len(table), name
        if not rows:  # no weight of this model stands out
            assert name == "SuperWeights"
            assert "is_confirmed" in table.columns
            continue
        assert [*rows[0]] == [*table.columns], name
        pd.testing.assert_frame_equal(
            pd.DataFrame(rows).astype(object).fillna(-7),
            table.astype(object).fillna(-7),
            check_dtype=False,
            rtol=0,
            atol=0,
        )
