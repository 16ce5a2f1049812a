"""The names that a notebook begins with, and where all others are found."""

from __future__ import annotations

import pkgutil

import pytest

import mi_toolkit as mi


def test_few_names_are_at_the_top_and_all_are_there() -> None:
    assert len([name for name in mi.__all__ if name not in mi._PACKAGES and name != "app"]) <= 36
    for name in mi.__all__:
        assert getattr(mi, name) is not None
    for package in mi._PACKAGES:
        found = getattr(mi, package)
        assert found.__name__ == f"mi_toolkit.{package}"
        assert all(getattr(found, name) is not None for name in found.__all__)


@pytest.mark.parametrize("package", mi._PACKAGES)
def test_no_public_name_hides_a_module(package: str) -> None:
    found = getattr(mi, package)
    modules = {module.name for module in pkgutil.iter_modules(found.__path__)}
    assert modules & set(found.__all__) <= {"figures"}


def test_a_name_looked_for_at_the_top_is_told_its_place() -> None:
    with pytest.raises(AttributeError, match=r"it is mi_toolkit\.heads\.copying_scores"):
        mi.copying_scores  # noqa: B018
    with pytest.raises(AttributeError, match="nonsense"):
        mi.nonsense  # noqa: B018
