"""Build an atlas of heads.

1. The protocol and each model's weights make a digest. A model whose files carry it is done.
2. Every other model is loaded, alone in memory: report, page, picture, and last its provenance.
3. From all reports: the table, the index page, the summary.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mi_toolkit.atlas.folder import (
    ATLAS_FILES,
    MODEL_FILES,
    PAGE,
    PICTURE,
    PROVENANCE,
    RECORD,
    REPORT,
    TABLE,
    HeadAtlas,
    folder_name,
    is_done,
    remove_leftovers,
)
from mi_toolkit.atlas.headvis import export_headvis
from mi_toolkit.atlas.index import write_index
from mi_toolkit.atlas.model_page import model_page, save_label_map
from mi_toolkit.atlas.protocol import FORMAT, digest_of, protocol_of
from mi_toolkit.errors import ComparisonError
from mi_toolkit.files import file_digest, written_whole
from mi_toolkit.heads.classify import classify_heads
from mi_toolkit.heads.labels import DEFAULT_MIN_LIFT
from mi_toolkit.models.describe import describe_model
from mi_toolkit.models.facts import ModelFacts
from mi_toolkit.models.loading import load_model
from mi_toolkit.models.sources import Source, find_source
from mi_toolkit.process_state import one_job
from mi_toolkit.progress import track
from mi_toolkit.tables import joined, write_parquet


@one_job
def head_atlas(
    models: Sequence[str],
    out: str | os.PathLike[str],
    *,
    min_lift: float = DEFAULT_MIN_LIFT,
    seed: int = 0,
    batch_size: int | None = None,
    load: Mapping[str, Any] | None = None,
    headvis: bool = False,
    progress: bool | None = None,
) -> HeadAtlas:
    """The standard protocol for each of `models`, in one folder with a page to begin at.

    An atlas is built model by model, and holds one in memory. Whenever it is interrupted, or
    killed, the same call goes on where it stopped: a model is done whose files are whole and carry
    the digest of this protocol, these versions and these weights. Nothing in the folder tells the
    time or the machine, so the same models and versions give the same files.

    Args:
        models: names as `load_model` takes them. Models that an earlier call put into the folder,
            and that are not among these, keep their files and leave the index.
        out: the folder; `HeadAtlas` says what is in it.
        min_lift: the lower end of a lift's interval that earns a mask behaviour's label.
        seed: of the random stimulus.
        batch_size: sequences to a forward pass; it changes figures by rounding only.
        load: arguments to `load_model`, such as `{"dtype": "bfloat16"}`, the same for all.
        headvis: write each model's heads for HeadVis too, into `models/<name>/headvis`.
        progress: a progress bar; None: where somebody looks and it takes long.

    Raises:
        ComparisonError: no model, or two whose files would have one place.
        MIToolkitError: as `load_model` and `classify_heads` do.

    Example:
        >>> import mi_toolkit as mi
        >>> atlas = mi.head_atlas(["toy-gpt2", "toy-opt"], "atlas")  # doctest: +SKIP
        >>> atlas.report("toy-opt").heads("induction")  # doctest: +SKIP
        [L2H0]
    """
    options = dict(load or {})
    sources = _sources(models, options.get("revision"))
    protocol = protocol_of(min_lift=min_lift, seed=seed, load=options, headvis=headvis)
    place = Path(out)
    atlas = HeadAtlas(place, tuple(sources))
    remove_leftovers(place, ATLAS_FILES, drafts_only=True)
    for name, source in track(
        sources.items(), total=len(sources), label="building atlas", unit="model", show=progress
    ):
        folder = atlas.model_folder(name)
        if is_done(folder, digest_of(protocol, source, options.get("revision"))):
            remove_leftovers(folder, MODEL_FILES, drafts_only=True)
            continue
        remove_leftovers(folder, MODEL_FILES, drafts_only=False)
        facts = _measure(
            name,
            folder,
            options,
            min_lift=min_lift,
            seed=seed,
            batch_size=batch_size,
            headvis=headvis,
        )
        _finish(folder, facts, protocol, digest_of(protocol, source, options.get("revision")))
        gc.collect()
    write_parquet(joined(atlas.report(name).to_pandas() for name in atlas.models), place / TABLE)
    write_index(atlas)
    record = {"format": FORMAT, "models": list(atlas.models), "protocol": protocol}
    _write_json(place / RECORD, record)
    return atlas


def _sources(models: Sequence[str], revision: str | None) -> dict[str, Source]:
    """Where each model lies, by the name that results will call it; wrong names before any work."""
    found = [find_source(name, revision=revision) for name in models]
    folders = [folder_name(source.name) for source in found]
    twice = sorted({folder for folder in folders if folders.count(folder) > 1})
    if not found:
        raise ComparisonError("An atlas takes one model or more.")
    if twice:
        raise ComparisonError(
            f"Two of the models would be written to models/{twice[0]}: name each once."
        )
    return {source.name: source for source in found}


def _measure(
    name: str,
    folder: Path,
    options: Mapping[str, Any],
    *,
    min_lift: float,
    seed: int,
    batch_size: int | None,
    headvis: bool,
) -> ModelFacts:
    """Load one model and write all of its files but the last; the model is let go at the end."""
    model = load_model(name, **options)
    report = classify_heads(
        model, min_lift=min_lift, batch_size=batch_size, seed=seed, progress=False
    )
    report.save(folder / REPORT)
    model_page(report).save_html(folder / PAGE)
    save_label_map(report, folder / PICTURE)
    if headvis:
        export_headvis(model, report, folder / "headvis")
    return describe_model(model)


def _finish(folder: Path, facts: ModelFacts, protocol: Any, digest: str | None) -> None:
    """Write the file that says that a model is done."""
    kept = {field.name: getattr(facts, field.name) for field in dataclasses.fields(facts)}
    if kept["rope_scaling"] is not None:
        kept["rope_scaling"] = dict(kept["rope_scaling"])
    record = {
        "digest": digest,
        "files": {name: file_digest(folder / name) for name in (REPORT, PAGE, PICTURE)},
        "facts": {**kept, "parameters": facts.parameters},
        "protocol": protocol,
    }
    _write_json(folder / PROVENANCE, record)


def _write_json(path: Path, record: Mapping[str, Any]) -> None:
    with written_whole(path) as draft:
        draft.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
