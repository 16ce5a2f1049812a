"""Several sensitivity runs side by side: where in depth, in which components, and shared or not.

For studies of scale and architecture: the runs may be of different models. Of each run the tables
that it wrote are read, no model and no scores.

1. Metrics that all runs have are compared, each at the largest k that all runs have of it.
2. Depth is a share of the model: 0 for the first block, 1 for the last, so that models of different
   depth stand on one axis.
3. Overlap by weights needs the same matrices in both runs; overlap by place (depth and component)
   does not: it is 1 less the total variation distance of the tops over thirds of depth times
   components.
4. What changing the top did is compared for one kind of change, at one scale: the first that all
   runs with tests have.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mi_toolkit.core.display import TextTable
from mi_toolkit.core.errors import ReportError, WeightError
from mi_toolkit.core.io import read_json
from mi_toolkit.core.result import Result, fields_fit
from mi_toolkit.core.resumable import FILE, Manifest
from mi_toolkit.core.tables import read_parquet
from mi_toolkit.weights.ranking import jaccard
from mi_toolkit.weights.study import FORMAT, KIND

logger = logging.getLogger("mi_toolkit")

GATED = {"W_gate": "W_in"}
"""Components that stand for the same part of an MLP, gated or not."""

Row = Mapping[Any, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """One run and metric."""

    name: str
    """The run's folder."""

    model: str
    n_parameters: int
    n_layers: int
    metric: str

    sizes: Mapping[str, int]
    """How many weights of each parameter were scored."""

    top: tuple[Row, ...]
    """The top weights; those outside the blocks have no layer."""

    effect: Row | None
    """What changing the top did, at the k compared; None where that was not tested, or not in a way
    that all runs with tests have in common."""

    changed_how: str | None = None
    """The kind of change that was tested, and its scale where it has one."""

    @property
    def depths(self) -> list[float]:
        """Of each top weight in a block: 0 for the first block, 1 for the last."""
        span = max(1, self.n_layers - 1)
        return [row["layer"] / span for row in self.top if _is_number(row["layer"])]

    @property
    def profile(self) -> list[float]:
        """Share of the top in each block."""
        counts = [0] * self.n_layers
        for row in self.top:
            if _is_number(row["layer"]):
                counts[int(row["layer"])] += 1
        return [count / max(1, len(self.top)) for count in counts]

    @property
    def components(self) -> dict[str, float]:
        """Share of the top in each kind of matrix."""
        named = [str(row["component"]) for row in self.top]
        return {name: named.count(name) / len(named) for name in sorted(set(named))}

    @property
    def places(self) -> dict[tuple[int, str], float]:
        """Share of the top in each third of depth and kind of matrix."""
        shares: dict[tuple[int, str], float] = {}
        for row in self.top:
            third = -1
            if _is_number(row["layer"]):
                third = min(2, int(3 * row["layer"] / self.n_layers))
            component = str(row["component"])
            at = third, GATED.get(component, component)
            shares[at] = shares.get(at, 0.0) + 1 / len(self.top)
        return shares


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class RunComparison(Result):
    """Runs by one metric, at one k."""

    FORMAT: ClassVar[str] = "mi_toolkit comparison of runs 3"
    OUTDATED: ClassVar[Mapping[str, str]] = {
        "mi_toolkit comparison of runs 1": "compare the runs again",
        "mi_toolkit comparison of runs 2": "it may hold effects of different changes: compare the "
        "runs again",
    }

    metric: str
    k: int
    runs: tuple[Run, ...]

    weights: Float[Tensor, "run other"]
    """Jaccard overlap of the top weights, 0 to 1; NaN where the matrices differ."""

    places: Float[Tensor, "run other"]
    """Overlap of the tops by third of depth and kind of matrix, 0 to 1."""

    def text_table(self) -> TextTable:
        """A column per run: its facts and figures, one to a row."""
        table = self.to_pandas().drop(columns=["run", "metric", "k"])
        rows = [
            (str(name).replace("_", " "), *map(_format_value, values))
            for name, values in table.items()
        ]
        title = f"RunComparison of {len(self.runs)} runs: the top {self.k:,} by {self.metric}"
        return TextTable(title=title, header=("", *(run.name for run in self.runs)), rows=rows)

    def rows(self) -> list[dict[str, Any]]:
        """One row per run: depth, components, overlap with the first run, and the effect."""
        rows = []
        for index, run in enumerate(self.runs):
            depths = sorted(run.depths)
            effect = run.effect or {}
            rows.append(
                {
                    "run": run.name,
                    "model": run.model,
                    "n_parameters": run.n_parameters,
                    "n_layers": run.n_layers,
                    "metric": self.metric,
                    "k": self.k,
                    "mean_depth": sum(depths) / len(depths) if depths else float("nan"),
                    **{
                        f"{name}_third": sum(s for at, s in run.places.items() if at[0] == third)
                        for third, name in enumerate(("first", "middle", "last"))
                    },
                    **{f"in_{name}": run.components.get(name, 0.0) for name in self.components},
                    "same_weights_as_first": float(self.weights[0, index]),
                    "same_places_as_first": float(self.places[0, index]),
                    "changed_how": run.changed_how,
                    "loss_rise": effect.get("top"),
                    "sd_above_random": effect.get("sd_above_random"),
                }
            )
        return rows

    @property
    def components(self) -> list[str]:
        """Kinds of matrix that a top holds, in any run."""
        return sorted({name for run in self.runs for name in run.components})


