"""Searches written for tests, the plain way: whole sequences, no cache, nobody else's code."""

from __future__ import annotations

from collections.abc import Callable

import torch

Logits = Callable[[torch.Tensor], torch.Tensor]
"""From ids, `[sequence position]`, to logits of the same sequences and positions."""


@torch.no_grad()
def argmax_loop(logits: Logits, ids: torch.Tensor, n: int) -> list[int]:
    """The `n` tokens that greedy search writes after `ids`."""
    ids = ids[None]
    for _ in range(n):
        ids = torch.cat([ids, logits(ids)[:, -1].argmax(dim=-1, keepdim=True)], dim=1)
    return ids[0, -n:].tolist()


@torch.no_grad()
def kept_beams(
    logits: Logits, ids: torch.Tensor, n: int, width: int
) -> list[dict[tuple[int, ...], float]]:
    """Per step the `width` best sequences of new tokens and their log-probabilities; none ends."""
    beams: dict[tuple[int, ...], float] = {(): 0.0}
    steps = []
    for _ in range(n):
        found = {}
        for before, total in beams.items():
            whole = torch.cat([ids, torch.tensor(before, dtype=torch.long)])[None]
            log_probs = logits(whole)[0, -1].log_softmax(dim=-1)
            for token, log_prob in enumerate(log_probs.tolist()):
                found[(*before, token)] = total + log_prob
        beams = dict(sorted(found.items(), key=lambda each: -each[1])[:width])
        steps.append(beams)
    return steps
