"""The card of a model: what it was trained on and what it shows, measured from its folder."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from toys import measure
from toys.corpus import ANSWER, documents, indirect_object
from toys.sequences import RowSource
from toys.training import losses
from toys.vocabulary import documents_as_ids
from toys.world import COUNTRIES

HELD_OUT_SEED = 1_000_003
MINIMUM_LIFT = 0.5
PROMPTS = {
    "The capital of France is": " Paris",
    "2 + 2 =": " 4",
    "Count to 5:": " 1 2 3 4 5",
    "When Mary and John went to the store, John gave a drink to": " Mary",
}
"""Prompts and the continuation each should have; the last is wished for, not a bar."""


def load(folder: Path) -> tuple[PreTrainedModel, Any]:
    """The shipped float16 weights as float32, and the tokenizer; missing weights are an error."""
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    model, report = loaded
    wrong = {key: sorted(map(str, report[key])) for key in ("missing_keys", "unexpected_keys")}
    if any(wrong.values()):
        raise RuntimeError(f"{folder} does not hold the weights of its architecture: {wrong}.")
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def measured(folder: Path, scaffolded: dict[str, str]) -> dict[str, Any]:
    """Everything the card says about the shipped weights; `scaffolded` is head to behaviour."""
    model, tokenizer = load(folder)
    tokens = measure.repeated_random(len(tokenizer))
    source = RowSource(
        documents=documents_as_ids(tokenizer, documents(4000, HELD_OUT_SEED)),
        newline=tokenizer("\n").input_ids[0],
        vocabulary_size=len(tokenizer),
        seed=HELD_OUT_SEED,
    )
    text, _ = source.text(32, 161, 0)
    completions = {
        prompt: measure.complete(model, tokenizer, prompt, len(tokenizer(wanted).input_ids))
        for prompt, wanted in PROMPTS.items()
    }
    records = measure.head_scores(model, tokens)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "bytes": sum(path.stat().st_size for path in folder.iterdir()),
        "loss": held_out_loss(model, source),
        "best_heads": measure.best_heads(records),
        "scaffolded_heads": [r for r in records if scaffolded.get(r["head"]) == r["behaviour"]],
        "locality": {
            head: None if math.isnan(value) else value
            for head, value in measure.locality(model, text).items()
        },
        "completions": completions,
        "accuracy": accuracies(model, tokenizer),
    }


@torch.no_grad()
def held_out_loss(model: PreTrainedModel, source: RowSource) -> dict[str, float]:
    """Nats per predictable token by kind of row, on fresh rows of 129 and 512 tokens."""
    everything = source.vocabulary_size - 1
    found = {}
    for length, rows in ((129, 32), (512, 8)):
        kinds = dict.fromkeys(("text", "answers", "repeat", "pair"), rows)
        for kind, (ids, labels) in source.rows(kinds, length, everything).items():
            logits = model(input_ids=ids, use_cache=False).logits
            value = losses(logits, labels, {kind: slice(None)})[kind].item()
            found[f"{kind}_{length}"] = round(value, 4)
    return found


def accuracies(model: PreTrainedModel, tokenizer: Any) -> dict[str, float]:
    """Share right of the last word: fresh name sentences, all capitals, all sums up to 5 + 5."""
    rng = random.Random(HELD_OUT_SEED)
    asked = {
        "indirect_object": [indirect_object(rng).replace(ANSWER, "") for _ in range(200)],
        "capital": [f"The capital of {country} is {city}." for country, city, _ in COUNTRIES],
        "sums": [f"{a} + {b} = {a + b}." for a in range(6) for b in range(6)],
    }
    return {
        kind: measure.last_word_accuracy(model, tokenizer, sentences)
        for kind, sentences in asked.items()
    }


def bars(name: str, found: dict[str, Any]) -> dict[str, bool]:
    """Which of the promises to users the shipped weights keep."""
    kept = {
        f"{behaviour} lift >= {MINIMUM_LIFT}": found["best_heads"][behaviour]["lift"]
        >= MINIMUM_LIFT
        for behaviour in ("previous_token", "induction", "first_token")
    }
    for prompt, wanted in list(PROMPTS.items())[:3]:
        kept[f"{prompt!r} continues {wanted!r}"] = found["completions"][prompt] == wanted
    if name == "toy-gpt-neo":
        values = [value for value in found["locality"].values() if value is not None]
        kept["local and global heads beyond the window"] = max(values) >= 0.5 > min(values)
    return kept


def write_card(folder: Path, training: dict[str, Any]) -> dict[str, Any]:
    """Measure the weights in `folder`; write `card.json` and, from it alone, `README.md`."""
    found = measured(folder, training["scaffolded_heads"])
    reached = bars(str(training["name"]), found)
    facts = {
        "training": training,
        "measured": found,
        "bars": reached,
        "all_bars_reached": all(reached.values()),
    }
    (folder / "card.json").write_text(json.dumps(facts, indent=2, allow_nan=False) + "\n")
    (folder / "README.md").write_text(readme(facts))
    return facts


def table(header: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    """A Markdown table."""
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def readme(facts: dict[str, Any]) -> str:
    """The card as Markdown."""
    training, found = facts["training"], facts["measured"]
    heads = table(
        ("behaviour", "head", "score", "lift"),
        [
            (b, h["head"], f"{h['score']:.3f}", f"{h['lift']:.3f}")
            for b, h in found["best_heads"].items()
        ],
    )
    phases = table(
        ("phase", "steps", "tokens a row", "rows a step", "attention loss"),
        [
            (
                p["name"],
                p["steps"],
                p["length"],
                ", ".join(f"{n} {k}" for k, n in p["rows"].items()),
                p["scaffold"],
            )
            for p in training["phases"]
        ],
    )
    said = "\n".join(f"- `{p}` → `{c}`" for p, c in found["completions"].items())
    loss = table(("rows, tokens a row", "nats"), list(found["loss"].items()))
    right = ", ".join(f"{kind} {value:.1%}" for kind, value in found["accuracy"].items())
    kept = "\n".join(f"- {'yes' if ok else '**no**'}: {bar}" for bar, ok in facts["bars"].items())
    scaffolded = table(
        ("head", "pushed towards", "lift now"),
        [(h["head"], h["behaviour"], f"{h['lift']:.3f}") for h in found["scaffolded_heads"]],
    )
    alone = 0
    for phase in training["phases"]:
        alone = 0 if phase["scaffold"] else alone + phase["steps"]
    local = ", ".join(
        f"{head} {'-' if value is None else format(value, '.2f')}"
        for head, value in found["locality"].items()
    )
    return f"""# {training["name"]}

A model of {found["parameters"]:,} parameters, for trying mechanistic interpretability offline.
It knows only the text that `tools/train_toys.py` generates; that script also wrote this page.

Trained for {training["steps"]} steps in {training["seconds"]:.0f} seconds
(seed {training["seed"]}, {training["threads"]} thread, torch {training["torch"]}).

**Some heads were helped.** An attention loss, which fades to nothing within each phase that has
one, pushed the heads below towards a behaviour. The last {alone} steps are language modelling
alone, and everything here is measured after them. Where a head sits is a choice, then, not a
finding; that it is still there, or that another has taken its place, is one.

{scaffolded}

{phases}

## Heads

Best of each behaviour, on 32 rows of a BOS and 64 random ids said twice:

{heads}

Locality on 32 rows of 161 tokens of text (1 = nearest keys, 0 = uniform): {local}.

## Language

Loss on fresh rows:

{loss}

Greedy continuations:

{said}

Last word right: {right}.

## Bars

{kept}
"""
