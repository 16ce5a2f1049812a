"""TransformerLens' own class of models, which 3 has and 4 removed; a small one of each family."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub.constants
import pytest

from mi_toolkit.core.model import HookedModel
from mi_toolkit.models.load import load_model
from tests.hub_cache import hub_config, lay_out, shrunk
from tests.tiny_models import tiny_tokenizer

try:
    from transformer_lens import HookedTransformer, HookedTransformerConfig
except ImportError:
    HookedTransformer = HookedTransformerConfig = None

REASON = "TransformerLens 4 has no HookedTransformer"
needs_hooked_transformer = pytest.mark.skipif(HookedTransformer is None, reason=REASON)

FAMILIES = [
    "gpt2",
    "EleutherAI/gpt-neo-125M",
    "EleutherAI/pythia-160m",
    "facebook/opt-125m",
    "Qwen/Qwen2.5-0.5B",
]


def small_hooked(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, n_layers: int = 2
) -> tuple[HookedModel, Path]:
    """A HookedTransformer of one family, and the folder with its checkpoint."""
    if HookedTransformer is None:
        pytest.skip(REASON)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    config = shrunk(hub_config(name), n_layers)
    # Hugging Face keeps gradients from the row of the padding id, which TransformerLens has not.
    config |= {"pad_token_id": 319} if "pad_token_id" in config else {}
    folder = lay_out(tmp_path, name, config, tiny_tokenizer())
    return load_model(name, backend="hooked"), folder
