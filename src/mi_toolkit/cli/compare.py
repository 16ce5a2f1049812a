"""`mi-toolkit compare` and `mi-toolkit stimuli`: models, or stimuli, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

import mi_toolkit as mi
from mi_toolkit.cli.errors import UsageError
from mi_toolkit.cli.options import (
    DEFAULT_LOADING,
    DEFAULT_MODEL,
    LoadOptions,
    ModelName,
    Several,
    Switch,
    at_least_one,
    between_zero_and_one,
)
from mi_toolkit.cli.output import (
    as_json,
    check_file,
    check_folder,
    draw,
    say_written,
    write_tables,
    writing,
)
from mi_toolkit.cli.terminal import FOR_READING, bold, third_parties_kept_off_stdout, width

if TYPE_CHECKING:
    from mi_toolkit.compare.model_comparison import ModelComparison
    from mi_toolkit.compare.stimuli import StimulusComparison


def compare(
    *models: str,
    prompt: Several[str] = None,
    behaviours: Several[str] = None,
    min_lift: Annotated[float, Parameter(validator=between_zero_and_one)] = 0.3,
    bos: bool | None = None,
    seed: int = 0,
    batch_size: Annotated[int | None, Parameter(validator=at_least_one)] = None,
    output: Path | None = None,
    html: Path | None = None,
    png: Path | None = None,
    json: Switch = False,
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
        min_lift: The least lift over chance (0 chance, 1 perfect) for a label; the lower end of
            the 95% interval has to reach it.
        bos: Put a beginning-of-sequence token before each text. Without the option: wherever a
            model's tokenizer has one. It is the same for all models.
        seed: Of the random stimulus.
        batch_size: Sequences to a pass. It changes memory and time; figures by rounding only.
        output: Folder for the comparison (ModelComparison.load reads it), labels.csv and
            agreement.csv.
        html: File for a page of its own.
        png: File for the picture alone; SVG where the name ends in .svg.
        json: Write JSON instead of tables, and nothing else, to standard output.
        load: How the models are loaded.
    """
    texts = [*(name for name in models if _is_text(name)), *(prompt or [])]
    names = [name for name in models if not _is_text(name)]
    if len(names) < 2:
        raise UsageError(msg="A comparison takes two models or more: mi-toolkit compare A B.")
    if bos is not None and not texts:
        raise UsageError(msg="--bos and --no-bos go with a text of your own.")
    check_folder(output)
    check_file(html)
    check_file(png)
    for name in names:
        load.check(name)

    with third_parties_kept_off_stdout():
        comparison = mi.compare_models(
            names,
            texts or None,
            behaviours=behaviours,
            min_lift=min_lift,
            prepend_bos=bos,
            batch_size=batch_size,
            seed=seed,
            load=load.load,
        )
        written = [*_write_folder(comparison, output), *draw(comparison, html, png)]
    _show(comparison, written, as_data=json)


def _is_text(argument: str) -> bool:
    return any(character.isspace() for character in argument) and not Path(argument).exists()


def _write_folder(comparison: ModelComparison, folder: Path | None) -> list[Path]:
    if folder is None:
        return []
    with writing(folder / "comparison.safetensors") as record:
        comparison.save(folder)
    tables = {"labels.csv": comparison.to_pandas(), "agreement.csv": comparison.agreement_table()}
    return [record, *write_tables(folder, tables)]


def _show(comparison: ModelComparison, written: Sequence[Path], *, as_data: bool) -> None:
    from mi_toolkit.cli.comparison_text import comparison_lines

    if as_data:
        print(
            as_json(
                {
                    "models": list(comparison.models),
                    "labels": comparison.to_pandas().to_dict("records"),
                    "agreement": comparison.agreement_table().to_dict("records"),
                    "groups": [vars(group) for group in comparison.groups],
                    "written": [str(path) for path in written],
                }
            )
        )
        return
    for line in comparison_lines(comparison, width=width(elsewhere=FOR_READING), emphasise=bold):
        print(line)
    say_written(written)


def stimuli(
    *texts: str,
    model: ModelName = DEFAULT_MODEL,
    behaviours: Several[str] = None,
    min_lift: Annotated[float, Parameter(validator=between_zero_and_one)] = 0.3,
    seed: int = 0,
    batch_size: Annotated[int | None, Parameter(validator=at_least_one)] = None,
    output: Path | None = None,
    html: Path | None = None,
    png: Path | None = None,
    json: Switch = False,
    load: LoadOptions = DEFAULT_LOADING,
) -> None:
    """Find out whether heads do on one stimulus what they do on another: random tokens and text.

    Args:
        model: Name or alias (see mi-toolkit models --all), hub id, folder, or .gguf file.
        texts: Your own text, one or several, as a third stimulus.
        behaviours: Only these, one or several, such as induction or duplicate_token.
        min_lift: The least lift over chance (0 chance, 1 perfect) for a label; the lower end of
            the 95% interval has to reach it.
        seed: Of the random tokens.
        batch_size: Sequences to a pass. It changes memory and time; figures by rounding only.
        output: Folder for stimuli.csv.
        html: File for a page of its own.
        png: File for the picture alone; SVG where the name ends in .svg.
        json: Write JSON instead of a table, and nothing else, to standard output.
        load: How the model is loaded.
    """
    check_folder(output)
    check_file(html)
    check_file(png)
    hooked = load.load(model)
    from mi_toolkit.heads.classify import OWN_PROMPT

    with third_parties_kept_off_stdout():
        reports = {
            name: mi.classify_heads(
                hooked,
                prompt,
                behaviours=behaviours,
                min_lift=min_lift,
                batch_size=batch_size,
                seed=seed,
            )
            for name, prompt in (("", None), (OWN_PROMPT, list(texts)))
            if prompt is None or prompt
        }
        compared = mi.compare.compare_stimuli({**reports.pop("").parts, **reports})
        tables = {"stimuli.csv": compared.to_pandas()}
        written = [] if output is None else write_tables(output, tables)
        written += draw(compared, html, png)
    _show_stimuli(compared, written, as_data=json)


def _show_stimuli(compared: StimulusComparison, written: Sequence[Path], *, as_data: bool) -> None:
    from mi_toolkit.cli.comparison_text import stimulus_lines

    if as_data:
        print(
            as_json(
                {
                    "model": compared.model,
                    "stimuli": list(compared.reports),
                    "pairs": compared.to_pandas().astype(object).to_dict("records"),
                    "written": [str(path) for path in written],
                }
            )
        )
        return
    for line in stimulus_lines(compared, width=width(elsewhere=FOR_READING), emphasise=bold):
        print(line)
    say_written(written)
