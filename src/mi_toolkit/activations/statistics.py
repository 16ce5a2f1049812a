"""Statistics of activations over a text collection: what was found, unit by unit.

Mean, variance and extremes of each unit, merged part by part (Chan, Golub and LeVeque 1979).

For parts A and B with counts `n`, means `m`, sums of squared deviations `s`, `d = m_B - m_A`:

    m = m_A + d · n_B / n        s = s_A + s_B + d² · n_A · n_B / n

All in float64: a residual stream has units whose mean is thousands of times their deviation.

The tokens that excite each unit most, with the text around them.

Of equal values the earlier token comes first, in one run as in merged ones: a neuron that is never
on has the first tokens of the texts, not random ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.activations.names import Name, resolve
from mi_toolkit.core.display import TextTable, counted
from mi_toolkit.core.errors import ActivationsError, PromptError, UnknownNameError
from mi_toolkit.core.result import Result
from mi_toolkit.core.tables import frame

if TYPE_CHECKING:
    from mi_toolkit.core.tables import DataFrame


@dataclass(frozen=True, kw_only=True, eq=False)
class Moments:
    """What some tokens were like, unit by unit."""

    count: int
    """Tokens."""

    mean: Float[Tensor, "*unit"]
    """Per unit, in float64; NaN without a token."""

    deviations: Float[Tensor, "*unit"]
    """Sum of squared deviations from the mean, per unit, in float64."""

    minimum: Float[Tensor, "*unit"]
    """The least value; infinite without a token."""

    maximum: Float[Tensor, "*unit"]
    """The largest value; minus infinity without a token."""

    positive: Int[Tensor, "*unit"]
    """Number of tokens on which the unit is above 0."""

    @property
    def variance(self) -> Float[Tensor, "*unit"]:
        """Mean squared deviation: of the tokens that were seen, not of the text they are from."""
        return self.deviations / self.count if self.count else self.mean

    @property
    def std(self) -> Float[Tensor, "*unit"]:
        """The square root of the variance."""
        return self.variance.sqrt()

    @property
    def rms(self) -> Float[Tensor, "*unit"]:
        """Root mean square: a unit's L2 norm over the tokens, divided by √count."""
        return (self.mean**2 + self.variance).sqrt()

    @property
    def density(self) -> Float[Tensor, "*unit"]:
        """The share of tokens on which the unit is above 0: how often a ReLU neuron is on."""
        return self.positive / self.count if self.count else self.mean

    def merged(self, other: Moments) -> Moments:
        """The moments of both parts together."""
        if not other.count or not self.count:
            return self if self.count else other
        count = self.count + other.count
        delta = other.mean - self.mean
        spread = delta**2 * (self.count * other.count / count)
        return Moments(
            count=count,
            mean=self.mean + delta * (other.count / count),
            deviations=self.deviations + other.deviations + spread,
            minimum=torch.minimum(self.minimum, other.minimum),
            maximum=torch.maximum(self.maximum, other.maximum),
            positive=self.positive + other.positive,
        )


def moments_of(rows: Float[Tensor, " row *unit"]) -> Moments:
    """The moments of some tokens: `rows` has one each."""
    shape = rows.shape[1:]
    if not len(rows):
        return Moments(
            count=0,
            mean=torch.full(shape, torch.nan, dtype=torch.float64),
            deviations=torch.zeros(shape, dtype=torch.float64),
            minimum=torch.full(shape, torch.inf),
            maximum=torch.full(shape, -torch.inf),
            positive=torch.zeros(shape, dtype=torch.long),
        )
    # One buffer for all: the heap keeps holes where larger tensors were than what stays.
    exact = rows.to(torch.float64, copy=True)
    mean = exact.mean(dim=0)
    deviations = exact.sub_(mean).square_().sum(dim=0)
    positive = exact.copy_(rows > 0).sum(dim=0).long()
    return Moments(
        count=len(rows),
        mean=mean,
        deviations=deviations,
        minimum=rows.amin(dim=0).float(),
        maximum=rows.amax(dim=0).float(),
        positive=positive,
    )


NOWHERE = -1
"""Where a place or a token of context does not exist."""

PLACES = ("document", "chunk", "position")


