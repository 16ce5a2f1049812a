"""A sweep over models and lengths as an array of jobs: each task takes its share and can be killed.

    sbatch --array=0-1 --gres=gpu:1 --wrap "python examples/slurm_sweep.py run gpt2 gpt2-medium"
    python examples/slurm_sweep.py gather

Every finished length is a file, so a task that is started again goes on where it was. Compute
nodes often have no network: fetch the models on a login node first and set HF_HUB_OFFLINE=1.
Without Slurm one task does all; without arguments it runs and gathers on bundled models.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pandas as pd

import mi_toolkit as mi

BUNDLED = ["toy-gpt2", "toy-pythia"]


def run(models: list[str], lengths: list[int], results: Path) -> None:
    """The models of this task: every n-th, from the task's number on."""
    task = int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))
    n_tasks = int(os.environ.get("SLURM_ARRAY_TASK_COUNT", "1"))
    for name in models[task::n_tasks]:
        model = mi.load_model(name)  # on the GPU where there is one
        folder = results / name.replace("/", "--")
        sweep = mi.length_sweep(model, lengths, folder=folder, progress=True)
        sweep.to_pandas().to_parquet(folder / "table.parquet")
        print(f"task {task}: {name} done, in {folder}")


def gather(results: Path) -> None:
    """All tasks' tables as one."""
    tables = [pd.read_parquet(path) for path in sorted(results.glob("*/table.parquet"))]
    if not tables:
        raise SystemExit(f"No task has written a table in {results} yet.")
    pd.concat(tables).to_parquet(results / "all.parquet")
    print(f"{len(tables)} models in {results / 'all.parquet'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "step",
        nargs="?",
        choices=["run", "gather"],
        metavar="step",
        help="run or gather; without it both",
    )
    parser.add_argument("models", nargs="*", help=f"by name ({' '.join(BUNDLED)})")
    parser.add_argument("--lengths", nargs="+", type=int, default=[32, 64, 128], help="%(default)s")
    parser.add_argument("--output", type=Path, default=Path("sweep-results"), help="%(default)s")
    asked = parser.parse_args()
    if asked.step != "gather":
        run(asked.models or BUNDLED, asked.lengths, asked.output)
    if asked.step != "run":
        gather(asked.output)
