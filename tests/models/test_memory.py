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

small, large, dtype = sys.argv[1:]
load_model(small, dtype=dtype)
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
print(json.dumps({"peak": max(peak, own_bytes()) - before}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc, so Linux only")
@pytest.mark.parametrize(
    ("name", "stored", "asked"),
    [
        ("gpt2", torch.float16, "float32"),
        ("pythia-160m", torch.float32, "bfloat16"),
        pytest.param("Qwen2.5-0.5B", torch.bfloat16, "bfloat16", marks=pytest.mark.fire),
    ],
)
def test_loading_takes_no_second_copy_of_the_weights(
    name: str, stored: torch.dtype, asked: str, tmp_path: Path
) -> None:
    """At most 1.2 times. NeoX needs the margin: TransformerLens splits its fused Q, K and V and
    keeps the fused ones too, a quarter of the weights of its layers."""
    small, large = tmp_path / "small", tmp_path / "large"
    tiny_model("qwen2").save_pretrained(small)
    model = random_model(cut(hub_config(name), n_layers=8), stored)
    model.save_pretrained(large)
    weights = sum(weight.numel() for weight in model.parameters())
    assert weights > 80e6
    for folder in (small, large):
        tiny_tokenizer().save_pretrained(folder)
    ran = subprocess.run(
        [sys.executable, "-c", MEASURE, str(small), str(large), asked],
        capture_output=True,
        text=True,
        check=True,
    )
    peak = json.loads(ran.stdout)["peak"]
    probe = 40e6  # two short passes: their logits, and what half-precision kernels repack
    assert peak < 1.2 * weights * getattr(torch, asked).itemsize + probe
