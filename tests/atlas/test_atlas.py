from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch

import mi_toolkit as mi
from mi_toolkit.atlas import build
from mi_toolkit.cards import profile
from mi_toolkit.cli.app import run
from mi_toolkit.core.errors import (
    ComparisonError,
    ModelLoadError,
    ReportError,
    UnknownNameError,
)
from mi_toolkit.core.io import folder_name
from mi_toolkit.core.stimuli import passages
from mi_toolkit.models.sources import bundled_folder
from tests.hub_cache import hub_config, lay_out, shrunk
from tests.tiny_models import tiny_tokenizer

MODELS = ["toy-gpt2", "toy-qwen2"]


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> mi.atlas.HeadAtlas:
    return mi.head_atlas(MODELS, tmp_path_factory.mktemp("atlas"))


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.slow
def test_it_holds_the_standard_report_of_every_model(atlas: mi.atlas.HeadAtlas) -> None:
    alone = mi.classify_heads(mi.load_model("toy-qwen2"))
    assert atlas.report("toy-qwen2").to_pandas().equals(alone.to_pandas())
    table = atlas.to_pandas()
    assert list(table["model"].unique()) == MODELS
    assert len(table) == sum(len(atlas.report(name).to_pandas()) for name in MODELS)


@pytest.mark.slow
def test_it_is_opened_again(atlas: mi.atlas.HeadAtlas) -> None:
    again = mi.atlas.HeadAtlas.load(atlas.folder)
    assert again.models == tuple(MODELS)
    assert again.provenance("toy-gpt2")["facts"]["family"] == "GPT-2"
    assert again.provenance("toy-gpt2")["protocol"]["min_lift"] == 0.3
    assert set(again.provenance("toy-gpt2")["files"]) == {
        "report.safetensors",
        "index.html",
        "labels.png",
    }
    assert again.profiles("toy-gpt2")[0].label == "previous_token"
    with pytest.raises(UnknownNameError, match="No model of this atlas is called 'toy-opt'"):
        again.report("toy-opt")


