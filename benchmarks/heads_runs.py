"""What `benchmarks/heads.py` times and weighs: models, texts, runs, and how each is measured."""

from __future__ import annotations

import gc
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GPT2Config

import mi_toolkit as mi
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.stimuli import STANDARD_STIMULI, STIMULI, passages, repeated_random
from mi_toolkit.core.tokenizer import bos_token_id
from mi_toolkit.models.sources import find_source

Run = Callable[[], object]
Times = dict[str, list[float]]

GPT2_SHAPE = "gpt2-shape"
"""GPT-2's real config with random weights, and a bundled model's tokenizer: for cost alone."""

DETECTED = ("previous_token_head", "duplicate_token_head", "induction_head")


@dataclass(frozen=True)
class Bench:
    """A model under test next to an untouched copy of it, on one sequence."""

    name: str
    tokens: int
    dtype: str = "float32"

    @cached_property
    def model(self) -> HookedModel:
        """The model that we measure, hooked."""
        if self.name != GPT2_SHAPE:
            return mi.load_model(self.name, dtype=self.dtype)
        torch.manual_seed(0)
        shape = AutoModelForCausalLM.from_config(GPT2Config(), attn_implementation="eager").eval()
        tokenizer = mi.load_model("toy-gpt2").tokenizer
        return mi.load_model(self.name, hf_model=shape, tokenizer=tokenizer)

    def untouched(self, attention: str = "eager") -> Any:
        """The same weights as Hugging Face runs them, without the unembedding."""
        if self.name == GPT2_SHAPE:
            torch.manual_seed(0)
            shape = AutoModelForCausalLM.from_config(GPT2Config(), attn_implementation=attention)
            return shape.eval().base_model
        source = find_source(self.name)
        gguf = {"gguf_file": source.gguf_file} if source.gguf_file else {}
        dtype = getattr(torch, self.dtype)
        loaded = AutoModelForCausalLM.from_pretrained(
            source.location, dtype=dtype, attn_implementation=attention, **gguf
        )
        return loaded.eval().base_model

    @cached_property
    def text(self) -> str:
        """Bundled passages, one after the other, of about as many tokens as asked for."""
        tokenizer, together = self.model.tokenizer, "\n\n".join(passages() * 8)
        room = min(self.tokens, int(self.model.cfg.n_ctx)) - 1
        ids = tokenizer.encode(together, add_special_tokens=False)[: room - 4]
        return str(tokenizer.decode(ids))

    @cached_property
    def ids(self) -> torch.Tensor:
        """The text's ids after a BOS, as a batch of one."""
        bos = bos_token_id(self.model.tokenizer)
        ids = self.model.tokenizer.encode(self.text, add_special_tokens=False)
        return torch.tensor([[*([] if bos is None else [bos]), *ids]])

    @cached_property
    def twice(self) -> torch.Tensor:
        """Random ids given twice after a BOS, as long as asked for."""
        batch = repeated_random(self.model, n_tokens=(self.tokens - 1) // 2, n_sequences=1)
        return batch.ids

    @cached_property
    def standard(self) -> list[torch.Tensor]:
        """The texts of the standard protocol, eight to a batch."""
        batches = [STIMULI[name](self.model, seed=0) for name in STANDARD_STIMULI]
        return [
            batch.part(start, min(start + 8, len(batch))).ids
            for batch in batches
            for start in range(0, len(batch), 8)
        ]


REPEATED = "repeated ids: "
"""Before the names of the runs on random ids given twice, on which copying is measured too."""


def runs_at_512(bench: Bench, *, peers: bool) -> dict[str, Run]:
    """A bare eager forward and `classify_heads`, on both texts; other tools on the first."""
    model, ids, twice, base = bench.model, bench.ids, bench.twice, bench.untouched()
    runs: dict[str, Run] = {
        "forward": without_gradients(lambda: base(ids, use_cache=False)),
        "classify_heads": lambda: mi.classify_heads(model, ids, progress=False),
        f"{REPEATED}forward": without_gradients(lambda: base(twice, use_cache=False)),
        f"{REPEATED}classify_heads": lambda: mi.classify_heads(model, twice, progress=False),
    }
    if peers:
        runs |= {
            "detect_head x3": lambda: detected(bench),
            "run_with_cache, all": without_gradients(lambda: hooked(model).run_with_cache(ids)),
            "run_with_cache, patterns": without_gradients(
                lambda: hooked(model).run_with_cache(
                    ids, names_filter=lambda name: name.endswith("hook_pattern")
                )
            ),
            "output_attentions": without_gradients(
                lambda: base(ids, use_cache=False, output_attentions=True)
            ),
        }
    return runs


def runs_at_length(bench: Bench) -> dict[str, Run]:
    """A bare SDPA forward and `classify_heads`, on random ids given twice."""
    model, ids, base = bench.model, bench.twice, bench.untouched("sdpa")
    return {
        "sdpa": without_gradients(lambda: base(ids, use_cache=False)),
        "classify": lambda: mi.classify_heads(model, ids, progress=False),
    }


def runs_by_default(bench: Bench) -> dict[str, Run]:
    """A bare eager forward over the standard protocol's texts, and what we do by default."""
    model, batches, base = bench.model, bench.standard, bench.untouched()
    report: list[mi.HeadReport] = []

    def forward() -> None:
        for ids in batches:
            base(ids, use_cache=False)

    def classified() -> None:
        report[:] = [mi.classify_heads(model, progress=False)]

    return {
        "forward": without_gradients(forward),
        "classify_heads": classified,
        "confirm_heads": lambda: mi.confirm_heads(model, report[0], progress=False),
    }


def parts_of_passages() -> Iterator[str]:
    """Bundled passages again and again, each time cut at another length."""
    for number, passage in enumerate(cycle(passages())):
        yield passage[number % 7 :][: 40 + 7 * (number % 31)]


def hooked(model: HookedModel) -> Any:
    """A model with the methods that our Protocol does not ask for."""
    return model


def detected(bench: Bench) -> None:
    """TransformerLens' head detector, once for each of its heads."""
    from transformer_lens.head_detector import detect_head

    with torch.no_grad():
        for pattern in DETECTED:
            detect_head(bench.model, bench.text, pattern)


def without_gradients(run: Run) -> Run:
    """The same run under `torch.no_grad`, its result dropped."""

    def bare() -> None:
        with torch.no_grad():
            run()

    return bare


def on_threads(run: Callable[[], Times], threads: int) -> Times:
    """What `run` measures with so many threads; torch's own number comes back."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return run()
    finally:
        torch.set_num_threads(before)


def interleaved(runs: dict[str, Run], repetitions: int) -> Times:
    """Seconds of each run, taken in turn, without the first round."""
    times: Times = {name: [] for name in runs}
    for _ in range(repetitions + 1):
        for name, run in runs.items():
            times[name].append(seconds(run))
    return {name: each[1:] for name, each in times.items()}


def ratio(times: Times, above: str, below: str) -> float:
    """The median of the ratios within a round."""
    return statistics.median(a / b for a, b in zip(times[above], times[below], strict=True))


def seconds(run: Run) -> float:
    """Processor time of one run, which other work on the machine disturbs less than the clock."""
    start = time.process_time()
    run()
    return time.process_time() - start


def alone(bench: Bench, run: str) -> dict[str, str]:
    """Peak memory of a run in a process of its own, from its start on, and what it printed."""
    command = [sys.executable, str(Path(__file__).with_name("heads.py"))]
    command += ["--alone", bench.name, str(bench.tokens), bench.dtype, run]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = [line for line in printed.splitlines() if line.startswith("= ")]
    return dict(line.removeprefix("= ").split(": ", 1) for line in lines)


def run_alone(bench: Bench, run: str) -> None:
    """In that process: load, run, and print what `alone` reads."""
    if run == "load":
        _ = bench.model
    elif run == "sdpa":
        base, ids = bench.untouched("sdpa"), torch.randint(100, 999, (1, bench.tokens))
        taken = seconds(without_gradients(lambda: base(ids, use_cache=False)))
        print(f"= seconds: {taken:.1f}")
    elif run == "forward":
        base, ids = bench.untouched(), torch.randint(100, 999, (1, bench.tokens))
        without_gradients(lambda: base(ids, use_cache=False))()
    elif run == "sweep":
        model, prompts = bench.model, list(islice(parts_of_passages(), bench.tokens))
        with tempfile.TemporaryDirectory() as folder:
            sums = Path(folder, "sums.safetensors")
            taken = seconds(lambda: mi.classify_heads(model, prompts, progress=False, resume=sums))
            print(f"= seconds: {taken:.1f}")
            print(f"= sums: {sums.stat().st_size / 2**20:.1f}")
    else:
        model, ids = bench.model, bench.twice
        found: list[mi.HeadReport] = []
        taken = seconds(lambda: found.append(mi.classify_heads(model, ids, progress=False)))
        print(f"= seconds: {taken:.1f}")
        (report,) = found
        best = report.strongest("induction")
        print(f"= induction: {best} {float(report['induction'][best]):.2f}")
        print(f"= attention: {report.provenance.attention['prompt']}")
    gc.collect()
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        print(f"= MiB: {int(line.split()[1]) / 1024:.0f}")
