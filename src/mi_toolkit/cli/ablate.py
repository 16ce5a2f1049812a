"""`mi-toolkit ablate`: what parts of a model do for one prediction."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

import mi_toolkit as mi
from mi_toolkit.cli.options import (
    DEFAULT_LOADING,
    DEFAULT_MODEL,
    DEFAULT_PROMPT,
    Count,
    CountOrNone,
    LoadOptions,
    ModelName,
    Several,
    Switch,
    token_named,
)
from mi_toolkit.cli.output import DEFAULT_OUTPUT, OutputOptions, columns
from mi_toolkit.cli.terminal import (
    FOR_READING,
    UsageError,
    bold,
    third_parties_kept_off_stdout,
    width,
)

if TYPE_CHECKING:
    from mi_toolkit.interventions.effect import AblationEffect
    from mi_toolkit.interventions.sweep import AblationSweep

SHOWN = 12


def not_negative(_: object, value: int | None) -> None:
    """Check an option that may count nothing."""
    if value is not None and value < 0:
        raise ValueError("Must be 0 or more.")


def ablate(
    prompt: str = DEFAULT_PROMPT,
    *,
    model: ModelName = DEFAULT_MODEL,
    components: Annotated[Several[str], Parameter(name=["--components", "-c"])] = None,
    sweep: Switch = False,
    target: str | None = None,
    how: Literal["zero", "mean", "resample", "pattern_preserving"] = "zero",
    reference: str | None = None,
    random_controls: Annotated[int, Parameter(validator=not_negative)] = 20,
    top_k: Count = 10,
    max_new_tokens: Annotated[int | None, Parameter(validator=not_negative)] = None,
    seed: int = 0,
    batch_size: CountOrNone = None,
    out: OutputOptions = DEFAULT_OUTPUT,
    load: LoadOptions = DEFAULT_LOADING,
) -> None:
    """Ablate parts of a model, or every head in turn, and see what its prediction loses.

    The prompt runs with the parts ablated and without, and a token is asked about after it. Random
    parts of the same size from the same layers stand next to: a change within theirs is no finding.

    Args:
        prompt: Text to predict the next token of.
        model: Name or alias (see mi-toolkit models --all), hub id, folder, or .gguf file.
        components: What to ablate, together: heads (L5H1), neurons (L5N300), a layer's attention
            (L5.attn), its MLP (L5.mlp), or both (L5).
        sweep: Ablate every head alone, in the place of --components.
        target: The token to ask about, exactly, in quotes: " Paris" is not "Paris". Or its id, as
            id:42. Without it: the one that the model finds most probable.
        how: What stands in for the parts' outputs: zeros, their mean over natural text or
            --reference, those on --reference at the same position, or zeros with all later
            attention kept as it was.
        reference: A text that mean and resample take from.
        random_controls: Random sets to set next to --components; 0 for none.
        top_k: How many of the most probable tokens to show, before and after.
        max_new_tokens: Tokens to generate after the prompt, with nothing ablated and with
            --components ablated. Without it: 20 for zero and mean.
        seed: Of the random sets.
        batch_size: Sets to a pass. It changes memory and time; figures by rounding only.
        out: What it gives; AblationEffect.load or AblationSweep.load reads ablation.safetensors.
        load: How the model is loaded.
    """
    if sweep and components:
        raise UsageError(msg="--sweep is of every head, one by one: leave out --components.")
    if not sweep and not components:
        raise UsageError(msg="Name what to ablate by --components L5H1 …, or --sweep every head.")
    out.check()
    asked = token_named(target)
    if components:
        # A typo is reported before the model is loaded.

        for name in components:
            mi.interventions.Component.of(name)
    hooked = load.load(model)

    found: AblationEffect | AblationSweep
    with third_parties_kept_off_stdout():
        if components:
            found = mi.ablation_effect(
                hooked,
                prompt,
                components,
                target=asked,
                how=how,
                reference=reference,
                n_random=random_controls,
                top_k=top_k,
                max_new_tokens=max_new_tokens,
                batch_size=batch_size,
                seed=seed,
            )
        else:
            found = mi.ablation_sweep(
                hooked, prompt, target=asked, how=how, reference=reference, batch_size=batch_size
            )
    out.deliver(found, name="ablation", record=lambda: _record(found), lines=lambda: _lines(found))


def _lines(found: AblationEffect | AblationSweep) -> Iterator[str]:
    yield bold(f"{found.title()} (values from {found.reference})")
    if isinstance(found, mi.interventions.AblationSweep):
        yield from _sweep_lines(found)
    else:
        yield from _effect_lines(found)


def _record(found: AblationEffect | mi.interventions.AblationSweep) -> dict[str, object]:

    if isinstance(found, mi.interventions.AblationSweep):
        rows = found.to_pandas().drop(columns=["model", "how", "target"])
        return {**found.record(), "heads": rows.to_dict("records")}
    controls = {name: values.tolist() for name, values in found.control_changes.items()}
    return {
        **found.record(),
        "change": found.change,
        "kl": found.kl.tolist(),
        "control_changes": controls,
    }


def _effect_lines(effect: AblationEffect) -> list[str]:
    table, room = effect.text_table(), width(elsewhere=FOR_READING)
    before, after = effect.before, effect.after
    asked = (
        f"target {before.text!r}: {before.probability:.1%} (rank {before.rank}) clean, "
        f"{after.probability:.1%} (rank {after.rank}) ablated"
    )
    lines = [
        asked,
        "",
        *columns([table.header, *table.rows], width=room, align="<>>><"),
        "",
    ]
    pairs = zip(effect.top_before, effect.top_after, strict=True)
    tops = [[str(rank), str(one), str(other)] for rank, (one, other) in enumerate(pairs, start=1)]
    lines += columns([("rank", "clean", "ablated"), *tops], width=room)
    if effect.free_text is not None:
        one, other = (" ".join(text.split()) for text in effect.free_text.texts)
        lines += ["", "generated freely after the prompt:"]
        lines += columns([("clean", one), ("ablated", other)], width=room)
    return lines


def _sweep_lines(sweep: AblationSweep) -> list[str]:
    clean, rows = sweep.clean, sweep.cells(SHOWN)
    asked = (
        f"target {clean.text!r}: {clean.probability:.1%} (rank {clean.rank}) with nothing ablated; "
        f"the {len(rows)} heads that change it most:"
    )
    return [
        asked,
        *columns(
            [sweep.text_table().header, *rows], width=width(elsewhere=FOR_READING), align="<>>>>"
        ),
    ]
