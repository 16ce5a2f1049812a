"""A prompt's way through a model, as part of a page: five stages, each with its picture."""

from __future__ import annotations

import html
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass

from mi_toolkit.draw import figures
from mi_toolkit.draw.page import Page, Section
from mi_toolkit.draw.picture import pixel_image, wide_table
from mi_toolkit.draw.primitives import (
    LABELS,
    OTHER_LABEL,
    SEQUENTIAL,
    GridCell,
    TokenGrid,
    grid_html,
    percent,
    visible,
)
from mi_toolkit.text.pipeline import LensStage, Pipeline

LONGEST = 12


def output_grid(traced: Pipeline) -> TokenGrid:
    """The most probable next tokens after every token."""
    stage = traced.output
    following = [*traced.tokens.ids[1:].tolist(), None]
    ranks = range(stage.top_ids.shape[1])
    return TokenGrid(
        title="Most probable next tokens",
        corner="rank",
        columns=_columns(traced),
        rows=tuple(str(rank + 1) for rank in ranks),
        cells=tuple(
            tuple(
                _cell(
                    traced.texts[token],
                    log_prob,
                    f"rank {rank + 1}",
                    is_framed=token == following[position],
                )
                for position, (token, log_prob) in enumerate(
                    zip(
                        stage.top_ids[:, rank].tolist(),
                        stage.top_log_probs[:, rank].tolist(),
                        strict=True,
                    )
                )
            )
            for rank in ranks
        ),
        framed="the token that comes next",
    )


def lens_grid(traced: Pipeline, lens: LensStage) -> TokenGrid:
    """What every layer would predict after every token; the last layer on top."""
    entries = range(len(lens.names))[::-1]
    return TokenGrid(
        title="Logit lens: what each layer would predict",
        corner="behind",
        columns=_columns(traced),
        rows=tuple(lens.names[entry] for entry in entries),
        cells=tuple(tuple(_lens_cells(traced, lens, entry)) for entry in entries),
        framed="what the model predicts in the end",
    )


def _lens_cells(traced: Pipeline, lens: LensStage, entry: int) -> Iterator[GridCell]:
    for position in range(len(traced.tokens.texts)):
        rank = int(lens.final_ranks[entry, position])
        tip = (
            f"in the end rank 1, here rank {rank}; KL {lens.divergences[entry, position]:.2f} nats"
        )
        token = int(lens.top_ids[entry, position, 0])
        log_prob = float(lens.top_log_probs[entry, position, 0])
        yield _cell(traced.texts[token], log_prob, tip, is_framed=rank == 1)


def _columns(traced: Pipeline) -> tuple[tuple[str, str], ...]:
    return tuple(
        (visible(text, longest=LONGEST), str(position))
        for position, text in enumerate(traced.tokens.texts)
    )


def _cell(text: str, log_prob: float, told: str, *, is_framed: bool) -> GridCell:
    probability = math.exp(log_prob)
    return GridCell(
        text=visible(text, longest=LONGEST),
        probability=probability,
        tip=f"{text!r} {percent(probability)}, {told}",
        is_framed=is_framed,
    )


PATTERN, CELL = 84, 26


@dataclass(frozen=True, eq=False, repr=False)
class PipelineView:
    """A pipeline that a notebook draws and a file keeps."""

    pipeline: Pipeline
    """What is shown."""

    def section(self) -> Section:
        """The view's part of a page."""
        traced = self.pipeline
        stages = [
            ("1. Tokens", "tokens", tokens_html(traced)),
            ("2. Embedding", "embedding", embedding_html(traced)),
            ("3. Attention", "attention", attention_html(traced)),
            ("4. MLP", "mlp", mlp_html(traced)),
            ("5. Output", "output", output_html(traced)),
        ]
        body = "".join(
            f"<h2>{title}</h2>{content}{_shapes(traced, stage)}" for title, stage, content in stages
        )
        n_layers = len(traced.attention.layers)
        return Section(
            title=f"From text to prediction: {traced.title()}",
            caption=f"{traced.prompt!r}, stage by stage.",
            body=body,
            height=1100 + n_layers * (PATTERN + 60),
        )

    def save_html(self, path: str | os.PathLike[str]) -> None:
        """Write a page of this view alone; `Page` puts several views on one."""
        Page([self]).save_html(path)

    def save_png(self, path: str | os.PathLike[str]) -> None:
        """Write it as one picture: patterns, the MLPs' norms and the lens."""
        figures.save_figure(figures.pipeline_figure(self.pipeline), path)

    def _repr_html_(self) -> str:
        return Page([self])._repr_html_()

    def __repr__(self) -> str:
        return f"PipelineView({self.pipeline.title()})"


def view_pipeline(pipeline: Pipeline) -> PipelineView:
    """A pipeline to look at: in a notebook, as a page, as a picture.

    Example:
        >>> import mi_toolkit as mi
        >>> traced = mi.trace_pipeline(mi.load_model("toy-gpt2"), "Mary and John")
        >>> mi.view(traced)
        PipelineView(toy-gpt2 on 4 tokens)
    """
    return PipelineView(pipeline)


