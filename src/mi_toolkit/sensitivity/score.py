"""`score_weights`: a number for every weight of a model, from one calibration pass over texts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mi_toolkit.errors import WeightError, unknown_name
from mi_toolkit.heads.provenance import provenance_of
from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.hooked_pass import check_finite_figures
from mi_toolkit.process_state import one_job
from mi_toolkit.prompts.evaluation import loss_batch
from mi_toolkit.prompts.tokens import Prompt, TokenBatch
from mi_toolkit.sensitivity.calibration import Calibration, require_finite
from mi_toolkit.sensitivity.objective import Objective, objective_named
from mi_toolkit.sensitivity.parameters import weight_matrices
from mi_toolkit.sensitivity.routing import routed_tokens
from mi_toolkit.sensitivity.scope import select
from mi_toolkit.sensitivity.scorers.table import SCORERS
from mi_toolkit.sensitivity.weight_scores import WeightScores

BATCH_SIZE = 8


@one_job
def score_weights(
    model: HookedModel,
    texts: Prompt | TokenBatch | None = None,
    metric: str = "grad_x_weight",
    *,
    objective: str | Objective = "loss",
    parameters: str | Iterable[str] | None = None,
    layers: Iterable[int] | None = None,
    components: str | Iterable[str] | None = None,
    batch_size: int = BATCH_SIZE,
    max_length: int | None = None,
    eval_limit: int | None = None,
    attention_mask: Any = None,
    seed: int = 0,
    n_probes: int = 32,
    n_steps: int = 16,
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
        batch_size: texts to a pass. It changes time and memory alone.
        max_length: tokens of a text, BOS included; None for 128.
        eval_limit: only the first so many texts.
        attention_mask: of ids with padding: 1 where a token is real, in the shape of the ids.
        seed: of `random` and of Hutchinson's probes.
        n_probes: random vectors of `hessian_diag` and `obd_hutchinson`.
        n_steps: points on the path of `weight_integrated_gradients`.

    Raises:
        UnknownNameError: no such metric, objective, parameter, layer or component.
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
    if metric not in SCORERS:
        raise unknown_name("weight scorer", metric, SCORERS)
    if batch_size < 1:
        raise WeightError(f"batch_size must be 1 or more; it is {batch_size}.")
    everything = weight_matrices(model)
    matrices = select(everything, parameters, layers=layers, components=components)
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
    )
    scored = SCORERS[metric](calibration)
    for name, scores in scored.scores.items():
        check_finite_figures(model, f"The scores of {name}", scores)
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
        live={matrix.name: matrix for matrix in matrices},
        provenance=provenance_of(model, {"scoring": batch}, seed=seed),
    )
