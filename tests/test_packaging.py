from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

PROMPT = "When Mary and John went to the store, John gave a drink to"

SITE = "import sysconfig; print(sysconfig.get_path('purelib'))"


def run(*command: str | Path, cwd: Path) -> str:
    """What the command printed, run as a stranger to the checkout would."""
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=outside, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    options = ("--no-deps", "--no-build-isolation", "--wheel-dir", folder)
    run(sys.executable, "-m", "pip", "wheel", *options, repository, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(
    wheel: Path, repository: Path
) -> None:
    package = repository / "src" / "mi_toolkit"
    files = {
        f"mi_toolkit/{path.relative_to(package).as_posix()}"
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == files


def test_two_builds_give_the_same_wheel_byte_by_byte(
    wheel: Path, repository: Path, tmp_path: Path
) -> None:
    # Another folder, other times: neither may be in the wheel.
    for name in ("src", "pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        taken = repository / name
        if taken.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(taken, tmp_path / name, ignore=ignored, copy_function=shutil.copyfile)
        else:
            shutil.copyfile(taken, tmp_path / name)
    options = ("--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path / "built")
    run(sys.executable, "-m", "pip", "wheel", *options, tmp_path, cwd=tmp_path)
    (again,) = (tmp_path / "built").glob("*.whl")
    assert again.name == wheel.name
    assert again.read_bytes() == wheel.read_bytes()


@pytest.mark.parametrize(
    "file",
    [
        "py.typed",
        "core/natural.jsonl",
        "models/bundled/toy-gpt2/model.safetensors",
        "models/bundled/toy-gpt-neo/tokenizer.json",
        "models/bundled/toy-pythia/config.json",
        "models/bundled/toy-opt/model.safetensors",
        "models/bundled/toy-qwen2/model.safetensors",
    ],
)
def test_the_wheel_holds(file: str, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert f"mi_toolkit/{file}" in archive.namelist()


@pytest.mark.slow
def test_the_wheel_in_a_clean_environment_classifies_with_a_bundled_model(
    wheel: Path, tmp_path: Path
) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    programs = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin")
    pip = (programs / "python", "-m", "pip")
    # What the wheel depends on is installed here already: seen from there, not installed again.
    (site,) = {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}
    there = run(programs / "python", "-c", SITE, cwd=tmp_path).strip()
    (Path(there) / "dependencies.pth").write_text(f"{site}\n", encoding="utf-8")
    run(
        *pip,
        "install",
        "-q",
        "--no-compile",
        "--no-deps",
        "--ignore-installed",
        wheel,
        cwd=tmp_path,
    )
    checked = subprocess.run([*pip, "check"], cwd=tmp_path, capture_output=True, text=True)
    assert not re.findall(r"^mi-toolkit .*", checked.stdout, re.M)

    where = run(
        programs / "python", "-c", "import mi_toolkit; print(*mi_toolkit.__path__)", cwd=tmp_path
    )
    assert Path(where.strip()).is_relative_to(tmp_path)
    printed = run(programs / "mi-toolkit", "classify", PROMPT, "--json", cwd=tmp_path)
    assert "toy-gpt2" in json.dumps(json.loads(printed))
