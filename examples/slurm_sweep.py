"""A sweep over models and lengths as an array of jobs: each task takes its share and can be killed.

    sbatch --array=0-6 --time=1:00:00 --gres=gpu:1 --wrap "python examples/slurm_sweep.py run"
    python examples/slurm_sweep.py gather

Every finished length is a file, so a task that is started again goes on where it was. Compute
nodes often have no network: fetch the models on a login node first and set HF_HUB_OFFLINE=1.
Without Slurm one task does all; set MODELS to those that you study.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pandas as pd

import mi_toolkit as mi

MODELS = os.environ.get("MODELS", "toy-gpt2 toy-pythia").split()
LENGTHS = [32, 64, 128]
RESULTS = Path("sweep-results")


def run() -> None:
    """The models of this task: every n-th, from the task's number on."""
    task = int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))
    n_tasks = int(os.environ.get("SLURM_ARRAY_TASK_COUNT", "1"))
    for name in MODELS[task::n_tasks]:
        model = mi.load_model(name)  # on the GPU where there is one
        folder = RESULTS / name.replace("/", "--")
        sweep = mi.length_sweep(model, LENGTHS, folder=folder, progress=False)
        sweep.to_pandas().to_parquet(folder / "table.parquet")
        print(f"task {task}: {name} done, in {folder}")


def gather() -> None:
    """All tasks' tables as one, and how many heads keep each label at every length."""
    tables = [pd.read_parquet(path) for path in sorted(RESULTS.glob("*/table.parquet"))]
    pd.concat(tables).to_parquet(RESULTS / "all.parquet")
    print(f"{len(tables)} models in {RESULTS / 'all.parquet'}")


if __name__ == "__main__":
    steps = {"run": [run], "gather": [gather]}
    for step in steps[sys.argv[1]] if len(sys.argv) > 1 else [run, gather]:
        step()
