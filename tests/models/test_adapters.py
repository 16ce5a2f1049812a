"""Adapters of peft, merged where a model is loaded."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import mi_toolkit as mi
from mi_toolkit.core.errors import ModelLoadError, UnsupportedModelError
from tests.tiny_models import tiny_model, tiny_tokenizer

# transformers 5.17 renamed what peft asks its models.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")

IDS = torch.randint(3, 300, (1, 12), generator=torch.Generator().manual_seed(0))
TARGETS = {"llama": ["q_proj", "o_proj", "up_proj"], "gpt2": ["c_attn", "c_proj"]}


@pytest.fixture
def peft() -> Any:
    return pytest.importorskip("peft", reason="needs the extra peft: pip install mi-toolkit[peft]")


def adapted(peft: Any, kind: str, base: Any = None) -> Any:
    """A PeftModel whose adapter changes what it says."""
    model = tiny_model(kind, num_key_value_heads=4) if base is None else base
    config = peft.LoraConfig(
        r=4, target_modules=TARGETS[kind], task_type="CAUSAL_LM", fan_in_fan_out=kind == "gpt2"
    )
    model = peft.get_peft_model(model, config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape))
    return model


@pytest.mark.parametrize("kind", TARGETS)
def test_a_peft_model_loads_merged(peft: Any, kind: str) -> None:
    theirs = adapted(peft, kind)
    with torch.no_grad():
        wanted, base = theirs(IDS).logits, tiny_model(kind, num_key_value_heads=4)(IDS).logits
    tokenizer = tiny_tokenizer()
    model = mi.load_model("tiny", hf_model=theirs, tokenizer=tokenizer)
    torch.testing.assert_close(model(IDS), wanted, atol=1e-5, rtol=0)
    assert float((wanted - base).abs().max()) > 1e-2
    assert abs(mi.direct_logit_attribution(model, IDS[0], target=5).residue) < 1e-5
    assert mi.score_weights(model, IDS, "magnitude").places
    assert mi.load_model("tiny", hf_model=theirs, tokenizer=tokenizer) is model


def test_a_folder_with_an_adapter_loads_its_model_merged(peft: Any, tmp_path: Path) -> None:
    base = tiny_model("llama", num_key_value_heads=4)
    base.save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    base.name_or_path = base.config.name_or_path = str(tmp_path / "base")
    theirs = adapted(peft, "llama", base)
    theirs.save_pretrained(tmp_path / "adapter")
    model = mi.load_model(tmp_path / "adapter")
    with torch.no_grad():
        torch.testing.assert_close(model(IDS), theirs(IDS).logits, atol=1e-5, rtol=0)
    assert model.tokenizer is not None


def test_a_damaged_adapter_is_refused_by_name(peft: Any, tmp_path: Path) -> None:
    base = tiny_model("llama")
    base.save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    base.name_or_path = base.config.name_or_path = str(tmp_path / "base")
    adapted(peft, "llama", base).save_pretrained(tmp_path / "adapter")
    config = tmp_path / "adapter" / "adapter_config.json"
    sound = config.read_text()
    for field, told in (
        ({"of_a_later_release": True}, "Unexpected keyword arguments .'of_a_later_release'"),
        ({"target_modules": [*TARGETS["llama"], "down_proj"]}, "Found missing adapter keys"),
    ):
        config.write_text(json.dumps(json.loads(sound) | field))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(ModelLoadError, match=f"in part: {told}"):
                mi.load_model(tmp_path / "adapter")
    config.write_text(sound)
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(
        ModelLoadError, match=r"peft cannot put the adapter in .*adapter.* on a Llama"
    ):
        mi.load_model(tmp_path / "adapter")


def test_what_cannot_be_merged_is_refused_by_name(peft: Any) -> None:
    config = peft.PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    theirs = peft.get_peft_model(tiny_model("llama"), config)
    with pytest.raises(ModelLoadError, match=r"adapter \(PREFIX_TUNING\) cannot be merged"):
        mi.load_model("tiny", hf_model=theirs, tokenizer=tiny_tokenizer())


def test_an_adapter_in_place_on_a_fused_projection_is_refused(peft: Any) -> None:
    theirs = adapted(peft, "gpt2").base_model.model
    with pytest.raises(UnsupportedModelError, match=r"adapter on transformer.h.0.attn.*merge_and"):
        mi.load_model("tiny", hf_model=theirs, tokenizer=tiny_tokenizer())


def test_an_adapter_in_place_is_read_and_not_scored(peft: Any) -> None:
    theirs = adapted(peft, "llama").base_model.model.requires_grad_(requires_grad=False)
    model = mi.load_model("tiny", hf_model=theirs, tokenizer=tiny_tokenizer())
    assert abs(mi.direct_logit_attribution(model, IDS[0], target=5).residue) < 1e-5
    with pytest.raises(UnsupportedModelError, match=r"base_layer in it.*merge_and_unload"):
        mi.score_weights(model, IDS, "magnitude")


def test_an_adapter_without_peft_or_a_base_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(ModelLoadError, match="does not say which model it is for"):
        mi.load_model(tmp_path)
    config.write_text(json.dumps({"base_model_name_or_path": "toy-gpt2"}))
    monkeypatch.setattr("mi_toolkit.models.sources.find_spec", lambda _: None)
    with pytest.raises(ModelLoadError, match=r"adapter for toy-gpt2.*mi-toolkit\[peft\]"):
        mi.load_model(tmp_path)
