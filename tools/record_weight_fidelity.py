"""Record how each score of weights orders single removals in toy-gpt2, for the docs' picture.

    python tools/record_weight_fidelity.py

A minute or two. Writes `docs/data/weight_fidelity.json`: by scorer the rank correlation with its
interval, and of each removed weight its place in the ranking, its score and the change in loss.
"""

from __future__ import annotations

import json
from pathlib import Path

import mi_toolkit as mi
from mi_toolkit.weights.scorers import SCORERS

RECORD = Path(__file__).parents[1] / "docs/data/weight_fidelity.json"
MODEL = "toy-gpt2"
N_WEIGHTS = 80
TRUST = ("metric", "spearman", "spearman_low", "spearman_high", "n")


def texts() -> list[str]:
    """Sentences of the kinds that the bundled models are good at."""
    capitals = ("France is Paris", "Italy is Rome", "Japan is Tokyo", "Germany is Berlin")
    sums = [f"{a} + {b} = {a + b}" for a in range(1, 5) for b in range(1, 5)]
    counting = [f"Count to {n}: {' '.join(map(str, range(1, n + 1)))}" for n in range(3, 9)]
    return [*(f"The capital of {capital}." for capital in capitals), *sums, *counting]


def main() -> None:
    """Score on one half of the texts, remove on the other."""
    model = mi.load_model(MODEL)
    scored, held_out = texts()[::2], texts()[1::2]
    found = {}
    for metric in SCORERS:
        scores = mi.score_weights(model, scored, metric)
        fidelity = mi.weights.score_fidelity(model, scores, held_out, n=N_WEIGHTS)
        rows = fidelity.to_pandas()[["stratum", "score", "loss_rise"]]
        trust = fidelity.summary()
        found[metric] = {
            "trust": {name: trust[name] for name in TRUST},
            "rows": [
                [stratum, float(f"{score:.3g}"), float(f"{rise:.3g}")]
                for stratum, score, rise in rows.itertuples(index=False)
            ],
        }
        print(f"{metric:28} {trust['spearman']:+.2f}", flush=True)
    RECORD.write_text(json.dumps(found, indent=None) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
