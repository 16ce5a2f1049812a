"""`plan`: what will be done to run a task on a model, and what it takes, before anything is loaded.

1. The config says how large the model is (`memory_use`); no weight is read, nor need it be there.
2. Of the ways to run the task, the first that fits in memory is taken: the whole model, with
   smaller batches, with as many blocks in memory as fit, then the same in bfloat16.
3. Time is the model's arithmetic at a rate that is measured here, now, in the same precision, and
   what is read from disk at the rate of a file that is written and read for it.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PretrainedConfig

from mi_toolkit.core.display import TextTable, human_count
from mi_toolkit.core.errors import ModelLoadError, ModelTypeError, PromptError
from mi_toolkit.core.memory import available_bytes, gigabytes
from mi_toolkit.core.result import Result
from mi_toolkit.models.checkpoints import causal_architecture
from mi_toolkit.models.load import DTYPES, dtype_named
from mi_toolkit.models.memory_use import (
    ModelSize,
    Workload,
    memory_parts,
    model_size,
    size_of,
    workload,
)
from mi_toolkit.models.specs import LARGE, VERY_LARGE
from mi_toolkit.models.streamed import skeleton

MODES = {
    LARGE: "under 1B: everything, the perturbation test of weights too",
    VERY_LARGE: "1B to 7B: of weights, the fast perturbation test (--fast-perturbation)",
}
"""What is tried on a model of fewer parameters than this."""

MODE_OF_LARGEST = "7B and over: weights are scored and not tested (--no-perturbation)"


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class RunPlan(Result):
    """How a task will be run on a model, and what it is expected to take."""

    FORMAT: ClassVar[str] = "mi_toolkit run plan 1"

    model: str
    """The model's name."""

    task: str
    """The task, as sweeps call it."""

    n_parameters: int
    """All of the model's; tied embeddings once."""

    n_layers: int
    """Its blocks."""

    dtype: str
    """Precision of the weights."""

    device: str
    """Where it runs: `cpu` or `cuda`."""

    device_map: str | None
    """`auto` where the model is spread over several GPUs; else None."""

    layers_at_a_time: int | None
    """Blocks in memory at a time, the others on disk; None for the whole model."""

    batch_size: int
    """Sequences to a pass, at most."""

    parts: Mapping[str, int]
    """What lies in memory at the peak, in bytes, by part."""

    memory: int
    """Bytes that there are for it."""

    tokens: int
    """Tokens that the task runs: the standard protocol's, or those that were said."""

    flops_per_second: float
    """Floating-point operations in a second, as measured here on a product of matrices."""

    bytes_per_second: float | None
    """Bytes read from disk in a second, as measured here; None where nothing is read again."""

    seconds: float
    """What the arithmetic takes at these rates, and reading the blocks: a lower bound, as Python
    and small matrices take longer. On a small model much longer."""

    @property
    def peak(self) -> int:
        """Bytes at the peak of a process of its own."""
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        """Whether it fits in the memory that there is."""
        return self.peak <= self.memory

    @property
    def mode(self) -> str:
        """What is tried on models of this size."""
        fewer = (mode for most, mode in MODES.items() if self.n_parameters < most)
        return next(fewer, MODE_OF_LARGEST)

    @property
    def load_options(self) -> dict[str, Any]:
        """The arguments of `load_model` that it stands for."""
        asked = {
            "dtype": self.dtype,
            "device_map": self.device_map,
            "layers_at_a_time": self.layers_at_a_time,
        }
        return {name: value for name, value in asked.items() if value is not None}

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """One row: the plan."""
        yield {
            "model": self.model,
            "task": self.task,
            "parameters": self.n_parameters,
            "dtype": self.dtype,
            "device": self.device,
            "device_map": self.device_map,
            "layers_at_a_time": self.layers_at_a_time,
            "layers": self.n_layers,
            "batch_size": self.batch_size,
            "peak_gib": self.peak / 2**30,
            "memory_gib": self.memory / 2**30,
            "fits": self.fits,
            "seconds": self.seconds,
            "mode": self.mode,
        }

    def title(self) -> str:
        """The plan in one line."""
        verdict = "fits" if self.fits else "DOES NOT FIT"
        return (
            f"{self.task} on {self.model}: {gigabytes(self.peak)} at the peak, {verdict} in "
            f"{gigabytes(self.memory)}"
        )

    def text_table(self) -> TextTable:
        """The plan in words."""
        return TextTable(title=self.title(), rows=self.cells())

    def cells(self) -> list[list[str]]:
        """What the plan is about, and what it says."""
        held = ", ".join(f"{name} {gigabytes(size)}" for name, size in self.parts.items() if size)
        layers, n = self.layers_at_a_time, self.n_layers
        where = self.device if self.device_map is None else f"device_map {self.device_map}"
        rate = f"{self.flops_per_second / 1e9:,.0f} GFLOP/s"
        if self.bytes_per_second is not None:
            rate += f", {self.bytes_per_second / 1e9:.1f} GB/s from disk"
        rows = [
            ["parameters", human_count(self.n_parameters)],
            ["weights", f"{self.dtype} on {where}"],
            ["layers at a time", f"all {n}" if layers is None else f"{layers} of {n}, from disk"],
            ["batch", f"batch_size={self.batch_size}: sequences to a pass"],
            ["peak memory", f"{gigabytes(self.peak)}: {held}"],
            ["time", f"{_in_words(self.seconds)} or more for {self.tokens:,} tokens, at {rate}"],
            ["mode", self.mode],
        ]
        if not self.fits:
            needed = f"{gigabytes(self.peak)} is the least: more memory, or a smaller model"
            return [*rows, ["way out", needed]]
        return [*rows, ["load", f"load_model({self.model!r}{self._arguments()})"]]

    def _arguments(self) -> str:
        return "".join(f", {name}={value!r}" for name, value in self.load_options.items())


