"""`mi-toolkit super-weights`: single weights that a model hangs on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from mi_toolkit.cli.options import DEFAULT_LOADING, LoadOptions, Switch, at_least_one
from mi_toolkit.cli.output import as_json, check_folder, writing
from mi_toolkit.cli.sensitivity_asked import texts_of
from mi_toolkit.cli.terminal import bold, third_parties_kept_off_stdout

if TYPE_CHECKING:
    from mi_toolkit.weights.super_weight import SuperWeights


def super_weights(
    model: str,
    /,
    *,
    data_file: Path | None = None,
    eval_limit: Annotated[int, Parameter(validator=at_least_one)] = 4,
    min_spike: float = 10.0,
    min_rise: float = 0.05,
    batch_size: Annotated[int, Parameter(validator=at_least_one)] = 8,
    output: Path | None = None,
    json: Switch = False,
    load: LoadOptions = DEFAULT_LOADING,
) -> None:
    """Find single weights of MLP outputs whose removal breaks the model, confirmed by removal.

    Args:
        model: Name or alias (see mi-toolkit models --all), hub id, folder, or .gguf file.
        data_file: Text to confirm on, one passage to a line. Without it bundled passages.
        eval_limit: At most so many texts to confirm on.
        min_spike: How far a write has to stand out: times the median channel's largest.
        min_rise: The rise in loss, in nats per token, that confirms a candidate; who reaches a
            fifth of it on the search text is looked at.
        batch_size: Texts to a pass. It changes memory and time; figures by rounding only.
        output: Folder for super_weights.csv.
        json: Write JSON instead of a table, and nothing else, to standard output.
        load: How the model is loaded.
    """
    check_folder(output)
    texts = None if data_file is None else texts_of(data_file)
    hooked = load.load(model)
    from mi_toolkit import find_super_weights

    with third_parties_kept_off_stdout():
        found = find_super_weights(
            hooked,
            texts,
            min_spike=min_spike,
            min_rise=min_rise,
            batch_size=batch_size,
            eval_limit=eval_limit,
        )
    if output is not None:
        from mi_toolkit.core.io import atomic_write

        with writing(output / "super_weights.csv") as path, atomic_write(path) as draft:
            found.to_pandas().to_csv(draft, index=False)
    if json:
        print(as_json(found.to_pandas().to_dict("records")))
        return
    _show(found)
    if output is not None:
        print(f"\nWrote {output / 'super_weights.csv'}")


def _show(found: SuperWeights) -> None:
    before = found.baseline
    print(
        bold(found.provenance.model),
        f"perplexity {before.perplexity:.4g} on {before.n_tokens} tokens. {found.cost_text()}.",
    )
    if not found.candidates:
        print("No write of any MLP stands out: no candidate.")
        return
    for each in found.candidates:
        verdict = "confirmed" if each.is_confirmed else "not confirmed"
        if each.without is None:
            told = f"loss {each.screened_rise:+.2g} on the search text without it"
        else:
            told = f"perplexity {before.perplexity:.4g} → {each.without.perplexity:.4g} without it"
        print(
            f"{each.matrix}[{each.row}, {each.column}] = {each.value:+.4g}  {verdict}: {told}  "
            f"(stands out {each.spike:.0f}×; {each.hf_name}[{each.hf_row}, {each.hf_column}])"
        )
