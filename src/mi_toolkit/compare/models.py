"""Compare models on the same text: their heads, and what they predict.

1. Each model is loaded, described, classified, read for its continuations, and let go.
2. Reports become profiles: how many heads carry a label, what share, how deep they lie.
3. Continuations of every pair are aligned by characters and their agreement counted.
4. The facts say which models differ by architecture alone, and which by scale alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from mi_toolkit.compare.agreement import (
    Continuations,
    agreement_of,
    continuations,
    groups_of,
    own_accuracy,
    token_spans,
)
from mi_toolkit.compare.model_comparison import ModelComparison
from mi_toolkit.core.errors import ComparisonError, PromptError
from mi_toolkit.core.memory import own_garbage
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.process_state import one_job
from mi_toolkit.core.progress import track
from mi_toolkit.core.stimuli import natural, passages
from mi_toolkit.core.tokens import Prompt, TokenBatch, tokenise
from mi_toolkit.heads.classify import OWN_PROMPT, classify_heads
from mi_toolkit.heads.kinds import Behaviour, Weighting
from mi_toolkit.heads.labels import DEFAULT_MIN_LIFT
from mi_toolkit.heads.report import HeadReport
from mi_toolkit.models.describe import describe_model
from mi_toolkit.models.facts import ModelFacts
from mi_toolkit.models.load import load_model
from mi_toolkit.models.sources import find_source
from mi_toolkit.text.pipeline import Pipeline
from mi_toolkit.text.trace import trace_and_classify

AnyModel = str | HookedModel
Load = Callable[[str], HookedModel]


@one_job
def compare_models(
    models: Sequence[AnyModel] | Mapping[str, AnyModel],
    prompt: Prompt | None = None,
    *,
    behaviours: Sequence[str | Behaviour] | str | None = None,
    min_lift: float = DEFAULT_MIN_LIFT,
    weighting: Weighting = "prompts",
    prepend_bos: bool | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    load: Load = load_model,
    progress: bool | None = None,
) -> ModelComparison:
    """What the heads of several models do on the same text, and how far their predictions agree.

    Models given by name are loaded one at a time and let go, so memory holds one. Each model reads
    the text through its own tokenizer, as it was trained to (see `prepend_bos`).

    **Next-token agreement** is counted at the characters where both models have just finished a
    token. Each continues with its most probable next token, as text; the two agree where one is a
    prefix of the other, so that ` the` agrees with ` them`, but not with `the`. A model that ends
    the text agrees only with one that does so too. `chance` is the agreement of the same
    continuations paired at random: short and frequent tokens agree often, and say little by it.
    `lift` is `(agreement - chance) / (1 - chance)`. It misleads where tokenizers differ much:
    shared boundaries are then mostly ends of words, where the next token is hardest to predict.

    Args:
        models: names or loaded models; or a mapping from what to call each to either.
        prompt: a text, or several. None: the standard protocol of `classify_heads`, and predictions
            on its natural passages, as many tokens of each as every model reads.
        behaviours: as `classify_heads` takes them; None for the standard ones.
        min_lift: the lift that a mask behaviour's label says is exceeded: its one-sided p passes
            Benjamini and Hochberg over all heads and behaviours, at a false discovery rate of 5%.
        weighting: what counts alike in a figure, each text or each query (see `classify_heads`).
        prepend_bos: put a BOS before each text; None: each model by its own convention. True or
            False is for all of them.
        batch_size: sequences to a forward pass; it changes figures by rounding only.
        seed: of the random stimulus.
        load: what loads a model by its name, such as `partial(load_model, dtype="bfloat16")`.
        progress: a progress bar; None: where somebody looks and it takes long.

    Raises:
        ComparisonError: fewer than two models, or two of one name.
        PromptError: token ids in place of text, or a text that some model cannot read.
        MIToolkitError: as `load_model` and `classify_heads` do.

    Example:
        >>> import mi_toolkit as mi
        >>> comparison = mi.compare_models(["toy-gpt2", "toy-opt"], "one two three one two three")
        >>> comparison.models
        ('toy-gpt2', 'toy-opt')
    """
    if isinstance(models, str):
        raise ComparisonError(
            f"Models are compared in a list, two or more: compare_models([{models!r}, …], prompt)."
        )
    texts = _texts(prompt)
    given = _given(models)
    read: dict[str, ModelReading] = {}

    def read_by(name: str, model: AnyModel) -> None:
        loaded = load(model) if isinstance(model, str) else model
        facts = describe_model(loaded)
        name = name or facts.name
        if name in read:
            raise _called_alike(name)
        report = classify_heads(
            loaded,
            texts,
            behaviours=behaviours,
            min_lift=min_lift,
            weighting=weighting,
            prepend_bos=prepend_bos,
            batch_size=batch_size,
            seed=seed,
            progress=False,
        )
        said = _continuations(loaded, texts, prepend_bos)
        read[name] = ModelReading(facts=facts, report=report, said=said)

    for name, model in track(
        given, total=len(given), label="comparing models", unit="model", show=progress
    ):
        with own_garbage():
            read_by(name, model)
    return comparison_of(read, texts if texts is not None else list(passages()))


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelReading:
    """What one model made of the text: all that a comparison keeps of it."""

    facts: ModelFacts
    """What the model is."""

    report: HeadReport
    """What its heads do."""

    said: Sequence[Continuations]
    """Its most probable next token at each boundary of each text."""


def comparison_of(readings: Mapping[str, ModelReading], texts: Sequence[str]) -> ModelComparison:
    """The comparison of models that have read the same texts, one after the other.

    Raises:
        ComparisonError: fewer than two models.
    """
    _check_several(readings)
    said = [reading.said for reading in readings.values()]
    facts_of = {name: reading.facts for name, reading in readings.items()}
    return ModelComparison(
        models=tuple(readings),
        facts=facts_of,
        reports={name: reading.report for name, reading in readings.items()},
        groups=groups_of(facts_of),
        n_texts=len(texts),
        agreement=agreement_of(said),
        accuracy={name: own_accuracy(texts, reading.said) for name, reading in readings.items()},
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptReading:
    """What one model made of one prompt."""

    reading: ModelReading
    """Its part of a comparison."""

    traced: Pipeline
    """The prompt's way through it."""

    spans: tuple[tuple[int, int], ...]
    """The characters of each of the prompt's tokens, without what is put in front."""

    @property
    def texts(self) -> tuple[str, ...]:
        """The tokens of `spans`."""
        every = self.traced.tokens.texts
        return every[len(every) - len(self.spans) :]


