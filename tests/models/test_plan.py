"""The plan of a run: its peak is the measured one, and it is made of a config alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import mi_toolkit as mi
from mi_toolkit.cli.app import run
from mi_toolkit.core.display import human_count
from mi_toolkit.core.errors import ModelLoadError, PromptError, UnknownNameError
from mi_toolkit.core.memory import gigabytes
from mi_toolkit.models import memory_use, planning
from mi_toolkit.models.memory_use import WORKLOADS, memory_parts, model_size, size_of, workload
from mi_toolkit.models.planning import RunPlan, measured_flops, measured_reading
from mi_toolkit.sweeps.jobs import TASKS, Job
from mi_toolkit.sweeps.run import bytes_needed
from tests.conftest import ROOT
from tests.hub_cache import CONFIGS, hub_config

WITHIN = 0.15

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 64,
}

TASK = """
import json, sys
import torch
import mi_toolkit as mi
from mi_toolkit.sweeps.jobs import TASKS, Job
from pathlib import Path
torch.set_num_threads(1)
name, task, dtype, layers, folder = sys.argv[1:]
job = Job(model=name, task=task, dtype=dtype, arguments=ARGUMENTS[task])
model = mi.load_model(name, dtype=dtype, layers_at_a_time=json.loads(layers))
if layers != "null":
    # transformers looks through the whole file as it loads: pages of a map, which the system takes
    # back where memory is short. The peak is that of what follows.
    Path("/proc/self/clear_refs").write_text("5")
if task == "classify":
    mi.classify_heads(model, progress=False)
else:
    TASKS[task].run(model, job, Path(folder))
