"""The control that costs no training: the same protocol on models that never learnt anything.

1. A twin of the model's config is initialised by its architecture's own code.
2. Its heads are classified on the stimuli that the model's heads are classified on.
3. Of each behaviour its strongest head is kept, and the twin is dropped before the next one.

A figure that an untrained twin reaches says nothing of what the model learnt (Méloux et al. 2025,
arXiv:2512.18792: analyses find plausible explanations in randomly initialised networks, too).
"""

from __future__ import annotations

import gc
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mi_toolkit.core.errors import BehaviourError
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.process_state import one_job
from mi_toolkit.core.progress import track
from mi_toolkit.core.tokens import Prompt
from mi_toolkit.heads.classify import classify_heads
from mi_toolkit.heads.control import UntrainedControl
from mi_toolkit.heads.kinds import Behaviour
from mi_toolkit.heads.labels import DEFAULT_MIN_LIFT
from mi_toolkit.heads.report import HeadReport
from mi_toolkit.models.untrained import initialisation_of, untrained_twin


@one_job
def untrained_control(
    model: HookedModel,
    prompt: Prompt | None = None,
    *,
    n: int = 20,
    behaviours: Sequence[str | Behaviour] | None = None,
    min_lift: float = DEFAULT_MIN_LIFT,
    prepend_bos: bool | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> UntrainedControl:
    """How high the strongest head of untrained models of the same config scores.

    `classify_heads` on `n` models with fresh weights, one in memory at a time next to yours. Takes
    `n` classifications. Your model and torch's random numbers are left as they are.

    What an untrained model can show depends on the behaviour. Its attention is close to uniform, so
    lifts are near 0, while `diffuse` and `positional` are near 1 and every head is `global`: those
    labels alone are no sign of training.

    Args:
        model: any hooked model, with a Hugging Face config or one of TransformerLens.
        prompt: as in `classify_heads`: what the report was measured on.
        n: how many twins.
        behaviours: as in `classify_heads`.
        min_lift: as in `classify_heads`.
        prepend_bos: as in `classify_heads`.
        batch_size: as in `classify_heads`.
        seed: of the stimuli, as in `classify_heads`; twin i is initialised with `seed + i`.
        progress: a progress bar; None: where somebody looks and it takes long.

    Raises:
        BehaviourError: no twin is asked for.
        UnsupportedModelError: nothing says how the model is initialised.
        MIToolkitError: as `classify_heads` does.

    Example:
        >>> import mi_toolkit as mi
        >>> model = mi.load_model("toy-gpt2")
        >>> control = mi.untrained_control(model, "one two three one two three", n=2)
        >>> control["induction"].shape
        torch.Size([2])
    """
    if n < 1:
        raise BehaviourError(f"An untrained control needs at least one twin, not {n}.")
    initialisation = initialisation_of(model)

    def report_of_twin(index: int) -> HeadReport:
        return classify_heads(
            untrained_twin(model, seed=seed + index),
            prompt,
            behaviours=behaviours,
            min_lift=min_lift,
            prepend_bos=prepend_bos,
            batch_size=batch_size,
            seed=seed,
            progress=False,
        )

    strongest, labelled = [], []
    for index in track(
        range(n), total=n, label="classifying untrained twins", unit="model", show=progress
    ):
        report = report_of_twin(index)
        strongest.append(_strongest_heads(report))
        labelled.append(list(_labelled_heads(report).values()))
        gc.collect()  # a hooked model may hold itself, and the next one needs its room
    return UntrainedControl(
        behaviours=report.behaviours,
        strongest=torch.stack(strongest, dim=1),
        label_names=tuple(_labelled_heads(report)),
        labelled=torch.tensor(labelled, dtype=torch.long).T.contiguous(),
        n_heads=report.scope.numel(),
        stimulus=dict(report.stimulus),
        min_lift=min_lift,
        initialisation=initialisation,
        provenance=report.provenance,
    )


def _labelled_heads(report: HeadReport) -> dict[str, int]:
    """How many heads carry each label, and each scope that says something."""
    scopes = report.scope_names[:-1] if "locality" in report.behaviours else ()
    return {name: len(report.heads(name)) for name in (*report.label_names, *scopes)}


def _strongest_heads(report: HeadReport) -> Float[Tensor, " behaviour"]:
    """The highest figure of any head, behaviour by behaviour; NaN where no head has one."""
    highest = [report[name].nan_to_num(-torch.inf).max() for name in report.behaviours]
    figures = torch.stack(highest)
    return figures.masked_fill(figures.isinf(), math.nan)
