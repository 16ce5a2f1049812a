"""What recording activations costs: against a bare forward, `run_with_cache`, and zarr.

Times are ratios of runs interleaved in one process, medians; memory is the peak resident set above
the loaded model, each run in a process of its own (Linux only).

    python benchmarks/activations.py                                        print
    python benchmarks/activations.py --output docs/activations_benchmark.md  and write it there

The comparison of formats needs zarr: pip install 'mi-toolkit[benchmark]'.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mi_toolkit as mi
from mi_toolkit.activations.store.manifest import map_shard, write_shard
from mi_toolkit.core.io import atomic_write
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.provenance import installed_versions
from mi_toolkit.core.stimuli import natural

MODEL = "smollm2-135m-instruct"
DOCUMENTS, TOKENS, BATCH = 200, 32, 8
CACHED, CACHED_TOKENS = 16, 64
"""Prompts of the comparison with `run_with_cache`, and their length."""
REPETITIONS = 3
SELECTIONS = {"one layer": ("resid_post", 0.5), "every layer": ("resid_post", None)}
ROWS, WIDTH, READ = 100_000, 576, 4096


def main() -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="a Markdown file to write")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--note", default="", help="what to say of the machine, on the page")
    parser.add_argument("--documents", type=int, default=DOCUMENTS)
    parser.add_argument("--peak", nargs=2, metavar=("RUN", "SELECTION"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        run, selection = options.peak
        print(peak_above(RUNS[run](mi.load_model(options.model), selection)))
        return
    formats = formats_table()
    print(formats, flush=True)
    model = mi.load_model(options.model)
    recording = recording_table(model, options.documents)
    print(recording, flush=True)
    cached = cached_table(model, options.model)
    page = render(options, recording, cached, formats)
    print(page)
    if options.output:
        with atomic_write(options.output) as draft:
            draft.write_text(page, encoding="utf-8")


def some_ids(model: HookedModel, count: int, length: int = TOKENS) -> list[list[int]]:
    """Token ids of the bundled passages, put one after the other and cut to one length."""
    batch = natural(model)
    stream = [i for n in range(len(batch)) for i in batch.sequence(n).tolist()]
    stream *= -(-count * length // len(stream))
    return [stream[start : start + length] for start in range(0, count * length, length)]


def bare(model: HookedModel, ids: list[list[int]]) -> float:
    """Seconds of a forward without hooks and without the unembedding."""
    tensor = torch.tensor(ids)
    base = model.original_model.base_model  # type: ignore[attr-defined]
    start = time.perf_counter()
    with torch.no_grad():
        base(tensor, attention_mask=torch.ones_like(tensor), use_cache=False)
    return time.perf_counter() - start


class Interleaved:
    """Documents that run the bare forward of each batch just before it is recorded."""

    def __init__(self, model: HookedModel, documents: list[list[int]]) -> None:
        self.model, self.documents = model, documents
        self.bare: list[float] = []
        self.recorded: list[float] = []
        self.since = time.perf_counter()

    def __iter__(self) -> Iterator[list[int]]:
        setup = time.perf_counter() - self.since
        for start in range(0, len(self.documents), BATCH):
            if start:
                self.recorded.append(time.perf_counter() - self.since)
            batch = self.documents[start : start + BATCH]
            self.bare.append(bare(self.model, batch))
            self.since = time.perf_counter() - setup
            setup = 0.0
            yield from batch

    def ended(self) -> None:
        """The last shard and the manifest are written."""
        self.recorded.append(time.perf_counter() - self.since)


def recording_table(model: HookedModel, n_documents: int) -> str:
    """Recording against the bare forward, and reading against recomputing."""
    documents = some_ids(model, n_documents)
    bare(model, documents[:BATCH])
    rows = []
    for layer in (model.cfg.n_layers - 1, model.cfg.n_layers // 2):
        with tempfile.TemporaryDirectory() as folder:
            fed = Interleaved(model, documents)
            store = mi.record_to_disk(
                model, fed, ("resid_post", layer), Path(folder) / "s", batch_size=BATCH
            )
            fed.ended()
            reading = [seconds(partial(read_random, store)) for _ in range(20)]
            verify = seconds(store.verify)
        ratio = statistics.median(r / b for b, r in zip(fed.bare, fed.recorded, strict=True))
        recompute = statistics.median(fed.bare)
        rows.append(
            [
                f"resid_post of layer {layer}",
                f"{sum(fed.bare):.1f}",
                f"{sum(fed.recorded):.1f}",
                f"{sum(fed.recorded) / sum(fed.bare):.3f}",
                f"{ratio:.3f}",
                f"{1000 * statistics.median(reading):.2f}",
                f"{1000 * recompute:.0f}",
                f"{recompute / statistics.median(reading):,.0f} ×",
                f"{store.nbytes / 1e6 / verify:,.0f} MB/s",
            ]
        )
    header = [
        "recorded", "bare s", "recording s", "ratio", "median ratio of batches",
        "reading a batch ms", "recomputing it ms", "faster by", "verifying",
    ]  # fmt: skip
    return table(header, rows)


def read_random(store: mi.activations.ActivationStore) -> torch.Tensor:
    """As many rows as a batch has tokens, from anywhere."""
    rows = torch.randint(len(store), (BATCH * TOKENS,))
    return store.read(store.names[0], rows).clone()


def asked(model: HookedModel, selection: str) -> Any:
    """The name of a selection."""
    form, depth = SELECTIONS[selection]
    return form if depth is None else (form, int(model.cfg.n_layers * depth))


def recorded(model: HookedModel, selection: str) -> Callable[[], None]:
    """`record` of a selection, in batches."""
    ids = torch.tensor(some_ids(model, CACHED, CACHED_TOKENS))
    name = asked(model, selection)
    return lambda: void(mi.record(model, ids, name, batch_size=BATCH, progress=False))


def cached(model: HookedModel, selection: str) -> Callable[[], None]:
    """`run_with_cache` of the same names, in one batch, moved to the CPU in float32 as it is."""
    ids = torch.tensor(some_ids(model, CACHED, CACHED_TOKENS))
    hooks = set(mi.record(model, ids[:1], asked(model, selection)))

    def run() -> None:
        with torch.no_grad():
            void(model.run_with_cache(ids, names_filter=lambda name: name in hooks))  # type: ignore[attr-defined]

    return run


def cached_in_batches(model: HookedModel, selection: str) -> Callable[[], None]:
    """`run_with_cache` batch by batch, its tensors put together."""
    ids = torch.tensor(some_ids(model, CACHED, CACHED_TOKENS))
    hooks = set(mi.record(model, ids[:1], asked(model, selection)))

    def run() -> None:
        parts: dict[str, list[torch.Tensor]] = {hook: [] for hook in hooks}
        with torch.no_grad():
            for batch in ids.split(BATCH):
                _, cache = model.run_with_cache(batch, names_filter=lambda name: name in hooks)  # type: ignore[attr-defined]
                for hook in hooks:
                    parts[hook].append(cache[hook])
        void({hook: torch.cat(tensors) for hook, tensors in parts.items()})

    return run


def void(_: object) -> None:
    """Drop a result."""


RUNS = {
    "record": recorded,
    "run_with_cache": cached,
    "run_with_cache in batches": cached_in_batches,
}


def cached_table(model: HookedModel, name: str) -> str:
    """`record` against `run_with_cache` on the same selection."""
    rows = []
    for selection in SELECTIONS:
        runs = {kind: make(model, selection) for kind, make in RUNS.items()}
        times: dict[str, list[float]] = {kind: [] for kind in runs}
        for _ in range(REPETITIONS + 1):
            for kind, run in runs.items():
                times[kind].append(seconds(run))
        for kind in runs:
            ratios = [a / b for a, b in zip(times[kind][1:], times["record"][1:], strict=True)]
            command = [sys.executable, __file__, "--model", name, "--peak", kind, selection]
            peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            rows.append(
                [
                    f"resid_post of {selection}",
                    kind,
                    f"{statistics.median(times[kind][1:]):.2f}",
                    f"{statistics.median(ratios):.2f}",
                    peak.strip(),
                ]
            )
            print(rows[-1], flush=True)
    return table(["activations", "call", "seconds", "of `record`'s time", "peak MiB"], rows)


def formats_table() -> str:
    """Safetensors as written here against zarr 3, on rows like those of a residual stream."""
    try:
        import zarr
    except ImportError:
        return "zarr is not installed."
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(ROWS, WIDTH, generator=generator)
    chosen = torch.randint(ROWS, (READ,), generator=generator)
    contenders: dict[str, tuple[Callable[[Path], Any], Callable[[Path, Any], Any]]] = {
        "safetensors shard": (
            lambda path: write_shard(path, {"x": list(values.split(512))}),
            lambda path, rows: map_shard(path)["x"][rows].clone(),
        )
    }
    for label, chunk, compressed in (
        ("zarr 3, chunks of 1,024 rows", 1024, True),
        ("zarr 3, chunks of 1,024 rows, not compressed", 1024, False),
        ("zarr 3, chunks of 16 rows in shards, not compressed", 16, False),
    ):
        contenders[label] = zarr_contender(zarr, values, chunk, compressed=compressed)
    figures: dict[str, list[list[float]]] = {label: [] for label in contenders}
    sizes = {}
    for _ in range(4):
        for label, (write, read) in contenders.items():
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "x"
                line = [seconds(lambda: write(path))]  # noqa: B023
                line += [
                    seconds(lambda: read(path, chosen)),  # noqa: B023
                    seconds(lambda: read(path, slice(5000, 5128))),  # noqa: B023
                    seconds(lambda: read(path, slice(None))),  # noqa: B023
                ]
                figures[label].append(line)
                files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
                sizes[label] = sum(file.stat().st_size for file in files), len(files)
    rows = []
    for label, lines in figures.items():
        medians = [statistics.median(column) for column in zip(*lines[1:], strict=True)]
        size, n_files = sizes[label]
        rows.append(
            [label, *(f"{1000 * m:,.1f}" for m in medians), f"{size / 1e6:,.0f}", f"{n_files:,}"]
        )
    header = ["format", "write ms", f"{READ:,} random rows ms", "128 rows in a row ms", "all ms"]
    return table([*header, "MB", "files"], rows)


def zarr_contender(zarr: Any, values: torch.Tensor, chunk: int, *, compressed: bool) -> Any:
    """Writing and reading one array with zarr."""
    rows_to_a_shard = 16 * (ROWS // 16 // 8)
    options: dict[str, Any] = {} if compressed else {"compressors": None}
    if chunk == 16:
        options["shards"] = (rows_to_a_shard, WIDTH)

    def write(path: Path) -> None:
        array = zarr.create_array(
            str(path), shape=values.shape, chunks=(chunk, WIDTH), dtype="float32", **options
        )
        array[:] = values.numpy()

    def read(path: Path, rows: Any) -> np.ndarray:
        array = zarr.open_array(str(path), mode="r")
        found: np.ndarray = array[rows] if isinstance(rows, slice) else array.oindex[rows.numpy()]
        return found

    return write, read


def seconds(run: Callable[[], object]) -> float:
    """How long one run takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def peak_above(run: Callable[[], None]) -> str:
    """Peak resident memory of a run above where it started, in MiB."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        return "not measured"

    def field(name: str) -> int:
        line = next(line for line in status.read_text().splitlines() if line.startswith(name))
        return int(line.split()[1])

    gc.collect()
    reset.write_text("5")
    before = field("VmRSS")
    run()
    return f"{(field('VmHWM') - before) / 1024:.0f}"


def render(options: argparse.Namespace, recording: str, cached: str, formats: str) -> str:
    """The page."""
    versions = ", ".join(f"{name} {version}" for name, version in installed_versions().items())
    return f"""# Benchmarks of activations

