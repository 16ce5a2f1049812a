"""`mi-toolkit models`: which models are known by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mi_toolkit.cli.layout import columns
from mi_toolkit.cli.options import Switch
from mi_toolkit.cli.output import as_json, fields_of
from mi_toolkit.cli.terminal import bold, width
from mi_toolkit.shown import human_count

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
    from mi_toolkit.models.registry import known_models
    from mi_toolkit.models.specs import MODELS

    shown = known_models() if all else MODELS
    if json:
        print(as_json([_record(model) for model in shown.values()]))
        return
    _print_table(
        ["model", "family", "params", "layers×heads", "key feature"],
        [_fact_cells(spec) for spec in MODELS.values()],
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
    from mi_toolkit.models.sources import is_here

    here = "yes" if is_here(model) else "no"
    return [model.name, _FROM[model.where], here, model.access, model.licence]


def _print_table(header: list[str], rows: list[list[str]], *, align: str) -> None:
    head, *lines = columns([header, *rows], width=width(), align=align)
    print(bold(head), *lines, sep="\n")


def _record(model: KnownModel) -> dict[str, Any]:
    from mi_toolkit.models.sources import is_here

    return {**fields_of(model), "here": is_here(model)}
