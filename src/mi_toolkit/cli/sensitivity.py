"""`mi-toolkit sensitivity` and `mi-toolkit super-weights`: which single weights matter."""

from __future__ import annotations

import json as json_format
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

import mi_toolkit as mi
from mi_toolkit.cli.options import (
    DEFAULT_LOADING,
    DEFAULT_MODEL,
    Count,
    CountOrNone,
    LoadOptions,
    ModelName,
    Several,
    Switch,
)
from mi_toolkit.cli.output import (
    as_json,
    check_file,
    check_folder,
    draw_view,
    say_written,
    write_tables,
    writing,
)
from mi_toolkit.cli.sensitivity_asked import budget_for, seeds_of, settings_of, texts_of
from mi_toolkit.cli.terminal import UsageError, bold, note, third_parties_kept_off_stdout
from mi_toolkit.core.io import atomic_write

if TYPE_CHECKING:
    from mi_toolkit.core.model import HookedModel
    from mi_toolkit.core.tables import DataFrame
    from mi_toolkit.weights.run_comparison import RunComparison
    from mi_toolkit.weights.study import Settings, Study
    from mi_toolkit.weights.super_weights import SuperWeights


_UNITS = ("head", "kv_head", "neuron")
SHOWN = 20
"""Rows of a top that are printed; all are in the files."""


def summary_of(study: Study) -> dict[str, Any]:
    """The tables of a run as plain values."""

    def rows(table: DataFrame | None) -> Any:
        return None if table is None else json_format.loads(table.to_json(orient="records"))

    return {
        "heads": list(study.of_heads) or None,
        "top": [
            {
                "metric": metric,
                "k": k,
                "warning": table.attrs.get("warning"),
                "weights": rows(table.head(SHOWN)),
            }
            for (metric, k), table in study.top.items()
        ],
        "effects": rows(study.effects),
        "trust": rows(study.trust),
        "stability": rows(study.stability),
        "layers": rows(study.layers),
    }


def show_study(study: Study, settings: Settings) -> None:
    """Print them, the tops cut."""
    for metric in settings.metrics:
        k = max(settings.topk)
        table = study.top[metric, k]
        whose = f" of {', '.join(study.of_heads)}" if study.of_heads else ""
        print(bold(f"Highest by {metric}{whose}, per {settings.per} ({len(table)} weights)"))
        print(top_lines(table.head(SHOWN)))
        if len(table) > SHOWN:
            print(f"… and {len(table) - SHOWN} more")
        if "warning" in table.attrs:
            print(f"Warning: {table.attrs['warning']}")
        print()
    if study.effects is not None:
        print(bold("Rise in loss on held-out text, nats per token"))
        print(study.effects.to_string(index=False, float_format=lambda value: f"{value:.4g}"))
    if study.trust is not None:
        print()
        print(bold("Scores against single removals (rank correlations)"))
        print(study.trust.to_string(index=False, float_format=lambda value: f"{value:.3f}"))
    if study.stability is not None:
        print()
        print(bold("Agreement of rankings (with 95% intervals)"))
        print(study.stability.to_string(index=False, float_format=lambda value: f"{value:.3f}"))


def top_lines(table: DataFrame) -> str:
    """The rows of a top as people read them: rank, place, head or neuron, weight, score."""
    rows = []
    for row in table.to_dict("records"):
        units = [f"{name} {row[name]}" for name in _UNITS if str(row[name]).isdecimal()]
        rows.append(
            f"{row['rank']:>5}  {row['parameter']}[{row['row']}, {row['column']}]".ljust(42)
            + f"  {''.join(units):<12}  weight {row['weight']:+.4g}".ljust(32)
            + f"  score {row['score']:.4g}"
            + (f" ± {row['standard_error']:.2g}" if "standard_error" in row else "")
        )
    return "\n".join(rows)


def none_or_ten(_: object, value: int) -> None:
    """Check how many weights to remove one by one."""
    if value != 0 and value < 10:
        raise ValueError("Must be 0, or 10 or more.")


