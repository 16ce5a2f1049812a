"""`perturbed`: single weights changed for as long as a context lasts.

Changing single weights and putting them back: what is changed, and to what.

1. The weights are named: a table of `WeightScores.top`, or `(parameter, row, column)`.
2. Their values are copied, and the new values made from the copies: `EDITS` is the table of ways.
3. `applied` writes the new values, checks that exactly those weights changed, and writes the copies
   back whatever happens. Only the touched weights are ever copied.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mi_toolkit.core.errors import UnknownNameError, WeightError, short_repr, unknown_name
from mi_toolkit.core.model import HookedModel, bits
from mi_toolkit.core.process_state import alone_with, known_state, require_hooks
from mi_toolkit.weights.calibration import require_usual
from mi_toolkit.weights.coordinates import WeightMatrix
from mi_toolkit.weights.edits import EDITS
from mi_toolkit.weights.parameters import weight_matrices
from mi_toolkit.weights.ranking import Ranking

if TYPE_CHECKING:
    from mi_toolkit.core.tables import DataFrame


@dataclass(frozen=True, kw_only=True, eq=False)
class Edit:
    """New values for single weights of one parameter."""

    matrix: WeightMatrix
    rows: Tensor
    columns: Tensor
    old: Tensor
    """The weights as they are, in their own dtype."""

    new: Tensor
    """What they become."""

    @property
    def n_not_finite(self) -> int:
        """New values that are NaN or infinite."""
        return int((~torch.isfinite(self.new)).sum())


@dataclass(frozen=True, kw_only=True, eq=False)
class Change:
    """A perturbation that is planned: it holds places, and no weight until it is made."""

    places: Sequence[tuple[WeightMatrix, Tensor, Tensor]]
    """Each parameter with rows and columns in it."""

    kind: str
    scale: float
    seed: int
    """Of its noise and its bits, which are the same each time that it is made."""

    def edits(self, generator: torch.Generator | None = None) -> list[Edit]:
        """Old and new values as the model is now; with a generator, noise and bits of its own."""
        generator = generator or torch.Generator().manual_seed(self.seed)
        edits = []
        for matrix, rows, columns in self.places:
            old = matrix.read(rows, columns).clone()
            new = EDITS[self.kind](old, self.scale, generator)
            edits.append(Edit(matrix=matrix, rows=rows, columns=columns, old=old, new=new))
        return edits


def planned(
    matrices: Sequence[WeightMatrix],
    weights: Any,
    kind: str = "zero",
    *,
    scale: float = 1.0,
    seed: int = 0,
) -> Change:
    """The change of some weights.

    Raises:
        UnknownNameError: no such kind, parameter, row or column.
        WeightError: no weight, one named twice, or one that cannot be changed.
    """
    if kind not in EDITS:
        raise unknown_name("kind of perturbation", kind, EDITS)
    places = list(_grouped(matrices, weights))
    require_usual([matrix for matrix, _, _ in places])
    return Change(places=places, kind=kind, scale=scale, seed=seed)


def _grouped(
    matrices: Sequence[WeightMatrix], weights: Any
) -> Iterator[tuple[WeightMatrix, Tensor, Tensor]]:
    by_name = {matrix.name: matrix for matrix in matrices}
    places: dict[str, list[tuple[int, int]]] = {}
    for name, row, column in triples(weights):
        if name not in by_name:
            raise unknown_name("parameter", name, by_name)
        n_rows, n_columns = by_name[name].shape
        if not (0 <= row < n_rows and 0 <= column < n_columns):
            raise UnknownNameError(
                f"{name} has no weight [{row}, {column}]: it is {n_rows} × {n_columns}, [in, out]."
            )
        places.setdefault(name, []).append((row, column))
    if not places:
        raise WeightError("There is no weight to change: the list is empty.")
    for name, at in places.items():
        if len(set(at)) < len(at):
            raise WeightError(f"A weight of {name} is named twice.")
        rows, columns = torch.tensor(at).T
        yield by_name[name], rows, columns


def triples(weights: Any) -> list[tuple[str, int, int]]:
    """Parameter, row and column of each weight, from any way of naming them."""
    if isinstance(weights, Ranking):
        return weights.keys()
    if hasattr(weights, "columns"):
        if missing := {"parameter", "row", "column"} - set(weights.columns):
            raise WeightError(f"A table of weights needs a column {min(missing)!r}.")
        columns = (weights["parameter"], weights["row"], weights["column"])
        return [(str(name), int(r), int(c)) for name, r, c in zip(*columns, strict=True)]
    if not isinstance(weights, Iterable):
        raise WeightError(
            f"{short_repr(weights)} names no weights: give a table of scores.top(k), or "
            "(parameter, row, column) of each."
        )
    is_triple = isinstance(weights, tuple) and len(weights) == 3 and isinstance(weights[1], int)
    return [
        _triple(each) for each in ([weights] if isinstance(weights, str) or is_triple else weights)
    ]


_PRINTED = re.compile(r"\s*(.+?)\s*\[\s*(\d+)\s*,\s*(\d+)\s*\]\s*")
"""A weight as tables print it."""


def _triple(weight: Any) -> tuple[str, int, int]:
    """Parameter, row and column of one weight."""
    match = _PRINTED.fullmatch(weight) if isinstance(weight, str) else None
    given = match.groups() if match else weight
    try:
        name, row, column = given
        return str(name), int(row), int(column)
    except (TypeError, ValueError):
        raise WeightError(
            f"{short_repr(weight)} names no weight: write ('blocks.0.attn.W_O', 3, 5) or "
            "'blocks.0.attn.W_O[3, 5]', its row and its column."
        ) from None


@contextmanager
def applied(edits: Sequence[Edit]) -> Iterator[None]:
    """Inside, the weights have their new values; after it their old ones, bit for bit.

    Raises:
        WeightError: a weight did not change, so the perturbation is none.
    """
    try:
        for edit in edits:
            edit.matrix.write(edit.rows, edit.columns, edit.new)
        for edit in edits:
            _check_changed(edit)
        yield
    finally:
        for edit in edits:
            edit.matrix.write(edit.rows, edit.columns, edit.old)


def _check_changed(edit: Edit) -> None:
    now = edit.matrix.read(edit.rows, edit.columns)
    same = (bits(now) == bits(edit.old)).nonzero().flatten()
    if len(same):
        first = int(same[0])
        raise WeightError(
            f"{len(same)} of {len(edit.rows)} weights of {edit.matrix.name} did not change, the "
            f"first at [{int(edit.rows[first])}, {int(edit.columns[first])}], which is "
            f"{float(edit.old[first]):g}: its new value is the old one."
        )


logger = logging.getLogger("mi_toolkit")


@contextmanager
def perturbed(
    model: HookedModel,
    weights: DataFrame | Ranking | str | Iterable[str | tuple[str, int, int]],
    kind: str = "zero",
    *,
    scale: float = 1.0,
    generator: torch.Generator | None = None,
) -> Iterator[int]:
    """Inside, these weights are changed, and no other; after it every bit is what it was.

    Only the touched weights are copied. They come back after an error and after Ctrl-C, which
    waits while weights are being written. Tied embeddings change together. What another thread
    asks the library of this model waits until the context is left, as with `ablating`.

    Args:
        model: any hooked model.
        weights: a table of `WeightScores.top`; or triples of canonical name, row and column, or
            names as tables print them, `"blocks.2.attn.W_V[58, 16]"`.
        kind: `zero`; `sign_flip`; `gaussian`, w + scale·|w|·ε; `scale`, scale·w; `bit_flip`, one
            random bit of the weight's own dtype, which may make it infinite or NaN (that is
            logged).
        scale: of `gaussian` and `scale`.
        generator: the source of noise and bits; None for one with seed 0.

    Yields:
        How many weights are changed: as many as were named.

    Raises:
        UnknownNameError: no such kind, parameter, row or column.
        WeightError: no weight, one named twice, or one whose new value is the old one.

    Example:
        >>> import mi_toolkit as mi
        >>> model = mi.load_model("toy-gpt2")
        >>> with mi.perturbed(model, [("blocks.0.attn.W_O", 3, 5)], "sign_flip") as n_changed:
        ...     print(n_changed)
        1
    """
    require_hooks(model, "perturbed")
    with alone_with(model):
        with known_state():
            edits = planned(weight_matrices(model), weights, kind, scale=scale).edits(generator)
        if broken := sum(edit.n_not_finite for edit in edits):
            logger.warning("%d of the perturbed weights are infinite or NaN", broken)
        with applied(edits):
            yield sum(len(edit.rows) for edit in edits)
