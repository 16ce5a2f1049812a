"""A model whose blocks stay on disk: the figures of the one in memory, in less memory."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import mi_toolkit as mi
from mi_toolkit.core.errors import ModelLoadError, UnsupportedModelError
from mi_toolkit.core.memory import is_out_of_memory
from mi_toolkit.core.model import HookedModel, weights_digest
from mi_toolkit.heads.untrained import untrained_twin
from mi_toolkit.models.gguf_cache import converted
from mi_toolkit.models.sources import bundled_folder, find_source
from tests.families.zoo import ROWS, build
from tests.models_here import TOYS, loaded
from tests.tiny_models import tiny_tokenizer

TEXTS = [
    "When Mary and John went to the store, John gave a drink to Mary and John",
    "one two three one two three one two three",
]
FIGURES = ("score", "null", "lift", "ci_low", "ci_high", "p", "copying", "labels", "scope")


def on_disk(name: str | Path, at_a_time: int = 1) -> HookedModel:
    return mi.load_model(name, layers_at_a_time=at_a_time)


def blocks_in_memory(model: Any) -> list[int]:
    return [
        layer
        for layer, block in enumerate(model.blocks)
        if not any(weight.is_meta for weight in block.parameters())
    ]


@pytest.mark.parametrize("name", TOYS)
def test_heads_have_the_figures_of_the_model_in_memory_bit_for_bit(name: str) -> None:
    model, whole = on_disk(name), loaded(name)
    options: Any = {"batch_size": 2, "progress": False, "fdr": 0.99}
    here = mi.classify_heads(model, TEXTS, **options)
    there = mi.classify_heads(whole, TEXTS, **options)
    for figure in FIGURES:
        wanted, found = getattr(there, figure), getattr(here, figure)
        assert torch.equal(found.nan_to_num(7), wanted.nan_to_num(7)), figure
    assert there.copying.isfinite().any()  # the unembedding's part is among them
    assert here.provenance == there.provenance
    assert weights_digest(model) == weights_digest(whole)
    assert len(blocks_in_memory(model)) == 1


def test_what_reads_weights_off_a_block_has_them_read_first() -> None:
    here, there = on_disk("toy-pythia"), loaded("toy-pythia")
    one, other = (mi.direct_logit_attribution(each, TEXTS[1]) for each in (here, there))
    assert torch.equal(one.heads, other.heads)
    ratios = [mi.heads.copying_scores(each, progress=False) for each in (here, there)]
    assert torch.equal(ratios[0].eigenvalue_ratio, ratios[1].eigenvalue_ratio)
    assert torch.equal(here(TEXTS[0]), there(TEXTS[0]))


def test_of_several_blocks_at_a_time_the_first_stay() -> None:
    model = on_disk("toy-gpt2", at_a_time=3)
    model("one two three")
    assert blocks_in_memory(model) == [0, 1, 3]
    other = copy.deepcopy(model)
    assert torch.equal(other("one two"), loaded("toy-gpt2")("one two"))


@pytest.mark.parametrize("family", ["phi3", "mixtral", "gemma2", "bloom", "falcon, new decoder"])
def test_fused_stacked_and_normed_projections_are_made_again(family: str, tmp_path: Path) -> None:
    """phi3: two fused ones in a block; mixtral: experts, which are laid out anew on disk."""
    build(ROWS[family]).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    ids = torch.arange(3, 15)[None]
    assert torch.equal(on_disk(tmp_path)(ids), mi.load_model(tmp_path)(ids))


@pytest.mark.parametrize(
    ("job", "asking"),
    [
        (lambda model: mi.score_weights(model, TEXTS), "A table of the weights"),
        (lambda model: mi.attribute(model, TEXTS[0], " Mary"), "Gradients"),
        (lambda model: mi.verify_model("toy-opt", model=model), "Verification"),
        (lambda model: untrained_twin(model), "An untrained twin"),
    ],
)
def test_what_needs_all_weights_is_refused_with_the_way_out(job: Any, asking: str) -> None:
    with pytest.raises(UnsupportedModelError, match=f"^{asking} of toy-opt .*without layers_at_a"):
        job(on_disk("toy-opt"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers_at_a_time": 0}, "layers_at_a_time is 1 or more"),
        ({"layers_at_a_time": 1, "device_map": "auto"}, "leave device_map= and hf_model= out"),
        ({"layers_at_a_time": 1, "backend": "hooked"}, "leave device_map= and hf_model= out"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: Any, message: str) -> None:
    with pytest.raises(ModelLoadError, match=message):
        mi.load_model("toy-gpt2", **options)


def test_a_damaged_block_is_named_and_no_half_of_one_is_left(tmp_path: Path) -> None:
    for file in bundled_folder("toy-qwen2").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.layers.2.mlp.up_proj.weight"][3, 1] = torch.nan
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelLoadError, match=r"damaged: layer 2, mlp\.up_proj\.weight holds 1 of"):
        on_disk(tmp_path)
    model = mi.load_model(tmp_path, layers_at_a_time=1, check=False)
    (tmp_path / "model.safetensors").unlink()
    for _ in range(2):
        with pytest.raises(OSError, match="No such file"):
            model("one two")
    assert blocks_in_memory(model) == []


# What can be written to is counted by RLIMIT_DATA, the maps of weight files among it: so they are
# in bfloat16 here, half of what they take in float32.
LIMITED = """
import json, resource, sys
from pathlib import Path
import torch
import mi_toolkit as mi
torch.set_num_threads(1)
folder, at_a_time, room = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
mi.classify_heads(mi.load_model("toy-qwen2"), "one two one two", progress=False)
held = int(Path("/proc/self/status").read_text().split("VmData:")[1].split()[0]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (held + room, held + room))
try:
    model = mi.load_model(folder, layers_at_a_time=at_a_time)
    report = mi.classify_heads(model, sys.argv[4:], batch_size=1, fdr=None, progress=False)
    figures = [report.score, report.lift, report.copying]
    print(json.dumps([each.nan_to_num(7).tolist() for each in figures]))
