"""`mi-toolkit sensitivity`: which single weights a model depends on, and whether that is so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from mi_toolkit.cli.errors import UsageError
from mi_toolkit.cli.options import (
    DEFAULT_LOADING,
    DEFAULT_MODEL,
    LoadOptions,
    ModelName,
    Several,
    Switch,
    at_least_one,
)
from mi_toolkit.cli.output import as_json, check_folder, writing
from mi_toolkit.cli.sensitivity_asked import budget_for, seeds_of, settings_of, texts_of
from mi_toolkit.cli.sensitivity_text import show_study, summary_of
from mi_toolkit.cli.terminal import note, third_parties_kept_off_stdout
from mi_toolkit.files import written_whole

if TYPE_CHECKING:
    from mi_toolkit.hooked_model import HookedModel
    from mi_toolkit.sensitivity.settings import Settings
    from mi_toolkit.sensitivity.study import Study


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
    eval_limit: Annotated[int | None, Parameter(validator=at_least_one)] = None,
    max_length: Annotated[int | None, Parameter(validator=at_least_one)] = None,
    batch_size: Annotated[int, Parameter(validator=at_least_one)] = 8,
    layers: Several[int] = None,
    components: Several[str] = None,
    blocks_at_once: Annotated[int | None, Parameter(validator=at_least_one)] = None,
    no_perturbation: Switch = False,
    fast_perturbation: Switch = False,
    force_perturbation: Switch = False,
    perturb: Several[str] = None,
    perturb_scale: float = 1.0,
    perturbation_ratios: Several[float] = None,
    controls: Several[str] = None,
    random_draws: Annotated[int, Parameter(validator=at_least_one)] = 20,
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
            the bundled passages.
        eval_limit: At most so many texts of each half.
        max_length: Tokens of a text. Without it: 128.
        batch_size: Texts to a pass. It changes memory and time; figures by rounding only.
        layers: Only these layers, by number: 1 is layer 1 alone.
        components: Only these: W_Q, W_out, …, or attn, mlp, embeddings, biases, norms.
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
        verbose: Say on standard error what is being done.
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
            hooked, settings, texts, output, perturbing=budget.perturbing, plots=save_plots
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
) -> Study:
    """Run, and write what goes beside the run's own parts: summary, page and pictures."""
    from mi_toolkit.sensitivity.study import run_study

    if output is None:
        return run_study(model, settings, texts=texts, perturbing=perturbing)
    with writing(output / "summary.json") as summary:
        study = run_study(model, settings, texts=texts, folder=output, perturbing=perturbing)
        with written_whole(summary) as draft:
            draft.write_text(as_json(summary_of(study)), encoding="utf-8")
        from mi_toolkit.views.sensitivity import view_study
        from mi_toolkit.views.sensitivity_pictures import save_pictures

        title = f"Critical weights of {model.cfg.model_name}"
        view_study(study, title).save_html(output / "report.html")
        if plots:
            save_pictures(study, output)
    return study
