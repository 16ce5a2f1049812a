"""From a model to a table and a figure for a paper.

    python examples/paper_figure.py
    python examples/paper_figure.py gpt2 --output paper

Writes `heads.csv` (a row per behaviour and head, with chance and interval), `heads.tex` (the
labelled heads; LaTeX needs `booktabs`) and `heads.pdf` (two maps and the scopes, as wide as a
page's column).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from matplotlib.figure import Figure

import mi_toolkit as mi
from mi_toolkit.draw import figures

PANELS = ["previous_token", "induction"]
COLUMNS = ["label", "name", "score", "lift", "ci_low", "ci_high"]


def main(name: str, output: Path) -> None:
    """Classify, keep every figure, and draw."""
    report = mi.classify_heads(mi.load_model(name))
    output.mkdir(parents=True, exist_ok=True)
    report.save(output / "heads.safetensors")  # HeadReport.load reads it back: no need to run again
    table = report.to_pandas()
    table.to_csv(output / "heads.csv", index=False)

    labelled = table[table["labelled"] & table["home"]]
    latex = labelled[COLUMNS].to_latex(index=False, float_format="%.2f", na_rep="--", escape=True)
    (output / "heads.tex").write_text(latex, encoding="utf-8")

    n_layers, n_heads = report.scope.shape
    with figures.house_style():
        figure = Figure(figsize=(3 * (0.9 + 0.3 * n_heads), 0.9 + 0.24 * n_layers))
        axes = figure.subplots(1, 3)
        for behaviour, ax in zip(PANELS, axes, strict=False):
            figures.head_map(report, behaviour, ax=ax)
        figures.scope_map(report, ax=axes[2])
        figure.subplots_adjust(wspace=0.9, top=0.85, bottom=0.22, left=0.06, right=0.9)
    figures.save_figure(figure, output / "heads.pdf")
    print(f"{name}: {len(labelled)} labels in heads.csv and heads.tex; heads.pdf, in {output}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", nargs="?", default="toy-gpt2", help="by name (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path(), help="folder (this one)")
    asked = parser.parse_args()
    main(asked.model, asked.output)
