"""Which heads of each architecture look at the previous token, and which match prefixes?

Runs offline on the bundled models; name any others that `load_model` takes:

    python examples/compare_families.py
    python examples/compare_families.py gpt2 EleutherAI/pythia-160m facebook/opt-125m
"""

from __future__ import annotations

import sys

import mi_toolkit as mi

BUNDLED = ["toy-gpt2", "toy-gpt-neo", "toy-pythia", "toy-opt", "toy-qwen2"]
BEHAVIOURS = ["previous_token", "induction", "first_token"]


def main(names: list[str]) -> None:
    """Print, per model, how many heads earn each label and the strongest of them."""
    for name in names:
        model = mi.load_model(name)
        facts = mi.describe_model(model)
        report = mi.classify_heads(model, behaviours=BEHAVIOURS)
        print(f"{name}: {facts.positional} positions, {facts.activation}, {facts.normalisation}")
        for behaviour in BEHAVIOURS:
            heads = report.heads(behaviour)
            strongest = f", strongest {heads[0]} {report[behaviour][heads[0]]:.2f}" if heads else ""
            print(f"  {behaviour:15} {len(heads):3} of {report.scope.numel()}{strongest}")


if __name__ == "__main__":
    main(sys.argv[1:] or BUNDLED)
