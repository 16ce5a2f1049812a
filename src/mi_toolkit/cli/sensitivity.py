"""`mi-toolkit sensitivity`: which single weights a model depends on, and whether that is so."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
from mi_toolkit.cli.terminal import bold, note, third_parties_kept_off_stdout
from mi_toolkit.errors import PromptError

if TYPE_CHECKING:
    from pandas import DataFrame

    from mi_toolkit.sensitivity.study import Settings, Study

LARGE, VERY_LARGE = 1_000_000_000, 7_000_000_000
_UNITS = ("head", "kv_head", "neuron")
SHOWN = 20
"""Rows of a top that are printed; all are in the files."""


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
    no_perturbation: Switch = False,
    fast_perturbation: Switch = False,
    perturb: Several[str] = None,
    perturb_scale: float = 1.0,
    perturbation_ratios: Several[float] = None,
    controls: Several[str] = None,
    random_draws: Annotated[int, Parameter(validator=at_least_one)] = 20,
    stability_check: Switch = False,
    seeds: Several[int] = None,
    output: Path | None = None,
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
        batch_size: Texts to a pass. It changes memory and time, no figure.
        layers: Only these layers, by number: 1 is layer 1 alone.
        components: Only these: W_Q, W_out, …, or attn, mlp, embeddings, biases, norms.
        no_perturbation: Score and list only.
        fast_perturbation: Test on 8 texts, with 5 random draws; the unchanged model, too.
        perturb: How weights are changed: zero (the default), sign_flip, gaussian, bit_flip, scale.
        perturb_scale: Of gaussian and scale.
        perturbation_ratios: How many to change, as shares of all scored weights, such as 0.0001.
            Without it the numbers of --topk.
        controls: What the top is compared with: random, magnitude_matched, bottom. Without it: all.
        random_draws: How many random sets.
        stability_check: Score again on resampled texts, and compare; with several metrics, also
            between them.
        seeds: Of the resampled texts, two or more; they ask for --stability-check. Without it:
            0 1 2 3.
        output: Folder for top_weights_*.csv and .parquet, perturbation.csv, stability.csv,
            scores_*.safetensors, summary.json, manifest.json and report.html.
        experiment_id: Folder in --output to write to.
        json: Write JSON instead of tables, and nothing else, to standard output.
        verbose: Say on standard error what is being done.
        load: How the model is loaded.
    """
    settings = _settings(
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
        seeds=_seeds(seeds, asked=stability_check),
    )
    if experiment_id is not None:
        if output is None:
            raise UsageError(msg="--experiment-id names a folder in --output: give that, too.")
        output = output / experiment_id
    check_folder(output)
    texts = None if data_file is None else texts_of(data_file)
    hooked = load.load(model)
    perturbing = not no_perturbation
    _warn_of_size(hooked, perturbing=perturbing, fast=fast_perturbation)
    from mi_toolkit.sensitivity.study import run_study

    if verbose:
        note(f"Scoring by {', '.join(settings.metrics)}.")
    with third_parties_kept_off_stdout():
        if output is None:
            study = run_study(hooked, settings, texts=texts, perturbing=perturbing)
        else:
            with writing(output / "summary.json") as summary:
                study = run_study(
                    hooked, settings, texts=texts, folder=output, perturbing=perturbing
                )
                summary.write_text(as_json(_summary(study)), encoding="utf-8")
                from mi_toolkit.views.sensitivity import view_study

                title = f"Critical weights of {hooked.cfg.model_name}"
                view_study(study, title).save_html(output / "report.html")
    if verbose and study.reused:
        note(f"Already done: {', '.join(study.reused)}.")
    if json:
        print(as_json(_summary(study)))
        return
    _show(study, settings)
    if output is not None:
        print(f"\nWrote {output}")


def texts_of(path: Path) -> list[str]:
    """The texts of a file: one to a line, empty lines left out.

    Raises:
        PromptError: it cannot be read, or holds fewer than two texts.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise PromptError(f"{path} cannot be read: {reason}.") from error
    texts = [line for line in lines if line.strip()]
    if len(texts) < 2:
        raise PromptError(
            f"{path} holds {len(texts)} texts, one to a line. Half of them score and half test, so "
            "there must be two or more."
        )
    return texts


def _settings(**chosen: Any) -> Settings:
    """The settings, names checked before a model is loaded for them."""
    from mi_toolkit.errors import unknown_name
    from mi_toolkit.sensitivity.edits import EDITS
    from mi_toolkit.sensitivity.perturbation_test import CONTROLS
    from mi_toolkit.sensitivity.scorers.table import SCORERS
    from mi_toolkit.sensitivity.study import Settings

    if chosen["controls"] is None:
        chosen["controls"] = CONTROLS
    known = {
        "weight scorer": (chosen["metrics"], SCORERS),
        "kind of perturbation": (chosen["perturb"], EDITS),
        "control": (chosen["controls"], CONTROLS),
    }
    for kind, (names, table) in known.items():
        for name in names:
            if name not in table:
                raise unknown_name(kind, name, table)
    if min(chosen["topk"]) < 1:
        raise UsageError(msg="--topk must be 1 or more.")
    if not all(0 < ratio <= 1 for ratio in chosen["ratios"]):
        raise UsageError(msg="--perturbation-ratios are shares: above 0, up to 1.")
    # Several values, once each, and never changed afterwards.
    fixed: dict[str, Any] = {
        name: tuple(dict.fromkeys(value)) if isinstance(value, (list, tuple)) else value
        for name, value in chosen.items()
    }
    return Settings(**fixed)


def _seeds(seeds: list[int] | None, *, asked: bool) -> list[int]:
    if seeds is not None and len(set(seeds)) < 2:
        raise UsageError(msg="--seeds needs two or more different numbers: rankings are compared.")
    return seeds if seeds is not None else [0, 1, 2, 3] if asked else []


def _warn_of_size(model: Any, *, perturbing: bool, fast: bool) -> None:
    n = sum(parameter.numel() for parameter in model.parameters())
    if perturbing and not fast and n >= LARGE:
        way = "--no-perturbation" if n >= VERY_LARGE else "--fast-perturbation"
        note(f"The model has {n / 1e9:.1f}B parameters: {way} saves most of the time.")


def _summary(study: Study) -> dict[str, Any]:
    def rows(table: DataFrame | None) -> Any:
        return None if table is None else json_format.loads(table.to_json(orient="records"))

    return {
        "top": [
            {"metric": metric, "k": k, "weights": rows(table.head(SHOWN))}
            for (metric, k), table in study.top.items()
        ],
        "effects": rows(study.effects),
        "stability": rows(study.stability),
        "layers": rows(study.layers),
    }


def _show(study: Study, settings: Settings) -> None:
    for metric in settings.metrics:
        k = max(settings.topk)
        table = study.top[metric, k]
        print(bold(f"Highest by {metric}, per {settings.per} ({len(table)} weights)"))
        print(top_lines(table.head(SHOWN)))
        if len(table) > SHOWN:
            print(f"… and {len(table) - SHOWN} more")
        print()
    if study.effects is not None:
        print(bold("Rise in loss on held-out text, nats per token"))
        print(study.effects.to_string(index=False, float_format=lambda value: f"{value:.4g}"))
    if study.stability is not None:
        print()
        print(bold("Agreement of rankings (mean, and range over pairs)"))
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
        )
    return "\n".join(rows)