def sensitivity(
    *,
    model: ModelName = DEFAULT_MODEL,
    metric: Several[str] = None,
    topk: Several[int] = None,
    per: Literal["model", "layer", "matrix"] = "model",
    data_file: Path | None = None,
    eval_limit: CountOrNone = None,
    max_length: CountOrNone = None,
    batch_size: Count = 8,
    layers: Several[int] = None,
    components: Several[str] = None,
    heads: Several[str] = None,
    blocks_at_once: CountOrNone = None,
    no_perturbation: Switch = False,
    fast_perturbation: Switch = False,
    force_perturbation: Switch = False,
    perturb: Several[str] = None,
    perturb_scale: float = 1.0,
    perturbation_ratios: Several[float] = None,
    controls: Several[str] = None,
    random_draws: Count = 20,
    fidelity: Annotated[int, Parameter(validator=none_or_ten)] = 40,
    stability_check: Switch = False,
    seeds: Several[int] = None,
    output: Path | None = None,
    save_plots: Switch = False,
    experiment_id: str | None = None,
    json: Switch = False,
    verbose: Switch = False,
    load: LoadOptions = DEFAULT_LOADING,
) -> None:
    """Score every weight, list the highest, and test them on text that the scores have not seen.

    With --output a run can be stopped and started again: what is done is not done twice.

    Args:
        model: Name or alias (see mi-toolkit models --all), hub id, folder, or .gguf file.
        metric: One or several, such as grad_x_weight (the default), grad_squared, fisher, wanda.
        topk: How many of the highest weights, one number or several. Without it: 100.
        per: What is ranked by itself.
        data_file: Text, one passage to a line; half of them score, the other half test. Without it
            bundled passages: English, or, for a bundled model, text of the kind that it knows.
        eval_limit: At most so many texts of each half.
        max_length: Tokens of a text. Without it: 128.
        batch_size: Texts to a pass. It changes memory and time; figures by rounding only.
        layers: Only these layers, by number: 1 is layer 1 alone.
        components: Only these: W_Q, W_out, …, or attn, mlp, embeddings, biases, norms.
        heads: Only the weights of these heads, by name (L5H1), or by label: label:induction is all
            heads that mi-toolkit classify labels so on this model.
        blocks_at_once: Hold the gradients of so many blocks together, with a pass for each group.
            It changes memory and time; figures by rounding only. Without it: all, or what fits.
        no_perturbation: Score and list only.
        fast_perturbation: Test on 8 texts, with 5 random draws; the unchanged model, too.
        force_perturbation: Test models of 7B parameters and more, too.
        perturb: How weights are changed: zero (the default), sign_flip, gaussian, bit_flip, scale.
        perturb_scale: Of gaussian and scale.
        perturbation_ratios: How many to change, as shares of all scored weights, such as 0.0001.
            Without it the numbers of --topk.
        controls: What the top is compared with: random, magnitude_matched, bottom. Without it: all.
        random_draws: How many random sets.
        fidelity: How many single weights to remove one by one, which says how far to trust the
            scores; 0 for none.
        stability_check: Score again on resampled texts, and compare; with several metrics, also
            between them.
        seeds: Of the resampled texts, two or more; they ask for --stability-check. Without it:
            0 1 2 3.
        output: Folder for top_weights_*.csv and .parquet, perturbation.csv, fidelity.csv,
            stability.csv, scores_*.safetensors, summary.json, manifest.json and report.html.
        save_plots: Write the pictures into --output as PNG files, too.
        experiment_id: Folder in --output to write to.
        json: Write JSON instead of tables, and nothing else, to standard output.
        verbose: Say on standard error what is being done and how long it will take, also where that
            is a file.
        load: How the model is loaded.
    """
    if output is None and (experiment_id is not None or save_plots):
        named = "--experiment-id" if experiment_id is not None else "--save-plots"
        raise UsageError(msg=f"{named} goes with --output: give a folder, too.")
    if output is not None and experiment_id is not None:
        output = output / experiment_id
    settings = settings_of(
        metrics=metric or ["grad_x_weight"],
        topk=topk or [100],
        per=per,
        layers=layers,
        components=components,
        heads=heads,
        batch_size=batch_size,
        max_length=max_length,
        eval_limit=eval_limit,
        perturb=perturb or ["zero"],
        perturb_scale=perturb_scale,
        controls=controls,
        ratios=perturbation_ratios or [],
        n_random=random_draws,
        fast=fast_perturbation,
        fidelity=fidelity,
        seeds=seeds_of(seeds, asked=stability_check),
    )
    check_folder(output)
    texts = None if data_file is None else texts_of(data_file)
    budget = budget_for(
        model,
        load,
        perturbing=not no_perturbation,
        fast=fast_perturbation,
        forced=force_perturbation,
        blocks_at_once=blocks_at_once,
    )
    settings = replace(settings, blocks_at_once=budget.blocks_at_once)
    hooked = load.load(model)
    if verbose:
        note(f"Scoring by {', '.join(settings.metrics)}.")
    with third_parties_kept_off_stdout():
        study = run_and_write(
            hooked,
            settings,
            texts,
            output,
            perturbing=budget.perturbing,
            plots=save_plots,
            progress=True if verbose else None,
        )
    if verbose and study.reused:
        note(f"Already done: {', '.join(study.reused)}.")
    if json:
        print(as_json(summary_of(study)))
        return
    show_study(study, settings)
    if output is not None:
        print(f"\nWrote {output}")


