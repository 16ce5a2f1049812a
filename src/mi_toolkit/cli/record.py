"""`mi-toolkit record` and `mi-toolkit activations`: activations of texts in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

import mi_toolkit as mi
from mi_toolkit.cli.options import (
    DEFAULT_CORPUS,
    DEFAULT_LOADING,
    DEFAULT_MODEL,
    CorpusOptions,
    Count,
    CountOrNone,
    LoadOptions,
    ModelName,
    Switch,
    between_commas,
)
from mi_toolkit.cli.output import as_json, check_folder, columns, fields_of
from mi_toolkit.cli.terminal import (
    FOR_READING,
    UsageError,
    bold,
    doing,
    third_parties_kept_off_stdout,
    width,
)
from mi_toolkit.core.display import counted

if TYPE_CHECKING:
    from mi_toolkit.activations.hooks import Positions
    from mi_toolkit.activations.store.reader import ActivationStore


def info(folder: Path, /, *, verify: Switch = False, json: Switch = False) -> None:
    """Show what a folder of activations holds: model, texts, activations, sizes.

    Args:
        folder: One that mi-toolkit record wrote.
        verify: Read everything, and compare it with its checksums.
        json: Write JSON instead of a table.
    """
    with doing(f"Reading {folder}"):
        store = mi.open_activations(folder, verify=verify)
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
    texts = f"{counted(place.documents, 'document')}, {place.empty:,} empty"
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


def record(
    *,
    model: ModelName = DEFAULT_MODEL,
    names: Annotated[
        list[str], Parameter(consume_multiple=True, negative=(), converter=between_commas)
    ],
    output: Path,
    positions: str | None = None,
    keep: Literal["float32", "float16", "bfloat16"] = "float32",
    max_length: CountOrNone = None,
    overlong: Literal["split", "truncate", "error"] = "split",
    bos: bool | None = None,
    batch_size: Count = 8,
    shard_size: CountOrNone = None,
    resume: bool = True,
    json: Switch = False,
    corpus: CorpusOptions = DEFAULT_CORPUS,
    load: LoadOptions = DEFAULT_LOADING,
) -> None:
    """Record activations of texts in a folder, a row per token.

    A run that was stopped goes on where it stopped when it is called again in the same way. Read
    the folder with mi_toolkit.open_activations, or with any reader of safetensors and Parquet.

    Args:
        model: Name or alias (see mi-toolkit models --all), hub id, folder, or .gguf file.
        names: Which activations, one or several: resid_post, z5 (of layer 5), mlp_post,
            blocks.*.hook_mlp_out (in quotes) or a whole hook name.
        output: Folder to record into; it is made.
        positions: Only these of each text: last, a number (-1 is the last), several with commas,
            or a range such as 1: or -8:. Without it: all.
        keep: Precision of what is recorded.
        max_length: Tokens of the longest sequence. Without it: the model's context.
        overlong: What becomes of a longer text: split into sequences, truncate, or error.
        bos: Put a beginning-of-sequence token before each text. Without the option: as the model
            was trained to read text, GPT-2 with one, Pythia and Qwen2.5 without.
        batch_size: Sequences to a pass.
        shard_size: Rows of a file. Without it: as many as take 256 MiB.
        resume: Go on where an earlier run stopped; --no-resume refuses a folder that has one.
        json: Write JSON instead of a table, and nothing else, to standard output.
        corpus: The texts to record on.
        load: How the model is loaded.
    """
    check_folder(output)
    texts = corpus.texts()
    if texts is None:
        raise UsageError(msg="Name the texts: --data-file texts.txt, or --dataset with its name.")
    if not names:
        raise UsageError(msg="--names needs at least one name, such as resid_post.")
    chosen = positions_in(positions)
    load.check(model)
    if isinstance(texts, Path) and not _holds_text(texts, corpus.field):
        raise UsageError(msg=f"There is no text in {texts}.")
    hooked = load.load(model)
    with third_parties_kept_off_stdout():
        store = mi.record_to_disk(
            hooked,
            texts,
            names,
            output,
            batch_size=batch_size,
            shard_size=shard_size,
            dtype=keep,
            positions=chosen,
            max_length=max_length,
            overlong=overlong,
            prepend_bos=bos,
            field=corpus.field,
            resume=resume,
        )
    print_store(store, as_data=json)


def _holds_text(file: Path, field: str) -> bool:
    """Whether a file has a document that is not empty; it is read up to the first."""
    # Imported here: it takes seconds.
    from mi_toolkit.activations.batcher import documents

    found = documents(file, field)
    return any(each.strip() if isinstance(each, str) else len(each) for each in found)


def positions_in(text: str | None) -> Positions:
    """The positions that a command line names.

    >>> positions_in("-8:"), positions_in("0,-1"), positions_in("last")
    (slice(-8, None, None), [0, -1], 'last')
    """
    if text is None or text == "last":
        return text
    try:
        if ":" in text:
            ends = [int(end) if end else None for end in text.split(":")]
            if len(ends) <= 3:
                return slice(*ends)
            raise ValueError("a range has at most three numbers")
        numbers = [int(number) for number in text.split(",")]
    except ValueError as error:
        raise UsageError(
            msg=f"--positions {text}: give last, a number, numbers with commas, or a range as 1:9."
        ) from error
    return numbers[0] if len(numbers) == 1 else numbers
