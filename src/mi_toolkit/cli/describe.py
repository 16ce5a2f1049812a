"""`mi-toolkit describe`: the facts of one model."""

from __future__ import annotations

from mi_toolkit.cli.layout import columns
from mi_toolkit.cli.options import DEFAULT_LOADING, LoadOptions, Switch
from mi_toolkit.cli.output import as_json, fields_of
from mi_toolkit.cli.terminal import FOR_READING, bold, width


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
    from mi_toolkit import describe_model
    from mi_toolkit.models.facts_text import fact_rows

    facts = describe_model(hooked)
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
