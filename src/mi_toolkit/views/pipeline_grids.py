"""A pipeline's predictions as grids of tokens: in the end, and by the lens at every layer."""

from __future__ import annotations

import math
from collections.abc import Iterator

from mi_toolkit.pipeline.pipeline import Pipeline
from mi_toolkit.pipeline.stages import LensStage
from mi_toolkit.views.token_grid import GridCell, TokenGrid, percent
from mi_toolkit.views.tokens import visible

LONGEST = 12


def output_grid(traced: Pipeline) -> TokenGrid:
    """The most probable next tokens behind every token."""
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
    """What every layer would predict behind every token; the last layer on top."""
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
