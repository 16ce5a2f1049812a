"""The five architectures, as Hugging Face configurations of about a million parameters."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoConfig,
    GPTNeoXConfig,
    OPTConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)
from transformers.activations import NewGELUActivation

CONTEXT = 512
WIDTH = 128
LAYERS = 4
HEADS = 4
WINDOW = 32


def gpt2(size: int) -> PretrainedConfig:
    """GPT-2: learned absolute positions, GELU, tied embeddings."""
    return GPT2Config(
        vocab_size=size,
        n_positions=CONTEXT,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )


def gpt_neo(size: int) -> PretrainedConfig:
    """GPT-Neo: learned absolute positions, unscaled attention, every other layer windowed."""
    return GPTNeoConfig(
        vocab_size=size,
        max_position_embeddings=CONTEXT,
        hidden_size=WIDTH,
        num_layers=LAYERS,
        num_heads=HEADS,
        attention_types=[[["global", "local"], LAYERS // 2]],
        window_size=WINDOW,
        resid_dropout=0.0,
        embed_dropout=0.0,
        attention_dropout=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )


def pythia(size: int) -> PretrainedConfig:
    """GPT-NeoX: rotary positions, attention and MLP in parallel, untied embeddings."""
    return GPTNeoXConfig(
        vocab_size=size,
        max_position_embeddings=CONTEXT,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 1.0,
        },
        use_parallel_residual=True,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
    )


def opt(size: int) -> PretrainedConfig:
    """OPT: learned absolute positions (table offset by two), ReLU, tied embeddings."""
    return OPTConfig(
        vocab_size=size,
        max_position_embeddings=CONTEXT,
        hidden_size=WIDTH,
        word_embed_proj_dim=WIDTH,
        ffn_dim=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        dropout=0.0,
        attention_dropout=0.0,
        layerdrop=0.0,
        pad_token_id=None,
        bos_token_id=0,
        eos_token_id=0,
    )


def qwen2(size: int) -> PretrainedConfig:
    """Qwen2: RMSNorm, rotary positions, SwiGLU, two key-value heads for four query heads."""
    return Qwen2Config(
        vocab_size=size,
        max_position_embeddings=CONTEXT,
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS // 2,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )


FAMILIES: dict[str, Callable[[int], PretrainedConfig]] = {
    "toy-gpt2": gpt2,
    "toy-gpt-neo": gpt_neo,
    "toy-pythia": pythia,
    "toy-opt": opt,
    "toy-qwen2": qwen2,
}
"""Each bundled model: vocabulary size to configuration."""


def new_model(name: str, vocabulary_size: int, seed: int) -> PreTrainedModel:
    """A freshly initialised model; learned positions start as sinusoids."""
    torch.manual_seed(seed)
    config = FAMILIES[name](vocabulary_size)
    return initialised(config)


def initialised(config: PretrainedConfig) -> PreTrainedModel:
    """A model of a configuration, its weights drawn by torch's generator as it stands."""
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    table = position_table(model)
    if table is not None:
        with torch.no_grad():
            table.copy_(sinusoids(*table.shape))
    fuse_activations(model)
    return model


def fuse_activations(model: PreTrainedModel) -> None:
    """Compute GPT-2's GELU in one kernel: the same function, less memory traffic.

    Only weights and configuration are saved, so the loaded model has the original module.
    """
    for module in model.modules():
        if isinstance(getattr(module, "act", None), NewGELUActivation):
            module.act = torch.nn.GELU(approximate="tanh")


def position_table(model: PreTrainedModel) -> torch.nn.Parameter | None:
    """The learned absolute positions, or None for a rotary model."""
    for key, parameter in model.named_parameters():
        if key.endswith((".wpe.weight", ".embed_positions.weight")):
            return parameter
    return None


def sinusoids(positions: int, width: int, scale: float = 0.05) -> torch.Tensor:
    """Sine and cosine pairs in the first half of the width: a shift by one is a rotation.

    From an unstructured start a head must learn a permutation of 512 rows; in earlier trials, which
    had no attention loss either, none did within thousands of steps.
    """
    table = torch.zeros(positions, width)
    pairs = width // 4
    frequencies = torch.exp(-math.log(1000.0) * torch.arange(pairs) / pairs)
    angles = torch.arange(positions)[:, None] * frequencies
    table[:, 0 : 2 * pairs : 2] = angles.sin()
    table[:, 1 : 2 * pairs : 2] = angles.cos()
    return scale * table