except mi.core.errors.OutOfMemoryError as error:
    print(json.dumps(str(error)))
"""


@pytest.mark.fire
@pytest.mark.smollm2
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc, so Linux only")
def test_a_real_model_is_classified_in_memory_that_it_does_not_fit_in(tmp_path: Path) -> None:
    """SmolLM2: 513 MiB in float32, a block 14, the embedding 108; the file has 257."""
    source = converted(find_source("smollm2-135m-instruct"), torch.float32)
    if source.gguf_file is not None:
        mi.load_model("smollm2-135m-instruct")
        source = converted(source, torch.float32)
    for file in Path(source.location).glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(Path(source.location) / "model.safetensors")
    halves = {name: weight.bfloat16() for name, weight in weights.items()}
    save_file(halves, tmp_path / "model.safetensors", metadata={"format": "pt"})

    def run(at_a_time: int | None, mebibytes: int) -> Any:
        asked = [str(tmp_path), json.dumps(at_a_time), str(mebibytes * 2**20), *TEXTS]
        ran = subprocess.run(
            [sys.executable, "-c", LIMITED, *asked], capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stderr[-2000:]
        return json.loads(ran.stdout.splitlines()[-1])

    refused = run(None, 640)
    assert "does not fit" in refused or "load_model takes" in refused
    assert "layers_at_a_time=1 (--layers-at-a-time 1)" in refused
    assert "\n" not in refused
    within = run(1, 640)
    assert within == run(None, 4096)


def test_memory_that_cannot_be_had_is_told_in_one_line_from_any_job() -> None:
    model = loaded("toy-gpt2")

    def too_much(*_: Any, **__: Any) -> None:
        torch.empty(2**46)

    with (
        pytest.raises(mi.core.errors.OutOfMemoryError, match="--layers-at-a-time 1") as found,
        model.hooks(fwd_hooks=[("blocks.1.attn.hook_z", too_much)]),
    ):
        mi.classify_heads(model, TEXTS, progress=False)
    assert str(found.value).startswith("classify_heads on toy-gpt2 takes ")
    assert is_out_of_memory(found.value.__cause__)
