"""A sweep with a job of every task, two of them split into parts, and one that fails."""

from __future__ import annotations

from pathlib import Path

from mi_toolkit.sweeps.jobs import Job

TEXTS = ["Mary and John went to the store.", "one two three one two three", "The cat sat."] * 3
PER_PART = 4
"""Texts to a part: three parts of the nine texts."""

JOBS = [
    Job(model="toy-gpt2", task="classify", arguments={"prompt": TEXTS, "batch_size": 2}),
    Job(
        model="toy-gpt2",
        task="statistics",
        arguments={"texts": ["", *TEXTS], "names": "mlp_post", "batch_size": 2},
    ),
    Job(
        model="toy-gpt2",
        task="record",
        arguments={"texts": TEXTS, "names": ["resid_post"], "dtype": "float16"},
    ),
    Job(model="toy-qwen2", task="classify", arguments={"prompt": TEXTS[:2]}),
    Job(model="toy-gpt2", task="score_weights", arguments={"texts": TEXTS[:2], "layers": [0]}),
    Job(model="toy-gpt2", task="ablation_sweep", arguments={"prompt": TEXTS[0]}),
    Job(
        model="toy-gpt2",
        task="confirm",
        arguments={"heads": {"induction": ["L2H0"]}, "n_sequences": 4},
    ),
    Job(model="toy-qwen2", task="verify", arguments={"max_new_tokens": 1}),
]
FAILING = Job(model="toy-gpt2", task="ablation_sweep", arguments={"prompt": ""})


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file in a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
