"""A byte-level BPE tokenizer trained on the generated text.

Four models share GPT-2's way of splitting text before BPE. Transformers 5 loads every Qwen2 folder
with Qwen2's own splitting (digits one by one, the space before them apart), whatever
`tokenizer.json` says, so `toy-qwen2` is trained on that.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from toys.corpus import ANSWER
from toys.families import CONTEXT

BOS = "<|endoftext|>"
"""The only special token: beginning, end and padding. Its id is 0."""

VOCABULARY_SIZE = 1024


def train_tokenizer(texts: list[str], model_type: str) -> PreTrainedTokenizerFast:
    """Bytes, and a word carries its leading space; no BOS is added by itself."""
    tokenizer = Tokenizer(models.BPE())
    if model_type == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[BOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text.replace(ANSWER, "") for text in texts], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=BOS,
        pad_token=BOS,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def documents_as_ids(
    tokenizer: PreTrainedTokenizerFast, texts: list[str]
) -> list[list[tuple[int, bool]]]:
    """Of each text the token ids, without BOS, and whether each is part of an answer.

    Marks stand at word ends, where tokens end too: the pieces tokenize as the whole does.
    """
    pieces = [text.split(ANSWER) for text in texts]
    encoded = iter(tokenizer([piece for text in pieces for piece in text]).input_ids)
    return [
        [(token, bool(which % 2)) for which in range(len(text)) for token in next(encoded)]
        for text in pieces
    ]


def save_tokenizer(
    tokenizer: PreTrainedTokenizerFast, folder: Path, model_type: str, samples: list[str]
) -> None:
    """`tokenizer.json` and a configuration that transformers 4 and 5 both read.

    Transformers 5 writes a class name that 4 does not know. Raises RuntimeError if the folder, its
    `config.json` included, loads as a tokenizer that splits any of `samples` otherwise.
    """
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings["tokenizer_class"] = (
        "Qwen2Tokenizer" if model_type == "qwen2" else "PreTrainedTokenizerFast"
    )
    settings.pop("backend", None)
    path.write_text(json.dumps(settings, indent=2) + "\n")
    loaded = AutoTokenizer.from_pretrained(folder)
    for sample in samples:
        if loaded(sample).input_ids != tokenizer(sample).input_ids:
            raise RuntimeError(f"{folder} loads as a tokenizer that splits {sample!r} otherwise.")
