"""`mi-toolkit trace` and `mi-toolkit view`: a prompt's way through a model, and its patterns."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mi_toolkit as mi
from mi_toolkit.cli.options import (
    DEFAULT_LOADING,
    DEFAULT_MODEL,
    DEFAULT_PROMPT,
    Count,
    LoadOptions,
    ModelName,
    Several,
)
from mi_toolkit.cli.output import (
    DEFAULT_OUTPUT,
    OutputOptions,
    check_file,
    check_picture,
    columns,
    draw_view,
)
from mi_toolkit.cli.terminal import (
    FOR_READING,
    UsageError,
    bold,
    doing,
    third_parties_kept_off_stdout,
    width,
)

if TYPE_CHECKING:
    from mi_toolkit.text.pipeline import Pipeline


STAGES = ("tokens", "attention", "mlp", "output", "lens")


def trace(
    prompt: str = DEFAULT_PROMPT,
    /,
    *,
    model: ModelName = DEFAULT_MODEL,
    report: Path | None = None,
    top_k: Count = 5,
    n_neurons: Count = 5,
    bos: bool | None = None,
    out: OutputOptions = DEFAULT_OUTPUT,
    load: LoadOptions = DEFAULT_LOADING,
) -> None:
    """Follow a prompt through a model: tokens, embedding, attention, MLP, output, logit lens.

    Args:
        prompt: The text, in quotes. Without it: one with repeated names.
        model: Name or alias (see mi-toolkit models --all), hub id, folder, or .gguf file.
        report: A report.safetensors that classify --output wrote for this model, to take the heads'
            labels from. Without it they are labelled on the prompt.
        top_k: Predictions to keep at every position.
        n_neurons: Most active neurons to keep of every layer.
        bos: Put a beginning-of-sequence token before the prompt. Without the option: as the model
            was trained to read text, GPT-2 with one, Pythia and Qwen2.5 without.
        out: What it gives, with a table to each stage; Pipeline.load reads pipeline.safetensors.
        load: How the model is loaded.
    """
    out.check()
    labelled: mi.HeadReport | None = None
    if report is not None:
        # Read before the model: a wrong file is reported at once.

        labelled = mi.HeadReport.load(report)
    hooked = load.load(model)

    with doing("Tracing"), third_parties_kept_off_stdout():
        traced = mi.trace_pipeline(
            hooked, prompt, report=labelled, top_k=top_k, n_neurons=n_neurons, prepend_bos=bos
        )
    out.deliver(
        traced,
        name="pipeline",
        record=lambda: _record(traced),
        lines=lambda: _lines(traced),
        tables={f"{stage}.csv": partial(traced.to_pandas, stage) for stage in STAGES},
    )


def _record(traced: Pipeline) -> dict[str, Any]:
    return {**traced.record(), **{f"{stage}_rows": list(traced.rows(stage)) for stage in STAGES}}


def _lines(traced: Pipeline) -> Iterator[str]:
    room = width(elsewhere=FOR_READING)
    yield bold(f"Pipeline of {traced.title()}")
    yield from columns([list(line) for line in traced.summary()], width=room)
    for title, rows, align in (
        ("Embedding", _embedding(traced), "><><"),
        ("Labelled heads", _heads(traced), "<"),
        ("Most active neurons", _neurons(traced), ">"),
        ("After the prompt, by layer", _lens(traced), "<>>"),
    ):
        yield ""
        yield bold(title)
        yield from columns(rows, width=room, align=align[: len(rows[0]) - 1])


def _embedding(traced: Pipeline) -> list[list[str]]:
    rows = [["position", "token", "norm", "nearest tokens (cosine)"]]
    for row in traced.rows("tokens"):
        norm = f"{row['input_norm']:.2f}"
        rows.append([str(row["position"]), repr(row["token"]), norm, row["nearest"]])
    return rows


def _heads(traced: Pipeline) -> list[list[str]]:
    found = [[str(head), ", ".join(labels)] for head, labels in traced.attention.labels]
    if not found:
        return [["none", f"on {traced.attention.labelled_on}: a few tokens are few queries"]]
    return [["head", f"labels, on {traced.attention.labelled_on}"], *found]


def _neurons(traced: Pipeline) -> list[list[str]]:
    stage, rows = traced.mlp, [["layer", "neuron, activation, token"]]
    for row, layer in enumerate(stage.layers):
        found = zip(
            stage.neurons[row].tolist(),
            stage.activations[row].tolist(),
            stage.positions[row].tolist(),
            strict=True,
        )
        shown = [
            f"N{neuron} {value:+z.2f} at {traced.tokens.texts[position]!r}"
            for neuron, value, position in found
        ]
        rows.append([str(layer), "  ".join(shown)])
    return rows


def _lens(traced: Pipeline) -> list[list[str]]:
    lens = traced.output.require_lens()
    rows = [["after", "rank of the final", "KL (nats)", "would predict"]]
    for entry, name in enumerate(lens.names):
        ids, log_probs = lens.top_ids[entry, -1].tolist(), lens.top_log_probs[entry, -1].exp()
        shown = [
            f"{traced.texts[token]!r} {share:.1%}"
            for token, share in zip(ids, log_probs.tolist(), strict=True)
        ]
        rank = str(int(lens.final_ranks[entry, -1]))
        rows.append([name, rank, f"{float(lens.divergences[entry, -1]):.2f}", "  ".join(shown)])
    return rows


def view(
    prompt: str,
    /,
    *,
    model: ModelName = DEFAULT_MODEL,
    layer: Several[int] = None,
    heads: Several[str] = None,
    bos: bool | None = None,
    html: Path | None = None,
    png: Path | None = None,
    load: LoadOptions = DEFAULT_LOADING,
) -> None:
    """Draw the attention patterns of one layer, several, or single heads on a prompt.

    Args:
        prompt: The text, in quotes.
        model: Name or alias (see mi-toolkit models --all), hub id, folder, or .gguf file.
        layer: Layers, counted from zero. May be left out where --heads has whole names.
        heads: Heads by name (L5H1, 5.1), or by number within --layer. Without it: all of
            them.
        bos: Put a beginning-of-sequence token before the prompt. Without the option: as the model
            was trained to read text, GPT-2 with one, Pythia and Qwen2.5 without.
        html: File for a page that needs no network, to hover over and click.
        png: File for a picture: PNG, SVG or PDF, by its ending.
        load: How the model is loaded.
    """
    if html is None and png is None:
        raise UsageError(msg="Say where to draw: --html FILE, --png FILE, or both.")
    if not layer and not heads:
        raise UsageError(msg="Say what to draw: --layer N, or --heads such as L0H1.")
    check_file(html)
    check_picture(png)
    hooked = load.load(model)

    with doing("Drawing"), third_parties_kept_off_stdout():
        picture = mi.view_attention(
            hooked, prompt, layer=layer or None, heads=heads or None, prepend_bos=bos
        )
        written = draw_view(lambda: picture, html, png)
    shown = ", ".join(map(str, picture.heads))
    where = f"{hooked.cfg.model_name} on {len(picture.tokens)} tokens"
    print(*columns([[f"Attention in {where}: {shown}"]], width=width()), sep="\n")
    for path in written:
        print(f"Wrote {path}")
