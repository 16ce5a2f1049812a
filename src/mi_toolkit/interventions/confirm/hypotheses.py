"""What is to be confirmed: heads that are said to do something, and the predictions that test it.

The loss that counts is that of the token after each query that the behaviour can use: for
induction, the queries whose token stood earlier in the sequence, for a previous-token head every
query that has a previous token (see the masks of the behaviours). Padding has no queries, a BOS
never is one, and the last token of a sequence has nothing after it.

On `repeated_random` the first half cannot be predicted: queries there add noise to a behaviour
that all queries can use, and the test is on the second half. On natural text the queries of
induction include those where the earlier continuation does *not* come back, and where following it
does harm.

The sequences are not those that gave the label: a head that was chosen on them would be tested by
what chose it. Stimuli that are drawn are drawn with another seed, and natural text is that of the
bundled evaluation passages, on which nothing is labelled. A prompt of one's own cannot be drawn
again; every trial says how many of its sequences the label had been given on.

The null: every set with as many heads in each layer, drawn from all heads of those layers.

A label that says nothing picks its heads as chance would, so the labelled set is one of these, and
its rank among them is a p-value: `P(p <= a) <= a`. The heads of the set must be eligible too.
Without them set and null are not exchangeable: where one head of a layer outweighs the rest, the
sets that hold it never meet another that does, and every fourth set of a layer of four passes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from mi_toolkit.core.errors import PromptError, ReportError, short_repr, unknown_name
from mi_toolkit.core.head import Head, HeadName
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.stimuli import STIMULI, evaluation_passages, natural
from mi_toolkit.core.tokens import Prompt, TokenBatch, tokenise
from mi_toolkit.heads.behaviours import BEHAVIOURS, AnyBehaviour
from mi_toolkit.heads.classify import OWN_PROMPT
from mi_toolkit.heads.labels import behaviour_of
from mi_toolkit.heads.plan import make_plan
from mi_toolkit.heads.report import HeadReport
from mi_toolkit.interventions.components import checked_heads
from mi_toolkit.models.describe import describe_model

Labelled = HeadReport | Mapping[str, Iterable[HeadName]]
"""A report, or heads by the behaviour that they are said to have."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Hypothesis:
    """That some heads do something, and the predictions whose loss would show it."""

    label: str
    heads: tuple[Head, ...]
    stimulus: str
    batch: TokenBatch
    """Sequences with a query that counts."""

    queries: Bool[Tensor, "sequence position"]
    """Queries whose prediction counts."""

    n_seen: int | None
    """Sequences that the label had been given on; None where a report does not say."""

    direction: int
    """1 where ablation should raise the loss; -1 where it should fall, since the label says that
    the heads hold the right prediction back."""


def claims_of(
    model: HookedModel,
    labelled: Labelled,
    *,
    labels: Sequence[str] | str | None,
    stimulus: str | Prompt | None,
    n_sequences: int | None,
    seed: int,
) -> tuple[list[Hypothesis], dict[str, str]]:
    """What can be tested, and why the rest cannot.

    Raises:
        UnknownNameError: no such label, stimulus or head.
        ReportError: no report and no heads by behaviour, or one of a model of another shape.
        PromptError: the prompt does not fit the model.
    """
    heads_of = _heads_by_label(model, labelled)
    labels = [labels] if isinstance(labels, str) else labels
    for label in labels or ():
        if label not in heads_of:
            raise unknown_name("label to confirm", label, heads_of)
    stimuli: dict[str, TokenBatch] = {}
    claims, untested = [], {}
    for label in heads_of if labels is None else dict.fromkeys(labels):
        heads = heads_of[label]
        if not heads:
            untested[label] = "no head carries it"
            continue
        behaviour = BEHAVIOURS.resolve(_behaviour_name(labelled, label))
        if not isinstance(behaviour, AnyBehaviour):
            untested[label] = "it is read off the weights: no prediction is its own"
            continue
        name = _stimulus_name(labelled, behaviour.name, stimulus)
        if name not in stimuli:
            stimuli[name] = _batch(model, labelled, name, stimulus, seed)
        gave = None
        if isinstance(labelled, HeadReport):
            gave = labelled.tokens.get(labelled.stimulus[behaviour.name])
        queries = _counted(model, heads, behaviour, stimuli[name], name)
        chosen = queries.any(dim=1).nonzero()[:n_sequences, 0]
        if not len(chosen):
            untested[label] = _hindrance(behaviour, name)
            continue
        batch = TokenBatch(
            ids=stimuli[name].ids[chosen],
            lengths=stimuli[name].lengths[chosen],
            bos_id=stimuli[name].bos_id,
        )
        claims.append(
            Hypothesis(
                label=label,
                heads=heads,
                stimulus=name,
                batch=batch,
                queries=queries[chosen],
                n_seen=None if gave is None else len(_rows(batch) & _rows(gave)),
                direction=1 if label == behaviour.name else -1,
            )
        )
    return claims, untested


