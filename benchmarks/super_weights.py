"""Which single weights of the bundled models and of SmolLM2 stand out, and which of them matter.

python benchmarks/super_weights.py                                  print the page
python benchmarks/super_weights.py --output docs/super_weights.md   and write it there

The bundled models are looked at on text like that which they were trained on, SmolLM2 on the
bundled passages.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import mi_toolkit as mi
from mi_toolkit.files import written_whole
from mi_toolkit.prompts.evaluation import halves
from mi_toolkit.provenance import installed_versions
from mi_toolkit.sensitivity.super_weight import SuperWeight
from mi_toolkit.sensitivity.super_weights import MIN_SPIKE

TOYS = ["toy-gpt2", "toy-gpt-neo", "toy-pythia", "toy-opt", "toy-qwen2"]
TOY_TEXT = Path(__file__).parent.parent / "tests" / "data" / "toy_text.txt"
TOY_MIN_SPIKE = 2.0
"""None of them has a write that stands out by the default."""

SHOWN = 12
"""Candidates of one model that are listed; confirmed ones always are."""


def main() -> None:
    """Search every model, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["smollm2-135m-instruct", *TOYS])
    parser.add_argument("--eval-limit", type=int, default=16)
    parser.add_argument("--output", type=Path, help="a Markdown file to write")
    options = parser.parse_args()
    parts = []
    for name in options.models:
        model = mi.load_model(name)
        search, held_out, min_spike = None, None, MIN_SPIKE
        if name in TOYS:
            search, held_out = halves(TOY_TEXT.read_text(encoding="utf-8").splitlines())
            search, min_spike = search[:4], TOY_MIN_SPIKE
        found = mi.find_super_weights(
            model,
            held_out,
            search=search,
            min_spike=min_spike,
            eval_limit=options.eval_limit,
        )
        parts.append(part(name, found, min_spike))
        print(parts[-1], flush=True)
    versions = ", ".join(f"{name} {version}" for name, version in installed_versions().items())
    page = PAGE.format(versions=versions, threads=torch.get_num_threads(), parts="\n".join(parts))
    if options.output:
        with written_whole(options.output) as draft:
            draft.write_text(page, encoding="utf-8")


PAGE = """# Super weights

Written by `benchmarks/super_weights.py` with {versions}, {threads} threads.

Single weights of MLP outputs whose write stands out ([what that means](sensitivity.md)), each set
to 0 alone: the rise of the loss on the search text, in nats per token, and, where that is worth a
look, the perplexity of held-out text. *Stands out* is the largest write of the layer over the
largest of its median channel. *Round* 2 and later were hidden until the earlier ones were set to 0.
Bundled models are looked at on text like that which they were trained on, others on the bundled
passages.

{parts}"""


def part(name: str, found: mi.SuperWeights, min_spike: float) -> str:
    """One model's section."""
    before = found.baseline
    n_confirmed, n = len(found.confirmed), len(found.candidates)
    lines = [
        f"## {name}",
        "",
        (
            f"Perplexity {before.perplexity:.2f} on {before.n_tokens} held-out tokens. Standing "
            f"out {min_spike:g}× or more: {n}; confirmed: {n_confirmed}."
        ),
        "",
    ]
    listed = found.candidates[: max(SHOWN, n_confirmed)]
    if listed:
        head = (
            "layer | weight, `[in, out]` | Hugging Face | value | stands out | round | "
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
        f"{each.spike:.0f}×",
        str(each.found_in_round),
        f"{each.screened_rise:+.4f}",
        without,
        restored,
        "confirmed" if each.is_confirmed else "not confirmed",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
