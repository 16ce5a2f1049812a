"""`UntrainedControl`: how high the heads of untrained twins score by the same protocol."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.core.display import TextTable, counted
from mi_toolkit.core.errors import ReportError, unknown_name
from mi_toolkit.core.head import Head
from mi_toolkit.core.provenance import Provenance
from mi_toolkit.core.result import Result
from mi_toolkit.heads.kinds import Weighting
from mi_toolkit.heads.labels import DEFAULT_FDR

HEADER = ("", "strongest head: median", "highest", "labelled", "measured on")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class UntrainedControl(Result):
    """The strongest heads of models with the same config and fresh weights."""

    FORMAT: ClassVar[str] = "mi_toolkit untrained control 1"

    behaviours: tuple[str, ...]
    """Names, the order of the first axis of `strongest`."""

    strongest: Float[Tensor, "behaviour twin"]
    """Per twin, the highest figure of any of its heads: a lift (0 chance, 1 perfect), or the value
    of a distribution behaviour. NaN where nothing could show the behaviour."""

    label_names: tuple[str, ...]
    """What the twins' heads can carry: the labels, and the scopes `local` and `global`."""

    labelled: Int[Tensor, "label twin"]
    """Per twin, how many of its heads carry it."""

    n_heads: int
    """Heads of each twin, over all layers."""

    stimulus: Mapping[str, str]
    """Per behaviour: what its figures were measured on."""

    min_lift: float
    """The bar that the lift of a mask behaviour had to clear for its label."""

    initialisation: str
    """Whose code gave the twins their weights."""

    provenance: Provenance
    """The model whose twins they are, the protocol and versions. Twin i was initialised with
    `seed + i`."""

    weighting: Weighting = "prompts"
    """What counts alike in a figure of several texts, as in the report."""

    fdr: float | None = DEFAULT_FDR
    """The false discovery rate that the twins' labels hold, as in the report."""

    require_copying: bool = False
    """Whether their labels ask that a head is shown to copy, as in the report."""

    @property
    def n(self) -> int:
        """How many twins."""
        return int(self.strongest.shape[1])

    def __getitem__(self, behaviour: str) -> Float[Tensor, " twin"]:
        """The strongest head of each twin.

        Raises:
            UnknownNameError: the behaviour was not measured.
        """
        if behaviour not in self.behaviours:
            raise unknown_name("behaviour of this control", behaviour, self.behaviours)
        return self.strongest[self.behaviours.index(behaviour)]

    def highest(self, behaviour: str) -> float:
        """The highest figure of any head of any twin; NaN where nothing could show it."""
        figures = self[behaviour]
        known = figures[~figures.isnan()]
        return float(known.max()) if len(known) else math.nan

    def reached(self, behaviour: str, figures: Float[Tensor, "*heads"]) -> Float[Tensor, "*heads"]:
        """The share of twins whose strongest head has each figure or more; NaN for none."""
        twins = self[behaviour]
        share = (twins >= figures[..., None]).float().mean(dim=-1)
        unknown = figures.isnan() | twins.isnan().any()
        return share.masked_fill(unknown, math.nan)

    def check(
        self,
        provenance: Provenance,
        stimulus: Mapping[str, str],
        *,
        weighting: Weighting,
        min_lift: float,
        fdr: float | None,
        require_copying: bool,
    ) -> None:
        """Check that a report was measured, and labelled, as the twins were.

        Args:
            provenance: the report's.
            stimulus: what each of its behaviours was measured on.
            weighting: what counts alike in its figures.
            min_lift: the bar of its labels.
            fdr: the false discovery rate that they hold.
            require_copying: whether they ask for copying.

        Raises:
            ReportError: it is of another model, was measured on other texts, weighs otherwise, or
                has labels of another bar or rate, or that ask otherwise for copying.
            UnknownNameError: it has a behaviour that the twins were not measured on.
        """
        here, there = self.provenance, provenance
        if here.model != there.model:
            raise ReportError(
                f"The twins are those of {here.model}, the report is of {there.model}: call "
                "untrained_control on the model of the report."
            )
        asked = {
            "weighting": weighting,
            "min_lift": min_lift,
            "fdr": fdr,
            "require_copying": require_copying,
        }
        for name, value in asked.items():
            if getattr(self, name) != value:
                raise ReportError(
                    f"The report has {name}={value!r} and the twins {getattr(self, name)!r}: call "
                    f"untrained_control with {name}={value!r}."
                )
        for behaviour, measured_on in stimulus.items():
            self[behaviour]
            own = self.stimulus[behaviour]
            if (measured_on, there.prompts[measured_on]) != (own, here.prompts[own]):
                raise ReportError(
                    f"{behaviour} was measured on other texts in the twins ({own}) than in the "
                    f"report ({measured_on}): call untrained_control with the prompt, prepend_bos "
                    "and seed of the report."
                )

    def beside(
        self, behaviour: str, figures: Float[Tensor, "layer head"], heads: Sequence[Head]
    ) -> str:
        """What the twins reach of labelled heads' figures, in words; nothing where unmeasured."""
        highest = self.highest(behaviour)
        if math.isnan(highest):
            return ""
        said = f"untrained {highest:.2f}"
        if heads:
            shares = self.reached(behaviour, figures)
            n_reached = sum(float(shares[head]) > 0 for head in heads)
            said += f", reaches {n_reached or 'none'} of them"
        return said

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """One row per twin and behaviour; `labelled` counts its heads with that label."""
        carried = dict(zip(self.label_names, self.labelled.tolist(), strict=True))
        for name, strongest in zip(self.behaviours, self.strongest.tolist(), strict=True):
            labelled = carried.get(name, [None] * self.n)
            for twin, (figure, count) in enumerate(zip(strongest, labelled, strict=True)):
                yield {
                    "model": self.provenance.model,
                    "behaviour": name,
                    "stimulus": self.stimulus[name],
                    "twin": twin,
                    "strongest": figure,
                    "labelled": count,
                    "n_heads": self.n_heads,
                }

    def text_table(self) -> TextTable:
        """Per behaviour: the strongest heads, and how many heads of all twins are labelled."""
        names = list(dict.fromkeys([*self.behaviours, *self.label_names]))
        return TextTable(
            title=(
                f"{counted(self.n, 'untrained twin')} of {self.provenance.model}, "
                f"{self.n_heads} heads each, initialised by {self.initialisation}"
            ),
            header=HEADER,
            rows=[self._row(name) for name in names],
        )

    def _row(self, name: str) -> list[str]:
        cells = ["", "", ""]
        if name in self.behaviours:
            highest = self.highest(name)
            if math.isnan(highest):
                return [name, "not applicable", "", "", self.stimulus[name]]
            median = float(self[name].quantile(0.5))
            cells = [f"{median:.3f}", f"{highest:.3f}", self.stimulus[name]]
        carried = ""
        if name in self.label_names:
            n_labelled = int(self.labelled[self.label_names.index(name)].sum())
            carried = f"{n_labelled} of {self.n * self.n_heads}"
        return [name, cells[0], cells[1], carried, cells[2]]
