"""The columns of the tables of `WeightScores`; `mi_toolkit.tables` makes data frames of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mi_toolkit.errors import WeightError
from mi_toolkit.sensitivity.coordinates import MatrixPlace, hf_coordinates
from mi_toolkit.sensitivity.ranking import Ranking

if TYPE_CHECKING:
    from pandas import DataFrame

    from mi_toolkit.heads.report import HeadReport
    from mi_toolkit.sensitivity.weight_scores import WeightScores

Columns = dict[str, list[Any]]


def top_table(scores: WeightScores, ranking: Ranking, report: HeadReport | None) -> DataFrame:
    """One row per ranked weight."""
    from mi_toolkit.tables import frame

    n = len(ranking)
    places = {place.name: place for place in scores.places}
    units = ("head", "kv_head", "neuron", *_expert_column(scores))
    columns: Columns = {
        "metric": [scores.metric] * n,
        "rank": ranking.ranks.tolist(),
        "parameter": [""] * n,
        "row": ranking.rows.tolist(),
        "column": ranking.columns.tolist(),
        **{name: [None] * n for name in ("layer", "component", *units)},
        "weight": [float("nan")] * n,
        "score": ranking.scores.tolist(),
        **_errors(ranking),
        **{name: [None] * n for name in ("hf_name", "hf_row", "hf_column")},
    }
    for index, name in enumerate(ranking.names):
        at = (ranking.matrix == index).nonzero().flatten()
        if len(at):
            found = _described(scores, places[name], ranking.rows[at], ranking.columns[at])
            for column, values in found.items():
                for position, value in zip(at.tolist(), values, strict=True):
                    columns[column][position] = value
    if report is not None:
        columns["labels"] = [
            None if head is None else labels_of(report, layer, head)
            for layer, head in zip(columns["layer"], columns["head"], strict=True)
        ]
    integers = ("layer", *units, "hf_row", "hf_column")
    table = frame(columns, integers=integers)
    if ranking.noise is not None and ranking.noise.warning is not None:
        table.attrs["warning"] = ranking.noise.warning
    return table


def _expert_column(scores: WeightScores) -> tuple[str, ...]:
    """A column for experts, where the model has any."""
    return ("expert",) if any(place.expert is not None for place in scores.places) else ()


def _errors(ranking: Ranking) -> Columns:
    """The column of standard errors, where scores are estimates."""
    if ranking.standard_errors is None:
        return {}
    return {"standard_error": ranking.standard_errors.tolist()}


def _described(scores: WeightScores, place: MatrixPlace, rows: Tensor, columns: Tensor) -> Columns:
    """What is known of single weights of one parameter."""
    n = len(rows)
    hf_name, hf_rows, hf_columns = hf_coordinates(place, rows, columns)
    described: Columns = {
        "parameter": [place.name] * n,
        "layer": [place.layer] * n,
        "component": [place.component] * n,
        "hf_name": [hf_name] * n,
        "hf_row": hf_rows,
        "hf_column": hf_columns,
    }
    if place.expert is not None:
        described["expert"] = [place.expert] * n
    units = place.units(rows, columns)
    if place.unit is not None and units is not None:
        described[place.unit] = units.tolist()
    if place.name in scores.live:
        described["weight"] = scores.live[place.name].read(rows, columns).float().tolist()
    return described


def labels_of(report: HeadReport, layer: int, head: int) -> str:
    """A head's labels in one cell; `unclassified` where it has none."""
    from mi_toolkit.heads.labels import UNCLASSIFIED

    return ", ".join(report.labels_of((layer, head))) or UNCLASSIFIED


