"""Which single weights of the bundled models and of SmolLM2 stand out, and which of them matter.

python benchmarks/super_weights.py                                  print the page
python benchmarks/super_weights.py --output docs/super_weights.md   and write it there

The bundled models are looked at on text like that which they were trained on, SmolLM2 on the
bundled passages.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

import mi_toolkit as mi
from mi_toolkit.core.io import atomic_write
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.provenance import installed_versions
from mi_toolkit.core.stimuli import evaluation_passages, halves, loss_batch
from mi_toolkit.weights.super_weights import MIN_SPIKE, SuperWeight

TOYS = ["toy-gpt2", "toy-gpt-neo", "toy-pythia", "toy-opt", "toy-qwen2"]
TOY_TEXT = Path(__file__).parent.parent / "tests" / "data" / "toy_text.txt"
TOY_MIN_SPIKE = 0.6
"""None of them has a write that stands out by the default."""

SHOWN = 12
"""Candidates of one model that are listed; confirmed ones always are."""


def main() -> None:
    """Search every model, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["smollm2-135m-instruct", *TOYS])
    parser.add_argument("--eval-limit", type=int, default=4)
    parser.add_argument("--output", type=Path, help="a Markdown file to write")
    options = parser.parse_args()
    parts = []
    for name in options.models:
        model = mi.load_model(name)
        search, held_out, min_spike = halves(evaluation_passages())[0][:4], None, MIN_SPIKE
        if name in TOYS:
            search, held_out = halves(TOY_TEXT.read_text(encoding="utf-8").splitlines())
            search, min_spike = search[:4], TOY_MIN_SPIKE
        bare, began = bare_pass(model, search), time.process_time()
        found = mi.find_super_weights(
            model,
            held_out,
            search=search,
            min_spike=min_spike,
            eval_limit=options.eval_limit,
        )
        ratio = (time.process_time() - began) / bare
        parts.append(part(name, found, min_spike, ratio))
        print(parts[-1], flush=True)
    versions = ", ".join(f"{name} {version}" for name, version in installed_versions().items())
    page = PAGE.format(versions=versions, threads=torch.get_num_threads(), parts="\n".join(parts))
    if options.output:
        with atomic_write(options.output) as draft:
            draft.write_text(page, encoding="utf-8")


def bare_pass(model: HookedModel, search: list[str]) -> float:
    """Processor seconds of one forward pass over the search text: the median of three."""
    ids = loss_batch(model, search).ids
    took = []
    with torch.no_grad():
        for _ in range(4):
            began = time.process_time()
            model(ids)
            took.append(time.process_time() - began)
    return sorted(took[1:])[1]


PAGE = """---
hide: [toc]  # tables as wide as the page
---

# Super weights

Written by `benchmarks/super_weights.py` with {versions}, {threads} threads.

Single weights of MLP outputs whose write stands out ([what that means](sensitivity.md)), each set
to 0 alone: the rise of the loss on the search text, in nats per token, and, where that is worth a
look, the perplexity of held-out text. *Stands out* is the weight's largest write over the largest
of its layer's median channel; *channel*, by the weights alone, the norm of what writes into its
channel over the median channel's. The weight whose removal costs most is also left alone, with all
other candidates at 0. *Passes* are bare forward passes over the search text, counted by the layers
that ran; the processor time is that of the whole search over that of one such pass.
Bundled models are looked at on text like that which they were trained on, others on the bundled
passages.

{parts}"""


def part(name: str, found: mi.weights.SuperWeights, min_spike: float, ratio: float) -> str:
    """One model's section."""
    before = found.baseline
    n_confirmed, n = len(found.confirmed), len(found.candidates)
    lines = [
        f"## {name}",
        "",
        (
            f"Perplexity {before.perplexity:.2f} on {before.n_tokens} held-out tokens. Standing "
            f"out {min_spike:g}× or more: {n + found.n_left_out}; looked at: {n}; confirmed: "
            f"{n_confirmed}. Passes: {found.n_passes:.1f}; processor time: {ratio:.0f} passes."
        ),
        "",
    ]
    listed = found.candidates[: max(SHOWN, n_confirmed)]
    if listed:
        head = (
            "layer | weight, `[in, out]` | Hugging Face | value | stands out | channel | "
            "loss on search text | perplexity without it | with it alone left | verdict"
        )
        lines += [f"| {head} |", "| " + " | ".join(["---"] * 10) + " |", *map(row, listed)]
        if n > len(listed):
            lines += ["", f"{n - len(listed)} more, none confirmed."]
        lines += [""]
    return "\n".join(lines)


def row(each: SuperWeight) -> str:
    """One candidate."""
    without = "" if each.without is None else f"{each.without.perplexity:.2f}"
    restored = "" if each.restored is None else f"{each.restored.perplexity:.2f}"
    cells = [
        str(each.layer),
        f"`{each.matrix}[{each.row}, {each.column}]`",
        f"`{each.hf_name}[{each.hf_row}, {each.hf_column}]`",
        f"{each.value:+.3g}",
        f"{each.spike:.3g}×",
        f"{each.channel_norm:.2f}×",
        f"{each.screened_rise:+.4f}",
        without,
        restored,
        "confirmed" if each.is_confirmed else "not confirmed",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
