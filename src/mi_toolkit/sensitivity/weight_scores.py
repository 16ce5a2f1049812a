"""`WeightScores`: a score for every weight, ranked exactly, by weight, head, neuron and layer."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from mi_toolkit.errors import ReportError, unknown_name
from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.provenance import Provenance
from mi_toolkit.record_file import load_record, save_record
from mi_toolkit.sensitivity import weight_tables
from mi_toolkit.sensitivity.coordinates import HFPlace, MatrixPlace, WeightMatrix
from mi_toolkit.sensitivity.parameters import weight_matrices
from mi_toolkit.sensitivity.ranking import Ranking, concatenated, ranked
from mi_toolkit.shown import ShownAsTable, TextTable

if TYPE_CHECKING:
    from pandas import DataFrame

    from mi_toolkit.heads.report import HeadReport

FORMAT = "mi_toolkit weight scores 1"
SCOPES = ("model", "layer", "matrix")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class WeightScores(ShownAsTable):
    """Scores of the weights of a model. Tensors are on the CPU in float32, `[in, out]`."""

    metric: str
    """The scorer, a name in `SCORERS`."""

    places: tuple[MatrixPlace, ...]
    """The scored parameters, in the order of the forward pass."""

    scores: Mapping[str, Float[Tensor, "_ _"]]
    """Per parameter; the higher, the more the weight matters by this metric."""

    standard_error: Mapping[str, Float[Tensor, "_ _"]]
    """Of estimated scores; empty for the others."""

    facts: Mapping[str, float]
    """Figures about the whole, such as `completeness_gap`."""

    live: Mapping[str, WeightMatrix]
    """The model's own parameters, which tables read the weights from when they are made; empty
    after `load` without a model."""

    provenance: Provenance
    """Model, texts and versions."""

    @property
    def size(self) -> int:
        """How many weights are scored."""
        return sum(place.size for place in self.places)

    def ranking(self, k: int, per: str = "model") -> Ranking:
        """The `k` highest of the model, of every layer or of every matrix, ties included.

        Raises:
            UnknownNameError: `per` is none of `model`, `layer`, `matrix`.
            WeightError: fewer than `k` weights, or too many ties.
        """
        if per not in SCOPES:
            raise unknown_name("scope of a ranking", per, SCOPES)
        if per == "model":
            return ranked(self.scores, k)
        groups: dict[object, dict[str, Tensor]] = {}
        for place in self.places:
            key = place.name if per == "matrix" else place.layer
            groups.setdefault(key, {})[place.name] = self.scores[place.name]
        return concatenated(
            [
                ranked(group, min(k, sum(m.numel() for m in group.values())))
                for group in groups.values()
            ]
        )

    def top(self, k: int, per: str = "model", *, report: HeadReport | None = None) -> DataFrame:
        """The `k` highest scores as a table, exact, ties with the last included.

        Columns: `metric`, `rank`, `parameter`, `row`, `column` (canonical, `[in, out]`), `layer`,
        `component`, `head` (query head), `kv_head` (where keys and values are shared), `neuron`,
        `weight`, `score`, `hf_name`, `hf_row`, `hf_column`; with a `report` of the same model also
        the head's `labels`.

        Args:
            k: how many, of each group.
            per: `model`, `layer` or `matrix`: what is ranked by itself.
            report: whose labels to put beside the heads.

        Raises:
            UnknownNameError: `per` is none of those.
            WeightError: fewer than `k` weights, or too many ties.
        """
        return weight_tables.top_table(self, self.ranking(k, per), report)

    def by_head(self, report: HeadReport | None = None) -> DataFrame:
        """One row per query head: sums of scores over its part of each matrix, and its share.

        Keys and values that heads share are divided among them evenly, so that shares add up. Of
        scores with a sign, sizes are summed. `share` is of all scored weights.
        """
        return weight_tables.head_table(self, report)

    def by_neuron(self) -> DataFrame:
        """One row per neuron: sums of scores over its weights in, gate and out, and its share."""
        return weight_tables.neuron_table(self)

    def by_layer(self) -> DataFrame:
        """One row per parameter: the sum of its scores, their mean and highest, its share."""
        return weight_tables.layer_table(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write scores and coordinates, not weights, to one safetensors file."""
        save_record(
            path,
            format=FORMAT,
            tensors={
                **{f"score/{name}": score for name, score in self.scores.items()},
                **{f"error/{name}": error for name, error in self.standard_error.items()},
            },
            record={
                "metric": self.metric,
                "places": [asdict(place) for place in self.places],
                "facts": dict(self.facts),
                "provenance": asdict(self.provenance),
            },
        )

    @staticmethod
    def load(path: str | os.PathLike[str], model: HookedModel | None = None) -> WeightScores:
        """Read scores back; with the model that they are of, tables have its weights too.

        Raises:
            ReportError: no such file, it holds no scores, or they are not of this model.
        """
        tensors, record = load_record(path, format=FORMAT, kind="weight scores")
        places = tuple(
            MatrixPlace(**place | {"hf": HFPlace(**place["hf"]), "shape": tuple(place["shape"])})
            for place in record["places"]
        )
        live = {} if model is None else live_of(model, places, str(path))
        return WeightScores(
            metric=record["metric"],
            places=places,
            scores={place.name: tensors[f"score/{place.name}"] for place in places},
            standard_error={
                name.removeprefix("error/"): tensor
                for name, tensor in tensors.items()
                if name.startswith("error/")
            },
            facts=record["facts"],
            live=live,
            provenance=Provenance(**record["provenance"]),
        )

    def text_table(self) -> TextTable:
        """The five highest."""
        ranking = self.ranking(min(5, self.size)).first(5)
        found = zip(ranking.keys(), ranking.scores.tolist(), strict=True)
        return TextTable(
            title=(
                f"WeightScores of {self.provenance.model} by {self.metric}: {self.size:,} weights "
                f"in {len(self.places)} matrices, the highest"
            ),
            rows=[
                (f"{name}[{row}, {column}]", f"{score:.4g}") for (name, row, column), score in found
            ],
        )


def live_of(
    model: HookedModel, places: Sequence[MatrixPlace], path: str
) -> dict[str, WeightMatrix]:
    """The model's own parameters behind scores that were read from `path`.

    Raises:
        ReportError: the model has other ones.
    """
    matrices = {matrix.name: matrix for matrix in weight_matrices(model)}
    for place in places:
        if place.name not in matrices or matrices[place.name].place != place:
            raise ReportError(
                f"{path} scores {place.name} {list(place.shape)}, which {model.cfg.model_name} "
                "does not have so: they are the scores of another model."
            )
    return {place.name: matrices[place.name] for place in places}
