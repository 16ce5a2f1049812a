"""A GGUF file of a tiny model, as llama.cpp writes them: matrices in blocks, vectors whole."""

from __future__ import annotations

import json
from pathlib import Path

from gguf import (
    MODEL_ARCH,
    GGMLQuantizationType,
    GGUFWriter,
    TokenType,
    get_tensor_name_map,
    quants,
)

from tests.tiny_models import tiny_model, tiny_tokenizer


def write_tiny_gguf(path: Path, *, scale: float = 1.0) -> Path:
    """A Qwen2 of four layers, its weights times `scale`, with a byte-level BPE tokenizer."""
    model = tiny_model("qwen2", intermediate_size=64)
    config, writer = model.config, GGUFWriter(path, "qwen2")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    _add_tokenizer(writer, config.vocab_size)
    names = get_tensor_name_map(MODEL_ARCH.QWEN2, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        place, _, kind = name.rpartition(".")
        array = (scale * tensor.float()).numpy()
        blocks = GGMLQuantizationType.Q8_0 if array.ndim == 2 else GGMLQuantizationType.F32
        quantised = quants.quantize(array, blocks)
        writer.add_tensor(f"{names.get_name(place)}.{kind}", quantised, raw_dtype=blocks)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: GGUFWriter, vocab_size: int) -> None:
    bpe = json.loads(tiny_tokenizer().backend_tokenizer.to_str())["model"]
    vocabulary = sorted(bpe["vocab"], key=bpe["vocab"].get)
    vocabulary += [f"<unused{place}>" for place in range(vocab_size - len(vocabulary))]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([TokenType.CONTROL, *[TokenType.NORMAL] * (vocab_size - 1)])
    writer.add_token_merges([" ".join(pair) for pair in bpe["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
