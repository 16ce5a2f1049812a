"""Scores of a model whose gradients do not fit all at once: a few blocks at a time.

1. The parameters are taken in groups of whole blocks. Each group costs a forward and backward pass
   over the texts of its own; only its gradients exist, and they become its scores.
2. Scores go to a file as soon as they are final, and out of memory.
3. What comes back reads them from there, one matrix at a time.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from mi_toolkit.errors import WeightError
from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.process_state import one_job
from mi_toolkit.prompts.tokens import Prompt, TokenBatch
from mi_toolkit.record_file import load_tensor
from mi_toolkit.sensitivity.coordinates import MatrixPlace
from mi_toolkit.sensitivity.parameters import weight_matrices
from mi_toolkit.sensitivity.scope import select
from mi_toolkit.sensitivity.score import score_weights
from mi_toolkit.sensitivity.weight_scores import WeightScores, live_of

WHOLE = frozenset({"hessian_diag", "obd_hutchinson", "weight_integrated_gradients", "random"})
"""Metrics whose figure for one weight rests on all scored weights at once."""


class ScoresOnDisk(Mapping[str, Tensor]):
    """Scores by parameter, each read from its file when it is looked at."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        """Take the file of each parameter."""
        self.files = dict(files)

    def __getitem__(self, name: str) -> Tensor:
        return load_tensor(self.files[name], f"score/{name}")

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)


@one_job
def score_blockwise(
    model: HookedModel,
    texts: Prompt | TokenBatch | None = None,
    metric: str = "grad_x_weight",
    *,
    folder: str | os.PathLike[str],
    blocks_at_once: int = 1,
    parameters: str | Iterable[str] | None = None,
    layers: Iterable[int] | None = None,
    components: str | Iterable[str] | None = None,
    **options: Any,
) -> WeightScores:
    """`score_weights` with the gradients of a few blocks in memory at a time, scores on disk.

    The scores are the same. Memory: the weights, the gradients of `blocks_at_once` blocks, and the
    pass. Time: a forward and backward pass for each group of blocks.

    Args:
        model: any hooked model.
        texts: as in `score_weights`.
        metric: as in `score_weights`, but for those that rest on all weights at once.
        folder: where the scores go, a file for each group; it must outlive the result.
        blocks_at_once: how many blocks make a group.
        parameters: as in `score_weights`.
        layers: as in `score_weights`.
        components: as in `score_weights`.
        options: the others of `score_weights`.

    Raises:
        WeightError: a metric that cannot be taken in parts.
        UnknownNameError, PromptError: as `score_weights` does.

    Example:
        >>> import tempfile
        >>> import mi_toolkit as mi
        >>> model = mi.load_model("toy-gpt2")
        >>> scores = mi.score_blockwise(model, ["The cat sat."], folder=tempfile.mkdtemp())
        >>> len(scores.places)
        24
    """
    check_in_parts(metric)
    chosen = select(weight_matrices(model), parameters, layers=layers, components=components)
    files = []
    for label, names in groups_of(chosen, blocks_at_once).items():
        files.append(Path(folder) / f"scores_{metric}_{label}.safetensors")
        score_weights(model, texts, metric, parameters=names, **options).save(files[-1])
    return scores_in(files, model)


def check_in_parts(metric: str) -> None:
    """Check that a metric can be taken a few blocks at a time.

    Raises:
        WeightError: it cannot.
    """
    if metric in WHOLE:
        raise WeightError(
            f"{metric} cannot be taken a few blocks at a time: each of its figures rests on all "
            "scored weights at once. Take fewer layers, or another metric."
        )


def groups_of(places: Sequence[MatrixPlace], blocks_at_once: int) -> dict[str, list[str]]:
    """Parameters by group, named `0-3` after its blocks; embeddings and the like are their own."""
    groups: dict[str, list[str]] = {}
    for place in places:
        if place.layer is None:
            groups[place.name] = [place.name]
            continue
        first = place.layer // blocks_at_once * blocks_at_once
        label = f"{first}" if blocks_at_once == 1 else f"{first}-{first + blocks_at_once - 1}"
        groups.setdefault(label, []).append(place.name)
    return groups


def scores_in(files: Sequence[Path], model: HookedModel) -> WeightScores:
    """The scores of several files as one, left on disk.

    Raises:
        ReportError: a file is missing, damaged, or of another model.
    """
    where: dict[str, Path] = {}
    places: list[MatrixPlace] = []
    routed: dict[str, int] = {}
    for file in files:
        part = WeightScores.load(file)
        places += part.places
        routed |= part.routed
        where |= {place.name: file for place in part.places}
    return WeightScores(
        metric=part.metric,
        places=tuple(places),
        scores=ScoresOnDisk(where),
        standard_error={},
        facts={},
        routed=routed,
        live=live_of(model, places, str(files[0].parent)),
        provenance=part.provenance,
    )
