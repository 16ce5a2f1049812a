"""`mi-toolkit stimuli`: the same heads on random tokens, on natural text and on your own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

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
from mi_toolkit.cli.output import as_json, check_file, check_folder, draw, say_written, write_tables
from mi_toolkit.cli.terminal import (
    FOR_READING,
    bold,
    third_parties_kept_off_stdout,
    width,
)

if TYPE_CHECKING:
    from mi_toolkit.comparison.stimuli import StimulusComparison


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
    from mi_toolkit import classify_heads, compare_stimuli
    from mi_toolkit.heads.classify import OWN_PROMPT

    with third_parties_kept_off_stdout():
        reports = {
            name: classify_heads(
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
        compared = compare_stimuli({**reports.pop("").parts, **reports})
        tables = {"stimuli.csv": compared.to_pandas()}
        written = [] if output is None else write_tables(output, tables)
        written += _draw(compared, html, png)
    _show(compared, written, as_data=json)


def _draw(compared: StimulusComparison, html: Path | None, png: Path | None) -> list[Path]:
    if html is None and png is None:
        return []
    from mi_toolkit import view_stimuli

    return draw(view_stimuli(compared), html, png)


def _show(compared: StimulusComparison, written: Sequence[Path], *, as_data: bool) -> None:
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
