"""`mi-toolkit activations info`: what a folder of activations holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mi_toolkit.cli.layout import columns
from mi_toolkit.cli.options import Switch
from mi_toolkit.cli.output import as_json, fields_of
from mi_toolkit.cli.terminal import FOR_READING, bold, doing, width

if TYPE_CHECKING:
    from mi_toolkit.activations.store.reader import ActivationStore


def info(folder: Path, /, *, verify: Switch = False, json: Switch = False) -> None:
    """Show what a folder of activations holds: model, texts, activations, sizes.

    Args:
        folder: One that mi-toolkit record wrote.
        verify: Read everything, and compare it with its checksums.
        json: Write JSON instead of a table.
    """
    from mi_toolkit import open_activations

    with doing(f"Reading {folder}"):
        store = open_activations(folder, verify=verify)
    print_store(store, as_data=json, verified=verify)


def print_store(store: ActivationStore, *, as_data: bool, verified: bool = False) -> None:
    """Print what a store holds."""
    if as_data:
        print(as_json(store_record(store)))
        return
    print(bold(str(store.folder)))
    rows = [*facts_of(store), *([["checksums", "all as they were written"]] if verified else [])]
    print(*columns(rows, width=width(elsewhere=FOR_READING)), sep="\n")
    print(*repr(store).splitlines()[1:], sep="\n")


def facts_of(store: ActivationStore) -> list[list[str]]:
    """What a fact is about, and the fact, as people read it."""
    manifest = store.manifest
    model, settings, place = manifest.model, manifest.settings, manifest.place
    revision = f", revision {model['revision']}" if model["revision"] else ""
    texts = f"{place.documents:,} documents, {place.empty:,} empty"
    if place.overlong:
        texts += f", {place.overlong:,} longer than {settings['max_length']:,} tokens"
        texts += " (split)" if settings["overlong"] == "split" else " (cut)"
    if not store.complete:
        texts += "; not complete: the same call of record goes on"
    positions = settings["positions"]
    which = "every token" if positions is None else f"positions {positions}"
    return [
        ["model", f"{model['name']} in {model['dtype']} as {model['backend']}{revision}"],
        ["texts", texts],
        [
            "rows",
            f"{len(store):,}, {which}",
        ],
        ["size", f"{store.nbytes / 10**6:,.2f} MB, shards: {len(manifest.shards):,}"],
    ]


def store_record(store: ActivationStore) -> dict[str, Any]:
    """What a store holds, for programs."""
    manifest = store.manifest
    return {
        "folder": str(store.folder),
        "model": manifest.model,
        "settings": manifest.settings,
        "rows": len(store),
        "bytes": store.nbytes,
        "complete": store.complete,
        "documents": fields_of(manifest.place),
        "shapes": manifest.shapes,
        "shards": len(manifest.shards),
        "versions": manifest.versions,
    }
