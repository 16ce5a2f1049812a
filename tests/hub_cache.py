"""A Hugging Face hub cache, laid out by hand: what a machine has after downloading a model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase

CONFIGS = Path(__file__).parent / "configs"
COMMIT = "0123456789abcdef0123456789abcdef01234567"

LAYER_FIELDS = ("n_layer", "num_layers", "num_hidden_layers")


def hub_config(name: str) -> dict[str, Any]:
    """The `config.json` that the hub holds for one of the seven."""
    loaded: dict[str, Any] = json.loads((CONFIGS / f"{name.split('/')[-1]}.json").read_text())
    return loaded


def cut(config: dict[str, Any], n_layers: int) -> dict[str, Any]:
    """`config` at its real width and with fewer layers."""
    shorter = {key: n_layers if key in LAYER_FIELDS else value for key, value in config.items()}
    if "attention_layers" in config:
        shorter["attention_layers"] = config["attention_layers"][:n_layers]
        shorter["attention_types"] = [[["global", "local"], n_layers // 2]]
    return shorter


def shrunk(config: dict[str, Any], n_layers: int = 2) -> dict[str, Any]:
    """`config` with few layers of width 32 and 320 tokens: its family and its switches are left."""
    widths = dict.fromkeys(("n_embd", "hidden_size", "word_embed_proj_dim"), 32)
    widths |= dict.fromkeys(("n_head", "num_heads", "num_attention_heads"), 4)
    widths |= {"num_key_value_heads": 2, "intermediate_size": 48, "ffn_dim": 48, "vocab_size": 320}
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), 0)
    small = widths | {"max_window_layers": 2} | ids
    return {
        key: value if value is None else small.get(key, value)
        for key, value in cut(config, n_layers).items()
    }


def random_model(config: dict[str, Any], dtype: torch.dtype) -> Any:
    """A model of `config` with random weights, biases and norms included: none is 0 or 1."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(**config), dtype=dtype, attn_implementation="eager"
        )
    # `from_config` on the CPU would draw every weight in float32 first.
    generator = torch.Generator().manual_seed(0)
    state = {
        name: torch.randn(weight.shape, generator=generator, dtype=dtype) * 0.05
        + ("norm" in name or "ln_" in name)
        for name, weight in model.named_parameters()
    }
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    return model


def lay_out(
    cache: Path,
    hub_id: str,
    config: dict[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    *,
    dtype: torch.dtype = torch.float32,
    branch: str = "main",
    commit: str = COMMIT,
) -> Path:
    """Put a model of `config` with random weights into `cache` as `hub_id`; its snapshot folder."""
    repo = cache / f"models--{hub_id.replace('/', '--')}"
    snapshot = repo / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir(exist_ok=True)
    (repo / "refs" / branch).write_text(commit)
    random_model(config, dtype).save_pretrained(snapshot)
    tokenizer.save_pretrained(snapshot)
    (snapshot / "config.json").write_text(json.dumps(config))
    return snapshot


def move(cache: Path, hub_id: str, other: str) -> None:
    """Rename a repo in `cache`, as if it had been downloaded under its other id."""
    source = cache / f"models--{hub_id.replace('/', '--')}"
    shutil.move(source, cache / f"models--{other.replace('/', '--')}")