def compare_runs(folders: Sequence[str | Path]) -> list[RunComparison]:
    """Set runs side by side, a comparison for each metric that all have.

    Args:
        folders: output folders of `mi-toolkit sensitivity`, two or more.

    Raises:
        ReportError: a folder holds no such run, or half of one.
        WeightError: fewer than two runs, or none with a metric and k in common.
    """
    if len(folders) < 2:
        raise WeightError("A comparison needs two or more runs: give their folders.")
    found = [_tops(Path(folder)) for folder in folders]
    shared = set.intersection(*(set(tops) for tops in found))
    if not shared:
        listed = "; ".join(
            f"{folder}: {', '.join(f'{metric} {k}' for metric, k in sorted(tops))}"
            for folder, tops in zip(folders, found, strict=True)
        )
        raise WeightError(f"These runs have no metric and number of weights in common ({listed}).")
    largest = {metric: max(k for name, k in shared if name == metric) for metric, _ in shared}
    return [_compared(metric, k, list(map(Path, folders))) for metric, k in sorted(largest.items())]


def _compared(metric: str, k: int, folders: Sequence[Path]) -> RunComparison:
    tested = [_effects(folder, metric, k) for folder in folders]
    changes = [set(each) for each in tested if each]
    how = next((each for each in chain(*tested) if all(each in kinds for kinds in changes)), None)
    if changes and how is None:
        listed = "; ".join(", ".join(each) for each in tested if each)
        logger.warning(
            "No change of the top was tested in all of the runs (%s): what changing it did is not "
            "compared.",
            listed,
        )
    runs = [
        _run(folder, metric, k, how, effects.get(how or ""))
        for folder, effects in zip(folders, tested, strict=True)
    ]
    return RunComparison(
        metric=metric,
        k=k,
        runs=tuple(runs),
        weights=torch.tensor([[_same_weights(a, b) for b in runs] for a in runs]),
        places=torch.tensor([[_same_places(a, b) for b in runs] for a in runs]),
    )


def _same_weights(a: Run, b: Run) -> float:
    if a.sizes != b.sizes:
        return float("nan")
    return jaccard(
        *([(row["parameter"], row["row"], row["column"]) for row in run.top] for run in (a, b))
    )


def _same_places(a: Run, b: Run) -> float:
    return sum(min(a.places.get(at, 0.0), b.places.get(at, 0.0)) for at in a.places)


def _tops(folder: Path) -> set[tuple[str, int]]:
    """Metric and k of each list of a run."""
    tops = set()
    for part in _manifest(folder).parts:
        if part.startswith("top_weights_"):
            metric, _, k = part.removeprefix("top_weights_").rpartition("_")
            tops.add((metric, int(k)))
    return tops


def _manifest(folder: Path) -> Manifest:
    return Manifest.read(folder / FILE, format=FORMAT, kind=KIND)


SCALED = ("gaussian", "scale")
"""Kinds of change that a scale belongs to."""


def _effects(folder: Path, metric: str, k: int) -> dict[str, Row]:
    """What changing a top did, by the kind of change and its scale."""
    part = _manifest(folder).parts.get("perturbation")
    with fields_fit(folder / FILE, KIND):
        scale = 1.0 if part is None else float(part.settings["perturb_scale"])
        rows = [
            row
            for row in _summary(folder)["effects"] or []
            if (row["metric"], row["k"]) == (metric, k)
        ]
        names = [f"{r['kind']} by {scale:g}" if r["kind"] in SCALED else r["kind"] for r in rows]
    return dict(zip(names, rows, strict=True))


def _summary(folder: Path) -> dict[str, Any]:
    try:
        return dict(read_json(folder / "summary.json"))
    except (OSError, ValueError) as error:
        raise _half(folder, error) from error


def _half(folder: Path, error: Exception) -> ReportError:
    return ReportError(f"{folder} holds half of a run: {error}. Run it to its end.")


def _run(folder: Path, metric: str, k: int, how: str | None, effect: Row | None) -> Run:
    manifest, name = _manifest(folder), f"top_weights_{metric}_{k}"
    about = manifest.about
    try:
        damage = next(manifest.parts[name].damage(folder, by_content=True), None)
        if damage is not None:
            raise ValueError(damage)
        top = read_parquet(folder / f"{name}.parquet").to_dict("records")
    except (OSError, ValueError) as error:
        raise _half(folder, error) from error
    with fields_fit(folder / FILE, KIND):
        layers = [row for row in _summary(folder)["layers"] if row["metric"] == metric]
        return Run(
            name=folder.name or str(folder),
            model=about["model"],
            n_parameters=about["n_parameters"],
            n_layers=about["n_layers"],
            metric=metric,
            sizes={str(row["parameter"]): int(row["n_weights"]) for row in layers},
            top=tuple({str(name): value for name, value in row.items()} for row in top),
            effect=effect,
            changed_how=how if effect is not None else None,
        )


def _format_value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if math.isfinite(value) else ""
    return f"{value:,}" if isinstance(value, int) else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and value == value
