"""`WeightScores`: a score for every weight, ranked exactly, by weight, head, neuron and layer."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
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
from mi_toolkit.sensitivity.ranking import (
    Ranking,
    RankingNoise,
    concatenated,
    kept_by_the_other,
    ranked,
    scores_at,
)
from mi_toolkit.shown import ShownAsTable, TextTable

if TYPE_CHECKING:
    from pandas import DataFrame

    from mi_toolkit.heads.report import HeadReport

logger = logging.getLogger("mi_toolkit")

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

    first_half: Mapping[str, Float[Tensor, "_ _"]] = field(default_factory=dict)
    """Of estimated scores: what the first half of the random draws alone gives. Empty for the
    others, and in files that were saved without it."""

    routed: Mapping[str, int] = field(default_factory=dict)
    """Tokens that ran through each expert of a mixture, by `blocks.0.mlp.experts.3`: one with 0
    saw nothing, and its scores say nothing. Empty where there are no experts."""

    @property
    def size(self) -> int:
        """How many weights are scored."""
        return sum(place.size for place in self.places)

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
        if per == "model":
            return ranked(scores, k)
        groups: dict[object, list[MatrixPlace]] = {}
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
        """Random draws behind each score that is an estimate; None where there are none."""
        return int(self.facts["n_probes"]) if "n_probes" in self.facts else None

    def top(self, k: int, per: str = "model", *, report: HeadReport | None = None) -> DataFrame:
        """The `k` highest scores as a table, exact, ties with the last included.

        Columns: `metric`, `rank`, `parameter`, `row`, `column` (canonical, `[in, out]`), `layer`,
        `component`, `head` (query head), `kv_head` (where keys and values are shared), `neuron`,
        `weight`, `score`, `hf_name`, `hf_row`, `hf_column`; with a `report` of the same model also
        the head's `labels`. Estimated scores have a `standard_error` beside them, and where too
        much of the ranking is noise, `.attrs["warning"]` says so.

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
                **{f"half/{name}": half for name, half in self.first_half.items()},
            },
            record={
                "metric": self.metric,
                "places": [asdict(place) for place in self.places],
                "facts": dict(self.facts),
                "routed": dict(self.routed),
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
            MatrixPlace(
                **place
                | {"hf": place["hf"] and HFPlace(**place["hf"]), "shape": tuple(place["shape"])}
            )
            for place in record["places"]
        )
        live = {} if model is None else live_of(model, places, str(path))
        return WeightScores(
            metric=record["metric"],
            places=places,
            scores={place.name: tensors[f"score/{place.name}"] for place in places},
            standard_error=_under("error/", tensors),
            first_half=_under("half/", tensors),
            facts=record["facts"],
            routed=record.get("routed", {}),
            live=live,
            provenance=Provenance(**record["provenance"]),
        )

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
                f"in {len(self.places)} matrices, the highest"
            ),
            rows=rows,
        )


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


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin so, without it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


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