def _in_words(seconds: float) -> str:
    for most, unit, name in ((120, 1, "s"), (7200, 60, "min")):
        if seconds < most:
            return f"{seconds / unit:.2g} {name}"
    return f"{seconds / 3600:.2g} h"


@dataclass(frozen=True, kw_only=True)
class _Way:
    """One way to run a task."""

    dtype: torch.dtype
    sequences: int
    layers: int | None
    parts: Mapping[str, int]

    @property
    def peak(self) -> int:
        return sum(self.parts.values())


def plan(
    model: str | os.PathLike[str] | PretrainedConfig,
    task: str = "classify",
    *,
    memory: int | str | None = None,
    dtype: str | torch.dtype | None = None,
    tokens: int | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> RunPlan:
    """How a task will run on a model, and the memory and time that it takes, before loading it.

    Needs the model's config alone: from the hub or its cache, a folder (which may hold nothing but
    `config.json`), a bundled model, or as transformers' object. The peak is that of a process of
    its own; `tests/models/test_plan.py` holds it to measured ones, within 15%. A model on GPUs is
    planned for what all of them have free.

    Args:
        model: as `load_model` takes it, or a config of transformers.
        task: classify, confirm, record, statistics, score_weights, ablation_sweep or verify.
        memory: what there is for it: bytes, or text such as `"4GiB"`; None: what is free here.
        dtype: of the weights; None: float32, and bfloat16 where no other way fits.
        tokens: that it is to run; None: those of the standard protocol, or 100,000 of texts.
        revision: a branch, tag or commit of the hub repo.
        trust_remote_code: let the repo's own Python code run.

    Raises:
        UnknownNameError: no such model, task or dtype.
        ModelTypeError: a model in the place of its name.
        ModelLoadError: its config is missing, unreachable, gated, or no causal language model's.
        PromptError: `memory` is no amount of it.

    Example:
        >>> import mi_toolkit as mi
        >>> found = mi.plan("toy-gpt2", memory="4GiB")
        >>> found.fits, found.layers_at_a_time, found.load_options
        (True, None, {'dtype': 'float32'})
    """
    work = workload(task)
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    room = _room(n_gpus) if memory is None else bytes_named(memory)
    size = _size(model, revision, trust_remote_code=trust_remote_code)
    ways = list(_ways(size, work, room, dtype))
    fitting = [way for way in ways if way.peak <= room]
    chosen = fitting[0] if fitting else min(ways, key=lambda way: way.peak)
    n_tokens = work.tokens if tokens is None else tokens
    device = "cuda" if n_gpus else "cpu"
    flops = measured_flops(chosen.dtype, device)
    # Forward, and twice as much backward.
    per_token = 2 * size.n_active_weights * (3 if work.scores else 1)
    if work.logits:
        per_token += 2 * size.d_model * size.d_vocab
    seconds, reading = n_tokens * per_token / flops, None
    if chosen.layers is not None:
        reading = measured_reading()
        passes = -(-n_tokens // (chosen.sequences * work.length)) + 2  # two prove the model
        read = 1 - (chosen.layers - 1) / size.n_layers
        seconds += passes * read * size.in_blocks * chosen.dtype.itemsize / reading
    spread = n_gpus > 1 and chosen.peak > room // n_gpus
    return RunPlan(
        model=size.name,
        task=task,
        n_parameters=size.n_parameters,
        n_layers=size.n_layers,
        dtype=str(chosen.dtype).removeprefix("torch."),
        device=device,
        device_map="auto" if spread else None,
        layers_at_a_time=chosen.layers,
        batch_size=chosen.sequences,
        parts=chosen.parts,
        memory=room,
        tokens=n_tokens,
        flops_per_second=flops,
        bytes_per_second=reading,
        seconds=seconds,
    )


def _room(n_gpus: int) -> int:
    if not n_gpus:
        return available_bytes()
    return sum(available_bytes(f"cuda:{place}") for place in range(n_gpus))


def _size(model: Any, revision: str | None, *, trust_remote_code: bool) -> ModelSize:
    if isinstance(model, nn.Module):
        raise ModelTypeError(
            "plan takes the name of a model that is not loaded yet, or its config: "
            "mi.plan('toy-gpt2')."
        )
    if not isinstance(model, PretrainedConfig):
        try:
            return model_size(model, revision=revision, trust_remote_code=trust_remote_code)
        except ModelLoadError as error:
            if "is not in the cache" not in str(error):
                raise
            raise ModelLoadError(
                f"{error} For a plan a folder with its config.json alone will do, or a config of "
                "transformers."
            ) from error
    name = model.name_or_path or causal_architecture(model) or type(model).__name__
    return size_of(name, skeleton(model, trust_remote_code=trust_remote_code))


def _ways(
    size: ModelSize, work: Workload, room: int, dtype: str | torch.dtype | None
) -> Iterator[_Way]:
    """The ways to run a task, the best first: with the largest batch and most layers that fit."""
    kinds = [DTYPES["float32"], DTYPES["bfloat16"]] if dtype is None else [dtype_named(dtype)]
    for kind in kinds:
        for layers in (None, 1) if work.by_layer else (None,):
            yield from _largest(size, work, room, kind, layers)


def _largest(
    size: ModelSize, work: Workload, room: int, dtype: torch.dtype, layers: int | None
) -> Iterator[_Way]:
    def way(sequences: int, layers: int | None) -> _Way:
        parts = memory_parts(
            size, work, itemsize=dtype.itemsize, sequences=sequences, layers=layers
        )
        return _Way(dtype=dtype, sequences=sequences, layers=layers, parts=parts)

    sequences = next(
        (n for n in range(work.sequences, 0, -1) if way(n, layers).peak <= room),
        1,
    )
    found = way(sequences, layers)
    if layers is not None:
        more = (way(sequences, n) for n in range(size.n_layers - 1, 1, -1))
        found = next((each for each in more if each.peak <= room), found)
    yield found


_UNITS = {"": 1, "B": 1} | {
    f"{letter}{unit}": base**power
    for power, letter in enumerate("KMGT", start=1)
    for unit, base in (("", 2**10), ("B", 10**3), ("iB", 2**10))
}


LEAST = 2**16
"""Bytes: who says less means another unit."""


def bytes_named(memory: int | str) -> int:
    """An amount of memory in bytes.

    >>> bytes_named("4GiB"), bytes_named("1.5 GB"), bytes_named(2**20)
    (4294967296, 1500000000, 1048576)

    Raises:
        PromptError: it is none.
    """
    said = str(memory).replace("_", "").strip()
    number = said.rstrip("BKMGTiabkmgt ")
    unit = said[len(number) :].strip()
    by_name = {name.casefold(): size for name, size in _UNITS.items()}
    try:
        found = int(float(number) * by_name[unit.casefold()])
    except (ValueError, KeyError):
        raise PromptError(
            f"memory={memory!r} is no amount of memory: bytes, or text such as '4GiB' or '500MB'."
        ) from None
    if found < LEAST:
        raise PromptError(
            f"memory={memory!r} is {found} bytes, in which no model fits: write its unit, as in "
            f"'{number}GiB'."
        )
    return found


MEASURED = 0.1
"""Seconds that a rate is measured for, at least."""


def measured_flops(dtype: torch.dtype, device: str) -> float:
    """Floating-point operations in a second, of a product of matrices as a block has them."""
    n, width = (128, 512) if device == "cpu" else (1024, 4096)
    tokens = torch.ones(n, width, dtype=dtype, device=device)
    weights = torch.ones(width, width, dtype=dtype, device=device)

    def run(times: int) -> float:
        start = time.perf_counter()
        for _ in range(times):
            product = tokens @ weights
        float(product[0, 0])  # waits for a GPU
        return time.perf_counter() - start

    run(1)
    times, seconds = 1, run(1)
    while seconds < MEASURED:
        times *= 2
        seconds = run(times)
    return times * 2 * n * width**2 / seconds


def measured_reading() -> float:
    """Bytes in a second from a new file, which the system was asked to forget, where it can be."""
    size = 2**25
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "read"
        with path.open("wb") as written:
            written.write(os.urandom(size))
            written.flush()
            os.fsync(written.fileno())
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(written.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        start = time.perf_counter()
        path.read_bytes()
        return size / (time.perf_counter() - start)
