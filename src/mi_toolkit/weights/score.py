"""`score_weights`: a number for every weight of a model, from one calibration pass over texts.

Scores of a model whose gradients do not fit all at once: a few blocks at a time.

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

from mi_toolkit.core.errors import WeightError, short_repr, unknown_name
from mi_toolkit.core.head import HeadName
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.passes import check_finite_figures
from mi_toolkit.core.process_state import one_job
from mi_toolkit.core.progress import track
from mi_toolkit.core.result import load_tensor
from mi_toolkit.core.stimuli import loss_batch
from mi_toolkit.core.tokens import Prompt, TokenBatch
from mi_toolkit.heads.classify import heads_named
from mi_toolkit.models.describe import provenance_of
from mi_toolkit.weights.activation_scorers import routed_tokens
from mi_toolkit.weights.calibration import Calibration, Objective, objective_named, require_finite
from mi_toolkit.weights.coordinates import ParameterInfo
from mi_toolkit.weights.parameters import select, weight_matrices
from mi_toolkit.weights.scorers import SCORERS
from mi_toolkit.weights.weight_scores import WeightScores

BATCH_SIZE = 8


@one_job
def score_weights(
    model: HookedModel,
    texts: Prompt | TokenBatch | None = None,
    metric: str = "grad_x_weight",
    *,
    objective: str | Objective = "loss",
    parameters: str | Iterable[str] | None = None,
    layers: int | Iterable[int] | None = None,
    components: str | Iterable[str] | None = None,
    heads: str | Iterable[HeadName] | None = None,
    batch_size: int = BATCH_SIZE,
    max_length: int | None = None,
    eval_limit: int | None = None,
    attention_mask: Any = None,
    seed: int = 0,
    n_probes: int = 32,
    n_steps: int = 16,
    progress: bool | None = None,
) -> WeightScores:
    """A score for every weight: how much the model depends on it, by one of several measures.

    Every token counts the same, padding not at all, and dropout is off: batch size, padding side,
    the order of the texts and the mode of the model change nothing. The model comes back as it was.
    Of a mixture of experts every expert's matrices are scored, and one more pass counts the tokens
    that each expert saw (`routed`).

    Args:
        model: any hooked model, weights raw.
        texts: texts or ids; None for the scoring half of the bundled passages.
        metric: a name in `SCORERS`, whose docstrings give formula, source, cost and limits.
        objective: `loss`, or a function of logits and batch that gives one value per text.
        parameters: names or patterns such as `*.W_out`; None for every attention and MLP matrix.
        layers: only these blocks.
        components: only these: `W_Q`, `attn`, `mlp`, `embeddings`, `biases`, `norms`, …
        heads: only the weights of these heads: `["L5H1"]`, `report.heads("induction")`, or
            `"label:induction"`, the heads to which `classify_heads(model)` gives the label. Of
            keys and values that heads share, all that these read.
        batch_size: texts to a pass. It changes time and memory alone.
        max_length: tokens of a text, BOS included; None for 128.
        eval_limit: only the first so many texts.
        attention_mask: of ids with padding: 1 where a token is real, in the shape of the ids.
        seed: of `random` and of Hutchinson's probes.
        n_probes: random vectors of `hessian_diag` and `obd_hutchinson`.
        n_steps: points on the path of `weight_integrated_gradients`.
        progress: a progress bar; None: where somebody looks and it takes long.

    Raises:
        UnknownNameError: no such metric, objective, parameter, layer, component, head or label.
        PromptError: no text, or one with a single token.
        WeightError: weights that are NaN, or parameters that the metric cannot score.
        NotFiniteError: what the model computes, or its gradient, is NaN or infinite.

    Example:
        >>> import mi_toolkit as mi
        >>> model = mi.load_model("toy-gpt2")
        >>> scores = mi.score_weights(model, ["The cat sat on the mat."])
        >>> scores.top(2)[["parameter", "row", "column"]].shape
        (2, 3)
    """
    if not isinstance(metric, str):
        raise WeightError(
            f"metric is one name, and not {short_repr(metric)}: call score_weights for each."
        )
    if metric not in SCORERS:
        raise unknown_name("weight scorer", metric, SCORERS)
    if batch_size < 1:
        raise WeightError(f"batch_size must be 1 or more; it is {batch_size}.")
    everything = weight_matrices(model)
    if heads is not None:
        heads = heads_named(model, heads)
    matrices = select(everything, parameters, layers=layers, components=components, heads=heads)
    batch = loss_batch(
        model, texts, max_length=max_length, limit=eval_limit, attention_mask=attention_mask
    )
    require_finite(matrices)
    calibration = Calibration(
        model=model,
        matrices=matrices,
        texts=batch,
        objective=objective_named(objective),
        batch_size=batch_size,
        seed=seed,
        n_probes=n_probes,
        n_steps=n_steps,
        progress=progress,
    )
    scored = SCORERS[metric](calibration)
    for name, scores in scored.scores.items():
        check_finite_figures(model, f"The scores of {name}", scores)
    for matrix in matrices:  # the gradients of a matrix are those of all its heads
        mask = matrix.mask()
        for figures in (scored.scores, scored.standard_error, scored.first_half):
            if mask is not None and matrix.name in figures:
                figures[matrix.name].masked_fill_(~mask.to(figures[matrix.name].device), 0)
    layers_asked = {matrix.layer for matrix in matrices if matrix.expert is not None}
    experts = [matrix for matrix in everything if matrix.layer in layers_asked]
    return WeightScores(
        metric=metric,
        places=tuple(matrix.place for matrix in matrices),
        scores={matrix.name: scored.scores[matrix.name].cpu() for matrix in matrices},
        standard_error={name: error.cpu() for name, error in scored.standard_error.items()},
        first_half={name: half.cpu() for name, half in scored.first_half.items()},
        facts=dict(scored.facts),
        routed=routed_tokens(model, experts, (part for part, _ in calibration.batches())),
        provenance=provenance_of(model, {"scoring": batch}, seed=seed),
    )


WHOLE = frozenset({"hessian_diag", "obd_hutchinson", "weight_integrated_gradients", "random"})
"""Metrics whose figure for one weight rests on all scored weights at once."""


class ScoresOnDisk(Mapping[str, Tensor]):
    """Scores by parameter, each read from its file when it is looked at."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        """Take the file of each parameter."""
        self.files = dict(files)

    def __getitem__(self, name: str) -> Tensor:
        return load_tensor(self.files[name], f"scores/{name}")

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
    layers: int | Iterable[int] | None = None,
    components: str | Iterable[str] | None = None,
    heads: str | Iterable[HeadName] | None = None,
    progress: bool | None = None,
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
        heads: as in `score_weights`.
        progress: a progress bar; None: where somebody looks and it takes long.
        options: the others of `score_weights`.

    Raises:
        WeightError: a metric that cannot be taken in parts.
        UnknownNameError, PromptError: as `score_weights` does.

    Example:
        >>> import tempfile
        >>> import mi_toolkit as mi
        >>> model = mi.load_model("toy-gpt2")
        >>> scores = mi.weights.score_blockwise(model, ["The cat sat."], folder=tempfile.mkdtemp())
        >>> len(scores.places)
        24
    """
    check_in_parts(metric)
    if heads is not None:
        heads = options["heads"] = heads_named(model, heads)
    chosen = select(
        weight_matrices(model), parameters, layers=layers, components=components, heads=heads
    )
    files, groups = [], groups_of(chosen, blocks_at_once)
    for label, names in track(
        groups.items(), total=len(groups), label="Scoring weights", unit="group", show=progress
    ):
        files.append(Path(folder) / f"scores_{metric}_{label}.safetensors")
        score_weights(model, texts, metric, parameters=names, **options).save(files[-1])
    return scores_in(files)


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


def groups_of(places: Sequence[ParameterInfo], blocks_at_once: int) -> dict[str, list[str]]:
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


def scores_in(files: Sequence[Path]) -> WeightScores:
    """The scores of several files as one, left on disk.

    Raises:
        ReportError: a file is missing, or damaged.
    """
    where: dict[str, Path] = {}
    places: list[ParameterInfo] = []
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
        provenance=part.provenance,
    )
