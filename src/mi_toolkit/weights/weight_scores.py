"""`WeightScores`: a score for every weight, ranked exactly, by weight, head, neuron and layer."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_toolkit.core.display import TextTable
from mi_toolkit.core.errors import WeightError, unknown_name
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.provenance import Provenance
from mi_toolkit.core.result import Result
from mi_toolkit.core.tables import frame
from mi_toolkit.heads.labels import UNCLASSIFIED
from mi_toolkit.weights.coordinates import ParameterInfo, WeightMatrix, hf_coordinates
from mi_toolkit.weights.parameters import weight_matrices
from mi_toolkit.weights.ranking import (
    Ranking,
    RankingNoise,
    concatenated,
    kept_by_the_other,
    ranked,
    scores_at,
)

if TYPE_CHECKING:
    from mi_toolkit.core.tables import DataFrame
    from mi_toolkit.heads.report import HeadReport


Columns = dict[str, list[Any]]


def top_table(
    scores: WeightScores,
    ranking: Ranking,
    report: HeadReport | None,
    matrices: Mapping[str, WeightMatrix],
) -> DataFrame:
    """One row per ranked weight, with its value where the model's parameters are given."""
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
        **({"weight": [float("nan")] * n} if matrices else {}),
        "score": ranking.scores.tolist(),
        **_errors(ranking),
        **{name: [None] * n for name in ("hf_name", "hf_row", "hf_column")},
    }
    for index, name in enumerate(ranking.names):
        at = (ranking.matrix == index).nonzero().flatten()
        if len(at):
            rows, across = ranking.rows[at], ranking.columns[at]
            found = _described(places[name], rows, across)
            if matrices:
                found["weight"] = matrices[name].read(rows, across).float().tolist()
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


def _described(place: ParameterInfo, rows: Tensor, columns: Tensor) -> Columns:
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
    return described


def labels_of(report: HeadReport, layer: int, head: int) -> str:
    """A head's labels in one cell; `unclassified` where it has none."""
    return ", ".join(report.labels_in_words((layer, head))) or UNCLASSIFIED


def head_table(scores: WeightScores, report: HeadReport | None) -> DataFrame:
    """One row per layer and query head that is meant."""
    sums = _unit_sums(scores, ("head", "kv_head"))
    if not sums:
        raise WeightError("No matrix of attention was scored, so no head has a sum.")
    n_heads = max((place.n_units for place in scores.places if place.unit == "head"), default=0)
    if not n_heads:
        raise WeightError(
            "Only keys and values were scored, which several heads of this model share: score W_Q "
            "or W_O along with them for sums by head. by_layer() has the sums of whole matrices."
        )
    meant = _meant_heads(scores, sums, n_heads)
    spread = {
        layer: {name: _shared_out(s, meant[layer]) for name, s in parts.items()}
        for layer, parts in sums.items()
    }
    columns = _summed(scores, spread, "head", n_heads)
    rows = torch.cat(list(meant.values())).nonzero().flatten().tolist()
    columns = {name: [values[row] for row in rows] for name, values in columns.items()}
    columns["name"] = [
        f"L{layer}H{head}" for layer, head in zip(columns["layer"], columns["head"], strict=True)
    ]
    if report is not None:
        columns["labels"] = [
            labels_of(report, layer, head)
            for layer, head in zip(columns["layer"], columns["head"], strict=True)
        ]
    return frame(columns)


def _meant_heads(
    scores: WeightScores, layers: Iterable[int], n_heads: int
) -> dict[int, Bool[Tensor, " head"]]:
    """By layer: the query heads whose weights were asked for."""
    meant = {layer: torch.ones(n_heads, dtype=torch.bool) for layer in layers}
    for place in scores.places:
        if place.unit == "head" and place.kept is not None and place.layer is not None:
            meant[place.layer] = torch.zeros(n_heads, dtype=torch.bool)
            meant[place.layer][list(place.kept)] = True
    return meant


def _shared_out(
    sums: Float[Tensor, " unit"], meant: Bool[Tensor, " head"]
) -> Float[Tensor, " head"]:
    """The sum of each unit, divided evenly among those of its query heads that are meant."""
    by_unit = meant.view(len(sums), -1).double()
    return (sums[:, None] * by_unit / by_unit.sum(dim=1, keepdim=True).clamp_min(1)).flatten()


def neuron_table(scores: WeightScores) -> DataFrame:
    """One row per layer and neuron; of a mixture, per layer, expert and neuron.

    An expert that every token runs through has no number.
    """
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
    integers = ("layer", *(("n_tokens",) if scores.routed else ()))
    return frame(_by_parameter(scores), integers=integers)


