"""`mi-toolkit models`, `describe` and `plan`: which models are known, what one is and takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

import mi_toolkit as mi
from mi_toolkit.cli.options import DEFAULT_LOADING, LoadOptions, Switch, at_least_one
from mi_toolkit.cli.output import DEFAULT_OUTPUT, OutputOptions, as_json, columns, fields_of
from mi_toolkit.cli.terminal import (
    FOR_READING,
    bold,
    doing,
    third_parties_kept_off_stdout,
    uncollected,
    width,
)
from mi_toolkit.core.display import human_count
from mi_toolkit.core.errors import OutOfMemoryError
from mi_toolkit.models.sources import is_here

if TYPE_CHECKING:
    from mi_toolkit.models.specs import KnownModel, ModelSpec


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
    tokens: Annotated[int | None, Parameter(validator=at_least_one)] = None,
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
