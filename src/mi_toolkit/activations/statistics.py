"""Statistics of activations over a text collection: what was found, unit by unit."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mi_toolkit.activations.errors import ActivationsError
from mi_toolkit.activations.moments import Moments
from mi_toolkit.activations.names import Name, resolve
from mi_toolkit.activations.top_examples import TopExamples
from mi_toolkit.shown import ShownAsTable, TextTable

if TYPE_CHECKING:
    import pandas as pd


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


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ActivationStatistics(ShownAsTable):
    """Figures of each unit of some activations, over a text collection."""

    model: str
    """The model's name."""

    n_layers: int
    """Layers of the model: what `-1` counts from."""

    n_documents: int
    """Documents that were read, empty ones among them."""

    settings: Mapping[str, object]
    """How the texts were fed and what was kept: what two statistics must share to be merged."""

    units: Mapping[str, UnitStatistics]
    """By hook name."""

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
                hook: unit.merged(_behind(later.units[hook], self.n_documents))
                for hook, unit in self.units.items()
            },
            texts={**later.texts, **self.texts},
        )

    def to_pandas(self) -> pd.DataFrame:
        """A row per unit: its figures, and the token that excites it most."""
        from mi_toolkit.activations.tables import statistics_table

        return statistics_table(self)

    def top(self, name: Name, unit: int | tuple[int, ...]) -> pd.DataFrame:
        """The top examples of one unit: value, place, and the text before, at and behind it.

        Args:
            name: which activation.
            unit: a neuron's number, or `(head, dimension)` where there are heads.

        Raises:
            UnknownNameError: there is no such activation or unit.
        """
        from mi_toolkit.activations.tables import examples_table

        return examples_table(self, self.one(name), unit)

    def unit_index(self, hook: str, unit: int) -> tuple[int, ...]:
        """The numbers of a unit, from its place when they are counted through."""
        shape = self.units[hook].moments.mean.shape
        return tuple(int(number) for number in np.unravel_index(unit, shape))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all to one safetensors file, whole or not at all."""
        from mi_toolkit.activations.statistics_file import save_statistics

        save_statistics(self, path)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> ActivationStatistics:
        """Read what `save` wrote.

        Raises:
            ReportError: no such file, or it holds no statistics.
        """
        from mi_toolkit.activations.statistics_file import load_statistics

        return load_statistics(path)

    def text_table(self) -> TextTable:
        """How much of what was measured, and of each activation how many units."""
        n_units = sum(unit.moments.mean.numel() for unit in self.units.values())
        n_tokens = next(iter(self.units.values())).moments.count
        title = (
            f"ActivationStatistics of {self.model}: {n_units:,} units of {len(self.units)} "
            f"activations, {n_tokens:,} tokens of {self.n_documents:,} documents"
        )
        rows = [
            (hook, f"{' × '.join(map(str, unit.moments.mean.shape))} units")
            for hook, unit in self.units.items()
        ]
        return TextTable(title=title, rows=rows)


def _behind(unit: UnitStatistics, n_documents: int) -> UnitStatistics:
    """The same figures, of documents that come behind `n_documents` others."""
    place = unit.top.place.clone()
    place[..., 0] += n_documents * (place[..., 0] >= 0)
    top = TopExamples(values=unit.top.values, place=place, context=unit.top.context)
    return UnitStatistics(moments=unit.moments, norms=unit.norms, top=top)
