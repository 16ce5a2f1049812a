"""Scores of weights to look at: the highest, where they lie, and what zeroing one does."""

from __future__ import annotations

import html
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mi_toolkit.core.display import html_table
from mi_toolkit.draw import figures
from mi_toolkit.draw.page import Page, Section
from mi_toolkit.draw.primitives import LINES, SEQUENTIAL, bars_html, ink_on, shade, visible

if TYPE_CHECKING:
    from mi_toolkit.core.random_sets import Triple
    from mi_toolkit.heads.report import HeadReport
    from mi_toolkit.weights.prompt_effect import PerturbationEffect
    from mi_toolkit.weights.weight_scores import WeightScores


Row = Mapping[Any, Any]

HEADER = ("rank", "weight, [in, out]", "part", "value", "score")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class WeightsView:
    """The highest scores of a model's weights, and their sums; neither model nor scores."""

    model: str
    """The model's name."""

    metric: str
    """The scorer."""

    size: int
    """How many weights were scored."""

    top: tuple[Row, ...]
    """Rows of `WeightScores.top`."""

    heads: tuple[Row, ...]
    """Rows of `by_head`; none where no attention was scored."""

    layers: tuple[Row, ...]
    """Rows of `by_layer`."""

    effect: PerturbationEffect | None = None
    """What changing one of them did to a prompt."""

    warning: str | None = None
    """What to know of the ranking before it is used; None where it stands."""

    def with_effect(self, effect: PerturbationEffect | None) -> WeightsView:
        """The same with another effect."""
        return replace(self, effect=effect)

    @property
    def title(self) -> str:
        """What is shown, in one line."""
        return f"Critical weights of {self.model} by {self.metric}"

    def section(self) -> Section:
        """The view's part of a page."""
        changed = "" if self.effect is None else perturbation_html(self.effect)
        return Section(
            title=self.title,
            caption=(
                f"The {len(self.top)} highest of {self.size:,} scores, and the share of all scores "
                "by head and by matrix. A score is a prediction: changing the weight tests it."
                + ("" if self.warning is None else f" Warning: {self.warning}")
            ),
            body=f"{top_html(self)}{changed}{shares_html(self)}",
            height=500 + 30 * (len(self.top) + 2 * len({row["layer"] for row in self.layers})),
        )

    def save_html(self, path: str | os.PathLike[str]) -> None:
        """Write a page of this view alone; `Page` puts several views on one."""
        Page([self]).save_html(path)

    def save_png(self, path: str | os.PathLike[str]) -> None:
        """Write the maps as one picture: PNG, or SVG where the name ends in `.svg`."""
        figures.save_figure(figures.weight_maps(self.title, self.heads, self.layers), path)

    def _repr_html_(self) -> str:
        return Page([self])._repr_html_()

    def __repr__(self) -> str:
        return f"WeightsView of {self.title}"


def view_weights(
    scores: WeightScores,
    k: int = 20,
    *,
    report: HeadReport | None = None,
    effect: PerturbationEffect | None = None,
) -> WeightsView:
    """Scores of weights to look at: in a notebook, as a page, as a picture.

    Args:
        scores: of `score_weights`.
        k: how many of the highest to list; ties at the end are cut.
        report: of the same model, whose labels stand next to the heads.
        effect: of `perturbation_effect`, shown below the list.

    Example:
        >>> import mi_toolkit as mi
        >>> model = mi.load_model("toy-gpt2")
        >>> mi.view(mi.score_weights(model, "Mary and John went to the store"), k=5)
        WeightsView of Critical weights of toy-gpt2 by grad_x_weight
    """
    has_heads = any(place.unit in ("head", "kv_head") for place in scores.places)
    top = scores.top(k, report=report)
    return WeightsView(
        model=scores.provenance.model,
        metric=scores.metric,
        size=scores.size,
        top=tuple(top.head(k).to_dict("records")),
        heads=tuple(scores.by_head().to_dict("records")) if has_heads else (),
        layers=tuple(scores.by_layer().to_dict("records")),
        effect=effect,
        warning=top.attrs.get("warning"),
    )


def top_html(view: WeightsView, *, button: str = "", chosen: Sequence[Triple] = ()) -> str:
    """The highest scores as a table.

    Args:
        view: whose.
        button: what a button in each row says, whose `data-pick` is the row's number; none if
            empty.
        chosen: the weights whose rows are marked.
    """
    names = HEADER if not button else (HEADER[0], "", *HEADER[1:])
    head = "".join(f"<th>{name}</th>" for name in names)
    rows = "".join(
        _top_row(index, row, button, _place(row) in chosen) for index, row in enumerate(view.top)
    )
    return f'<div class="wide"><table class="weights"><tr>{head}</tr>{rows}</table></div>'


