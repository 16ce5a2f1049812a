"""From a model to a table and a figure for a paper.

    python examples/paper_figure.py
    python examples/paper_figure.py gpt2

Writes `heads.csv` (a row per behaviour and head, with chance and interval), `heads.tex` (the
labelled heads) and `heads.pdf` (two maps and the scopes, as wide as a page's column).
"""

from __future__ import annotations

import sys
from pathlib import Path

from matplotlib.figure import Figure

import mi_toolkit as mi
from mi_toolkit.draw import figures

PANELS = ["previous_token", "induction"]


def main(name: str) -> None:
    """Classify, keep every figure, and draw."""
    report = mi.classify_heads(mi.load_model(name))
    report.save("heads.safetensors")  # HeadReport.load reads it back: no need to run again
    table = report.to_pandas()
    table.to_csv("heads.csv", index=False)

    labelled = table[table["labelled"] & table["home"]]
    columns = ["label", "name", "score", "lift", "ci_low", "ci_high"]
    latex = labelled[columns].to_latex(index=False, float_format="%.2f", na_rep="--")
    Path("heads.tex").write_text(latex, encoding="utf-8")

    n_layers, n_heads = report.scope.shape
    with figures.house_style():
        figure = Figure(figsize=(3 * (0.9 + 0.3 * n_heads), 0.9 + 0.24 * n_layers))
        axes = figure.subplots(1, 3)
        for behaviour, ax in zip(PANELS, axes, strict=False):
            figures.head_map(report, behaviour, ax=ax)
        figures.scope_map(report, ax=axes[2])
        figure.subplots_adjust(wspace=0.9, top=0.85, bottom=0.22, left=0.06, right=0.9)
    figures.save_figure(figure, "heads.pdf")
    print(f"{name}: {len(labelled)} labels in heads.csv and heads.tex; heads.pdf")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "toy-gpt2")
