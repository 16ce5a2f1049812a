"""`mi-toolkit classify`: what every head of a model does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

import mi_toolkit as mi
from mi_toolkit.cli.options import (
    DEFAULT_LOADING,
    DEFAULT_MODEL,
    DEFAULT_PROMPT,
    CountOrNone,
    LoadOptions,
    ModelName,
    Several,
    Switch,
    WeightingName,
    between_zero_and_one,
)
from mi_toolkit.cli.output import DEFAULT_OUTPUT, OutputOptions, check_file
from mi_toolkit.cli.terminal import (
    FOR_READING,
    UsageError,
    bold,
    note,
    third_parties_kept_off_stdout,
    width,
)

if TYPE_CHECKING:
    from mi_toolkit.core.head import Head
    from mi_toolkit.core.model import HookedModel
    from mi_toolkit.heads.report import HeadReport


PICTURED_TOKENS = 96
PICTURED_HEADS = 4
"""How much of a long prompt, and how many heads of each label, a page shows the patterns of."""


def classify(
    *prompts: str,
    model: ModelName = DEFAULT_MODEL,
    behaviours: Several[str] = None,
    min_lift: Annotated[float, Parameter(validator=between_zero_and_one)] = 0.3,
    fdr: Annotated[float, Parameter(validator=between_zero_and_one)] = 0.05,
    weighting: WeightingName = "prompts",
    bos: bool | None = None,
    seed: int = 0,
    batch_size: CountOrNone = None,
    data_file: Path | None = None,
    field: str = "text",
    resume: Path | None = None,
    require_copying: Switch = False,
    untrained: CountOrNone = None,
    out: OutputOptions = DEFAULT_OUTPUT,
    load: LoadOptions = DEFAULT_LOADING,
) -> None:
    """Find out what each attention head looks at: with chance, interval and labels.

    A prompt is one argument: put it in quotes, before the options (or after -- if it begins with
    a dash). Without one the standard protocol runs: random tokens given twice, and natural text.

    Args:
        model: Name or alias (see mi-toolkit models --all), hub id, folder, or .gguf file.
        prompts: One text or several, each classified with the others in one report.
        behaviours: Only these, one or several: previous_token, current_token, first_token,
            duplicate_token, induction, locality, positional, diffuse. Further ones run when they
            are named, each on prompts of its own: name_mover, s_inhibition (IOI prompts),
            retrieval (a needle in a haystack), successor (the weights), delimiter, subword,
            same_word, sentence_start, bracket, quote (natural text), offset_3 (or any other
            distance), and those of installed packages.
        min_lift: The lift over chance (0 chance, 1 perfect) that a label says is exceeded.
        fdr: Share of false labels, in expectation, among all that are given: a label's one-sided p
            passes Benjamini and Hochberg at it over all heads and behaviours. 1: each head alone,
            by the lower end of its 95% interval.
        weighting: What counts alike where texts are of unequal length: prompts, each text; or
            queries, each of their tokens that can show a behaviour.
        bos: Put a beginning-of-sequence token before each prompt. Without the option: as the model
            was trained to read text, GPT-2 with one, Pythia and Qwen2.5 without. The standard
            protocol has one wherever the tokenizer has.
        seed: Of the random stimulus.
        batch_size: Sequences to a pass. It changes memory and time; figures by rounding only.
        data_file: More prompts, hundreds or thousands: .txt (one per line, empty ones left out),
            .jsonl or .parquet.
        field: Where that file has records, the field with the text.
        resume: File for what is measured so far. A run that was interrupted goes on from it when
            it is called again in the same way, and ends with the same figures.
        require_copying: Give the label induction only to heads that are shown to raise the logits
            of what they look at.
        untrained: Classify so many models of the same config with fresh weights, too, and show
            each figure against their strongest head. It takes as many times as long.
        out: What it gives; HeadReport.load reads report.safetensors. A page also has patterns of
            the labelled heads.
        load: How the model is loaded.
    """
    texts = [*prompts, *_texts_of(data_file, field)]
    if bos is not None and not texts:
        raise UsageError(
            msg="--bos and --no-bos go with a PROMPT: the standard stimuli begin with a "
            "beginning-of-sequence token, or with the document separator where there is none."
        )
    out.check()
    check_file(resume)
    _check_behaviours(behaviours)
    hooked = load.load(model)

    from mi_toolkit.cli.report_text import report_lines, report_record

    with third_parties_kept_off_stdout():
        report = mi.classify_heads(
            hooked,
            texts or None,
            behaviours=behaviours,
            min_lift=min_lift,
            fdr=fdr if fdr < 1 else None,
            weighting=weighting,
            prepend_bos=bos,
            batch_size=batch_size,
            seed=seed,
            resume=resume,
        )
        if require_copying:
            report = report.label(require_copying=True)
        if untrained is not None:
            report = report.against(
                mi.untrained_control(
                    hooked,
                    texts or None,
                    n=untrained,
                    behaviours=behaviours,
                    min_lift=min_lift,
                    fdr=fdr if fdr < 1 else None,
                    require_copying=require_copying,
                    weighting=weighting,
                    prepend_bos=bos,
                    batch_size=batch_size,
                    seed=seed,
                )
            )
    shown = texts[0] if texts else DEFAULT_PROMPT
    out.deliver(
        report,
        name="report",
        record=lambda: report_record(report),
        lines=lambda: report_lines(report, width=width(elsewhere=FOR_READING), emphasise=bold),
        tables={"heads.csv": report.to_pandas},
        page=lambda: _page(hooked, report, shown, bos),
    )


def _texts_of(file: Path | None, field: str) -> list[str]:
    if file is None:
        return []
    if not file.is_file():
        raise UsageError(msg=f"There is no file {file}.")
    from mi_toolkit.activations.batcher import documents

    texts = []
    for number, document in enumerate(documents(file, field)):
        if not isinstance(document, str):
            raise UsageError(msg=f"Document {number} of {file} is token ids; --data-file is text.")
        texts += [document] * bool(document.strip())
    if not texts:
        raise UsageError(msg=f"There is no text in {file}.")
    return texts


def _check_behaviours(names: Sequence[str] | None) -> None:
    """Check names before a model is loaded for them."""
    if names is None:
        return
    if not names:
        raise UsageError(msg="--behaviours needs at least one name, such as induction.")
    for name in names:
        if " " in name:
            raise UsageError(
                msg=f"{name!r} stands after --behaviours, so it is read as the name of one. Put "
                "the prompt before the options."
            )
    from mi_toolkit.heads.behaviours import chosen

    chosen(names)


def _page(model: HookedModel, report: HeadReport, prompt: str, bos: bool | None) -> mi.Page:
    from mi_toolkit.core.tokens import tokenise

    ids = tokenise(model, prompt, prepend_bos=bos).sequence(0)
    if len(ids) > PICTURED_TOKENS:
        note(f"The page shows patterns of the first {PICTURED_TOKENS} of {len(ids)} tokens.")
        ids = ids[:PICTURED_TOKENS]
    control = [] if report.untrained is None else [mi.view(report.untrained, report)]
    attention = mi.view_attention(model, ids, heads=pictured_heads(report))
    return mi.Page([mi.view(report), *control, attention])


def pictured_heads(report: HeadReport) -> list[Head]:
    """The strongest heads of each label, label by label, then the first of each behaviour."""
    labelled = [head for name in report.label_names for head in report.heads(name)[:PICTURED_HEADS]]
    tops = [report.strongest(name) for name in report.behaviours if report.applicable[name]]
    return list(dict.fromkeys([*labelled, *tops])) or [report.strongest(report.behaviours[0])]