def _top_row(index: int, row: Row, button: str, is_chosen: bool) -> str:
    parameter, at, column = _place(row)
    name = html.escape(f"{parameter}[{at}, {column}]")
    cells = [
        f"{row['rank']:,}",
        f"<code>{name}</code>",
        html.escape(_part(row)),
        _figure(row["weight"]),
        _figure(row["score"])
        + (f" ± {row['standard_error']:.2g}" if "standard_error" in row else ""),
    ]
    if button:
        cells.insert(
            1,
            f'<button type="button" data-pick="{index}" aria-pressed="{str(is_chosen).lower()}" '
            f'aria-label="{html.escape(button)} {name}">{html.escape(button)}</button>',
        )
    marked = ' class="target"' if is_chosen else ""
    return f"<tr{marked}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _place(row: Row) -> Triple:
    return str(row["parameter"]), int(row["row"]), int(row["column"])


def _part(row: Row) -> str:
    """The head or neuron of a weight, with the head's labels where they are known."""
    layer = row["layer"]
    if _known(row["head"]):
        labels = row.get("labels")
        return f"L{layer}H{row['head']}" + (f": {labels}" if _known(labels) else "")
    if _known(row["kv_head"]):
        return f"layer {layer}, key and value head {row['kv_head']}"
    if _known(row["neuron"]):
        return f"layer {layer}, neuron {row['neuron']}"
    return f"layer {layer}" if _known(layer) else ""


def shares_html(view: WeightsView) -> str:
    """The share of all scores by head and by matrix, layer by layer."""
    maps = [
        _shares("Heads", "head", [(row["layer"], row["head"], row) for row in view.heads]),
        _shares(
            "Matrices",
            "matrix",
            [(row["layer"], row["component"], row) for row in view.layers if _known(row["layer"])],
        ),
    ]
    return f'<div class="figures">{"".join(maps)}</div>'


def _shares(title: str, across: str, cells: Sequence[tuple[int, Any, Row]]) -> str:
    if not cells:
        return ""
    columns = list(dict.fromkeys(column for _, column, _ in cells))
    shares = {(layer, column): float(row["share"]) for layer, column, row in cells}
    most = max(shares.values()) or 1.0
    head = "".join(f"<th>{html.escape(str(column))}</th>" for column in columns)
    rows = "".join(
        f"<tr><th>{layer}</th>"
        + "".join(_share(shares.get((layer, column)), most) for column in columns)
        + "</tr>"
        for layer in dict.fromkeys(layer for layer, _, _ in cells)
    )
    return (
        f'<figure class="shares"><figcaption><b>{title}</b> share of all scores, %; layers '
        f'downwards, {across} across</figcaption><div class="wide"><table>'
        f"<tr><th></th>{head}</tr>{rows}</table></div></figure>"
    )


def _share(share: float | None, most: float) -> str:
    if share is None:
        return "<td></td>"
    colour = shade(share / most, SEQUENTIAL)
    return f'<td style="background:{colour};color:{ink_on(colour)}">{share * 100:.1f}</td>'


def perturbation_html(effect: PerturbationEffect) -> str:
    """What changing weights does to a prompt: in words, the next tokens, the text."""
    before, after = effect.before, effect.after
    ranks = "" if after.rank == 1 else f" and is now number {after.rank:,}"
    beside = (
        f" {effect.n_less} of {len(effect.random_kl)} random sets of as many weights of the same "
        "matrices change the prediction less."
        if len(effect.random_kl)
        else ""
    )
    said = (
        f"{visible(before.text)} goes from {before.probability:.2%} to {after.probability:.2%}"
        f"{ranks}; KL {effect.kl:.3g} nats.{beside}"
    )
    texts = html_table(
        ["", "the model writes"],
        [["as it is", effect.texts[0]], ["changed", effect.texts[1]]],
    )
    return (
        f"<h3>{html.escape(effect.title())}</h3>"
        f'<p role="status"><b>{html.escape(said)}</b></p><div class="sides">'
        + bars_html("As it is", effect.top_before, target=before, colour=LINES[0])
        + bars_html("Changed", effect.top_after, target=after, colour=LINES[1])
        + f'</div><div class="texts">{texts if any(effect.texts) else ""}</div>'
    )


def _known(value: object) -> bool:
    """Whether a cell of a table holds something: pandas has several kinds of nothing."""
    if isinstance(value, float):
        return math.isfinite(value)
    return value is not None and str(value) != "<NA>"


def _figure(value: Any) -> str:
    return f"{value:.4g}".replace("-", "\N{MINUS SIGN}") if _known(value) else ""
