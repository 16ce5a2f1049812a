"""Which heads of each architecture look at the previous token, and which match prefixes?

Runs offline on the bundled models; name any others that `load_model` takes:

    python examples/compare_families.py
    python examples/compare_families.py gpt2 EleutherAI/pythia-160m facebook/opt-125m
"""

from __future__ import annotations

import argparse

import mi_toolkit as mi

BUNDLED = ["toy-gpt2", "toy-gpt-neo", "toy-pythia", "toy-opt", "toy-qwen2"]
BEHAVIOURS = ["previous_token", "induction", "first_token"]


def main(names: list[str], behaviours: list[str]) -> None:
    """Print, per model, how many heads earn each label and the strongest of them."""
    for name in names:
        model = mi.load_model(name)
        facts = mi.describe_model(model)
        report = mi.classify_heads(model, behaviours=behaviours)
        print(f"{name}: {facts.positional} positions, {facts.activation}, {facts.normalisation}")
        for behaviour in behaviours:
            heads = report.heads(behaviour)
            strongest = f", strongest {heads[0]} {report[behaviour][heads[0]]:.2f}" if heads else ""
            print(f"  {behaviour:15} {len(heads):3} of {report.scope.numel()}{strongest}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="*", help="by name (the bundled ones)")
    parser.add_argument("--behaviours", nargs="+", default=BEHAVIOURS, help="%(default)s")
    asked = parser.parse_args()
    main(asked.models or BUNDLED, asked.behaviours)
