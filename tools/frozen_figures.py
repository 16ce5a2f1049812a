"""Write down every figure of the main results on the bundled models; compare them bit for bit.

    PYTHONPATH=. python tools/frozen_figures.py write build/figures
    PYTHONPATH=. python tools/frozen_figures.py compare build/figures

For steps that must change no figure: write before, compare after, on the same machine and releases
(another processor's kernels round otherwise).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import mi_toolkit as mi
from mi_toolkit.heads.report import HeadReport
from tests.every_job import JOBS, figures_of
from tests.models_here import TOYS


def main() -> int:
    """Write, or compare; 1 where something differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["write", "compare"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", nargs="+", choices=TOYS, default=list(TOYS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    n_differ = 0
    for name in options.models:
        path = options.folder / f"{name}.json"
        figures = json.loads(json.dumps(all_figures(name)))
        if options.action == "write":
            path.write_text(json.dumps(figures, indent=0), encoding="utf-8")
            print(f"{path}: {len(figures)} results")
            continue
        frozen = json.loads(path.read_text(encoding="utf-8"))
        differ = [what for what in frozen if frozen[what] != figures.get(what)]
        n_differ += len(differ)
        print(f"{name}: {len(frozen) - len(differ)} of {len(frozen)} equal", *differ, sep="\n  ")
    return min(n_differ, 1)


def all_figures(name: str) -> dict[str, Any]:
    """The figures of every public function on a few tokens, and of the defaults, by name."""
    found: dict[str, Any] = {}
    for job, run in JOBS.items():
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as folder:
            found[job] = in_words(figures_of(run(mi.load_model(name), Path(folder))))
    model = mi.load_model(name)
    report: HeadReport = mi.classify_heads(model)
    found["report by default"] = in_words(figures_of(report))
    found["confirmation by default"] = in_words(figures_of(mi.confirm_heads(model, report, seed=1)))
    return found


def in_words(figures: Any) -> Any:
    """The same with tensors as their dtype, shape and every value to the bit."""
    if isinstance(figures, dict):
        return {key: in_words(value) for key, value in figures.items()}
    if isinstance(figures, list):
        return [in_words(value) for value in figures]
    if isinstance(figures, Tensor):
        flat = figures.detach().flatten()
        values = flat.double() if flat.is_floating_point() else flat
        words = [value.hex() if isinstance(value, float) else value for value in values.tolist()]
        return [str(figures.dtype), list(figures.shape), " ".join(map(str, words))]
    return figures.hex() if isinstance(figures, float) else figures


if __name__ == "__main__":
    raise SystemExit(main())