@pytest.mark.slow
def test_it_keeps_what_heads_move_for_cards_and_families(
    atlas: mi.atlas.HeadAtlas,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few_texts = passages()[:10]
    monkeypatch.setattr(profile, "passages", lambda: few_texts)
    with pytest.raises(ReportError, match="has no profiles of heads: build it with profiles=True"):
        atlas.head_profiles()
    asked = ["atlas", *MODELS, "--profiles", "--output", str(tmp_path)]
    assert run(asked) == 0
    made = mi.atlas.HeadAtlas.load(tmp_path)
    assert "profiles.safetensors" in made.provenance("toy-qwen2")["files"]
    others = made.head_profiles()
    assert list(others) == MODELS
    alone = mi.cards.profile_heads(mi.load_model("toy-qwen2"))
    torch.testing.assert_close(others["toy-qwen2"].on, alone.on, rtol=0, atol=0, equal_nan=True)
    before = files_of(tmp_path)
    assert run(asked) == 0
    assert files_of(tmp_path) == before
    capsys.readouterr()
    few = ["--n-sequences", "2", "--n-tokens", "20", "--how", "zero"]
    assert run(["head", "L2H0", "--atlas", str(tmp_path), *few]) == 0
    assert " of toy-qwen2" in capsys.readouterr().out
    families = mi.head_families(made, min_size=3, n_draws=2)
    assert list(families.family) == MODELS
    assert made.load_model("toy-qwen2").cfg.model_name == "toy-qwen2"


@pytest.mark.slow
def test_a_model_of_an_atlas_is_the_one_that_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tmp_path / "mine"
    shutil.copytree(bundled_folder("toy-gpt2"), checkpoint)
    made = mi.head_atlas([str(checkpoint)], tmp_path / "atlas", load={"dtype": "bfloat16"})
    (name,) = made.models
    assert made.load_model(name).cfg.dtype == torch.bfloat16
    assert made.load_model(name, dtype="float32").cfg.dtype == torch.float32
    monkeypatch.chdir(tmp_path)
    beside = mi.head_atlas(["mine"], tmp_path / "beside")
    monkeypatch.chdir("/")
    with pytest.raises(UnknownNameError, match="measured as 'mine', which is no model from here"):
        beside.load_model("mine")
    config = checkpoint / "config.json"
    config.write_text(config.read_text() + " ")
    with pytest.raises(ReportError, match="are not those that the atlas was built from"):
        made.load_model(name)


@pytest.mark.slow
def test_the_pages_link_to_each_other_and_to_nothing_outside(atlas: mi.atlas.HeadAtlas) -> None:
    files = files_of(atlas.folder)
    index, summary = files["index.html"].decode(), files["summary.md"].decode()
    for name in MODELS:
        page = f"models/{name}/index.html"
        assert f'href="{page}"' in index
        assert f"]({page})" in summary
        assert "../../index.html" in files[page].decode()
        assert f"models/{name}/labels.png" in files
    namespace = "http://www.w3.org/2000/svg"
    assert "http" not in index.replace("http-equiv", "").replace(namespace, "")


@pytest.mark.slow
def test_counts_on_the_index_are_the_reports(atlas: mi.atlas.HeadAtlas) -> None:
    summary = (atlas.folder / "summary.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in summary.splitlines()
        if line.startswith("| ")
    ]
    column = rows[0].index("[toy-qwen2](models/toy-qwen2/index.html)")
    counts = {row[0].strip("`"): row[column] for row in rows[1:]}
    for label in ("previous_token", "induction", "diffuse"):
        count = len(atlas.report("toy-qwen2").heads(label))
        assert counts[label].startswith(f"{count} (")


@pytest.mark.slow
def test_nothing_in_it_tells_the_machine(atlas: mi.atlas.HeadAtlas) -> None:
    told = [str(Path.home()), str(Path(mi.__file__).parent), str(atlas.folder)]
    for name, content in files_of(atlas.folder).items():
        for secret in told:
            assert secret.encode() not in content, name


@pytest.mark.slow
def test_done_models_are_not_measured_again(
    atlas: mi.atlas.HeadAtlas, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_of(atlas.folder)
    monkeypatch.setattr(build, "load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    mi.head_atlas(MODELS, atlas.folder)
    assert files_of(atlas.folder) == before


def test_models_that_leave_the_index_are_named(
    atlas: mi.atlas.HeadAtlas, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "atlas"
    shutil.copytree(atlas.folder, folder)
    mi.head_atlas(MODELS, folder)
    assert "leave the index" not in caplog.text
    few = mi.head_atlas(MODELS[:1], folder)
    assert f"{MODELS[1]} of an earlier call keep their files and leave the index" in caplog.text
    assert few.models == (MODELS[0],)
    assert (folder / "models" / MODELS[1] / "report.safetensors").is_file()


@pytest.mark.parametrize("spoil", ["protocol", "cut", "gone"])
@pytest.mark.slow
def test_another_protocol_or_a_spoilt_file_is_measured_again(
    spoil: str, atlas: mi.atlas.HeadAtlas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, content in files_of(atlas.folder).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    report = tmp_path / "models" / "toy-gpt2" / "report.safetensors"
    if spoil == "cut":
        report.write_bytes(report.read_bytes()[:-1])
    elif spoil == "gone":
        report.unlink()
    loaded: list[str] = []

    def load(name: str, **_: object) -> None:
        loaded.append(name)
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "load_model", load)
    with pytest.raises(KeyboardInterrupt):
        mi.head_atlas(MODELS, tmp_path, seed=1 if spoil == "protocol" else 0)
    assert loaded == ["toy-gpt2"]


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_as_if_it_had_never_been_killed(
    atlas: mi.atlas.HeadAtlas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = f"import mi_toolkit as mi; mi.head_atlas({MODELS}, {str(tmp_path)!r})"
    done = tmp_path / "models" / "toy-gpt2" / "provenance.json"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 300
        while not done.is_file() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "atlas.json").exists()
    with pytest.raises(ReportError, match="No head atlas at"):
        mi.atlas.HeadAtlas.load(tmp_path)
    # As if it had been killed within a write, too.
    (tmp_path / "models" / "toy-qwen2").mkdir(exist_ok=True)
    (tmp_path / "models" / "toy-qwen2" / ".report.safetensors.draft-x1y2.safetensors").write_bytes(
        b"half a rep"
    )
    load, names = build.load_model, []
    monkeypatch.setattr(
        build, "load_model", lambda name, **how: (names.append(name), load(name, **how))[1]
    )
    mi.head_atlas(MODELS, tmp_path)
    assert names == ["toy-qwen2"]
    assert files_of(tmp_path) == files_of(atlas.folder)


def test_a_name_that_is_a_path_becomes_one_folder() -> None:
    assert folder_name("org/name-1.5") == "org--name-1.5"
    assert folder_name("../../etc") == "etc"


@pytest.mark.parametrize(
    ("models", "error", "message"),
    [
        ([], ComparisonError, "one model or more"),
        (["toy-gpt2", "TOY-GPT2"], ComparisonError, "Two of the models .* models/toy-gpt2"),
        (["toy-gpt2", "toy-otp"], UnknownNameError, "Did you mean 'toy-opt'"),
    ],
)
def test_models_that_cannot_be_are_errors_before_any_work(
    models: list[str],
    error: type[Exception],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(build, "load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(error, match=message):
        mi.head_atlas(models, tmp_path)


def test_a_model_is_there_once_for_each_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, hub_id = tmp_path / "hub", "EleutherAI/pythia-160m"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    for commit, branch in enumerate(("step0", "step1000")):
        config = shrunk(hub_config(hub_id), n_layers=1 + commit)
        digits = f"{commit:040x}"
        lay_out(cache, hub_id, config, tiny_tokenizer(), branch=branch, commit=digits)
    made = mi.head_atlas(["pythia-160m"], tmp_path / "atlas", revisions=["step0", "step1000"])
    names = ("EleutherAI/pythia-160m@step0", "EleutherAI/pythia-160m@step1000")
    assert made.models == names
    assert [made.report(name).scope.shape[0] for name in names] == [1, 2]
    rows = made.to_pandas().groupby("revision")["layer"].max()
    assert dict(rows) == {"step0": 0, "step1000": 1}
    assert "pythia-160m@step1000" in (made.folder / "index.html").read_text(encoding="utf-8")

    monkeypatch.setattr(build, "load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    again = mi.head_atlas(["pythia-160m"], made.folder, revisions=["step1000"])
    assert again.models == names[1:]
    with pytest.raises(ModelLoadError, match="'toy-gpt2' has no revisions, and so no 'main'"):
        mi.head_atlas(["toy-gpt2"], tmp_path / "other", revisions=["main"])
    with pytest.raises(ComparisonError, match="Say revisions once"):
        mi.head_atlas(["gpt2"], tmp_path, revisions=["main"], load={"revision": "main"})


def test_an_atlas_of_another_version_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "atlas.json").write_text(json.dumps({"format": "mi_toolkit head atlas 0"}))
    with pytest.raises(ReportError, match="of another version"):
        mi.atlas.HeadAtlas.load(tmp_path)