def _by_parameter(scores: WeightScores) -> Columns:
    total = _total(scores)
    sums = {place.name: _size(scores.scores[place.name]) for place in scores.places}
    return {
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


logger = logging.getLogger("mi_toolkit")

SCOPES = ("model", "layer", "matrix")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class WeightScores(Result):
    """Scores of the weights of a model. Tensors are on the CPU in float32, `[in, out]`.

    The weights themselves stay with the model.
    """

    FORMAT = "mi_toolkit weight scores 2"
    OUTDATED = MappingProxyType(
        {"mi_toolkit weight scores 1": "its fields lie elsewhere in the file; score again"}
    )

    metric: str
    """The scorer, a name in `SCORERS`."""

    places: tuple[ParameterInfo, ...]
    """The scored parameters, in the order of the forward pass."""

    scores: Mapping[str, Float[Tensor, "_ _"]]
    """Per parameter; the higher, the more the weight matters by this metric. 0 for weights that
    are not meant, where only some heads are."""

    standard_error: Mapping[str, Float[Tensor, "_ _"]]
    """Standard error of each score, where scores are estimates; else empty."""

    facts: Mapping[str, float]
    """Figures about the whole, such as `completeness_gap`."""

    provenance: Provenance
    """Model, texts and versions."""

    first_half: Mapping[str, Float[Tensor, "_ _"]] = field(default_factory=dict)
    """Of estimated scores: what the first half of the random draws alone gives. Empty for the
    others."""

    routed: Mapping[str, int] = field(default_factory=dict)
    """Tokens that ran through each expert of a mixture, by `blocks.0.mlp.experts.3`: one with 0
    saw nothing, and its scores say nothing. Empty where there are no experts."""

    @property
    def size(self) -> int:
        """How many weights are scored."""
        return sum(place.size for place in self.places)

    @property
    def masks(self) -> dict[str, Bool[Tensor, "_ _"]]:
        """By parameter: which weights are meant, of those where not all are."""
        found = {place.name: place.mask() for place in self.places}
        return {name: mask for name, mask in found.items() if mask is not None}

    def meant(self) -> Iterator[Float[Tensor, " weight"]]:
        """The scores that are meant, matrix by matrix."""
        masks = self.masks
        for name, score in self.scores.items():
            yield score[masks[name]] if name in masks else score.flatten()

    def ranking(self, k: int, per: str = "model") -> Ranking:
        """The `k` highest of the model, of every layer or of every matrix, ties included.

        Of estimated scores it knows the standard errors, and how much of it is noise: where that
        is too much, `noise.warning` says so, as the log does.

        Raises:
            UnknownNameError: `per` is none of `model`, `layer`, `matrix`.
            WeightError: fewer than `k` weights, or too many ties.
        """
        found = self._ranking(k, per)
        if found.noise is not None and found.noise.warning is not None:
            logger.warning("%s: %s", self.metric, found.noise.warning)
        return found

    def _ranking(self, k: int, per: str) -> Ranking:
        if per not in SCOPES:
            raise unknown_name("scope of a ranking", per, SCOPES)
        found = self._ranked(self.scores, k, per)
        if not self.standard_error:
            return found
        errors = scores_at(self.standard_error, found)
        kept = shared = float("nan")
        if self.first_half:
            halves = (self.first_half, _SecondHalf(self))
            rankings = [self._ranked(half, k, per) for half in halves]
            kept, shared = kept_by_the_other(halves, rankings)
        noise = RankingNoise(
            n=len(found),
            n_within=int((errors > found.scores.abs()).sum()),
            n_probes=self.n_probes,
            kept=kept,
            shared=shared,
        )
        return replace(found, standard_errors=errors, noise=noise)

    def _ranked(self, scores: Mapping[str, Tensor], k: int, per: str) -> Ranking:
        if any(place.kept is not None for place in self.places):
            if k > self.size:
                raise WeightError(
                    f"k must be between 1 and the number of weights, {self.size:,}; it is {k}."
                )
            scores = _Meant(scores, self.masks)
        if per == "model":
            return ranked(scores, k)
        groups: dict[object, list[ParameterInfo]] = {}
        for place in self.places:
            groups.setdefault(place.name if per == "matrix" else place.layer, []).append(place)
        return concatenated(
            [
                ranked(
                    {place.name: scores[place.name] for place in group},
                    min(k, sum(place.size for place in group)),
                )
                for group in groups.values()
            ]
        )

    @property
    def n_probes(self) -> int | None:
        """Random draws to each score that is an estimate; None where there are none."""
        return int(self.facts["n_probes"]) if "n_probes" in self.facts else None

    def top(
        self,
        k: int,
        per: str = "model",
        *,
        report: HeadReport | None = None,
        model: HookedModel | None = None,
    ) -> DataFrame:
        """The `k` highest scores as a table, exact, ties with the last included.

        Columns: `metric`, `rank`, `parameter`, `row`, `column` (canonical, `[in, out]`), `layer`,
        `component`, `head` (query head), `kv_head` (where keys and values are shared), `neuron`,
        `score`, `hf_name`, `hf_row`, `hf_column`; with a `report` of the same model also the head's
        `labels`, with the `model` each `weight` as it is now. Estimated scores have a
        `standard_error` next to them, and where too much of the ranking is noise,
        `.attrs["warning"]` says so.

        Args:
            k: how many, of each group.
            per: `model`, `layer` or `matrix`: what is ranked by itself.
            report: whose labels to put next to the heads.
            model: that was scored, to read the weights from.

        Raises:
            UnknownNameError: `per` is none of those.
            WeightError: fewer than `k` weights, too many ties, or scores of another model.
            ReportError: the report is of another model.
        """
        if report is not None:
            report.check_name(self.provenance.model)
        matrices = {} if model is None else self.matrices_in(model)
        return top_table(self, self.ranking(k, per), report, matrices)

    def matrices_in(self, model: HookedModel) -> dict[str, WeightMatrix]:
        """The scored parameters as the model has them, by name.

        Raises:
            WeightError: the model has other ones.
        """
        matrices = {matrix.name: matrix for matrix in weight_matrices(model)}
        for place in self.places:
            whole = replace(place, kept=None)
            if place.name not in matrices or matrices[place.name].place != whole:
                raise WeightError(
                    f"Scored was {place.name} {list(place.shape)}, which {model.cfg.model_name} "
                    f"does not have so: these are scores of {self.provenance.model}."
                )
        return {place.name: matrices[place.name] for place in self.places}

    def by_head(self, report: HeadReport | None = None) -> DataFrame:
        """One row per query head: sums of scores over its part of each matrix, and its share.

        Keys and values that heads share are divided among them evenly, so that shares add up. Of
        scores with a sign, sizes are summed. `share` is of all scored weights. Where only some
        heads were scored (`heads=`), these alone have rows.

        Raises:
            WeightError: no matrix of attention was scored, or only keys that heads share.
            ReportError: the report is of another model.
        """
        if report is not None:
            report.check_name(self.provenance.model)
        return head_table(self, report)

    def by_neuron(self) -> DataFrame:
        """One row per neuron: sums of scores over its weights in, gate and out, and its share."""
        return neuron_table(self)

    def _whose(self) -> str:
        """The heads that are meant, where not all are."""
        heads = [
            f"L{place.layer}H{unit}"
            for place in self.places
            if place.unit == "head"
            for unit in place.kept or ()
        ]
        return f" of {', '.join(dict.fromkeys(heads))}" if heads else ""

    def by_layer(self) -> DataFrame:
        """One row per parameter: sum and mean of its scores' sizes, the highest score, its share.

        The share is that of the parameter's sum in the sum over all. Of scores with a sign, sizes
        are summed, so that they do not cancel; the highest has its sign.
        """
        return layer_table(self)

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """As `by_layer`: one per parameter."""
        columns = _by_parameter(self)
        for values in zip(*columns.values(), strict=True):
            yield dict(zip(columns, values, strict=True))

    @classmethod
    def put_together(cls, record: dict[str, Any], tensors: Mapping[str, Tensor]) -> WeightScores:
        """What `taken_apart` took apart, in the order of the places: equal scores rank by it."""
        order = {place["name"]: number for number, place in enumerate(record["places"])}
        names = sorted(tensors, key=lambda name: order[name.partition("/")[2]])
        return super().put_together(record, {name: tensors[name] for name in names})

    def text_table(self) -> TextTable:
        """The five highest."""
        ranking = self._ranking(min(5, self.size), "model").first(5)
        scores = [f"{score:.4g}" for score in ranking.scores.tolist()]
        if ranking.standard_errors is not None:
            errors = ranking.standard_errors.tolist()
            scores = [f"{s} ± {error:.2g}" for s, error in zip(scores, errors, strict=True)]
        found = zip(ranking.keys(), scores, strict=True)
        rows = [(f"{name}[{row}, {column}]", score) for (name, row, column), score in found]
        if ranking.noise is not None and ranking.noise.warning is not None:
            rows.append(("warning", ranking.noise.warning))
        if idle := [name for name, n_tokens in self.routed.items() if not n_tokens]:
            rows.append(("saw no token", ", ".join(idle[:8]) + (", …" if idle[8:] else "")))
        return TextTable(
            title=(
                f"WeightScores of {self.provenance.model} by {self.metric}: {self.size:,} weights "
                f"in {len(self.places)} matrices{self._whose()}, the highest"
            ),
            rows=rows,
        )


class _Meant(Mapping[str, Tensor]):
    """Scores in which a weight that is not meant ranks below all others."""

    def __init__(self, scores: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
        self.scores, self.masks = scores, masks

    def __getitem__(self, name: str) -> Tensor:
        score = self.scores[name]
        return score.masked_fill(~self.masks[name], -torch.inf) if name in self.masks else score

    def __iter__(self) -> Iterator[str]:
        return iter(self.scores)

    def __len__(self) -> int:
        return len(self.scores)


class _SecondHalf(Mapping[str, Tensor]):
    """What the second half of the random draws alone gives, a matrix at a time."""

    def __init__(self, scores: WeightScores) -> None:
        self.scores = scores
        n = scores.n_probes or 2
        self.part = (n // 2) / n
        """The first half's part of the draws."""

    def __getitem__(self, name: str) -> Tensor:
        of_first = self.scores.first_half[name] * self.part
        return (self.scores.scores[name] - of_first) / (1 - self.part)

    def __iter__(self) -> Iterator[str]:
        return iter(self.scores.first_half)

    def __len__(self) -> int:
        return len(self.scores.first_half)