def run_and_write(
    model: HookedModel,
    settings: Settings,
    texts: list[str] | None,
    output: Path | None,
    *,
    perturbing: bool,
    plots: bool,
    progress: bool | None = None,
) -> Study:
    """Run, and write what goes next to the run's own parts: summary, page and pictures."""
    from mi_toolkit.weights.study import run_study

    if output is None:
        return run_study(model, settings, texts=texts, perturbing=perturbing, progress=progress)
    with writing(output / "summary.json") as summary:
        study = run_study(
            model,
            settings,
            texts=texts,
            folder=output,
            perturbing=perturbing,
            progress=progress,
        )
        with atomic_write(summary) as draft:
            draft.write_text(as_json(summary_of(study)), encoding="utf-8")
        from mi_toolkit.draw.sensitivity import save_pictures, view_study

        title = f"Critical weights of {model.cfg.model_name}"
        view_study(study, title).save_html(output / "report.html")
        if plots:
            save_pictures(study, output)
    return study


def compare(
    *runs: Path,
    output: Path | None = None,
    html: Path | None = None,
    json: Switch = False,
) -> None:
    """Set runs side by side: where in depth the top weights are, in which matrices, what is shared.

    For studies of scale or architecture. Of each metric that all runs have, the longest list that
    all have is compared.

    Args:
        runs: Output folders of mi-toolkit sensitivity, two or more.
        output: Folder for comparison_METRIC.csv and comparison_METRIC.png.
        html: File for a page of its own.
        json: Write JSON instead of tables, and nothing else, to standard output.
    """
    check_folder(output)
    check_file(html)

    found = mi.weights.compare_runs(runs)
    written = [] if output is None else _write(found, output)
    if html is not None:
        mi.Page([mi.view(each) for each in found]).save_html(html)
        written.append(html)
    if json:
        print(as_json([row for each in found for row in each.to_pandas().to_dict("records")]))
        return
    for index, each in enumerate(found):
        if index:
            print()
        print(each)
    say_written(written)


def _write(found: list[RunComparison], folder: Path) -> list[Path]:
    written = write_tables(
        folder, {f"comparison_{each.metric}.csv": each.to_pandas() for each in found}
    )
    for each in found:
        written += draw_view(partial(mi.view, each), None, folder / f"comparison_{each.metric}.png")
    return written


def super_weights(
    model: str,
    /,
    *,
    data_file: Path | None = None,
    eval_limit: Count = 4,
    min_spike: float = 10.0,
    min_rise: float = 0.05,
    batch_size: Count = 8,
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

    with third_parties_kept_off_stdout():
        found = mi.find_super_weights(
            hooked,
            texts,
            min_spike=min_spike,
            min_rise=min_rise,
            batch_size=batch_size,
            eval_limit=eval_limit,
        )
    if output is not None:
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
            change = f"loss {each.screened_rise:+.2g} on the search text without it"
        else:
            change = (
                f"perplexity {before.perplexity:.4g} → {each.without.perplexity:.4g} without it"
            )
        print(
            f"{each.matrix}[{each.row}, {each.column}] = {each.value:+.4g}  {verdict}: {change}  "
            f"(stands out {each.spike:.0f}×; {each.hf_name}[{each.hf_row}, {each.hf_column}])"
        )
