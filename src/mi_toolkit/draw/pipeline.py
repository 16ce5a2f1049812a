"""A prompt's way through a model in five stages, and what the model predicts after one token."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import SupportsIndex

from markupsafe import Markup

from mi_toolkit.core.display import TextTable
from mi_toolkit.core.errors import PromptError
from mi_toolkit.core.predictions import Prediction, ranks_in_order
from mi_toolkit.core.tokenizer import characters
from mi_toolkit.draw import figures
from mi_toolkit.draw.markup import (
    bars_html,
    grid_html,
    pixel_image,
    render,
    tables_html,
    value_grid,
)
from mi_toolkit.draw.page import ResultView
from mi_toolkit.draw.primitives import GridCell, TokenGrid, percent, visible
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
        corner="after",
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
        final = int(traced.output.top_ids[position, 0])
        yield _cell(traced.texts[token], log_prob, tip, is_framed=token == final)


def _columns(traced: Pipeline) -> tuple[tuple[str, str], ...]:
    return tuple(
        (visible(text, longest=LONGEST), str(position))
        for position, text in enumerate(traced.tokens.texts)
    )


def _cell(text: str, log_prob: float, said: str, *, is_framed: bool) -> GridCell:
    probability = math.exp(log_prob)
    return GridCell(
        text=visible(text, longest=LONGEST),
        probability=probability,
        tip=f"{text!r} {percent(probability)}, {said}",
        is_framed=is_framed,
    )


PATTERN, CELL, MAP = 84, 26, 780


def view_pipeline(pipeline: Pipeline) -> ResultView:
    """A pipeline to look at: in a notebook, as a page, as a picture.

    Example:
        >>> import mi_toolkit as mi
        >>> traced = mi.trace_pipeline(mi.load_model("toy-gpt2"), "Mary and John")
        >>> mi.view(traced)
        View of From text to prediction: toy-gpt2 on 4 tokens
    """
    stages = {
        "tokens": ("1. Tokens", tokens_html),
        "embedding": ("2. Embedding", embedding_html),
        "attention": ("3. Attention", attention_html),
        "mlp": ("4. MLP", mlp_html),
        "output": ("5. Output", output_html),
    }
    return ResultView(
        title=f"From text to prediction: {pipeline.title()}",
        caption=f"{pipeline.prompt!r}, stage by stage.",
        body=lambda: render(
            "pipeline",
            stages=[
                (title, html_of(pipeline), _shapes(pipeline, stage))
                for stage, (title, html_of) in stages.items()
            ],
        ),
        draw=lambda: figures.pipeline_figure(pipeline),
        height=1100 + len(pipeline.attention.layers) * (PATTERN + 60),
    )


def _shapes(traced: Pipeline, stage: str) -> str:
    folded: dict[tuple[str, tuple[int, ...]], int] = {}
    for name, shape in traced.shapes.get(stage, {}).items():
        kind = name.split(".", 2)[-1] if name.startswith("blocks.") else name
        folded[kind, shape] = folded.get((kind, shape), 0) + 1
    said = [
        f"{kind} {' × '.join(map(str, shape))}" + (f" in {count} layers" if count > 1 else "")
        for (kind, shape), count in folded.items()
    ]
    return "; ".join(said)


def tokens_html(traced: Pipeline) -> Markup:
    """Each token with its position and its id; those that make up one character together."""
    ids = traced.tokens.ids.tolist()
    groups = [
        (visible(text), list(places), [ids[place] for place in places])
        for text, places in characters(traced.tokens.texts)
    ]
    return render("tokens", groups=groups)


def embedding_html(traced: Pipeline) -> Markup:
    """Norms and nearest tokens of every embedding."""
    stage = traced.embedding
    learned = stage.position_norms
    names = ["position", "token", "norm of the token"]
    names += [] if learned is None else ["of the position", "of both"]
    rows = []
    for position, text in enumerate(traced.tokens.texts):
        cosines = stage.nearest_cosines[position].tolist()
        near = zip(stage.nearest_ids[position].tolist(), cosines, strict=True)
        said = ", ".join(f"{visible(traced.texts[each])} {cosine:.2f}" for each, cosine in near)
        norms = [f"{float(stage.token_norms[position]):.2f}"]
        if learned is not None:
            norms += [
                f"{float(learned[position]):.2f}",
                f"{float(stage.input_norms[position]):.2f}",
            ]
        rows.append([str(position), visible(text), *norms, said])
    where = [] if learned is not None else ["Positions come in with the attention."]
    header = [*names, "nearest tokens (cosine)"]
    return tables_html(*where, TextTable(title="", header=header, rows=rows))


def attention_html(traced: Pipeline) -> Markup:
    """Every head's pattern, layer by layer, with its labels."""
    stage = traced.attention
    heads = range(stage.patterns.shape[1])
    layers = [
        (layer, [_pattern(traced, row, head) for head in heads])
        for row, layer in enumerate(stage.layers)
    ]
    return render("patterns", layers=layers, labelled_on=stage.labelled_on)


