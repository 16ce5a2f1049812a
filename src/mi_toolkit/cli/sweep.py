"""`mi-toolkit sweep`: the same heads at several lengths."""

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
    from mi_toolkit.compare.lengths import LengthSweep


def sweep(
    *texts: str,
    model: ModelName = DEFAULT_MODEL,
    lengths: Several[int] = None,
    behaviours: Several[str] = None,
    sequences: Annotated[int, Parameter(validator=at_least_one)] = 32,
    min_lift: Annotated[float, Parameter(validator=between_zero_and_one)] = 0.3,
    seed: int = 0,
    batch_size: Annotated[int | None, Parameter(validator=at_least_one)] = None,
    output: Path | None = None,
    html: Path | None = None,
    png: Path | None = None,
    json: Switch = False,
    load: LoadOptions = DEFAULT_LOADING,
) -> None:
    """Find out at which lengths a head's label holds, on random tokens given twice and on text.

    Args:
        model: Name or alias (see mi-toolkit models --all), hub id, folder, or .gguf file.
        texts: Your own text, cut and joined to each length, in place of the bundled passages.
        lengths: In tokens, a beginning-of-sequence token not counted. Without it: 32 64 128 256.
        behaviours: Only these, one or several, such as previous_token or induction.
        sequences: Sequences at each length, as far as the text goes.
        min_lift: The least lift over chance (0 chance, 1 perfect) for a label; the lower end of
            the 95% interval has to reach it.
        seed: Of the random tokens.
        batch_size: Sequences to a pass. It changes memory and time; figures by rounding only.
        output: Folder for a report per length (LengthSweep.load reads them), heads.csv and
            labels.csv. A sweep that was interrupted goes on from what is there.
        html: File for a page of its own.
        png: File for the picture alone; SVG where the name ends in .svg.
        json: Write JSON instead of tables, and nothing else, to standard output.
        load: How the model is loaded.
    """
    check_folder(output)
    check_file(html)
    check_file(png)
    hooked = load.load(model)
    from mi_toolkit.compare.lengths import DEFAULT_LENGTHS, length_sweep

    with third_parties_kept_off_stdout():
        swept = length_sweep(
            hooked,
            lengths or DEFAULT_LENGTHS,
            text=list(texts) or None,
            behaviours=behaviours,
            n_sequences=sequences,
            min_lift=min_lift,
            batch_size=batch_size,
            seed=seed,
            folder=output,
        )
        tables = {"heads.csv": swept.to_pandas(), "labels.csv": swept.label_table()}
        written = [] if output is None else write_tables(output, tables)
        written += draw(swept, html, png)
    _show(swept, written, as_data=json)


def _show(swept: LengthSweep, written: Sequence[Path], *, as_data: bool) -> None:
    from mi_toolkit.cli.comparison_text import sweep_lines

    if as_data:
        print(
            as_json(
                {
                    "model": swept.model,
                    "lengths": list(swept.lengths),
                    "labels": swept.label_table().to_dict("records"),
                    "heads": swept.to_pandas().astype(object).to_dict("records"),
                    "written": [str(path) for path in written],
                }
            )
        )
        return
    for line in sweep_lines(swept, width=width(elsewhere=FOR_READING), emphasise=bold):
        print(line)
    say_written(written)
