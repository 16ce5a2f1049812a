"""`mi-toolkit compare` and `mi-toolkit stimuli`: models, or stimuli, side by side."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

import mi_toolkit as mi
from mi_toolkit.cli.options import (
    DEFAULT_LOADING,
    DEFAULT_MODEL,
    CountOrNone,
    LoadOptions,
    ModelName,
    Several,
    Texts,
    WeightingName,
    between_zero_and_one,
)
from mi_toolkit.cli.output import DEFAULT_OUTPUT, OutputOptions, columns, in_columns, wrapped
from mi_toolkit.cli.terminal import (
    FOR_READING,
    UsageError,
    bold,
    third_parties_kept_off_stdout,
    width,
)
from mi_toolkit.core.display import counted, human_count
from mi_toolkit.models.sources import find_source

if TYPE_CHECKING:
    from mi_toolkit.compare.model_comparison import LabelProfile, ModelComparison
    from mi_toolkit.compare.stimuli import StimulusComparison

NONE = "–"


def compare(
    *models: str,
    prompt: Texts = None,
    behaviours: Several[str] = None,
    min_lift: Annotated[float, Parameter(validator=between_zero_and_one)] = 0.3,
    weighting: WeightingName = "prompts",
    bos: bool | None = None,
    seed: int = 0,
    batch_size: CountOrNone = None,
    out: OutputOptions = DEFAULT_OUTPUT,
    load: LoadOptions = DEFAULT_LOADING,
) -> None:
    """Set models side by side: what their heads do on the same text, and what they predict.

    Without a text the standard protocol runs, and predictions are compared on natural text. Models
    are loaded one at a time.

    Args:
        models: Names, hub ids, folders or .gguf files, two or more. Texts in quotes may follow:
            whatever has a space in it, and is no file or folder, is one.
        prompt: A text, or several; for a single word, which would be taken for a model.
        behaviours: Only these, one or several, such as previous_token or induction.
        min_lift: The lift over chance (0 chance, 1 perfect) that a label says is exceeded: its
            one-sided p passes Benjamini and Hochberg over all heads and behaviours, at a false
            discovery rate of 5%.
        weighting: What counts alike where texts are of unequal length: prompts, each text; or
            queries, each of their tokens that can show a behaviour.
        bos: Put a beginning-of-sequence token before each text, the same for all models. Without
            the option: as each was trained to read text, GPT-2 with one, Pythia and Qwen2.5
            without. The standard protocol has one wherever the tokenizer has.
        seed: Of the random stimulus.
        batch_size: Sequences to a pass. It changes memory and time; figures by rounding only.
        out: What it gives; ModelComparison.load reads the folder.
        load: How the models are loaded.
    """
    texts = [*(name for name in models if _is_text(name)), *(prompt or [])]
    names = [name for name in models if not _is_text(name)]
    if len(names) < 2:
        raise UsageError(msg="A comparison takes two models or more: mi-toolkit compare A B.")
    if bos is not None and not texts:
        raise UsageError(msg="--bos and --no-bos go with a text of your own.")
    out.check()
    for name in names:
        load.check(name)
    official = [find_source(name, revision=load.revision).name for name in names]
    for name in official:
        if official.count(name) > 1:
            raise UsageError(msg=f"{name} is named twice: compare takes different models.")

    with third_parties_kept_off_stdout():
        comparison = mi.compare_models(
            names,
            texts or None,
            behaviours=behaviours,
            min_lift=min_lift,
            weighting=weighting,
            prepend_bos=bos,
            batch_size=batch_size,
            seed=seed,
            load=load.load,
        )
    out.deliver(
        comparison,
        name="comparison",
        record=lambda: _record(comparison),
        lines=lambda: comparison_lines(comparison, width(elsewhere=FOR_READING)),
        tables={"labels.csv": comparison.to_pandas, "agreement.csv": comparison.agreement_table},
        save=lambda path: comparison.save(path.parent),
    )


def _is_text(argument: str) -> bool:
    return any(character.isspace() for character in argument) and not Path(argument).exists()


def _record(comparison: ModelComparison) -> dict[str, Any]:
    return {
        "models": list(comparison.models),
        "labels": list(comparison.rows()),
        "agreement": comparison.agreement_table().to_dict("records"),
        "groups": [vars(group) for group in comparison.groups],
    }


def comparison_lines(comparison: ModelComparison, width: int) -> Iterator[str]:
    """The comparison, at most `width` columns wide where names are not too long for it."""
    yield from columns(list(_models(comparison)), width=width, align="<<>>")
    without = [name for name, bos in comparison.bos.items() if bos == "none"]
    if without:
        yield from wrapped(f"No BOS in front of the text: {', '.join(without)}.", width)
    for group in comparison.groups:
        differ = "architecture alone" if group.varies == "architecture" else "size alone"
        yield from wrapped(f"{', '.join(group.models)} differ in {differ} ({group.shared}).", width)
    yield ""
    yield from map(
        bold, wrapped("Heads with each label: how many, what share, median depth", width)
    )
    yield from in_columns(_label_rows(comparison), width)
    yield "Depth runs from 0, the embedding, to 1, the unembedding."
    yield ""
    texts = counted(comparison.n_texts, "text")
    title = f"Next-token agreement on {texts}, and what chance would give"
    yield from map(bold, wrapped(title, width))
    yield from in_columns(_agreement_rows(comparison), width)
    yield from wrapped(
        "Two predictions agree where one is a prefix of the other, at characters where both models "
        "have just finished a token. Right: how often the text goes on as the model says.",
        width,
    )


def _models(comparison: ModelComparison) -> Iterator[list[str]]:
    yield ["model", "family", "params", "layers×heads", "positions"]
    for name, facts in comparison.facts.items():
        size = f"{facts.n_layers}×{facts.n_heads}"
        yield [name, facts.family, human_count(facts.parameters), size, facts.positional]


def _label_rows(comparison: ModelComparison) -> list[list[str]]:
    profiles = [{p.label: p for p in comparison.profiles(name)} for name in comparison.models]
    labels = dict.fromkeys(label for model in profiles for label in model)
    rows = [["", *comparison.models]]
    rows += [[label, *(_cell(model.get(label)) for model in profiles)] for label in labels]
    return rows


def _cell(shown: LabelProfile | None) -> str:
    if shown is None or not shown.applicable:
        return "n/a"
    if not shown.count:
        return NONE
    return f"{shown.count} {shown.share:4.0%} {shown.depth_quartiles[1]:.2f}"


def _agreement_rows(comparison: ModelComparison) -> list[list[str]]:
    a, models = comparison.agreement, comparison.models
    rows = [["", *models]]
    for i, one in enumerate(models):
        cells = [
            f"{comparison.accuracy[one]:.0%} right"
            if i == j
            else f"{float(a.share[i, j]):.0%}, {float(a.chance[i, j]):.0%}"
            if a.positions[i, j]
            else NONE
            for j in range(len(models))
        ]
        rows.append([one, *cells])
    return rows


def stimuli(
    *texts: str,
    model: ModelName = DEFAULT_MODEL,
    behaviours: Several[str] = None,
    min_lift: Annotated[float, Parameter(validator=between_zero_and_one)] = 0.3,
    weighting: WeightingName = "prompts",
    seed: int = 0,
    batch_size: CountOrNone = None,
    out: OutputOptions = DEFAULT_OUTPUT,
    load: LoadOptions = DEFAULT_LOADING,
) -> None:
    """Find out whether heads do on one stimulus what they do on another: random tokens and text.

    Args:
        model: Name or alias (see mi-toolkit models --all), hub id, folder, or .gguf file.
        texts: Your own text, one or several, as a third stimulus.
        behaviours: Only these, one or several, such as induction or duplicate_token.
        min_lift: The lift over chance (0 chance, 1 perfect) that a label says is exceeded: its
            one-sided p passes Benjamini and Hochberg over all heads and behaviours, at a false
            discovery rate of 5%.
        weighting: What counts alike where texts are of unequal length: prompts, each text; or
            queries, each of their tokens that can show a behaviour.
        seed: Of the random tokens.
        batch_size: Sequences to a pass. It changes memory and time; figures by rounding only.
        out: What it gives; StimulusComparison.load reads stimuli.safetensors.
        load: How the model is loaded.
    """
    out.check()
    hooked = load.load(model)
    from mi_toolkit.heads.classify import OWN_PROMPT

    with third_parties_kept_off_stdout():
        reports = {
            name: mi.classify_heads(
                hooked,
                prompt,
                behaviours=behaviours,
                min_lift=min_lift,
                weighting=weighting,
                batch_size=batch_size,
                seed=seed,
            )
            for name, prompt in (("", None), (OWN_PROMPT, list(texts)))
            if prompt is None or prompt
        }
        compared = mi.compare.compare_stimuli({**reports.pop("").parts, **reports})
    out.deliver(
        compared,
        name="stimuli",
        record=lambda: {
            "model": compared.model,
            "stimuli": list(compared.reports),
            "pairs": list(compared.rows()),
        },
        lines=lambda: stimulus_lines(compared, width(elsewhere=FOR_READING)),
    )


def stimulus_lines(compared: StimulusComparison, width: int) -> Iterator[str]:
    """How far ranks and labels agree from one stimulus to another, behaviour by behaviour."""
    for one, other in dict.fromkeys((pair.stimulus, pair.other) for pair in compared.pairs):
        yield from map(bold, wrapped(f"{compared.model}: {one} against {other}", width))
        rows = [["behaviour", "rank correlation", "labelled", "there", "both", "kappa"]]
        rows += [
            [
                pair.behaviour,
                _signed(pair.rank_correlation),
                *(
                    NONE if count is None else str(count)
                    for count in (pair.labelled, pair.other_labelled, pair.both)
                ),
                _signed(pair.kappa),
            ]
            for pair in compared.pairs
            if (pair.stimulus, pair.other) == (one, other)
        ]
        yield from in_columns(rows, width)
        yield ""
    yield from wrapped(
        "Labelled: heads with the label on the first, there: on the second. Most heads do nothing "
        "of a kind, and their order is noise, which pulls a rank correlation towards 0. Kappa: "
        "agreement of the labels beyond chance. "
        f"{NONE}: too few queries for an interval, or nothing to agree on.",
        width,
    )


def _signed(figure: float) -> str:
    return NONE if figure != figure else f"{figure:+z.2f}"
