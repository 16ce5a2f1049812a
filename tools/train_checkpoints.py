"""Train a small Pythia again, and keep what it was on the way: `tests/data/toy-training`.

    python tools/train_checkpoints.py [--output DIR] [--steps-scale F]

1. The curriculum is that of the bundled models (`toys/recipes.py`), on a narrower model of three
   layers, so that sixteen checkpoints in float16 take some 13 MB. Its attention loss pushes head
   L2H0 towards induction and L0H0 towards the previous token while it lasts, 300 steps.
2. Before the first step, and after those of `KEPT`, weights are written into `checkpoint-STEP`, as
   transformers' Trainer names them.
3. Every ten steps the loss on texts and on repeated random ids that no step trains on goes into
   `loss.csv`: where induction forms, that on the second copies falls.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from toys.corpus import documents
from toys.families import HEADS, initialised, pythia
from toys.recipes import ADAMW_RATE, MUON_RATE, PHASES, SCAFFOLD
from toys.sequences import IGNORED, RowSource
from toys.training import train
from toys.vocabulary import VOCABULARY_SIZE, documents_as_ids, save_tokenizer, train_tokenizer
from train_toys import DOCUMENTS, save_weights

OUTPUT = Path(__file__).parent.parent / "tests" / "data" / "toy-training"
KEPT = (0, 16, 32, 64, 96, 128, 160, 192, 224, 256, 300, 360, 440, 560, 750, 1010)
WIDTH, LAYERS = 80, 3
LOSS_EVERY = 10
HELD_OUT_SEED, HELD_OUT = 1_000_003, {"text": 16, "repeat": 16}


def held_out_losses(
    model: PreTrainedModel, rows: Mapping[str, tuple[Tensor, Tensor]]
) -> dict[str, float]:
    """Mean loss of the next token on each kind of row; of repeats, on all copies but the first."""
    found = {}
    for kind, (ids, labels) in rows.items():
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False).logits.float()
        loss = functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED
        )
        found[kind] = round(float(loss), 4)
    return found


def main() -> None:
    """Train, and write checkpoints and losses."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--steps-scale", type=float, default=1.0)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    texts = documents(DOCUMENTS, 0)
    tokenizer = train_tokenizer([*texts, "\n"], "gpt_neox")
    given: dict[str, Any] = {
        "documents": documents_as_ids(tokenizer, texts),
        "newline": tokenizer("\n").input_ids[0],
        "vocabulary_size": len(tokenizer),
    }
    held_out = RowSource(**given, seed=HELD_OUT_SEED).rows(HELD_OUT, 97, len(tokenizer) - 1)
    phases = tuple(
        replace(each, steps=max(1, round(each.steps * chosen.steps_scale))) for each in PHASES
    )
    config = pythia(VOCABULARY_SIZE)
    config.update(
        {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": LAYERS}
    )
    torch.manual_seed(0)
    model = initialised(config)
    log: list[dict[str, float]] = []
    kept = {round(step * chosen.steps_scale) for step in KEPT}
    tokens = tokens_by_step(phases)
    shutil.rmtree(chosen.output, ignore_errors=True)

    def watch(step: int) -> None:
        if step % LOSS_EVERY == 0:
            log.append({"step": step, "tokens": tokens[step], **held_out_losses(model, held_out)})
        if step in kept:
            folder = chosen.output / f"checkpoint-{step}"
            folder.mkdir(parents=True)
            save_weights(deepcopy(model), folder)
            save_tokenizer(tokenizer, folder, "gpt_neox", texts[:20])
            state = {"global_step": step, "num_input_tokens_seen": tokens[step]}
            (folder / "trainer_state.json").write_text(json.dumps(state) + "\n")

    train(
        model,
        RowSource(**given, seed=0),
        phases,
        {head: label for head, label in SCAFFOLD.items() if head[0] < LAYERS and head[1] < HEADS},
        adamw_rate=ADAMW_RATE,
        muon_rate=MUON_RATE,
        watch=watch,
    )
    with (chosen.output / "loss.csv").open("w", newline="") as opened:
        writer = csv.DictWriter(opened, log[0])
        writer.writeheader()
        writer.writerows(log)


def tokens_by_step(phases: tuple[Any, ...]) -> list[int]:
    """How many tokens were trained on before each step, and in the end."""
    seen = [0]
    for phase in phases:
        per_step = phase.length * sum(phase.rows.values())
        seen += [seen[-1] + per_step * step for step in range(1, phase.steps + 1)]
    return seen


if __name__ == "__main__":
    main()
