"""`mi-toolkit models` and `mi-toolkit describe`: which models are known, and what one is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mi_toolkit as mi
from mi_toolkit.cli.options import DEFAULT_LOADING, LoadOptions, Switch
from mi_toolkit.cli.output import as_json, columns, fields_of
from mi_toolkit.cli.terminal import FOR_READING, bold, width
from mi_toolkit.core.display import human_count
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
