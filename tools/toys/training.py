"""The curriculum: phases of language modelling, the early ones with an attention loss."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from toys.families import CONTEXT
from toys.measure import behaviour_masks
from toys.sequences import IGNORED, RowSource


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of training on one mixture of rows."""

    name: str
    steps: int
    length: int
    rows: dict[str, int]
    """How many rows of each kind a step has."""
    scaffold: float = 0.0
    """Weight of the attention loss; from the phase's middle on it falls linearly to zero."""
    shifted: float = 0.0
    """Share of rows whose positions, BOS apart, are moved on by a random number.

    It trains the late rows of a position table at a short row's cost. In a trial with half of the
    rows shifted from the second phase on, everything was learnt much more slowly.
    """
    known_from: int | None = None
    """The random ids are drawn from this many at first, growing to all at the end; None: all."""


def scaffold_loss(
    patterns: tuple[Tensor, ...], tokens: Tensor, labels: Tensor, heads: dict[tuple[int, int], str]
) -> Tensor:
    """Cross-entropy of one head's pattern per behaviour against the keys it names.

    Induction counts only where the next token is predictable by it: at random rows' targets.
    """
    masks = behaviour_masks(tokens)
    predictable = torch.zeros_like(tokens, dtype=torch.bool)
    predictable[:, :-1] = labels[:, 1:] != IGNORED
    total = torch.zeros(())
    for (layer, head), behaviour in heads.items():
        mask = masks[behaviour]
        attended = (patterns[layer][:, head].float() * mask).sum(-1)
        eligible = mask.any(-1)
        if behaviour == "induction":
            eligible = eligible & predictable
        total = total - attended[eligible].clamp(min=1e-6).log().mean()
    return total


def positions(source: RowSource, rows: int, phase: Phase) -> Tensor:
    """Position ids, `rows length`: 0, 1, 2, … or, in shifted rows, 0, s + 1, s + 2, and so on."""
    drawn = torch.rand(2, rows, generator=source.generator)
    shift = (drawn[0] * (CONTEXT - phase.length)).long() * (drawn[1] < phase.shifted)
    ids = torch.arange(phase.length).repeat(rows, 1)
    ids[:, 1:] += shift[:, None]
    return ids


def losses(logits: Tensor, labels: Tensor, kinds: dict[str, slice]) -> dict[str, Tensor]:
    """Mean next-token loss of each kind of row."""
    return {
        kind: functional.cross_entropy(
            logits[rows, :-1].flatten(0, 1), labels[rows, 1:].flatten(), ignore_index=IGNORED
        )
        for kind, rows in kinds.items()
    }


class Optimisers:
    """Muon on the matrices of the blocks, AdamW on embeddings, norms and biases.

    At this size Muon learns the copying circuit in a third of the steps that AdamW takes.
    """

    def __init__(self, model: PreTrainedModel, adamw_rate: float, muon_rate: float) -> None:
        """Sort the parameters; nothing decays."""
        embedding = ("wte", "wpe", "embed")
        matrices = [
            parameter
            for name, parameter in model.named_parameters()
            if parameter.ndim == 2 and not any(word in name for word in embedding)
        ]
        chosen = {id(parameter) for parameter in matrices}
        others = [p for p in model.parameters() if id(p) not in chosen]
        self.members = (
            torch.optim.Muon(
                matrices, lr=muon_rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"
            ),
            torch.optim.AdamW(others, lr=adamw_rate, betas=(0.9, 0.97), weight_decay=0.0),
        )

        self.rates = (muon_rate, adamw_rate)

    def step(self, share: float) -> None:
        """One update of every parameter at a share of its rate; gradients are cleared after it."""
        for member, rate in zip(self.members, self.rates, strict=True):
            for group in member.param_groups:
                group["lr"] = share * rate
            member.step()
            member.zero_grad(set_to_none=True)


def train(
    model: PreTrainedModel,
    source: RowSource,
    phases: tuple[Phase, ...],
    heads: dict[tuple[int, int], str],
    adamw_rate: float,
    muon_rate: float,
    report_every: int = 50,
    watch: Callable[[int], None] = lambda step: None,
) -> list[dict[str, float | str]]:
    """Train in place through the phases; the log has a row per `report_every` steps.

    `watch` is told after how many steps the model is what it is: before the first, and after each.
    """
    optimisers = Optimisers(model, adamw_rate, muon_rate)
    total = sum(phase.steps for phase in phases)
    log: list[dict[str, float | str]] = []
    begun, done = time.perf_counter(), 0
    model.train()
    watch(0)
    for phase in phases:
        for step in range(phase.steps):
            warm = min(1.0, (done + 1) / 100)
            falling = 0.5 * (1 + math.cos(math.pi * done / total))
            parts = accumulate(model, source, phase, step / phase.steps, heads)
            optimisers.step(warm * (0.04 + 0.96 * falling))
            done += 1
            watch(done)
            if done % report_every == 0 or done == total:
                row: dict[str, float | str] = {
                    "step": done,
                    "phase": phase.name,
                    "seconds": round(time.perf_counter() - begun, 1),
                    **{kind: round(value, 4) for kind, value in parts.items()},
                }
                log.append(row)
                print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    return log


def accumulate(
    model: PreTrainedModel,
    source: RowSource,
    phase: Phase,
    progress: float,
    heads: dict[tuple[int, int], str],
) -> dict[str, float]:
    """Put one batch's gradients in place; its losses by kind of row, and the scaffold's."""
    everything = source.vocabulary_size - 1
    known = everything
    if phase.known_from is not None:
        known = round(phase.known_from * (everything / phase.known_from) ** min(1, 1.5 * progress))
    batch = source.rows(phase.rows, phase.length, known)
    kinds, start = {}, 0
    for kind, (ids, _) in batch.items():
        kinds[kind] = slice(start, start + len(ids))
        start += len(ids)
    tokens = torch.cat([ids for ids, _ in batch.values()])
    labels = torch.cat([targets for _, targets in batch.values()])
    weight = phase.scaffold * min(1.0, 2 - 2 * progress)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(
            input_ids=tokens,
            position_ids=positions(source, len(tokens), phase),
            output_attentions=weight > 0,
            use_cache=False,
        )
    parts = losses(outputs.logits.float(), labels, kinds)
    loss = torch.stack(list(parts.values())).sum()
    if weight > 0:
        random_rows = labels.clone()
        for kind in ("text", "answers"):
            random_rows[kinds[kind]] = IGNORED
        parts["scaffold"] = scaffold_loss(outputs.attentions, tokens, random_rows, heads)
        loss = loss + weight * parts["scaffold"]
    torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    return {kind: value.item() for kind, value in parts.items()}