@one_job
def read_prompt(model: HookedModel, prompt: str, *, top_k: int = 5) -> PromptReading:
    """What one model makes of a prompt, in one pass: its part of a comparison, and the trace.

    Args:
        model: the model; it comes back as it was.
        prompt: one text.
        top_k: predictions to keep at every position.

    Raises:
        MIToolkitError: as `trace_pipeline` does.

    Example:
        >>> import mi_toolkit as mi
        >>> read = mi.compare.read_prompt(mi.load_model("toy-opt"), "Mary and John")
        >>> read.reading.facts.family, read.texts
        ('OPT', ('Mary', ' and', ' John'))
    """
    traced, report = trace_and_classify(model, prompt, top_k=top_k)
    batch = report.tokens[OWN_PROMPT]
    said = continuations(model, [prompt], batch, [traced.output.top_ids[:, 0]])
    spans, _ = token_spans(model, prompt, batch.sequence(0))
    return PromptReading(
        reading=ModelReading(facts=describe_model(model), report=report, said=said),
        traced=traced,
        spans=tuple(spans),
    )


def _check_several(models: Collection[object]) -> None:
    if len(models) < 2:
        raise ComparisonError(f"A comparison takes two models or more, not {len(models)}.")


def _texts(prompt: Prompt | None) -> list[str] | None:
    if isinstance(prompt, Tensor | TokenBatch):
        raise PromptError(
            "Models are compared on text, which each reads through its own tokenizer: give a "
            "string or several. The same token ids mean different text to different models."
        )
    if prompt is None:
        return None
    texts = [prompt] if isinstance(prompt, str) else list(prompt)
    if not all(isinstance(text, str) for text in texts):
        raise PromptError(
            "Models are compared on text, a string or several: token ids and chat messages are "
            "different text to each of them."
        )
    return texts


def _given(models: Sequence[AnyModel] | Mapping[str, AnyModel]) -> list[tuple[str, AnyModel]]:
    """Names (empty: the model's own) with names or models; wrong names fail before any work."""
    pairs = list(models.items()) if isinstance(models, Mapping) else [("", m) for m in models]
    _check_several(pairs)
    known: set[str] = set()
    for given, model in pairs:
        official = find_source(model).name if isinstance(model, str) else ""
        name = given or official
        if name and name in known:
            raise _called_alike(name)
        known.add(name)
    return pairs


def _called_alike(name: str) -> ComparisonError:
    return ComparisonError(
        f"Two of the models are called {name!r}. Leave one out, or give compare_models a mapping "
        "from a name of your choice to each."
    )


def _continuations(
    model: HookedModel, texts: list[str] | None, prepend_bos: bool | None
) -> tuple[Continuations, ...]:
    if texts is None:
        read = natural(model, as_trained=True, prepend_bos=prepend_bos)
        return continuations(model, passages(), read)
    return continuations(model, texts, tokenise(model, texts, prepend_bos=prepend_bos))
