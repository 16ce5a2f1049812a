"""The folder of a run, and what a run will cost: parts that are done are kept.

`manifest.json` holds, for each part, the settings that it was made with and its files. A part is
done if its files are there and its settings are those asked for; else it is made again. The
manifest is an allow-list: settings, versions and hashes of texts, nothing about the user or the
machine.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mi_toolkit.core.errors import ReportError
from mi_toolkit.core.io import atomic_write
from mi_toolkit.models.facts import ModelSize

if TYPE_CHECKING:
    from mi_toolkit.core.tables import DataFrame


FORMAT = "mi_toolkit sensitivity run 1"


class RunFolder:
    """Parts by name, in one folder."""

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        """Open the folder, made where it does not exist.

        Args:
            path: where.
            about: the settings that every part rests on: model, texts, versions.

        Raises:
            ReportError: a manifest of something else is there.
        """
        self.path = path
        self.about = dict(about)
        self._parts: dict[str, Any] = {}
        manifest = path / "manifest.json"
        if manifest.is_file():
            stored = _read(manifest)
            if stored.get("about") == _plain(self.about):
                self._parts = stored["parts"]

    def has(self, name: str, settings: Mapping[str, Any]) -> bool:
        """Whether a part was made with these settings and is still whole."""
        part = self._parts.get(name)
        return (
            part is not None
            and part["settings"] == _plain(settings)
            and all((self.path / file).is_file() for file in part["files"])
        )

    def put(
        self,
        name: str,
        settings: Mapping[str, Any],
        files: Mapping[str, Callable[[Path], None]],
    ) -> None:
        """Write a part's files, each whole or not at all, and then its entry in the manifest."""
        for file, write in files.items():
            with atomic_write(self.path / file) as draft:
                write(draft)
        self._parts[name] = {"settings": _plain(settings), "files": sorted(files)}
        record = {"format": FORMAT, "about": _plain(self.about), "parts": self._parts}
        with atomic_write(self.path / "manifest.json") as draft:
            draft.write_text(json.dumps(record, indent=2, ensure_ascii=False), encoding="utf-8")


def table_writers(name: str, table: DataFrame) -> dict[str, Callable[[Path], None]]:
    """A table as `name.csv` and `name.parquet`."""
    return {
        f"{name}.csv": lambda path: table.to_csv(path, index=False),
        f"{name}.parquet": lambda path: table.to_parquet(path, index=False),
    }


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a run's folder says about itself.

    Raises:
        ReportError: it holds no such run.
    """
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        raise ReportError(f"{folder} holds no sensitivity run: it has no manifest.json.")
    return _read(manifest)


def _read(manifest: Path) -> dict[str, Any]:
    try:
        stored = json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReportError(f"{manifest} cannot be read: {error}. Choose another folder.") from error
    if not isinstance(stored, dict) or stored.get("format") != FORMAT:
        raise ReportError(f"{manifest} is of no sensitivity run. Choose another folder.")
    return stored


def _plain(value: Any) -> Any:
    """As it will read back from JSON."""
    return json.loads(json.dumps(value))


def doses_of(ratios: Sequence[float], size: int) -> list[int]:
    """Numbers of weights for shares of all that are scored, at least one each.

    >>> doses_of([0.5, 0.0001], 1000)
    [1, 500]
    """
    return sorted({max(1, round(ratio * size)) for ratio in ratios})


LARGE, VERY_LARGE = 1_000_000_000, 7_000_000_000
TOLD_FROM = 100_000_000
"""Parameters from which the estimate is worth a line."""

SPARE = 0.1
"""Share of the free memory that is left for the pass itself."""

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
SCORE_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What will be done, and what there is to say about it."""

    perturbing: bool
    """Whether the top weights are tested."""

    blocks_at_once: int | None
    """Blocks whose gradients are held together; None for all."""

    notes: tuple[str, ...]
    """Sentences for the user."""


def budget_of(
    size: ModelSize,
    *,
    dtype: str,
    free: int | None,
    perturbing: bool,
    fast: bool,
    forced: bool,
    blocks_at_once: int | None = None,
) -> Budget:
    """What to do: everything below 1B parameters, a warning up to 7B, above that only scores.

    Args:
        size: of the model.
        dtype: that its weights will have.
        free: bytes of memory to be had; None where that is not known.
        perturbing: whether the perturbation test was asked for.
        fast: whether it was asked for in its fast form.
        forced: whether it was asked for whatever the size.
        blocks_at_once: chosen by the user; None to choose.
    """
    weights = size.weights(BYTES[dtype])
    gradients = size.n_block_weights * SCORE_BYTES
    notes = []
    if blocks_at_once is None and free is not None and weights + gradients > (1 - SPARE) * free:
        block = max(1, gradients // size.n_layers)
        room = int((1 - SPARE) * free) - weights
        blocks_at_once = min(size.n_layers, max(1, room // block))
    billions = f"{size.n_parameters / 1e9:.1f}B"
    if size.n_parameters >= TOLD_FROM:
        notes.append(_estimate(size, billions, weights, gradients, blocks_at_once, dtype, free))
    if perturbing and size.n_parameters >= VERY_LARGE and not forced:
        perturbing = False
        notes.append(
            f"{size.name} has {billions} parameters: the weights are scored and not tested. "
            "--force-perturbation tests them all the same."
        )
    elif perturbing and size.n_parameters >= LARGE and not fast:
        notes.append(
            f"{size.name} has {billions} parameters: --fast-perturbation saves most of the time."
        )
    return Budget(perturbing=perturbing, blocks_at_once=blocks_at_once, notes=tuple(notes))


def _estimate(
    size: ModelSize,
    billions: str,
    weights: int,
    gradients: int,
    blocks: int | None,
    dtype: str,
    free: int | None,
) -> str:
    held = gradients if blocks is None else gradients * blocks // size.n_layers
    told = "" if free is None else f"; {free / 1e9:.1f} GB are free"
    how = "" if blocks is None else f", {blocks} of {size.n_layers} blocks at once"
    text = (
        f"{size.name} has {billions} parameters: it takes about {(weights + held) / 1e9:.1f} GB "
        f"(weights {weights / 1e9:.1f} in {dtype}, gradients {held / 1e9:.1f}{how}){told}."
    )
    if free is not None and weights > free:
        text += " That will not fit" + (" (try --dtype bfloat16)." if dtype == "float32" else ".")
    return text
