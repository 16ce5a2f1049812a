"""The trained models that tests run, each loaded once."""

from __future__ import annotations

from functools import cache

from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.models.loading import load_model

TOYS = ["toy-gpt2", "toy-gpt-neo", "toy-pythia", "toy-opt", "toy-qwen2"]


@cache
def loaded(name: str) -> HookedModel:
    """A model by name; tests leave it as it is."""
    return load_model(name)
