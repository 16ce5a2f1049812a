"""`mi-toolkit models`, `describe`, `plan`, `verify`: which models are known, and what one is.

What it takes too, and whether it computes what Hugging Face's own does.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import mi_toolkit as mi
from mi_toolkit.cli.options import (
    DEFAULT_LOADING,
    Count,
    CountOrNone,
    LoadOptions,
    Switch,
)
from mi_toolkit.cli.output import (
    DEFAULT_OUTPUT,
    OutputOptions,
    as_json,
    columns,
    draw_view,
    fields_of,
    write_tables,
    writing,
)
from mi_toolkit.cli.terminal import (
    FOR_READING,
    UsageError,
    bold,
    doing,
    third_parties_kept_off_stdout,
    uncollected,
    width,
)
from mi_toolkit.core.display import human_count
from mi_toolkit.core.errors import ModelLoadError, OutOfMemoryError, VerificationError
from mi_toolkit.core.tables import joined
from mi_toolkit.models.sources import is_here

if TYPE_CHECKING:
    from mi_toolkit.models.specs import KnownModel, ModelSpec
    from mi_toolkit.verification.verify import Verification


SIMPLE_TO_COMPLEX = ("toy-gpt2", "toy-opt", "toy-pythia", "toy-gpt-neo", "toy-qwen2")

_FROM = {"hub": "hub", "bundled": "bundled", "package": "pip package"}


def models(*, all: Switch = False, json: Switch = False) -> None:
    """List the models that are known by name.

    Any other causal language model loads by its hub id, its folder, or its .gguf file.

    Args:
        all: Also list the bundled models, which need no network, and the larger siblings: where
            each comes from, whether it is here, and whether its licence has to be accepted first.
        json: Write JSON instead of a table.
    """
    shown = mi.models.known_models() if all else mi.MODELS
    if json:
        print(as_json([_record(model) for model in shown.values()]))
        return
    _print_table(
        ["model", "family", "params", "layers×heads", "key feature"],
        [_fact_cells(spec) for spec in mi.MODELS.values()],
        align="<<>>",
    )
    if all:
        print()
        _print_table(
            ["model", "from", "here", "access", "licence"],
            [_origin_cells(model) for model in shown.values()],
            align="<<<<",
        )
    print()
    print("params: weights of attention and MLPs, as TransformerLens counts them.")
    if not all:
        print("More models: mi-toolkit models --all")


def _fact_cells(spec: ModelSpec) -> list[str]:
    size = f"{spec.n_layers}×{spec.n_heads}"
    return [spec.name, spec.family, human_count(spec.parameters), size, spec.key_feature]


def _origin_cells(model: KnownModel) -> list[str]:
    here = "yes" if is_here(model) else "no"
    return [model.name, _FROM[model.where], here, model.access, model.licence]


def _print_table(header: list[str], rows: list[list[str]], *, align: str) -> None:
    head, *lines = columns([header, *rows], width=width(), align=align)
    print(bold(head), *lines, sep="\n")


def _record(model: KnownModel) -> dict[str, Any]:
    return {**fields_of(model), "here": is_here(model)}


def describe(
    model: str,
    /,
    *,
    json: Switch = False,
    load: LoadOptions = DEFAULT_LOADING,
) -> None:
    """Show what a model is made of: sizes, positions, attention, norms, precision.

    The model is loaded, so these are the facts of the model itself, not of a table.

    Args:
        model: Name or alias (see mi-toolkit models --all), hub id, folder, or .gguf file.
        json: Write JSON instead of a table.
        load: How it is loaded.
    """
    hooked = load.load(model)
    from mi_toolkit.models.facts import fact_rows

    facts = mi.describe_model(hooked)
    if json:
        print(
            as_json(
                {
                    **fields_of(facts),
                    "parameters": facts.parameters,
                    "attention_scope": facts.attention_scope,
                }
            )
        )
        return
    print(bold(facts.name))
    print(*columns(fact_rows(facts), width=width(elsewhere=FOR_READING)), sep="\n")


def plan(
    model: str,
    /,
    *,
    task: str = "classify",
    memory: str | None = None,
    dtype: Literal["float32", "float16", "bfloat16"] | None = None,
    tokens: CountOrNone = None,
    revision: str | None = None,
    trust_remote_code: Switch = False,
    out: OutputOptions = DEFAULT_OUTPUT,
) -> None:
    """Say what a task will take on a model before it is loaded: memory, time, layers at a time.

    The model's config is enough: from the hub or its cache, or a folder with config.json alone.
    Exit code 1 where it does not fit.

    Args:
        model: Name or alias (see mi-toolkit models --all), hub id, folder, or .gguf file.
        task: classify, confirm, record, statistics, score_weights, ablation_sweep or verify.
        memory: What there is for it, such as 4GiB. Without it, what is free here.
        dtype: Precision of the weights. Without it float32, and bfloat16 where nothing else fits.
        tokens: That will run. Without it, those of the standard protocol, or 100,000 of texts.
        revision: Branch, tag or commit on the hub.
        trust_remote_code: Let Python code that comes with the model run on this machine.
        out: What it gives; RunPlan.load reads plan.safetensors.
    """
    out.check()
    with doing(f"Planning for {model}"), third_parties_kept_off_stdout(), uncollected():
        found = mi.plan(
            model,
            task,
            memory=memory,
            dtype=dtype,
            tokens=tokens,
            revision=revision,
            trust_remote_code=trust_remote_code,
        )
    out.deliver(
        found,
        name="plan",
        record=lambda: {
            **next(iter(found.rows())),
            "parts": dict(found.parts),
            "load": found.load_options,
        },
        lines=lambda: [
            bold(found.title()),
            *columns(found.cells(), width=width(elsewhere=FOR_READING)),
        ],
    )
    if not found.fits:
        raise OutOfMemoryError(f"{found.title()}.")


def verify(
    *models: str,
    max_new_tokens: Count = 20,
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
