"""Tokenizers and models made in memory, small enough to build in a test."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

_WIDTHS: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "vocab_size": 320,
    "max_position_embeddings": 128,
}


def tiny_tokenizer(*, prepends_bos: bool = False, bos: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer in memory: it has no name and no files."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["hello world, the capital of France is Paris"], trainer)
    if prepends_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|endoftext|>",
        **({"bos_token": "<|endoftext|>"} if bos else {}),
    )


def tiny_model(model_type: str, **fields: Any) -> Any:
    """A Hugging Face causal LM of any architecture with the usual field names, 4 layers of 32."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **_WIDTHS | fields)
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


CHATML = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}
"""


def published_tokenizer(hub_id: str) -> PreTrainedTokenizerFast:
    """A tiny tokenizer with the specials, the BOS and the template of a published one.

    As `tokenizer_config.json` on the hub has them: OPT puts its `</s>` in front of a text itself,
    GPT-2, GPT-Neo and Pythia have a BOS and do not, Qwen2.5 has none and a chat template.
    """
    words = tiny_tokenizer(bos=False).backend_tokenizer
    if "opt" in hub_id:
        words.add_special_tokens(["</s>", "<pad>"])
        words.post_processor = processors.TemplateProcessing(
            single="</s> $A", special_tokens=[("</s>", words.token_to_id("</s>"))]
        )
        return PreTrainedTokenizerFast(
            tokenizer_object=words, bos_token="</s>", eos_token="</s>", pad_token="<pad>"
        )
    if "Qwen" in hub_id:
        words.add_special_tokens(["<|im_start|>", "<|im_end|>"])
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=words, eos_token="<|endoftext|>", pad_token="<|endoftext|>"
        )
        tokenizer.chat_template = CHATML
        return tokenizer
    return PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    )