@dataclass(frozen=True, kw_only=True, eq=False)
class Tokens:
    """Some consecutive tokens of the texts: where each is, and what stands around it."""

    place: Int[Tensor, "row 3"]
    """Document, chunk and position."""

    context: Int[Tensor, "row window"]
    """Token ids before, at and after it; -1 beyond the ends of its sequence."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TopExamples:
    """The best tokens of each unit, best first."""

    values: Float[Tensor, "unit top"]
    """The activation; minus infinity where there were fewer tokens."""

    place: Int[Tensor, "unit top 3"]
    """Document, chunk and position; -1 where there were fewer tokens."""

    context: Int[Tensor, "unit top window"]
    """Token ids around it, as in `Tokens`."""

    def updated(self, rows: Float[Tensor, "row unit"], tokens: Tokens) -> TopExamples:
        """The best of these and of some later tokens."""
        if not len(rows):
            return self
        highest = rows.amax(dim=0)
        if highest.isnan().any():  # what is not a number is no example, and hides none
            rows = rows.masked_fill(rows.isnan(), -torch.inf)
            highest = rows.amax(dim=0)
        # An equal value later on does not displace an earlier one.
        moved = (highest > self.values[:, -1]).nonzero().squeeze(1)
        if not len(moved):
            return self
        n_top = self.values.shape[1]
        values, best = _first_of_the_largest(rows[:, moved].T.float(), n_top)
        later = TopExamples(values=values, place=tokens.place[best], context=tokens.context[best])
        merged = TopExamples(
            values=self.values[moved], place=self.place[moved], context=self.context[moved]
        ).merged(later)
        whole = TopExamples(
            values=self.values.clone(), place=self.place.clone(), context=self.context.clone()
        )
        whole.values[moved], whole.place[moved] = merged.values, merged.place
        whole.context[moved] = merged.context
        return whole

    def merged(self, later: TopExamples) -> TopExamples:
        """The best of these and of the best of later tokens."""
        values = torch.cat([self.values, later.values], dim=1)
        values, best = _first_of_the_largest(values, self.values.shape[1])
        return TopExamples(
            values=values,
            place=_taken(torch.cat([self.place, later.place], dim=1), best),
            context=_taken(torch.cat([self.context, later.context], dim=1), best),
        )


MOST_EXAMPLES = 10_000
"""Of each unit: a table of more is no reading, and may be larger than the memory."""


def check_top_k(top_k: int) -> None:
    """Check how many examples to keep of each unit.

    Raises:
        PromptError: fewer than 1, or more than `MOST_EXAMPLES`.
    """
    if not 1 <= top_k <= MOST_EXAMPLES:
        raise PromptError(f"top_k={top_k}: keep 1 to {MOST_EXAMPLES:,} examples of each unit.")


def no_examples(n_units: int, n_top: int, window: int) -> TopExamples:
    """Before any token."""
    return TopExamples(
        values=torch.full((n_units, n_top), -torch.inf),
        place=torch.full((n_units, n_top, len(PLACES)), NOWHERE),
        context=torch.full((n_units, n_top, window), NOWHERE, dtype=torch.int32),
    )


def context_of(
    ids: Int[Tensor, "sequence position"],
    lengths: Int[Tensor, " sequence"],
    sequence: Int[Tensor, " row"],
    position: Int[Tensor, " row"],
    before: int,
    after: int,
) -> Int[Tensor, "row window"]:
    """The ids around some positions, `before` of them and `after`; -1 beyond a sequence's ends."""
    where = position[:, None] + torch.arange(-before, after + 1)
    inside = (where >= 0) & (where < lengths[sequence][:, None])
    around = ids[sequence[:, None], where.clamp(0, ids.shape[1] - 1)]
    return around.masked_fill(~inside, NOWHERE).int()


def _first_of_the_largest(
    values: Float[Tensor, "unit row"], n_top: int
) -> tuple[Float[Tensor, "unit top"], Int[Tensor, "unit top"]]:
    sorted_values, order = values.sort(dim=1, descending=True, stable=True)
    return sorted_values[:, :n_top], order[:, :n_top]


def _taken(
    places: Int[Tensor, "unit row field"], best: Int[Tensor, "unit top"]
) -> Int[Tensor, "unit top field"]:
    return places.gather(1, best[..., None].expand(-1, -1, places.shape[-1]))


@dataclass(frozen=True, kw_only=True, eq=False)
class UnitStatistics:
    """One activation's figures, unit by unit."""

    moments: Moments
    """Mean, variance, extremes and density of each unit, in the activation's own shape."""

    norms: Moments
    """The same of the L2 norm of each token's whole activation: single numbers."""

    top: TopExamples
    """Of each unit, counted through in one axis, the tokens with its largest values."""

    def merged(self, later: UnitStatistics) -> UnitStatistics:
        """The figures of both together."""
        return UnitStatistics(
            moments=self.moments.merged(later.moments),
            norms=self.norms.merged(later.norms),
            top=self.top.merged(later.top),
        )


