"""What a model wrote, as part of a page: its sequences, the tree of beams, the alternatives."""

from __future__ import annotations

import html
import math
import os
from dataclasses import dataclass

from mi_toolkit.generation.generation import HEADER, GeneratedSequence, Generation
from mi_toolkit.views.beams import tree_html
from mi_toolkit.views.buttons import pick_button
from mi_toolkit.views.page import Page
from mi_toolkit.views.picture import wide_table
from mi_toolkit.views.section import Section
from mi_toolkit.views.token_grid import GridCell, TokenGrid, grid_html, percent
from mi_toolkit.views.tokens import visible


@dataclass(frozen=True, eq=False, repr=False)
class GenerationView:
    """A generation that a notebook draws and a file keeps."""

    generation: Generation
    """What is shown."""

    def section(self) -> Section:
        """The view's part of a page."""
        found = self.generation
        caption = (
            f"After {found.prompt!r}. A score is the log-probability of a sequence over its "
            f"length to the power of {found.length_penalty:g}."
        )
        grids = [grid_html(alternatives_grid(found, index)) for index in range(found.num_beams)]
        further = "".join(
            f"<details><summary>Alternatives of sequence {index + 2}</summary>{grid}</details>"
            for index, grid in enumerate(grids[1:])
        )
        tree = f"<h3>Beams</h3>{tree_html(found)}" if found.num_beams > 1 else ""
        table = wide_table(HEADER, found.rows())
        under = ""
        if found.hooks:
            named = html.escape(", ".join(found.hooks))
            under = f'<p class="facts">Hooks were active at {named}.</p>'
        return Section(
            title=found.title(),
            caption=caption,
            body=f"{table}{under}{tree}{grids[0]}{further}",
            height=420 + 34 * found.num_beams * (found.num_beams > 1) + 44 * self._n_choices(),
        )

    def _n_choices(self) -> int:
        return int(self.generation.sequences[0].alternative_ids.shape[1])

    def save_html(self, path: str | os.PathLike[str]) -> None:
        """Write a page of this view alone; `Page` puts several views on one."""
        Page([self]).save_html(path)

    def save_png(self, path: str | os.PathLike[str]) -> None:
        """Write it as one picture: the tree of beams and the best sequence's alternatives."""
        from mi_toolkit.views.figures import generation_figure, save_figure

        save_figure(generation_figure(self.generation), path)

    def _repr_html_(self) -> str:
        return Page([self])._repr_html_()

    def __repr__(self) -> str:
        return f"GenerationView({self.generation.title()})"


def view_generation(generation: Generation) -> GenerationView:
    """A generation to look at: in a notebook, as a page, as a picture.

    Example:
        >>> import mi_toolkit as mi
        >>> found = mi.generate(mi.load_model("toy-gpt2"), "Mary and John", num_beams=2)
        >>> mi.view_generation(found)
        GenerationView(toy-gpt2 goes on (2 beams))
    """
    return GenerationView(generation)


def beam_buttons(generation: Generation, chosen: int) -> str:
    """The texts, best first, each a button with its score: which one stands in `data-pick`."""
    items = []
    for index, sequence in enumerate(generation.sequences):
        told = (
            f"score {sequence.score:.3f} · log-probability {float(sequence.log_probs.sum()):.2f} · "
            f"{len(sequence)} tokens{', ended by the model' if sequence.ended else ''}"
        )
        content = (
            f"<span>{html.escape(generation.prompt)}</span><b>{html.escape(sequence.text)}</b>"
            f"<small>{html.escape(told)}</small>"
        )
        button = pick_button(str(index), content, is_chosen=index == chosen)
        items.append(f"<li>{button}</li>")
    return f'<ol class="beams">{"".join(items)}</ol>'


def alternatives_grid(generation: Generation, index: int) -> TokenGrid:
    """The most probable tokens in the place of each token of one sequence."""
    sequence = generation.sequences[index]
    chosen = zip(generation.tokens(sequence.ids), sequence.log_probs.tolist(), strict=True)
    n_choices = sequence.alternative_ids.shape[1]
    return TokenGrid(
        title=f"Alternatives of sequence {index + 1}: {visible(sequence.text, longest=60)}",
        corner="rank",
        columns=tuple(
            (visible(text, longest=12), percent(math.exp(log_prob))) for text, log_prob in chosen
        ),
        rows=tuple(str(rank) for rank in range(1, n_choices + 1)),
        cells=tuple(_choices(generation, sequence, rank) for rank in range(n_choices)),
        framed="written",
    )


def _choices(
    generation: Generation, sequence: GeneratedSequence, rank: int
) -> tuple[GridCell, ...]:
    ids = sequence.alternative_ids[:, rank].tolist()
    log_probs = sequence.alternative_log_probs[:, rank].tolist()
    return tuple(
        GridCell(
            text=visible(generation.texts[token], longest=12),
            probability=math.exp(log_prob),
            tip=f"{generation.texts[token]!r}: {log_prob:.3f} nats",
            is_framed=token == own,
        )
        for token, log_prob, own in zip(ids, log_probs, sequence.ids.tolist(), strict=True)
    )
