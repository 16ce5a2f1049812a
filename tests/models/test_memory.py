"""Loading holds the weights once: the peak of memory, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.hub_cache import cut, hub_config, random_model
from tests.tiny_models import tiny_model, tiny_tokenizer

# A first, small load: what the imports and transformers' caches take is not the model's.
MEASURE = """
import gc, json, sys, threading
from pathlib import Path
from mi_toolkit import load_model

def own_bytes():
    # RssAnon: not the pages of the weight file, which the system takes back when it needs them.
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024

small, *loads = sys.argv[1:]
load_model(small)
peaks = []
for large, dtype in zip(loads[::2], loads[1::2]):
    gc.collect()
    before, peak, done = own_bytes(), 0, threading.Event()

    def watch():
        global peak
        while not done.wait(0.002):
            peak = max(peak, own_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    model = load_model(large, dtype=dtype)
    done.set()
    watcher.join()
    peaks.append(max(peak, own_bytes()) - before)
    del model
print(json.dumps(peaks))
"""

LOADS = [
    ("gpt2", torch.float16, "float32"),
    ("pythia-160m", torch.float32, "bfloat16"),
    ("Qwen2.5-0.5B", torch.bfloat16, "bfloat16"),
]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc, so Linux only")
def test_loading_takes_no_second_copy_of_the_weights(tmp_path: Path) -> None:
    """At most 1.2 times. NeoX needs the margin: TransformerLens splits its fused Q, K and V and
    keeps the fused ones too, a quarter of the weights of its layers."""
    tiny_model("qwen2").save_pretrained(tmp_path / "small")
    tiny_tokenizer().save_pretrained(tmp_path / "small")
    arguments, bounds = [], []
    for name, stored, asked in LOADS:
        model = random_model(cut(hub_config(name), n_layers=8), stored)
        model.save_pretrained(tmp_path / name)
        tiny_tokenizer().save_pretrained(tmp_path / name)
        weights = sum(weight.numel() for weight in model.parameters())
        assert weights > 80e6
        arguments += [str(tmp_path / name), asked]
        bounds.append(1.2 * weights * getattr(torch, asked).itemsize + 20e6)
    ran = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / "small"), *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    for peak, bound, load in zip(json.loads(ran.stdout), bounds, LOADS, strict=True):
        assert peak < bound, load
