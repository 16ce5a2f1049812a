"""`mi-toolkit verify`: whether models load whole, compute what they should, and make sense."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

import mi_toolkit as mi
from mi_toolkit.cli.options import DEFAULT_LOADING, LoadOptions, Switch, at_least_one
from mi_toolkit.cli.output import (
    as_json,
    check_file,
    check_folder,
    columns,
    say_written,
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
    output: Path | None = None,
    html: Path | None = None,
    json: Switch = False,
    load: LoadOptions = DEFAULT_LOADING,
) -> None:
    """Check models against Hugging Face's own, and let them speak; exit code 1 on a failed check.

    Args:
        models: Names or aliases (see mi-toolkit models --all), hub ids, folders, or .gguf files,
            best from simple to complex. Without any: the bundled ones.
        max_new_tokens: Length of each completion.
        output: Folder for verification.csv, completions.csv, and a PNG for each model.
        html: File for a page with all of them.
        json: Write JSON instead of tables, and nothing else, to standard output.
        load: How the models are loaded.
    """
    check_folder(output)
    check_file(html)
    names = models or SIMPLE_TO_COMPLEX
    for name in names:
        load.check(name)
    found, not_loaded = [], []
    for name in names:
        try:
            found.append(_verified(name, max_new_tokens, load, as_data=json))
        except ModelLoadError as error:
            if len(names) == 1:
                raise
            not_loaded.append(f"{name} could not be loaded: {error}")  # the others can be verified
    written = _write(found, output, html)
    if json:
        data = [each.record() for each in found]
        print(as_json({"models": data, "written": [str(path) for path in written]}))
    else:
        _sum_up(found)
        say_written(written)
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


def _sum_up(found: Sequence[Verification]) -> None:
    """The table at the end: a line to a model."""
    if len(found) > 1:
        rows = [
            [each.model, "passed" if each.passed else "FAILED", _counts(each)] for each in found
        ]
        for line in columns(rows, width=width(elsewhere=FOR_READING)):
            print(line)


def _counts(found: Verification) -> str:
    return f"{found.title().partition(': ')[2]}{''.join(f'; {name}' for name in found.failed)}"


def _write(found: Sequence[Verification], folder: Path | None, page: Path | None) -> list[Path]:
    written: list[Path] = []
    if folder is not None:
        from mi_toolkit.verification.verify import completion_table

        checks = joined(each.to_pandas() for each in found)
        tables = {"verification.csv": checks, "completions.csv": completion_table(found)}
        written += write_tables(folder, tables)
        for each in found:
            name = each.model.replace("/", "_").lstrip("._") or "model"
            with doing("Drawing"), writing(folder / f"{name}.png") as path:
                mi.view(each).save_png(path)
            written.append(path)
    if page is not None:
        title = "Verification of " + ", ".join(each.model for each in found)
        with doing(f"Drawing {page}"), writing(page):
            mi.Page([mi.view(each) for each in found], title=title).save_html(page)
        written.append(page)
    return written