def head_table(scores: WeightScores, report: HeadReport | None) -> DataFrame:
    """One row per layer and query head."""
    from mi_toolkit.tables import frame

    sums = _unit_sums(scores, ("head", "kv_head"))
    n_heads = max((len(s) for parts in sums.values() for s in parts.values()), default=0)
    if not n_heads:
        raise WeightError("No matrix of attention was scored, so no head has a sum.")
    spread = {
        layer: {
            name: s.repeat_interleave(n_heads // len(s)) / (n_heads // len(s))
            for name, s in parts.items()
        }
        for layer, parts in sums.items()
    }
    columns = _summed(scores, spread, "head", n_heads)
    columns["name"] = [
        f"L{layer}H{head}" for layer, head in zip(columns["layer"], columns["head"], strict=True)
    ]
    if report is not None:
        columns["labels"] = [
            labels_of(report, layer, head)
            for layer, head in zip(columns["layer"], columns["head"], strict=True)
        ]
    return frame(columns)


def neuron_table(scores: WeightScores) -> DataFrame:
    """One row per layer and neuron; of a mixture, per layer, expert and neuron.

    An expert that every token runs through has no number.
    """
    from mi_toolkit.tables import frame

    groups: dict[tuple[int, int | None, str], dict[str, Tensor]] = {}
    for place in scores.places:
        if place.unit == "neuron" and place.layer is not None:
            sums = place.per_unit(scores.scores[place.name].abs())
            owner = place.name.rpartition(".")[0]
            groups.setdefault((place.layer, place.expert, owner), {})[place.component] = sums
    if not groups:
        raise WeightError("No matrix of an MLP was scored, so no neuron has a sum.")
    tables = []
    for (layer, expert, _), parts in groups.items():
        n_neurons = max(map(len, parts.values()))
        table = _summed(scores, {layer: parts}, "neuron", n_neurons)
        if _expert_column(scores):
            table = {"metric": table.pop("metric"), "layer": table.pop("layer"),
                     "expert": [expert] * n_neurons} | table  # fmt: skip
        tables.append(table)
    components = list(dict.fromkeys(name for parts in groups.values() for name in parts))
    columns = {
        name: [value for each in tables for value in each.get(name, [0.0] * len(each["layer"]))]
        for name in [
            *(name for name in tables[0] if name not in (*components, "sum", "share")),
            *components,
            "sum",
            "share",
        ]
    }
    return frame(columns, integers=_expert_column(scores))


def layer_table(scores: WeightScores) -> DataFrame:
    """One row per parameter; `layer` is missing for embeddings and the final norm."""
    from mi_toolkit.tables import frame

    total = _total(scores)
    sums = {place.name: _size(scores.scores[place.name]) for place in scores.places}
    columns: Columns = {
        "metric": [scores.metric] * len(sums),
        "layer": [place.layer for place in scores.places],
        "component": [place.component for place in scores.places],
        "parameter": list(sums),
        "n_weights": [place.size for place in scores.places],
        **_tokens_column(scores),
        "sum": list(sums.values()),
        "mean": [sums[place.name] / place.size for place in scores.places],
        "highest": [float(scores.scores[place.name].max()) for place in scores.places],
        "share": [value / total for value in sums.values()],
    }
    return frame(columns, integers=("layer", *(("n_tokens",) if scores.routed else ())))


def _tokens_column(scores: WeightScores) -> Columns:
    """How many tokens ran through the expert of each parameter, where there are experts."""
    if not scores.routed:
        return {}
    owners = [place.name.rpartition(".")[0] for place in scores.places]
    return {"n_tokens": [scores.routed.get(owner) for owner in owners]}


def _unit_sums(scores: WeightScores, units: tuple[str, ...]) -> dict[int, dict[str, Tensor]]:
    sums: dict[int, dict[str, Tensor]] = {}
    for place in scores.places:
        if place.unit in units and place.layer is not None:
            of_units = place.per_unit(scores.scores[place.name].abs())
            sums.setdefault(place.layer, {})[place.component] = of_units
    return sums


def _summed(
    scores: WeightScores, sums: dict[int, dict[str, Tensor]], unit: str, n_units: int
) -> Columns:
    components = list(dict.fromkeys(name for parts in sums.values() for name in parts))
    zeros = torch.zeros(n_units, dtype=torch.float64)
    columns: Columns = {
        "metric": [scores.metric] * (n_units * len(sums)),
        "layer": [layer for layer in sums for _ in range(n_units)],
        unit: list(range(n_units)) * len(sums),
    }
    for name in components:
        columns[name] = torch.cat([parts.get(name, zeros) for parts in sums.values()]).tolist()
    whole = [sum(parts.values(), zeros) for parts in sums.values()]
    columns["sum"] = torch.cat(whole).tolist()
    total = _total(scores)
    columns["share"] = [value / total for value in columns["sum"]]
    return columns


def _size(figures: Tensor) -> float:
    return float(figures.abs().sum(dtype=torch.float64))


def _total(scores: WeightScores) -> float:
    """The sum over all weights; 1 where that is 0, so that shares are 0 and not NaN."""
    return sum(map(_size, scores.scores.values())) or 1.0
