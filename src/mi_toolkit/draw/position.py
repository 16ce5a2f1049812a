"""What a model predicts after one token: the most probable next ones, and the lens by layer."""

from __future__ import annotations

import html
import math
import os
from dataclasses import dataclass

from mi_toolkit.core.errors import PromptError
from mi_toolkit.core.predictions import Prediction
from mi_toolkit.draw import figures
from mi_toolkit.draw.page import Page, Section, pick_button
from mi_toolkit.draw.primitives import GridCell, TokenGrid, bars_html, grid_html, percent, visible
from mi_toolkit.text.pipeline import LensStage, Pipeline

LONGEST = 12


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PositionView:
    """One position's predictions that a notebook draws and a file keeps."""

    pipeline: Pipeline
    """Where they come from."""

    position: int
    """Which token they stand after."""

    top_k: int
    """How many of them."""

    def section(self) -> Section:
        """The view's part of a page."""
        lens = self.pipeline.output.lens
        return Section(
            title=f"What {self.pipeline.provenance.model} predicts {self._where()}",
            caption=f"After the first {self.position + 1} tokens of {self.pipeline.prompt!r}.",
            body=position_html(self.pipeline, self.position, self.top_k),
            height=260 + 30 * self.top_k + (42 * len(lens.names) if lens is not None else 0),
        )

    def save_html(self, path: str | os.PathLike[str]) -> None:
        """Write a page of this view alone; `Page` puts several views on one."""
        Page([self]).save_html(path)

    def save_png(self, path: str | os.PathLike[str]) -> None:
        """Write it as one picture: the lens by layer, the model itself on top."""
        figures.save_figure(figures.position_figure(self.pipeline, self.position, self.top_k), path)

    def _where(self) -> str:
        text = visible(self.pipeline.tokens.texts[self.position])
        return f"after token {self.position}, {text}"

    def _repr_html_(self) -> str:
        return Page([self])._repr_html_()

    def __repr__(self) -> str:
        return f"PositionView({self.pipeline.title()}, {self._where()})"


def view_position(pipeline: Pipeline, position: int = -1, *, top_k: int = 5) -> PositionView:
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
        PositionView(toy-gpt2 on 4 tokens, after token 1, Mary)
    """
    n_tokens, kept = len(pipeline.tokens.texts), int(pipeline.output.top_ids.shape[1])
    if not -n_tokens <= position < n_tokens:
        raise PromptError(f"position={position}: the prompt's tokens are 0 to {n_tokens - 1}.")
    if not 1 <= top_k <= kept:
        raise PromptError(f"top_k={top_k}: the pipeline was traced with top_k={kept}.")
    return PositionView(pipeline=pipeline, position=position % n_tokens, top_k=top_k)


def position_buttons(traced: Pipeline, chosen: int) -> str:
    """The prompt's tokens as buttons, for pages that listen: positions stand in `data-pick`."""
    buttons = "".join(
        pick_button(
            str(position),
            f"{html.escape(visible(text))}<small>{position}</small>",
            is_chosen=position == chosen,
            is_in_reach=position == chosen,
        )
        for position, text in enumerate(traced.tokens.texts)
    )
    return (
        '<div class="chips" role="group" data-across="1" '
        f'aria-label="Tokens of the prompt; the arrow keys move">{buttons}</div>'
    )


def position_html(traced: Pipeline, position: int, top_k: int) -> str:
    """The most probable next tokens after a position as bars, and the lens by layer."""
    lens = traced.output.lens
    drawn = "" if lens is None else grid_html(position_grid(traced, lens, position, top_k))
    return (
        f'<div class="figures"><div>{_bars(traced, position, top_k)}'
        f"<p>{html.escape(_caption(traced, position))}</p></div>"
        f"<div>{drawn}</div></div>"
    )


def _bars(traced: Pipeline, position: int, top_k: int) -> str:
    """The predictions, and the token that does come next in the prompt marked among them."""
    stage, following = traced.output, _following(traced, position)
    ranked = zip(
        stage.top_ids[position, :top_k].tolist(),
        stage.top_log_probs[position, :top_k].tolist(),
        strict=True,
    )
    text = visible(traced.tokens.texts[position])
    return bars_html(
        f"After token {position}, {text}",
        [
            _prediction(traced, token, log_prob, rank)
            for rank, (token, log_prob) in enumerate(ranked, start=1)
        ],
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


def _caption(traced: Pipeline, position: int) -> str:
    """How sure the model is, and what it made of the token that does come next."""
    stage = traced.output
    told = f"Entropy {float(stage.entropies[position]):.2f} nats (0 is sure)."
    if position + 1 < len(traced.tokens.texts):
        following = visible(traced.tokens.texts[position + 1])
        probability = percent(math.exp(float(stage.next_log_probs[position])))
        told = (
            f"{following} comes next in the prompt: rank {int(stage.next_ranks[position])}, "
            f"{probability}. {told}"
        )
    return told


def position_grid(traced: Pipeline, lens: LensStage, position: int, top_k: int) -> TokenGrid:
    """What every layer would predict after one token, the last layer on top.

    The first column follows the model's own prediction through the layers.
    """
    final = int(traced.output.top_ids[position, 0])
    entries = range(len(lens.names))[::-1]
    return TokenGrid(
        title="Logit lens: what each layer would predict here",
        corner="behind",
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
