"""`mi-toolkit describe`: the facts of one model."""

from __future__ import annotations

import dataclasses
from typing import Any

from mi_toolkit.cli.layout import columns
from mi_toolkit.cli.options import DEFAULT_LOADING, LoadOptions, Switch
from mi_toolkit.cli.output import as_json
from mi_toolkit.cli.terminal import bold, width

_BESIDE = ("windows",)
"""Facts that another one says in words (`attention_scope`); in JSON they are there."""


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
    loaded = load.load(model)
    from mi_toolkit import describe_model

    facts = dataclasses.asdict(describe_model(loaded))
    if json:
        print(as_json(facts))
        return
    print(bold(facts.pop("name")))
    rows = [[_words(key), _value(fact)] for key, fact in facts.items() if key not in _BESIDE]
    print(*columns(rows, width=width()), sep="\n")


def _words(key: str) -> str:
    """A field's name as people read it; symbols such as `d_model` stay what they are.

    >>> _words("tied_embeddings"), _words("d_model"), _words("n_heads")
    ('tied embeddings', 'd_model', 'heads')
    """
    if key.startswith("d_"):
        return key
    return key.removeprefix("n_").replace("_", " ")


def _value(fact: Any) -> str:
    """A fact as people read it.

    >>> _value(True), _value(None), _value(50257), _value({"factor": 8.0, "type": "llama3"})
    ('yes', 'none', '50,257', 'factor 8.0, type llama3')
    """
    if fact is None:
        return "none"
    if isinstance(fact, bool):
        return "yes" if fact else "no"
    if isinstance(fact, int):
        return f"{fact:,}"
    if isinstance(fact, dict):
        return ", ".join(f"{key} {value}" for key, value in fact.items())
    return str(fact)
