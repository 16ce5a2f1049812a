"""The trained models that tests run, each loaded once."""

from __future__ import annotations

import copy
from functools import cache

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from mi_toolkit.core.model import HookedModel
from mi_toolkit.models.load import load_model
from mi_toolkit.models.sources import find_source

TOYS = ["toy-gpt2", "toy-gpt-neo", "toy-pythia", "toy-opt", "toy-qwen2"]


@cache
def loaded(name: str) -> HookedModel:
    """A model by name; tests leave it as it is."""
    return load_model(name)


def untouched(name: str) -> PreTrainedModel:
    """The same weights as Hugging Face runs them, with no hook anywhere near; the test's own."""
    return copy.deepcopy(_as_hugging_face_loads_it(name))


@cache
def _as_hugging_face_loads_it(name: str) -> PreTrainedModel:
    source = find_source(name)
    gguf = {"gguf_file": source.gguf_file} if source.gguf_file else {}
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        source.location, dtype=torch.float32, attn_implementation="eager", **gguf
    ).eval()
    return model
