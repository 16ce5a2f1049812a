"""`perturbed`: single weights changed for as long as a context lasts."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.process_state import alone_with, known_state
from mi_toolkit.sensitivity.edits import applied, planned
from mi_toolkit.sensitivity.parameters import weight_matrices
from mi_toolkit.sensitivity.ranking import Ranking

if TYPE_CHECKING:
    from pandas import DataFrame

logger = logging.getLogger("mi_toolkit")


@contextmanager
def perturbed(
    model: HookedModel,
    weights: DataFrame | Ranking | Iterable[tuple[str, int, int]],
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
        weights: a table of `WeightScores.top`, or triples of canonical name, row and column.
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
    with alone_with(model):
        with known_state():
            edits = planned(weight_matrices(model), weights, kind, scale=scale).edits(generator)
        if broken := sum(edit.n_not_finite for edit in edits):
            logger.warning("%d of the perturbed weights are infinite or NaN", broken)
        with applied(edits):
            yield sum(len(edit.rows) for edit in edits)
