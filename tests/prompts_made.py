"""Prompts in which every behaviour can show."""

from __future__ import annotations

import torch

from mi_toolkit.core.tokens import TokenBatch, from_sequences


def prompts_with_repeats(vocabulary: int, bos: int, lengths: list[int]) -> TokenBatch:
    generator = torch.Generator().manual_seed(0)
    sequences = []
    for length in lengths:
        half = torch.randint(bos + 1, vocabulary, (length // 2,), generator=generator).tolist()
        sequences.append([bos, *half, *half][:length])
    return from_sequences(sequences, bos)