def fresh_seed(labelled: Labelled, seed: int | None) -> int:
    """The seed, or the next after the one that labels were given with: 0 where no report says."""
    if seed is not None:
        return seed
    return 1 + (labelled.provenance.seed if isinstance(labelled, HeadReport) else 0)


def _rows(batch: TokenBatch) -> set[tuple[int, ...]]:
    return {tuple(batch.sequence(index).tolist()) for index in range(len(batch))}


def _counted(
    model: HookedModel,
    heads: Sequence[Head],
    behaviour: AnyBehaviour,
    batch: TokenBatch,
    stimulus: str,
) -> Bool[Tensor, "sequence position"]:
    """Queries that one of the heads can use, and that have a token after them."""
    windows = describe_model(model).windows
    seen = [windows[head.layer] for head in heads]
    # The widest window sees the most.
    window = None if None in seen else max(width for width in seen if width is not None)
    plan = make_plan(batch, [behaviour], window, stimulus, tokenizer=model.tokenizer)
    queries = plan.eligibility[0].queries
    if plan.compared:  # a row is a pair of texts: what is eligible there counts in both
        of_pair, queries = queries, torch.zeros(batch.ids.shape, dtype=torch.bool)
        for row, pair in enumerate(plan.compared):
            queries[list(pair)] |= of_pair[row]
    return queries & (torch.arange(queries.shape[1]) < batch.lengths[:, None] - 1)


def _heads_by_label(model: HookedModel, labelled: Labelled) -> dict[str, tuple[Head, ...]]:
    if isinstance(labelled, HeadReport):
        labelled.check_model(model)
        return {name: tuple(sorted(labelled.heads(name))) for name in labelled.label_names}
    if not isinstance(labelled, Mapping):
        raise ReportError(
            "What is confirmed is a report's labels, or heads by their behaviour, not "
            f"{short_repr(labelled)}: give mi.classify_heads(model), with labels=['induction'] "
            "for one label, or {'induction': ['L2H0']}."
        )
    for label in labelled:
        BEHAVIOURS.resolve(_behaviour_name(labelled, label))
    return {label: checked_heads(model, heads) for label, heads in labelled.items()}


def _behaviour_name(labelled: Labelled, label: str) -> str:
    """The behaviour that a label rests on: its own, unless the label is one of suppressing."""
    if isinstance(labelled, HeadReport):
        return behaviour_of(label, labelled.facts)
    return BEHAVIOURS.owner(label)


def _stimulus_name(labelled: Labelled, behaviour: str, stimulus: str | Prompt | None) -> str:
    if stimulus is None:
        if isinstance(labelled, HeadReport):
            return labelled.stimulus[behaviour]
        return BEHAVIOURS.resolve(behaviour).home
    if not isinstance(stimulus, str):
        return OWN_PROMPT
    known = [*STIMULI, *(labelled.tokens if isinstance(labelled, HeadReport) else ())]
    if stimulus in known:
        return stimulus
    # One word predicts nothing, so it is a name.
    if len(stimulus.split()) < 2:
        raise unknown_name("stimulus", stimulus, dict.fromkeys(known))
    return OWN_PROMPT


def _batch(
    model: HookedModel,
    labelled: Labelled,
    name: str,
    stimulus: str | Prompt | None,
    seed: int,
) -> TokenBatch:
    if name == OWN_PROMPT and stimulus not in (None, OWN_PROMPT):
        return tokenise(model, stimulus)
    if name == "natural":
        return natural(model, texts=evaluation_passages())
    if name in STIMULI:
        return STIMULI[name](model, seed=seed)
    if isinstance(labelled, HeadReport) and name in labelled.tokens:
        return labelled.tokens[name]
    raise PromptError(f"{name} is no stimulus of the report, and cannot be made anew.")


def _hindrance(behaviour: AnyBehaviour, stimulus: str) -> str:
    if stimulus in behaviour.excluded_stimuli:
        return f"not measured on {stimulus}, where it would mislead"
    return f"no prediction on {stimulus} can show it: needs {behaviour.trigger}"
