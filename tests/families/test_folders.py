"""Every family by its folder, as `save_pretrained` writes it: with a tokenizer and without."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import mi_toolkit as mi
from mi_toolkit.errors import UnsupportedModelError
from mi_toolkit.hooked_pass import logits_and_activations
from tests.families.claims import LENGTH, assert_close
from tests.families.zoo import ROWS, build

# transformers 5.9 compiles parts of GPT-BigCode as it is imported.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")

REFUSED = ("gpt2, unscaled", "openai-gpt", "llama, not causal")
"""TransformerLens computes these otherwise than Hugging Face does."""


@pytest.mark.parametrize("name", ROWS)
def test_a_folder_without_a_tokenizer_gives_hugging_faces_logits(name: str, tmp_path: Path) -> None:
    build(ROWS[name]).save_pretrained(tmp_path)
    if name in REFUSED:
        with pytest.raises(UnsupportedModelError, match="is not hooked faithfully"):
            mi.load_model(tmp_path)
        return
    model = mi.load_model(tmp_path)
    assert model.tokenizer is None
    reference = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    ids = torch.randint(3, 300, (2, LENGTH), generator=torch.Generator().manual_seed(2))
    found = logits_and_activations(model, ids, [], lambda *_: None)
    with torch.no_grad():
        assert_close(found, reference.eval()(ids, use_cache=False).logits)