Written by `benchmarks/activations.py` with {versions}, {torch.get_num_threads()} thread(s), on
`{options.model}`. Seconds are of the machine that ran it; ratios are what to compare.
{options.note}

## Recording costs little next to the forward pass

One residual stream of {options.documents} documents of {TOKENS} tokens, {BATCH} to a batch,
with `record_to_disk`: setting up, hooks, copying, shards, checksums, index and manifest included.
Bare is the forward of the same batches without hooks and unembedding; each batch runs bare just
before it is recorded. The target is a ratio of at most 1.15. Of a middle layer it is under 1, as
the pass stops there.

Reading is of {BATCH * TOKENS} rows at random places of the store; recomputing is one bare forward
of as many tokens, the least that it could take: rows at random stand in as many documents. The
target is five times faster.

{recording}

## Against `run_with_cache`

{CACHED} prompts of {CACHED_TOKENS} tokens. `record` takes {BATCH} to a pass; `run_with_cache` with
a `names_filter` runs once over all, and in batches of {BATCH} as well. Memory is the peak above
the loaded model, the result included, each in a process of its own.

{cached}

## Safetensors and an index, or zarr 3

{ROWS:,} rows of {WIDTH} random values in float32, medians of three interleaved runs, the files in
the page cache. Both formats are open, kept up and read from several languages.

{formats}

The store is safetensors with a Parquet index:

- Rows at random places are what training needs. A mapped file gives each for the few kilobytes
  that it takes; a chunked array decodes a whole chunk for each row.
- Activations in floating point hardly compress, so what compression would earn is small.
- A shard is one file, put into place by one rename: it is there or not, and has one checksum. A
  zarr array is many files with metadata that has to agree with them.
- One dependency less: safetensors comes with transformers, pyarrow with `datasets`. Either is
  two lines from numpy and pandas.

zarr would win where arrays are cut along several axes at once, or read over the network in parts.
"""


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