def _pattern(traced: Pipeline, row: int, head: int) -> tuple[str, tuple[str, ...], Markup]:
    stage = traced.attention
    name = f"L{stage.layers[row]}H{head}"
    labels = stage.labels_of((stage.layers[row], head))
    said = f"{name}: {', '.join(labels) or 'no label'}; spread {stage.entropies[row, head]:.2f}"
    image = pixel_image(stage.patterns[row, head], said=said, width=PATTERN, height=PATTERN)
    return name, labels, image


def mlp_html(traced: Pipeline) -> Markup:
    """How much every MLP writes where, and each layer's most active neurons."""
    stage = traced.mlp
    if not stage.layers:
        return tables_html("No layer has neurons that can be read.")
    shares = stage.norms / stage.residual_norms.clamp(min=1e-9)
    rows = []
    for row, layer in enumerate(stage.layers):
        found = zip(
            stage.neurons[row].tolist(),
            stage.activations[row].tolist(),
            stage.positions[row].tolist(),
            strict=True,
        )
        said = ", ".join(
            f"N{neuron} {value:+z.2f} at {visible(traced.tokens.texts[position])}"
            for neuron, value, position in found
        )
        norms = stage.norms[row]
        rows.append([f"{layer}", f"{float(norms.min()):.2f} to {float(norms.max()):.2f}", said])
    grid = value_grid(
        shares,
        down=[f"layer {layer}" for layer in stage.layers],
        across=[visible(text, longest=LONGEST) for text in traced.tokens.texts],
        said="MLP output over the residual stream",
        cell=min(CELL, max(4, MAP // len(traced.tokens.texts))),
        between="at",
    )
    return render(
        "mlp",
        grid=grid,
        header=["layer", "norm of its output", "most active neurons"],
        rows=rows,
    )


def output_html(traced: Pipeline) -> Markup:
    """Predictions after every token, in the end and by the lens at every layer."""
    said = ", ".join(map(str, traced.output.predictions))
    lens = traced.output.lens
    drawn = grid_html(output_grid(traced))
    if lens is not None:
        drawn += grid_html(lens_grid(traced, lens))
    return tables_html(f"After the prompt: {said}.") + drawn


def view_position(pipeline: Pipeline, position: int = -1, *, top_k: int = 5) -> ResultView:
    """The predictions after one token, in the end and layer by layer.

    Args:
        pipeline: a traced prompt.
        position: which token; counted from the end below 0.
        top_k: how many predictions, up to what the pipeline was traced with.

    Raises:
        PromptError: no such position, or more predictions than were kept.

    Example:
        >>> import mi_toolkit as mi
        >>> traced = mi.trace_pipeline(mi.load_model("toy-gpt2"), "Mary and John")
        >>> mi.view(traced, 1)
        View of What toy-gpt2 predicts after token 1, Mary
    """
    n_tokens, kept = len(pipeline.tokens.texts), int(pipeline.output.top_ids.shape[1])
    if not isinstance(position, SupportsIndex):
        raise PromptError(f"position is a number, 0 to {n_tokens - 1}; not {position!r}.")
    if not -n_tokens <= position < n_tokens:
        raise PromptError(f"position={position}: the prompt's tokens are 0 to {n_tokens - 1}.")
    if not 1 <= top_k <= kept:
        raise PromptError(f"top_k={top_k}: the pipeline was traced with top_k={kept}.")
    position %= n_tokens
    lens = pipeline.output.lens
    text = visible(pipeline.tokens.texts[position])
    return ResultView(
        title=f"What {pipeline.provenance.model} predicts after token {position}, {text}",
        caption=f"After the first {position + 1} tokens of {pipeline.prompt!r}.",
        body=lambda: position_html(pipeline, position, top_k),
        draw=lambda: figures.position_figure(pipeline, position, top_k),
        height=260 + 30 * top_k + (42 * len(lens.names) if lens is not None else 0),
    )


def position_buttons(traced: Pipeline, chosen: int) -> Markup:
    """The prompt's tokens as buttons, for pages that listen: positions stand in `data-pick`."""
    return render("position_buttons", texts=traced.tokens.texts, chosen=chosen)


def position_html(traced: Pipeline, position: int, top_k: int) -> Markup:
    """The most probable next tokens after a position as bars, and the lens by layer."""
    lens = traced.output.lens
    return render(
        "position",
        bars=_bars(traced, position, top_k),
        said=_said_of(traced, position),
        grid="" if lens is None else grid_html(position_grid(traced, lens, position, top_k)),
    )


def _bars(traced: Pipeline, position: int, top_k: int) -> Markup:
    """The predictions, and the token that does come next in the prompt marked among them."""
    stage, following = traced.output, _following(traced, position)
    tokens = stage.top_ids[position, :top_k].tolist()
    log_probs = stage.top_log_probs[position, :top_k].tolist()
    ranked = zip(tokens, log_probs, ranks_in_order(log_probs), strict=True)
    text = visible(traced.tokens.texts[position])
    return bars_html(
        f"After token {position}, {text}",
        [_prediction(traced, token, log_prob, rank) for token, log_prob, rank in ranked],
        target=None
        if following is None
        else _prediction(
            traced,
            following,
            float(stage.next_log_probs[position]),
            int(stage.next_ranks[position]),
        ),
    )


def _prediction(traced: Pipeline, token: int, log_prob: float, rank: int) -> Prediction:
    """A prediction that was kept by its log-probability, which is a logit too, of another zero."""
    return Prediction(
        token=token, text=traced.texts[token], logit=log_prob, log_prob=log_prob, rank=rank
    )


def _following(traced: Pipeline, position: int) -> int | None:
    ids = traced.tokens.ids.tolist()
    return ids[position + 1] if position + 1 < len(ids) else None


def _said_of(traced: Pipeline, position: int) -> str:
    """How sure the model is, and what it made of the token that does come next."""
    stage = traced.output
    said = f"Entropy {float(stage.entropies[position]):.2f} nats (0 is sure)."
    if position + 1 < len(traced.tokens.texts):
        following = visible(traced.tokens.texts[position + 1])
        probability = percent(math.exp(float(stage.next_log_probs[position])))
        said = (
            f"{following} comes next in the prompt: rank {int(stage.next_ranks[position])}, "
            f"{probability}. {said}"
        )
    return said


def position_grid(traced: Pipeline, lens: LensStage, position: int, top_k: int) -> TokenGrid:
    """What every layer would predict after one token, the last layer on top.

    The first column follows the model's own prediction through the layers.
    """
    final = int(traced.output.top_ids[position, 0])
    entries = range(len(lens.names))[::-1]
    return TokenGrid(
        title="Logit lens: what each layer would predict here",
        corner="after",
        columns=(
            (visible(traced.texts[final], longest=LONGEST), "in the end"),
            *((str(rank), "rank") for rank in range(1, top_k + 1)),
        ),
        rows=tuple(lens.names[entry] for entry in entries),
        cells=tuple(
            (
                _followed(traced, lens, entry, position),
                *(_choice(traced, lens, entry, position, rank, final) for rank in range(top_k)),
            )
            for entry in entries
        ),
        framed="what the model predicts in the end",
    )


def _followed(traced: Pipeline, lens: LensStage, entry: int, position: int) -> GridCell:
    final = traced.texts[int(traced.output.top_ids[position, 0])]
    rank = int(lens.final_ranks[entry, position])
    divergence = float(lens.divergences[entry, position])
    return GridCell(
        text=f"rank {rank}",
        probability=math.exp(float(lens.final_log_probs[entry, position])),
        tip=f"{final!r} is rank {rank} here; KL to the end {divergence:.2f} nats",
    )


def _choice(
    traced: Pipeline, lens: LensStage, entry: int, position: int, rank: int, final: int
) -> GridCell:
    token = int(lens.top_ids[entry, position, rank])
    probability = math.exp(float(lens.top_log_probs[entry, position, rank]))
    return GridCell(
        text=visible(traced.texts[token], longest=LONGEST),
        probability=probability,
        tip=f"{traced.texts[token]!r} {percent(probability)}, rank {rank + 1}",
        is_framed=token == final,
    )
