"""Every file that the library reads, damaged: refused in one line, or what was written.

Where a file has a checksum, damage is always seen. Where it has none (a text, a model's own
files), it is read or refused. Nothing of a file ever runs.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, seed, settings
from hypothesis import strategies as st
from safetensors import safe_open

import mi_toolkit as mi
from mi_toolkit.activations.batcher import documents
from mi_toolkit.cli.app import run
from mi_toolkit.cli.sensitivity_asked import texts_of
from mi_toolkit.compare.lengths import LengthSweep
from mi_toolkit.compare.model_comparison import ModelComparison
from mi_toolkit.core.result import SavedResult, load_record, load_tensor, save_record
from mi_toolkit.core.resumable import Checkpoint
from mi_toolkit.models.sources import bundled_folder
from mi_toolkit.sweeps.jobs import Job, read_study
from mi_toolkit.weights.run_comparison import compare_runs
from tests.conftest import FIRE_SEED, ROOT, cases
from tests.every_job import JOBS, TEXTS, figures_of
from tests.fire.damage import byte_damage, field_damage, json_changed, refusal_or
from tests.gguf_made import write_tiny_gguf
from tests.models_here import loaded

pytestmark = [
    pytest.mark.fire,
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning"),
]

IDS = torch.arange(3, 11)[None]


@dataclass(frozen=True)
class Format:
    """Something that is saved as a file or a folder."""

    write: Callable[[Path], object]
    """Into a path that is not there yet."""

    read: Callable[[Path], Any]
    """All of it."""

    checked: tuple[str, ...] = ()
    """The files whose damage is always seen, as globs."""

    files: tuple[str, ...] = ("*",)
    """Those that are damaged here."""

    cases: int = 60


def job_result(name: str) -> Format:
    def write(path: Path) -> None:
        found = JOBS[name](loaded("toy-gpt2"), path.parent)
        KINDS[name] = type(found)
        found.save(path)

    def read(path: Path) -> Any:
        return figures_of(KINDS[name].load(path))

    return Format(write=write, read=read, checked=("*",), cases=25)


KINDS: dict[str, type[SavedResult]] = {}
RESULTS = (
    *("classify_heads", "copying_scores", "profile_heads", "head_card", "confirm_heads", "record"),
    *("activation_statistics", "trace_pipeline", "generate", "generate, beams", "attribute"),
    *("direct_logit_attribution", "ablation_effect", "ablation_sweep", "activation_patching"),
    *("score_weights, grad_x_weight", "perturbation_effect", "find_super_weights"),
)


def write_checkpoint(path: Path) -> None:
    kept = Checkpoint(path, {"asked": [1, 2]}, format="mi_toolkit made 1", kind="made thing")
    kept.save({"sums": torch.arange(12.0).view(3, 4), "n": torch.tensor(3)}, {"done": 7})


def read_checkpoint(path: Path) -> Any:
    kept = Checkpoint(path, {"asked": [1, 2]}, format="mi_toolkit made 1", kind="made thing")
    found = kept.load()
    return None if found is None else figures_of([found[0], found[1]])


def write_comparison(path: Path) -> None:
    models = {"one": loaded("toy-gpt2"), "other": loaded("toy-qwen2")}
    mi.compare_models(models, TEXTS).save(path)


def write_store(path: Path) -> None:
    mi.record_to_disk(loaded("toy-gpt2"), TEXTS * 4, "mlp_post", path, progress=False)


def read_store(path: Path) -> Any:
    store = mi.open_activations(path, verify=True)
    str(store)
    return figures_of([store.read(name) for name in store.names]), store.index().to_dict("list")


def read_store_unverified(path: Path) -> Any:
    store = mi.open_activations(path)
    str(store)
    values = [store.read(name) for name in store.names]
    next(store.batches(store.names[0], 4), None)  # of no part left there is none
    return figures_of(values), store.index().to_dict("list")


def write_atlas(path: Path) -> None:
    shutil.copytree(ROOT / "docs" / "atlas", path)
    for model in (path / "models").iterdir():
        if model.name != "toy-gpt2":
            shutil.rmtree(model)


def read_atlas(path: Path) -> Any:
    atlas = mi.atlas.HeadAtlas.load(path)
    table = atlas.to_pandas().astype(object).fillna(-7).to_dict("list")
    return figures_of([atlas.report("toy-gpt2"), atlas.provenance("toy-gpt2")]), table


def write_sweep(path: Path) -> None:
    arguments = {"prompt": TEXTS}
    mi.sweep([Job(model="toy-gpt2", task="classify", arguments=arguments)], path)


def read_sweep(path: Path) -> Any:
    swept = mi.open_sweep(path)
    str(swept)
    table = swept.to_pandas().astype(object).fillna(-7).to_dict("list")
    return [figures_of(swept.result(job)) for job in swept.done], table


def write_runs(path: Path) -> None:
    asked = ["--metric", "magnitude", "--topk", "5", "--no-perturbation", "--layers", "0"]
    text = str(ROOT / "tests" / "data" / "toy_text.txt")
    assert (
        run(
            [
                "sensitivity",
                "--model",
                "toy-gpt2",
                *asked,
                "--data-file",
                text,
                "--output",
                str(path),
            ]
        )
        == 0
    )


STUDY = """
[[jobs]]
models = ["toy-gpt2", "toy-opt"]
task = "classify"
dtypes = ["float32"]
arguments = { min_lift = 0.4 }
"""


def write_parquet(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": TEXTS * 30}), path)


def write_lines(path: Path) -> None:
    path.write_text("\n".join(json.dumps({"text": text}) for text in TEXTS * 3), encoding="utf-8")


def write_model(path: Path) -> None:
    shutil.copytree(bundled_folder("toy-gpt2"), path)


def read_model(path: Path) -> Any:
    """Whatever figures its weights give: damage of weights alone shows in nothing else."""
    model = mi.load_model(str(path))
    with torch.no_grad():
        return bool(model(IDS).isfinite().all())


def write_adapter(path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    from tests.tiny_models import tiny_model, tiny_tokenizer

    base = tiny_model("llama", num_key_value_heads=4)
    base.save_pretrained(path / "base")
    tiny_tokenizer().save_pretrained(path / "base")
    base.name_or_path = base.config.name_or_path = str(path / "base")
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    get_peft_model(base, config).save_pretrained(path / "adapter")


FORMATS: Mapping[str, Format] = {
    **{name: job_result(name) for name in RESULTS},
    "checkpoint": Format(write_checkpoint, read_checkpoint, checked=("*",)),
    "comparison": Format(
        write_comparison, lambda path: figures_of(ModelComparison.load(path)), checked=("*",)
    ),
    "length sweep": Format(
        lambda path: mi.compare.length_sweep(loaded("toy-gpt2"), [8, 16], n_sequences=4).save(path),
        lambda path: figures_of(LengthSweep.load(path)),
        checked=("*",),
    ),
    "store": Format(write_store, read_store, checked=("*.safetensors", "*.parquet")),
    "store, not verified": Format(write_store, read_store_unverified),
    "atlas": Format(
        write_atlas,
        read_atlas,
        checked=("report.safetensors",),
        files=("atlas.json", "heads.parquet", "report.safetensors", "provenance.json"),
    ),
    "sweep": Format(write_sweep, read_sweep, checked=("*.safetensors",)),
    "sensitivity runs": Format(
        write_runs,
        lambda path: figures_of(compare_runs([path, path])),
        checked=("top_weights_*.parquet",),
        files=("manifest.json", "summary.json", "top_weights_*.parquet"),
    ),
    "study.toml": Format(lambda path: path.write_text(STUDY), read_study),
    "texts.txt": Format(
        lambda path: path.write_text("\n".join(TEXTS)), lambda path: [*documents(path)]
    ),
    "texts.jsonl": Format(write_lines, lambda path: [*documents(path)]),
    "texts.parquet": Format(write_parquet, lambda path: [*documents(path)]),
    "texts to score": Format(lambda path: path.write_text("\n".join(TEXTS)), texts_of),
    "model": Format(write_model, read_model, files=("*.json", "*.safetensors"), cases=100),
    "tiny.gguf": Format(write_tiny_gguf, read_model, cases=60),
    "adapter": Format(
        write_adapter, lambda path: read_model(path / "adapter"), files=("adapter_*",), cases=40
    ),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Each format, written once."""
    made: dict[str, Path] = {}

    def of(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("written") / name.replace(", ", "_")
            FORMATS[name].write(made[name])
        return made[name]

    return of


def files_in(path: Path, globs: tuple[str, ...]) -> list[Path]:
    if path.is_file():
        return [path] if globs else []
    return sorted({file for glob in globs for file in path.rglob(glob) if file.is_file()})


@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_file_is_refused_or_read_as_it_was(
    name: str, written: Callable[[str], Path], record_property: Callable[[str, object], None]
) -> None:
    form, path = FORMATS[name], written(name)
    whole = form.read(path)
    files, checked = files_in(path, form.files), files_in(path, form.checked)
    count = {"cases": 0, "refused": 0}

    @seed(FIRE_SEED)
    @settings(max_examples=cases(form.cases), deadline=None, database=None, phases=[Phase.generate])
    @given(data=st.data())
    def holds(data: st.DataObject) -> None:
        file = data.draw(st.sampled_from(files))
        content = file.read_bytes()
        fields = file.suffix == ".json" and data.draw(st.booleans())
        if fields:
            damage = json_changed(data.draw(field_damage())[1])
        else:
            damage = data.draw(byte_damage())[1]
        damaged = damage(content)
        try:
            file.write_bytes(damaged)
            found = refusal_or(lambda: form.read(path))
        finally:
            file.write_bytes(content)
        count["cases"] += 1
        count["refused"] += found is None
        if found is not None and file in checked:
            assert repr(found) == repr(whole)

    holds()
    assert form.read(path) is not None
    record_property("damaged files", count["cases"])
    record_property("of them refused", count["refused"])


@pytest.mark.parametrize("name", [*RESULTS, "checkpoint", "comparison", "length sweep"])
def test_fields_that_were_changed_with_their_checksums_are_refused_or_read(
    name: str, written: Callable[[str], Path], record_property: Callable[[str, object], None]
) -> None:
    form, path = FORMATS[name], written(name)
    file = path if path.is_file() else next(iter(sorted(path.glob("[!r]*.safetensors"))))
    content, count = file.read_bytes(), {"cases": 0}
    with safe_open(file, framework="pt") as opened:
        kind = opened.metadata()["format"]
    tensors, record = load_record(file, format=kind, kind="thing")

    @seed(FIRE_SEED)
    @settings(max_examples=cases(25), deadline=None, database=None, phases=[Phase.generate])
    @given(data=st.data())
    def holds(data: st.DataObject) -> None:
        changed, moved = record, dict(tensors)
        if data.draw(st.booleans()) and len(tensors) > 1:
            one, other = (data.draw(st.sampled_from(sorted(tensors))) for _ in range(2))
            moved[one], moved[other] = moved[other].clone(), moved[one].clone()
        else:
            changed = data.draw(field_damage())[1](record)
        try:
            save_record(file, format=kind, tensors=moved, record=changed)
            refusal_or(lambda: form.read(path))
        finally:
            file.write_bytes(content)
        count["cases"] += 1

    holds()
    record_property("changed fields", count["cases"])


def test_a_byte_that_flips_in_one_tensor_of_many_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "scores.safetensors"
    save_record(file, format="mi_toolkit made 1", tensors={"a": torch.ones(4)}, record={})
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert refusal_or(lambda: load_tensor(file, "a")) is None