FIGURES = ("mean", "std", "rms", "minimum", "maximum", "density")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ActivationStatistics(Result):
    """Figures of each unit of some activations, over a text collection."""

    FORMAT: ClassVar[str] = "mi_toolkit activation statistics 2"
    OUTDATED: ClassVar[Mapping[str, str]] = {
        "mi_toolkit activation statistics 1": "gather them again"
    }

    model: str
    """The model's name."""

    n_layers: int
    """Layers of the model: what `-1` counts from."""

    n_documents: int
    """Documents that were read, empty ones among them."""

    settings: Mapping[str, Any]
    """How the texts were fed and what was kept: what two statistics must share to be merged."""

    units: Mapping[str, UnitStatistics]
    """Statistics of the units of each hook, by the hook's name."""

    texts: Mapping[int, str]
    """The text of each token that stands in a top example."""

    def __getitem__(self, name: Name) -> UnitStatistics:
        """One activation's figures, by hook name or short form with its layer."""
        return self.units[self.one(name)]

    def one(self, name: Name) -> str:
        """The one hook name here that `name` stands for.

        Raises:
            ActivationsError: it stands for several.
            UnknownNameError: it stands for none.
        """
        hooks = resolve(name, list(self.units), self.n_layers, f"these statistics of {self.model}")
        if len(hooks) > 1:
            raise ActivationsError(
                f"{name!r} stands for {len(hooks)} activations here: name one, as in {hooks[-1]!r}."
            )
        return hooks[0]

    @property
    def before(self) -> int:
        """Tokens of context in front of each top example."""
        return int(str(self.settings["before"]))

    def merge(self, later: ActivationStatistics) -> ActivationStatistics:
        """The statistics of these texts and then those: equal to one run over both.

        The later documents are numbered on from these. Means and variances agree to the last bits
        of float64; all else is equal where the batches were.

        Raises:
            ActivationsError: they are of another model, or were made in another way.
        """
        ours, theirs = (
            (each.model, list(each.units), dict(each.settings)) for each in (self, later)
        )
        if ours != theirs:
            raise ActivationsError(
                f"Statistics of different recordings cannot be merged: {ours} and {theirs}."
            )
        return ActivationStatistics(
            model=self.model,
            n_layers=self.n_layers,
            n_documents=self.n_documents + later.n_documents,
            settings=self.settings,
            units={
                hook: unit.merged(_after(later.units[hook], self.n_documents))
                for hook, unit in self.units.items()
            },
            texts={**later.texts, **self.texts},
        )

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """One row per unit: its figures, and the token that excites it most."""
        for hook, unit in self.units.items():
            columns = {name: getattr(unit.moments, name).flatten().tolist() for name in FIGURES}
            best = unit.top.context[:, 0, self.before].tolist()
            documents = unit.top.place[:, 0, 0].tolist()
            for row, index in enumerate(np.ndindex(*unit.moments.mean.shape)):
                yield {
                    "activation": hook,
                    "unit": ".".join(map(str, index)),
                    "count": unit.moments.count,
                    **{name: column[row] for name, column in columns.items()},
                    "top_token": self.texts.get(best[row], ""),
                    "top_document": documents[row],
                }

    def top(self, name: Name, unit: int | tuple[int, ...]) -> DataFrame:
        """The top examples of one unit: value, place, and the text before, at and after it.

        Args:
            name: which activation.
            unit: a neuron's number, or `(head, dimension)` where there are heads.

        Raises:
            UnknownNameError: there is no such activation or unit.
        """
        hook = self.one(name)
        figures, before = self.units[hook], self.before
        shape = tuple(figures.moments.mean.shape)
        index = (unit,) if isinstance(unit, int) else tuple(unit)
        if len(index) != len(shape) or not all(
            0 <= i < n for i, n in zip(index, shape, strict=True)
        ):
            raise UnknownNameError(
                f"{hook} has no unit {unit}: its units have {len(shape)} number(s), each below "
                f"{' and '.join(map(str, shape))}."
            )
        top, row = figures.top, int(np.ravel_multi_index(index, shape))
        there = (top.place[row, :, 0] >= 0).nonzero().squeeze(1)
        place = top.place[row][there].numpy()
        words = [
            [self.texts.get(token, "") for token in ids] for ids in top.context[row][there].tolist()
        ]
        return frame(
            {
                "value": top.values[row][there].numpy(),
                **{name: place[:, column] for column, name in enumerate(PLACES)},
                "before": ["".join(each[:before]) for each in words],
                "token": [each[before] for each in words],
                "after": ["".join(each[before + 1 :]) for each in words],
            }
        )

    def unit_index(self, hook: str, unit: int) -> tuple[int, ...]:
        """The numbers of a unit, from its place when they are counted through."""
        shape = self.units[hook].moments.mean.shape
        return tuple(int(number) for number in np.unravel_index(unit, shape))

    def text_table(self) -> TextTable:
        """How much of what was measured, and of each activation how many units."""
        n_units = sum(unit.moments.mean.numel() for unit in self.units.values())
        n_tokens = next(iter(self.units.values())).moments.count
        title = (
            f"ActivationStatistics of {self.model}: {counted(n_units, 'unit')} of "
            f"{counted(len(self.units), 'activation')}, {counted(n_tokens, 'token')} of "
            f"{counted(self.n_documents, 'document')}"
        )
        rows = [
            (hook, f"{' × '.join(map(str, unit.moments.mean.shape))} units")
            for hook, unit in self.units.items()
        ]
        return TextTable(title=title, rows=rows)


def _after(unit: UnitStatistics, n_documents: int) -> UnitStatistics:
    """The same figures, of documents that come after `n_documents` others."""
    place = unit.top.place.clone()
    place[..., 0] += n_documents * (place[..., 0] >= 0)
    top = TopExamples(values=unit.top.values, place=place, context=unit.top.context)
    return UnitStatistics(moments=unit.moments, norms=unit.norms, top=top)
