"""A `HookedTransformer` writes what Hugging Face writes with the same weights."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub.constants
import pytest
import torch

from mi_toolkit.interventions.ablation import ablating
from mi_toolkit.models.load import load_model
from mi_toolkit.text.generate import generate
from tests.hooked_transformer import needs_hooked_transformer
from tests.hub_cache import hub_config, lay_out, shrunk
from tests.text.reference import argmax_loop
from tests.text.test_generate import of_hugging_face, scores, written
from tests.tiny_models import tiny_tokenizer

IDS = torch.randint(2, 300, (9,), generator=torch.Generator().manual_seed(3))


@needs_hooked_transformer
@pytest.mark.parametrize("name", ["gpt2", "EleutherAI/gpt-neo-125M", "EleutherAI/pythia-160m"])
def test_a_hooked_transformer_searches_as_hugging_face_does(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    snapshot = lay_out(tmp_path, name, shrunk(hub_config(name)), tiny_tokenizer())
    model = load_model(name, backend="hooked")
    hf_model = AutoModelForCausalLM.from_pretrained(
        snapshot, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    for beams in (1, 3):
        found = generate(model, IDS, max_new_tokens=6, num_beams=beams, eos_ids=())
        uncached = generate(
            model, IDS, max_new_tokens=6, num_beams=beams, eos_ids=(), use_cache=False
        )
        ids, given = of_hugging_face(hf_model, IDS, 6, beams, eos_token_id=None)
        assert written(found) == written(uncached) == ids
        torch.testing.assert_close(scores(found), scores(uncached), atol=1e-5, rtol=1e-5)
        if given is not None:
            torch.testing.assert_close(scores(found), given, atol=1e-4, rtol=1e-4)
    with ablating(model, ["L0H1", "L1H2"]):
        ablated = generate(model, IDS, max_new_tokens=5, eos_ids=())
        looped = argmax_loop(model, IDS, 5)
    assert written(ablated) == [looped]
