"""Do the shares of heads with each label change with size, within one family?

Runs offline on the bundled models, which are all of one size: these it sets side by side instead.
Name the sizes of a family to ask the question itself:

    python examples/scaling_study.py
    python examples/scaling_study.py EleutherAI/pythia-{70m,160m,410m,1b}

Writes `scaling.csv`, a row per model and label, and `scaling.pdf`.
"""

from __future__ import annotations

import argparse

import mi_toolkit as mi
from mi_toolkit.draw import figures

BUNDLED = ["toy-gpt2", "toy-gpt-neo", "toy-pythia", "toy-opt", "toy-qwen2"]
BEHAVIOURS = ["previous_token", "duplicate_token", "induction", "first_token"]


def main(names: list[str], behaviours: list[str]) -> None:
    """Classify the heads of each model, which are held in memory one at a time."""
    comparison = mi.compare_models(names, behaviours=behaviours)
    table = comparison.to_pandas().sort_values(["parameters", "label"])
    table.to_csv("scaling.csv", index=False)
    families = {facts.family for facts in comparison.facts.values()}
    sizes = {(facts.family, facts.parameters) for facts in comparison.facts.values()}
    if len(sizes) > len(families):
        figure = figures.scaling_figure(comparison).figure
    else:
        print(
            "One size of each family: no scaling to see, the figure sets the models side by side."
        )
        figure = figures.comparison_grid(comparison)
    figures.save_figure(figure, "scaling.pdf")
    for group in comparison.groups:
        print(f"{group.shared}: {group.varies} varies over {', '.join(group.models)}")
    for row in table.itertuples():
        if row.count:
            print(f"{row.model:24} {row.label:16} {row.count:4} heads, {row.share:.1%}")
    print("Wrote scaling.csv and scaling.pdf")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="*", help="two or more, by name (the bundled ones)")
    parser.add_argument("--behaviours", nargs="+", default=BEHAVIOURS, help="%(default)s")
    asked = parser.parse_args()
    main(asked.models or BUNDLED, asked.behaviours)
