"""What we stand on: licences, bounds, and that no code runs that came as data."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from licences import RUNTIME_EXTRAS, licence_of, refused, required

UNPINNED = {"torch": "one build serves both environments; its bound is TransformerLens' own"}
"""Of what the library needs: lower bounds that the older set does not install."""

NOT_IN_THE_OLDER_SET = ("ray", "scikit-learn")
"""Extras that the older set's tests do not touch."""

RUNS_WHAT_IT_READS = {
    *("pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"),
    *("code", "codeop"),
}
"""Modules that run code which came in a file, or as text."""


def project(root: Path) -> dict[str, list[str]]:
    """Requirements by extra, those of the library itself under no name."""
    table = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {"": table["dependencies"], **table["optional-dependencies"]}


def pins(file: Path) -> dict[str, Version]:
    lines = file.read_text(encoding="utf-8").splitlines()
    found = (line.partition("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): Version(version) for name, _, version in found}


def runtime(root: Path) -> Iterator[Requirement]:
    groups = project(root)
    for extra in ("", *RUNTIME_EXTRAS):
        yield from map(Requirement, groups[extra])


def test_each_lower_bound_is_what_the_older_set_installs(repository: Path) -> None:
    older = pins(repository / "constraints-tl3.txt")
    for requirement in runtime(repository):
        name = canonicalize_name(requirement.name)
        (lowest,) = [each.version for each in requirement.specifier if each.operator == ">="]
        if name in NOT_IN_THE_OLDER_SET:
            assert name not in older, name
        elif name not in UNPINNED:
            assert older[name] == Version(lowest), name


def test_both_sets_are_what_the_bounds_allow(repository: Path) -> None:
    groups = project(repository)
    newer, older = pins(repository / "constraints.txt"), pins(repository / "constraints-tl3.txt")
    for extra, requirements in groups.items():
        for requirement in map(Requirement, requirements):
            name = canonicalize_name(requirement.name)
            if extra == "benchmark" or name == "mi-toolkit":
                continue
            assert newer[name] in requirement.specifier, name
            assert name not in older or older[name] in requirement.specifier, name


def test_every_dependency_has_a_licence_that_we_may_build_on() -> None:
    assert refused() == {}
    names = required()
    assert {"torch", "transformer-lens", "gradio", "peft", "ray"} <= names
    assert len(names) > 80


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        ("MIT", True),
        ("Apache-2.0 OR BSD-2-Clause", True),
        ("GPL-3.0-only OR MIT", True),
        ("MPL-2.0 AND (Apache-2.0 OR MIT)", True),
        ("GPL-3.0-only", False),
        ("MIT AND LGPL-2.1-or-later", False),
        ("Apache-2.0 WITH LLVM-exception", True),
        ("Proprietary", False),
        ("", False),
    ],
)
def test_a_licence_is_read_as_the_expression_that_it_is(licence: str, allowed: bool) -> None:
    from licences import is_allowed

    assert is_allowed(licence) is allowed


def test_a_package_without_a_licence_is_unknown() -> None:
    assert licence_of(distribution("torch"))
    assert licence_of(distribution("gguf")) == "MIT"  # told by a classifier alone


def calls_of_code(tree: ast.AST) -> Iterator[str]:
    """What would run code that came as data: imports, calls and arguments, each with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            named = [alias.name for alias in node.names]
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else named
            for name in modules:
                if name.partition(".")[0] in RUNS_WHAT_IT_READS and not getattr(node, "level", 0):
                    yield f"line {node.lineno}: import {name}"
        elif isinstance(node, ast.Call):
            yield from _of_call(node)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            positional = [*node.args.posonlyargs, *node.args.args]
            taken = [*positional, *node.args.kwonlyargs]
            defaults = [*node.args.defaults, *node.args.kw_defaults]
            both = zip(taken[len(taken) - len(defaults) :], defaults, strict=True)
            for argument, default in both:
                refusing = isinstance(default, ast.Constant) and default.value is False
                if argument.arg == "trust_remote_code" and default is not None and not refusing:
                    yield f"line {node.lineno}: trust_remote_code by default"


def _of_call(node: ast.Call) -> Iterator[str]:
    called = ast.unparse(node.func)
    given = {each.arg: ast.unparse(each.value) for each in node.keywords}
    if called in ("eval", "exec", "compile", "__import__", "os.system", "os.popen"):
        yield f"line {node.lineno}: {called}()"
    if called == "torch.load" and given.get("weights_only") != "True":
        yield f"line {node.lineno}: torch.load without weights_only"
    for name in ("trust_remote_code", "allow_pickle", "shell"):
        if given.get(name) == "True":
            yield f"line {node.lineno}: {name}=True"


def test_nothing_in_the_package_runs_code_that_came_as_data(repository: Path) -> None:
    files = sorted((repository / "src").rglob("*.py"))
    assert len(files) > 200
    found = {
        path.name: said
        for path in files
        if (said := [*calls_of_code(ast.parse(path.read_text(encoding="utf-8")))])
    }
    assert found == {}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "import torch, joblib.externals",
        "eval('1')",
        "def f():\n    exec(text)",
        "load(name, trust_remote_code=True)",
        "def f(*, name, trust_remote_code=True): ...",
        "def f(name, trust_remote_code=None): ...",
        "torch.load(path)",
        "np.load(path, allow_pickle=True)",
        "subprocess.run(line, shell=True)",
    ],
)
def test_each_way_of_running_it_is_seen(line: str) -> None:
    assert len([*calls_of_code(ast.parse(line))]) == 1


@pytest.mark.fire
def test_no_pinned_release_has_a_known_vulnerability(
    repository: Path, record_property: Callable[[str, object], None]
) -> None:
    options = ("--no-deps", "--disable-pip", "--progress-spinner", "off", "--timeout", "20")
    done = subprocess.run(
        [sys.executable, "-m", "pip_audit", *options, "--format", "json", "-r", "constraints.txt"],
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=600,
    )
    if not done.stdout:  # no answer at all
        reason = done.stderr.strip().splitlines()[-1][:200]
        record_property("pip-audit", f"cannot run here: {reason}")
        pytest.skip(f"pip-audit cannot ask its service: {reason}")
    found = json.loads(done.stdout)["dependencies"]
    audited = [each for each in found if "skip_reason" not in each]
    if not audited:
        reason = f"the index here knows no vulnerabilities ({found[0]['skip_reason']})"
        record_property("pip-audit", f"cannot run here: {reason}")
        pytest.skip(f"pip-audit cannot run: {reason}")
    record_property("pip-audit", f"{len(audited)} of {len(found)} pinned releases audited")
    assert {each["name"]: each["vulns"] for each in audited if each["vulns"]} == {}
