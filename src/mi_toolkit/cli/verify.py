"""`mi-toolkit verify`: whether models load whole, compute what they should, and make sense."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

import mi_toolkit as mi
from mi_toolkit.cli.errors import UsageError
from mi_toolkit.cli.options import DEFAULT_LOADING, LoadOptions, at_least_one
from mi_toolkit.cli.output import (
    DEFAULT_OUTPUT,
    OutputOptions,
    columns,
    draw_view,
    write_tables,
    writing,
)
from mi_toolkit.cli.terminal import (
    FOR_READING,
    bold,
    doing,
    third_parties_kept_off_stdout,
    width,
)
from mi_toolkit.core.errors import ModelLoadError, VerificationError
from mi_toolkit.core.tables import joined

if TYPE_CHECKING:
    from mi_toolkit.verification.verify import Verification

SIMPLE_TO_COMPLEX = ("toy-gpt2", "toy-opt", "toy-pythia", "toy-gpt-neo", "toy-qwen2")


def verify(
    *models: str,
    max_new_tokens: Annotated[int, Parameter(validator=at_least_one)] = 20,
    out: OutputOptions = DEFAULT_OUTPUT,
    load: LoadOptions = DEFAULT_LOADING,
) -> None:
    """Check models against Hugging Face's own, and let them speak; exit code 1 on a failed check.

    Args:
        models: Names or aliases (see mi-toolkit models --all), hub ids, folders, or .gguf files,
            best from simple to complex. Without any: the bundled ones.
        max_new_tokens: Length of each completion.
        out: What it gives; the folder has a picture of each model.
        load: How the models are loaded.
    """
    out.check()
    names = models or SIMPLE_TO_COMPLEX
    if out.png is not None and len(names) > 1:
        raise UsageError(msg="--png draws one model: --output has a picture of each.")
    for name in names:
        load.check(name)
    found, not_loaded = [], []
    for name in names:
        try:
            found.append(_verified(name, max_new_tokens, load, as_data=out.json))
        except ModelLoadError as error:
            if len(names) == 1:
                raise
            not_loaded.append(f"{name} could not be loaded: {error}")  # the others can be verified
    out.show(
        lambda: {"models": [each.record() for each in found]},
        lambda: _sum_up(found),
        _write(found, out),
    )
    failed = [f"{each.model} failed {', '.join(each.failed)}." for each in found if not each.passed]
    if failed or not_loaded:
        raise VerificationError(" ".join([*failed, *not_loaded]))


def _verified(name: str, max_new_tokens: int, load: LoadOptions, *, as_data: bool) -> Verification:
    with doing(f"Verifying {name}"), third_parties_kept_off_stdout():
        found = mi.verify_model(
            name,
            backend=load.backend,
            dtype=load.dtype,
            device=None if load.device == "auto" else load.device,
            revision=load.revision,
            trust_remote_code=load.trust_remote_code,
            cache=not load.no_cache,
            max_new_tokens=max_new_tokens,
        )
    if not as_data:
        _show(found)
    return found


def _show(found: Verification) -> None:
    from mi_toolkit.verification.verify import HEADER

    print(bold(found.title()))
    for line in columns([HEADER, *found.cells()], width=width(elsewhere=FOR_READING)):
        print(line)
    for each in found.completions:
        figures = f"loss {each.loss:.2f}, repetition {each.repetition:.0%}"
        print(f"{each.prompt!r} → {each.text!r} ({figures})")
    print(flush=True)


def _sum_up(found: Sequence[Verification]) -> list[str]:
    """The table at the end: a line to a model."""
    if len(found) < 2:
        return []
    rows = [[each.model, "passed" if each.passed else "FAILED", _counts(each)] for each in found]
    return columns(rows, width=width(elsewhere=FOR_READING))


def _counts(found: Verification) -> str:
    return f"{found.title().partition(': ')[2]}{''.join(f'; {name}' for name in found.failed)}"


def _write(found: Sequence[Verification], out: OutputOptions) -> list[Path]:
    from mi_toolkit.verification.verify import completion_table

    written: list[Path] = []
    checks = joined(each.to_pandas() for each in found)
    if out.csv is not None:
        written += write_tables(out.csv.parent, {out.csv.name: checks})
    if out.output is not None:
        completions = completion_table(found)
        tables = {"verification.csv": checks, "completions.csv": completions}
        written += write_tables(out.output, tables)
        for each in found:
            name = each.model.replace("/", "_").lstrip("._") or "model"
            with writing(out.output / f"{name}.safetensors") as path:
                each.save(path)
            written.append(path)
            written += draw_view(partial(mi.view, each), None, out.output / f"{name}.png")
    if out.png is not None:
        written += draw_view(partial(mi.view, found[0]), None, out.png)
    title = "Verification of " + ", ".join(each.model for each in found)
    return [
        *written,
        *draw_view(lambda: mi.Page([mi.view(each) for each in found], title=title), out.html, None),
    ]