# Not getrusage: its maximum is handed down from the process that started this one.
status = Path("/proc/self/status").read_text()
print(int(status.split("VmHWM:")[1].split()[0]) * 1024)
"""
TEXTS = ["When Mary and John went to the store, John gave a drink to the man. " * 9] * 64
ARGUMENTS: dict[str, Any] = {
    "classify": {},
    "confirm": {"heads": {"induction": ["L2H0"]}},
    "record": {"texts": TEXTS * 16, "names": "resid_post"},  # as many as fill a file
    "statistics": {"texts": TEXTS, "names": "resid_post"},
    "score_weights": {},
    "ablation_sweep": {"prompt": TEXTS[0][:60]},
    "verify": {},
}


def measured(folder: Path, model: str, task: str, dtype: str, layers: int | None) -> int:
    """The peak of a process of its own, in bytes, everything that it imports included."""
    code = f"ARGUMENTS = {ARGUMENTS!r}\n{TASK}"
    ran = subprocess.run(
        [sys.executable, "-", model, task, dtype, json.dumps(layers), str(folder)],
        input=code,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(ran.stdout.splitlines()[-1])


SMOLLM2 = "smollm2-135m-instruct"
CASES = [
    pytest.param("toy-gpt2", "classify", "float32", None, marks=pytest.mark.slow),
    pytest.param("toy-gpt2", "score_weights", "float32", None, marks=pytest.mark.fire),
    pytest.param(SMOLLM2, "ablation_sweep", "float32", 1, marks=pytest.mark.fire),
    *(
        pytest.param("toy-gpt2", task, "float32", None, marks=pytest.mark.fire)
        for task in ("confirm", "record", "statistics", "ablation_sweep", "verify")
    ),
    *(
        pytest.param(name, "classify", dtype, None, marks=pytest.mark.fire)
        for name in ("toy-qwen2", "toy-pythia")
        for dtype in ("float32", "bfloat16")
    ),
    *(
        pytest.param(SMOLLM2, task, dtype, None, marks=pytest.mark.fire)
        for task in ("classify", "statistics", "score_weights", "verify")
        for dtype in ("float32", "bfloat16")
    ),
    pytest.param(SMOLLM2, "classify", "float32", 1, marks=pytest.mark.fire),
]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, so Linux only")
@pytest.mark.parametrize(("model", "task", "dtype", "layers"), CASES)
def test_the_peak_is_the_measured_one(
    model: str, task: str, dtype: str, layers: int | None, tmp_path: Path
) -> None:
    if model == SMOLLM2:
        mi.load_model(model, dtype=dtype)  # converts it from GGUF, once
    itemsize = getattr(torch, dtype).itemsize
    parts = memory_parts(model_size(model), workload(task), itemsize=itemsize, layers=layers)
    found, wanted = sum(parts.values()), measured(tmp_path, model, task, dtype, layers)
    assert abs(found / wanted - 1) < WITHIN, (found >> 20, wanted >> 20)


def test_there_is_a_workload_for_every_task_and_sweeps_ask_for_the_same_memory() -> None:
    assert WORKLOADS.keys() == TASKS.keys()
    for dtype in ("float32", "bfloat16"):
        job = Job(model="toy-qwen2", task="classify", dtype=dtype)
        assert bytes_needed(job) == mi.plan("toy-qwen2", dtype=dtype, memory="99GiB").peak


PUBLISHED = json.loads((ROOT / "tests" / "data" / "published_configs.json").read_text())
"""Of models whose configs are not in `tests/configs`: the dimensions that their makers published,
and how many parameters the models have."""


def config_of(name: str) -> Any:
    published = dict(PUBLISHED[name])
    del published["parameters"]
    return AutoConfig.for_model(**published)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_plan_of_published_dimensions_has_the_published_parameters(name: str) -> None:
    found = mi.plan(config_of(name), memory="4GiB")
    assert found.n_parameters == PUBLISHED[name]["parameters"]
    assert found.dtype == "float32"
    assert found.fits
    assert (found.layers_at_a_time is None) == (found.n_parameters < 1e9)
    assert found.mode.startswith(
        ("under 1B", "1B to 7B", "7B and over")[sum(found.n_parameters >= n for n in (1e9, 7e9))]
    )
    if found.n_parameters > 1e9:  # gradients need the whole model, and no way round is made up
        assert not mi.plan(config_of(name), "score_weights", memory="4GiB").fits


@pytest.mark.parametrize("file", sorted(CONFIGS.iterdir()), ids=lambda file: file.stem)
def test_a_folder_with_a_config_alone_is_planned_for(file: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(hub_config(file.stem)))
    found = mi.plan(tmp_path, memory="6GiB")
    assert found.fits
    assert found.layers_at_a_time is None


def test_less_memory_takes_smaller_batches_then_fewer_layers_then_bfloat16() -> None:
    config = config_of("EleutherAI/pythia-2.8b")

    def way(memory: str, **options: Any) -> tuple[Any, ...]:
        found = mi.plan(config, memory=memory, **options)
        assert found.peak <= found.memory
        return found.dtype, found.layers_at_a_time, found.batch_size

    assert way("32GiB") == ("float32", None, 31)
    dtype, layers, batch = way("8GiB")
    assert (dtype, batch) == ("float32", 31)
    assert 1 < layers < 32
    smallest = way("2.7GiB")
    assert smallest[:2] == ("float32", 1)
    assert smallest[2] < 31
    assert way("1.7GiB")[0] == "bfloat16"
    assert way("12GiB", dtype="bfloat16") == ("bfloat16", None, 31)
    assert not mi.plan(config, memory="1GiB").fits


def test_time_grows_with_tokens_at_rates_measured_here() -> None:
    assert measured_flops(torch.float32, "cpu") > 1e8
    assert measured_reading() > 1e6
    one, ten = (mi.plan("toy-opt", tokens=n, memory="4GiB") for n in (10_000, 100_000))
    ratio = (ten.seconds * ten.flops_per_second) / (one.seconds * one.flops_per_second)
    assert ratio == pytest.approx(10)


def test_of_a_mixture_only_the_experts_that_a_token_runs_through_take_time() -> None:
    """So that the time stays a lower bound."""
    fields = {"num_local_experts": 8, "num_experts_per_tok": 2, "intermediate_size": 48}
    config = AutoConfig.for_model("mixtral", **TINY | fields)
    size = size_of("tiny", AutoModelForCausalLM.from_config(config))
    of_one = 3 * TINY["hidden_size"] * 48
    attention = 2 * TINY["hidden_size"] * 32 + 2 * TINY["hidden_size"] * 16
    layers = TINY["num_hidden_layers"]
    assert size.n_block_weights == layers * (attention + 8 * of_one + 8 * TINY["hidden_size"])
    assert size.n_active_weights == layers * (attention + 2 * of_one + 8 * TINY["hidden_size"])
    experts = torch.empty(8, 4, 6)  # says itself how many there are
    bare = SimpleNamespace(num_experts_per_tok=2)
    assert memory_use._active("mlp.experts.down_proj", experts, bare) == 2 * 4 * 6
    dense = size_of("tiny", AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **TINY)))
    assert dense.n_active_weights == dense.n_block_weights


def test_what_cannot_be_known_is_refused_with_the_way_out() -> None:
    with pytest.raises(ModelLoadError, match=r"not in the cache.*config\.json alone"):
        mi.plan("facebook/opt-6.7b")
    with pytest.raises(UnknownNameError, match=r"No task is called 'clasify'.*'classify'"):
        mi.plan("toy-gpt2", "clasify")
    for wrong in ("lots", "4 parsecs", 0, "-1GiB"):
        with pytest.raises(PromptError, match="memory="):
            mi.plan("toy-gpt2", memory=wrong)


def test_the_command_says_what_it_takes_and_fails_where_it_does_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(hub_config("pythia-410m")))
    asked = ["plan", str(tmp_path), "--memory", "1.5GiB"]
    assert run([*asked, "--output", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "layers at a time" in shown
    assert "of 24, from disk" in shown
    assert RunPlan.load(tmp_path / "out" / "plan.safetensors").layers_at_a_time is not None
    assert run([*asked, "--task", "score_weights", "--json"]) == 1
    told = capsys.readouterr()
    assert json.loads(told.out)["fits"] is False
    assert "DOES NOT FIT in 1.5 GiB" in told.err


def all_configs() -> dict[str, Any]:
    """Of every model that the guides name: the hub's config, or the published dimensions."""
    of_hub = {
        next(name for name in mi.MODELS if name.split("/")[-1] == file.stem): AutoConfig.for_model(
            **hub_config(file.stem)
        )
        for file in sorted(CONFIGS.iterdir())
    }
    return of_hub | {name: config_of(name) for name in PUBLISHED}


def test_the_table_in_the_docs_is_what_plans_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "MEASURED", 0.0)  # of times it says nothing
    found = {name: mi.plan(config, memory="4GiB") for name, config in all_configs().items()}
    whole = {name: mi.plan(config, memory="999GiB") for name, config in all_configs().items()}
    rows = [
        f"| {name} | {human_count(plan.n_parameters)} | {gigabytes(whole[name].peak)} | "
        f"{'all' if plan.layers_at_a_time is None else plan.layers_at_a_time} of {plan.n_layers} | "
        f"{plan.batch_size} | {gigabytes(plan.peak)} |"
        for name, plan in sorted(found.items(), key=lambda item: item[1].n_parameters)
    ]
    assert all(plan.fits for plan in found.values())
    assert "\n".join(rows) in (ROOT / "docs" / "large_models.md").read_text()
