"""`mi-toolkit atlas`: the standard protocol for several models, in one folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

import mi_toolkit as mi
from mi_toolkit.cli.errors import UsageError
from mi_toolkit.cli.options import (
    DEFAULT_LOADING,
    LoadOptions,
    Switch,
    Texts,
    WeightingName,
    at_least_one,
    between_zero_and_one,
)
from mi_toolkit.cli.output import as_json, check_folder, columns, writing
from mi_toolkit.cli.terminal import FOR_READING, bold, third_parties_kept_off_stdout, width


def atlas(
    *models: str,
    output: Path,
    min_lift: Annotated[float, Parameter(validator=between_zero_and_one)] = 0.3,
    weighting: WeightingName = "prompts",
    seed: int = 0,
    batch_size: Annotated[int | None, Parameter(validator=at_least_one)] = None,
    revisions: Texts = None,
    headvis: Switch = False,
    profiles: Switch = False,
    json: Switch = False,
    load: LoadOptions = DEFAULT_LOADING,
) -> None:
    """Classify the heads of several models by the standard protocol, into one folder.

    The folder holds a page to begin at (index.html), a table of all heads (heads.parquet), and for
    each model its report and page. Run again after an interruption, it goes on where it stopped.

    Args:
        models: Names, hub ids, folders or .gguf files; loaded one at a time.
        output: The folder.
        min_lift: The least lift over chance (0 chance, 1 perfect) for a label; the lower end of
            the 95% interval has to reach it.
        weighting: What counts alike where texts are of unequal length: prompts, each text; or
            queries, each of their tokens that can show a behaviour.
        seed: Of the random stimulus.
        batch_size: Sequences to a pass. It changes memory and time; figures by rounding only.
        revisions: Branches, tags or commits on the hub, such as step1000 step2000 of a Pythia
            model: each model is there once for each.
        headvis: Also write each model's heads for HeadVis, into models/NAME/headvis.
        profiles: Also keep what every head moves in natural text, for mi-toolkit head --atlas.
        json: Write JSON instead of a table, and nothing else, to standard output.
        load: How the models are loaded.
    """
    if not models:
        raise UsageError(msg="Say which models: mi-toolkit atlas MODEL... --output DIR.")
    check_folder(output)
    for name in models:
        load.check(name)

    with third_parties_kept_off_stdout(), writing(output / "index.html") as page:
        made = mi.head_atlas(
            models,
            output,
            min_lift=min_lift,
            weighting=weighting,
            seed=seed,
            batch_size=batch_size,
            revisions=revisions,
            headvis=headvis,
            profiles=profiles,
            load=load.arguments(),
        )
    counts = {
        name: {shown.label: shown.count for shown in made.profiles(name) if shown.applicable}
        for name in made.models
    }
    if json:
        print(as_json({"models": counts, "written": [str(page)]}))
        return
    rows = [["model", "heads with each label"]]
    for name, labels in counts.items():
        rows.append(
            [name, ", ".join(f"{label} {count}" for label, count in labels.items() if count)]
        )
    head, *lines = columns(rows, width=width(elsewhere=FOR_READING))
    print(bold(head), *lines, "", f"Wrote {page}", sep="\n")