def _shapes(traced: Pipeline, stage: str) -> str:
    folded: dict[tuple[str, tuple[int, ...]], int] = {}
    for name, shape in traced.shapes.get(stage, {}).items():
        kind = name.split(".", 2)[-1] if name.startswith("blocks.") else name
        folded[kind, shape] = folded.get((kind, shape), 0) + 1
    told = [
        f"{kind} {' × '.join(map(str, shape))}" + (f" in {count} layers" if count > 1 else "")
        for (kind, shape), count in folded.items()
    ]
    return f'<p class="facts">Shapes: {html.escape("; ".join(told))}</p>'


def tokens_html(traced: Pipeline) -> str:
    """Each token with its position and its id."""
    chips = "".join(
        f"<span>{html.escape(visible(text))}<small>{position} · id {token}</small></span>"
        for position, (token, text) in enumerate(
            zip(traced.tokens.ids.tolist(), traced.tokens.texts, strict=True)
        )
    )
    return f'<div class="chips">{chips}</div>'


def embedding_html(traced: Pipeline) -> str:
    """Norms and nearest tokens of every embedding."""
    stage = traced.embedding
    learned = stage.position_norms
    names = ["position", "token", "norm of the token"]
    names += [] if learned is None else ["of the position", "of both"]
    rows = []
    for position, text in enumerate(traced.tokens.texts):
        cosines = stage.nearest_cosines[position].tolist()
        near = zip(stage.nearest_ids[position].tolist(), cosines, strict=True)
        told = ", ".join(f"{visible(traced.texts[each])} {cosine:.2f}" for each, cosine in near)
        norms = [f"{float(stage.token_norms[position]):.2f}"]
        if learned is not None:
            norms += [
                f"{float(learned[position]):.2f}",
                f"{float(stage.input_norms[position]):.2f}",
            ]
        rows.append([str(position), visible(text), *norms, told])
    where = "" if learned is not None else "<p>Positions come in with the attention.</p>"
    return where + wide_table([*names, "nearest tokens (cosine)"], rows)


def attention_html(traced: Pipeline) -> str:
    """Every head's pattern, layer by layer, with its labels."""
    stage = traced.attention
    layers = []
    for row, layer in enumerate(stage.layers):
        heads = "".join(_pattern(traced, row, head) for head in range(stage.patterns.shape[1]))
        layers.append(f'<h3>Layer {layer}</h3><div class="patterns">{heads}</div>')
    return (
        "<p>Queries downwards, keys across; white is no attention, dark blue all of it. Labels on "
        f"{html.escape(stage.labelled_on)}.</p>{''.join(layers)}"
    )


def _pattern(traced: Pipeline, row: int, head: int) -> str:
    stage = traced.attention
    name = f"L{stage.layers[row]}H{head}"
    labels = stage.labels_of((stage.layers[row], head))
    said = f"{name}: {', '.join(labels) or 'no label'}; spread {stage.entropies[row, head]:.2f}"
    image = pixel_image(stage.patterns[row, head], said=said, width=PATTERN, height=PATTERN)
    marks = "".join(
        f'<i style="background:{LABELS.get(label, OTHER_LABEL)}"></i>{html.escape(label)}<br>'
        for label in labels
    )
    return f"<figure>{image}<figcaption><b>{name}</b><br>{marks}</figcaption></figure>"


def mlp_html(traced: Pipeline) -> str:
    """How much every MLP writes where, and each layer's most active neurons."""
    stage = traced.mlp
    if not stage.layers:
        return "<p>No layer has neurons that can be read.</p>"
    shares = stage.norms / stage.residual_norms.clamp(min=1e-9)
    rows = []
    for row, layer in enumerate(stage.layers):
        found = zip(
            stage.neurons[row].tolist(),
            stage.activations[row].tolist(),
            stage.positions[row].tolist(),
            strict=True,
        )
        told = ", ".join(
            f"N{neuron} {value:+.2f} at {visible(traced.tokens.texts[position])}"
            for neuron, value, position in found
        )
        norms = stage.norms[row]
        rows.append([f"{layer}", f"{float(norms.min()):.2f} to {float(norms.max()):.2f}", told])
    size = (len(traced.tokens.texts) * CELL, len(stage.layers) * CELL)
    image = pixel_image(
        shares, said="MLP output over the residual stream", width=size[0], height=size[1]
    )
    stops = ",".join(SEQUENTIAL)
    return (
        "<p>The MLP's output over the residual stream after the layer, by length: layers "
        f'downwards, tokens across.</p><div class="wide">{image}</div><div class="legend"><span>0'
        f'<i class="ramp" style="background:linear-gradient(90deg,{stops})"></i>1 and more</span>'
        "</div>" + wide_table(["layer", "norm of its output", "most active neurons"], rows)
    )


def output_html(traced: Pipeline) -> str:
    """Predictions after every token, in the end and by the lens at every layer."""
    told = ", ".join(map(str, traced.output.predictions))
    drawn = grid_html(output_grid(traced))
    lens = traced.output.lens
    if lens is not None:
        drawn += grid_html(lens_grid(traced, lens))
    return f"<p>After the prompt: {html.escape(told)}.</p>{drawn}"
