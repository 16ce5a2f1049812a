"""A paper's figure from an ablation sweep: which heads does one prediction rest on?

    python examples/sweep_figure.py
    python examples/sweep_figure.py gpt2 "The war lasted from 1732 to 17" --target 45 --how mean

Writes `sweep.pdf` (each head's ablation on a map, and the strongest as bars), `sweep.csv` and
`sweep.tex` (the strongest; LaTeX needs `booktabs`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

import mi_toolkit as mi
from mi_toolkit.draw import figures

PROMPT = "When Mary and John went to the store, John gave a drink to"


def main(name: str, prompt: str, target: str | None, how: str, top: int) -> None:
    """Ablate every head alone, and draw what it does to the target's log-probability."""
    reference = prompt if how in ("mean", "resample") else None
    model = mi.load_model(name)
    sweep = mi.ablation_sweep(model, prompt, target=target, how=how, reference=reference)
    sweep.to_pandas().to_csv("sweep.csv", index=False)
    strongest = pd.DataFrame(sweep.top(top), columns=["head", "change in nats"])
    latex = strongest.to_latex(index=False, float_format="%+.2f", escape=True)
    Path("sweep.tex").write_text(latex, encoding="utf-8")

    n_layers, n_heads = sweep.log_prob.shape
    with figures.house_style():
        width, height = 1.2 + 0.42 * n_heads, max(1.1 + 0.27 * n_layers, 0.7 + 0.2 * top)
        figure = Figure(figsize=(width + 3.2, height), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[width, 2.6])
        figures.sweep_map(sweep, ax=left)
        right.barh(strongest["head"].astype(str), strongest["change in nats"])
        right.invert_yaxis()
        right.axvline(0, linewidth=0.8, color="grey")
        right.set_title(f"log-probability of {sweep.clean.text!r}")
        right.set_xlabel("change in nats")
    figures.save_figure(figure, "sweep.pdf")
    print(f"{name}: {sweep.clean.text!r} rests most on {strongest['head'].iloc[0]}; sweep.pdf")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", nargs="?", default="toy-gpt2", help="by name (%(default)s)")
    parser.add_argument("prompt", nargs="?", default=PROMPT, help="%(default)s")
    parser.add_argument("--target", help="the token asked about (the most probable one)")
    parser.add_argument("--how", default="zero", choices=["zero", "mean", "pattern_preserving"])
    parser.add_argument("--top", type=int, default=5, help="heads in bars and table (%(default)s)")
    asked = parser.parse_args()
    main(asked.model, asked.prompt, asked.target, asked.how, asked.top)
