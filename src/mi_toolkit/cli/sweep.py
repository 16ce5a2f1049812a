"""`mi-toolkit sweep`: the same heads at several lengths."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from mi_toolkit.cli.options import (
    DEFAULT_LOADING,
    DEFAULT_MODEL,
    LoadOptions,
    ModelName,
    Several,
    WeightingName,
    at_least_one,
    between_zero_and_one,
)
from mi_toolkit.cli.output import DEFAULT_OUTPUT, OutputOptions
from mi_toolkit.cli.terminal import (
    FOR_READING,
    bold,
    third_parties_kept_off_stdout,
    width,
)

if TYPE_CHECKING:
    pass


def sweep(
    *texts: str,
    model: ModelName = DEFAULT_MODEL,
    lengths: Several[int] = None,
    behaviours: Several[str] = None,
    sequences: Annotated[int, Parameter(validator=at_least_one)] = 32,
    min_lift: Annotated[float, Parameter(validator=between_zero_and_one)] = 0.3,
    weighting: WeightingName = "prompts",
    seed: int = 0,
    batch_size: Annotated[int | None, Parameter(validator=at_least_one)] = None,
    out: OutputOptions = DEFAULT_OUTPUT,
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
        weighting: What counts alike where texts are of unequal length: prompts, each text; or
            queries, each of their tokens that can show a behaviour.
        seed: Of the random tokens.
        batch_size: Sequences to a pass. It changes memory and time; figures by rounding only.
        out: What it gives, and a report per length; LengthSweep.load reads the folder. A sweep that
            was interrupted goes on from what is there.
        load: How the model is loaded.
    """
    out.check()
    hooked = load.load(model)
    from mi_toolkit.cli.comparison_text import sweep_lines
    from mi_toolkit.compare.lengths import DEFAULT_LENGTHS, length_sweep

    with third_parties_kept_off_stdout():
        swept = length_sweep(
            hooked,
            lengths or DEFAULT_LENGTHS,
            text=list(texts) or None,
            behaviours=behaviours,
            n_sequences=sequences,
            min_lift=min_lift,
            weighting=weighting,
            batch_size=batch_size,
            seed=seed,
            folder=out.output,
        )
    out.deliver(
        swept,
        name="sweep",
        record=lambda: {
            "model": swept.model,
            "lengths": list(swept.lengths),
            "labels": swept.label_table().to_dict("records"),
            "heads": list(swept.rows()),
        },
        lines=lambda: sweep_lines(swept, width=width(elsewhere=FOR_READING), emphasise=bold),
        tables={"heads.csv": swept.to_pandas, "labels.csv": swept.label_table},
        save=lambda path: swept.save_record(path.parent),  # its reports are there
    )
