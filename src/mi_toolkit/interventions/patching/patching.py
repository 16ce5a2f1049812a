"""`Patching`: how much of a difference each part carries over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from jaxtyping import Float
from torch import Tensor

from mi_toolkit.provenance import Provenance
from mi_toolkit.saved_result import SavedResult
from mi_toolkit.shown import ShownAsTable, TextTable

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Patching(SavedResult, ShownAsTable):
    """The metric of corrupted runs, each with one clean activation put in."""

    FORMAT: ClassVar[str] = "mi_toolkit patching 1"

    values: Float[Tensor, "layer place"]
    """The metric with the clean activation of that layer, at that position or in that head."""

    clean: float
    """The metric of the clean run."""

    corrupted: float
    """The metric of the corrupted run, with nothing put in."""

    what: str
    """The activation that was put in, such as `resid_pre` or `z`."""

    place: str
    """What the second axis is: `position`, `head`, or `kv_head` where keys are shared."""

    places: tuple[str, ...]
    """The second axis' names: tokens, of both prompts where they differ, or numbers of heads."""

    metric: str
    """What the metric reads, in words."""

    provenance: Provenance
    """Model, prompts and versions."""

    @property
    def recovered(self) -> Float[Tensor, "layer place"]:
        """The share of the difference that comes back: 0 as corrupted, 1 as clean."""
        return (self.values - self.corrupted) / (self.clean - self.corrupted)

    def top(self, n: int = 10) -> list[tuple[int, str, float]]:
        """Layer, place and share of what brings most back, or takes most away."""
        shares = self.recovered
        order = shares.flatten().abs().argsort(descending=True)[:n].tolist()
        cells = [divmod(index, shares.shape[1]) for index in order]
        return [(layer, self.places[p], float(shares[layer, p])) for layer, p in cells]

    def to_pandas(self) -> DataFrame:
        """One row per layer and place."""
        from mi_toolkit.tables import table_of

        n_layers, n_places = self.values.shape
        return table_of(
            {
                "model": self.provenance.model,
                "activation": self.what,
                "layer": layer,
                self.place: index,
                "name": self.places[index],
                "value": float(self.values[layer, index]),
                "recovered": float(self.recovered[layer, index]),
            }
            for layer in range(n_layers)
            for index in range(n_places)
        )

    def title(self) -> str:
        """What was done, in one line."""
        return f"Clean {self.what} put into the corrupted run of {self.provenance.model}"

    def text_table(self) -> TextTable:
        """What brings most of the difference back."""
        about = f"{self.metric}, {self.clean:+.3f} clean, {self.corrupted:+.3f} corrupted"
        rows = [[str(layer), place, f"{share:+.3f}"] for layer, place, share in self.top()]
        header = ["layer", self.place.replace("_", " "), "share brought back"]
        return TextTable(title=f"{self.title()}: {about}", header=header, rows=rows)
