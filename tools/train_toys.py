"""Train the five small models that mi_toolkit bundles.

    python tools/train_toys.py [toy-gpt2 toy-opt ...] [--output DIR] [--seed N] [--steps-scale F]

1. Generate text from templates (`toys/corpus.py`) and train one byte-level BPE on it.
2. Start each architecture with its library's initialisation; learned absolute positions start as
   sinusoids, so that "one back" is a rotation that a head can learn (`toys/families.py`).
3. *scaffold*: rows of text, of random repeats and of random pairs (`toys/sequences.py`), plus an
   attention loss that pushes a few heads towards the previous token, induction and the first
   token, and fades to nothing. The random ids come from 32 at first and from all at the end.
   (Left out, a GPT-2 had no head above a lift of 0.02 for the first two after 300 steps.)
4. *language*: text again, its answers (the last name, the capital, the sum) weighted up, and fewer
   random rows; the attention loss is a twentieth, and fades to nothing.
5. *long*, *settle*: language modelling alone; in *long* rows of 512 tokens, so that every position
   and distance is trained.
6. Round to float16, save, load again, measure, and write `card.json` and `README.md`.

Arithmetic is bfloat16 autocast over float32 weights. The result depends on the seed, the number
of threads, the processor and the torch version. A model took 10 to 13 minutes with half of a busy
core.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from toys.card import write_card
from toys.corpus import KINDS, documents
from toys.families import FAMILIES, new_model
from toys.recipes import ADAMW_RATE, MUON_RATE, MUON_RATES, PHASES, SCAFFOLD
from toys.sequences import RowSource
from toys.training import train
from toys.vocabulary import VOCABULARY_SIZE, documents_as_ids, save_tokenizer, train_tokenizer

BUNDLED = Path(__file__).parent.parent / "src" / "mi_toolkit" / "models" / "bundled"
DOCUMENTS = 40_000


def save_weights(model: PreTrainedModel, folder: Path) -> None:
    """Configuration and float16 weights, readable by everyone."""
    model.half().save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    for path in folder.iterdir():
        path.chmod(0o644)


def build(name: str, output: Path, seed: int, steps_scale: float) -> dict[str, Any]:
    """Train, save and measure one model; its card.

    The folder is built under a temporary name: an interrupted run leaves the old one in place.
    """
    model_type = FAMILIES[name](VOCABULARY_SIZE).model_type
    texts = documents(DOCUMENTS, seed)
    tokenizer = train_tokenizer([*texts, "\n"], model_type)
    source = RowSource(
        documents=documents_as_ids(tokenizer, texts),
        newline=tokenizer("\n").input_ids[0],
        vocabulary_size=len(tokenizer),
        seed=seed,
    )
    phases = tuple(
        replace(phase, steps=max(1, round(phase.steps * steps_scale))) for phase in PHASES
    )
    muon_rate = MUON_RATES.get(name, MUON_RATE)
    model = new_model(name, len(tokenizer), seed)
    log = train(model, source, phases, SCAFFOLD, adamw_rate=ADAMW_RATE, muon_rate=muon_rate)

    folder = output / f".{name}.partial"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    save_weights(model, folder)
    save_tokenizer(tokenizer, folder, model_type, ["Count to 12: 1 2\n", *texts[:200]])
    training = {
        "name": name,
        "seed": seed,
        "steps": sum(phase.steps for phase in phases),
        "seconds": log[-1]["seconds"],
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "documents": DOCUMENTS,
        "text_shares": {kind: share for kind, (_, share) in KINDS.items()},
        "phases": [asdict(phase) for phase in phases],
        "adamw_rate": ADAMW_RATE,
        "muon_rate": muon_rate,
        "scaffolded_heads": {f"L{layer}H{head}": b for (layer, head), b in SCAFFOLD.items()},
        "last_losses": log[-1],
    }
    facts = write_card(folder, training)
    shutil.rmtree(output / name, ignore_errors=True)
    folder.rename(output / name)
    return facts


def measure_again(folder: Path) -> dict[str, Any]:
    """Rewrite the card of a trained model; what it says of the training is kept."""
    training = json.loads((folder / "card.json").read_text())["training"]
    return write_card(folder, training)


def main() -> None:
    """Train the models named on the command line, or all five."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(FAMILIES))
    parser.add_argument("--output", type=Path, default=BUNDLED)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps-scale", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--measure-only", action="store_true", help="rewrite the cards, no training"
    )
    chosen = parser.parse_args()
    unknown = sorted(set(chosen.names) - set(FAMILIES))
    if unknown:
        parser.error(f"no such model: {', '.join(unknown)}. Known: {', '.join(FAMILIES)}")
    torch.set_num_threads(chosen.threads)
    torch.set_flush_denormal(True)  # sharp attention is full of them, and they are slow
    for name in chosen.names or FAMILIES:
        if chosen.measure_only:
            facts = measure_again(chosen.output / name)
        else:
            facts = build(name, chosen.output, chosen.seed, chosen.steps_scale)
        print(f"{name}: {chosen.output / name}")
        for bar, reached in facts["bars"].items():
            print(f"  {'yes' if reached else 'NO '} {bar}")


if __name__ == "__main__":
    main()
