"""Scores of weights to look at: the highest, where they lie, and what zeroing one does."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from mi_toolkit.draw import figures
from mi_toolkit.draw.markup import bars_html, render
from mi_toolkit.draw.page import SavedView, Section
from mi_toolkit.draw.primitives import LINES, visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mi_toolkit.core.model import HookedModel
    from mi_toolkit.core.random_sets import Triple
    from mi_toolkit.heads.report import HeadReport
    from mi_toolkit.weights.prompt_effect import PerturbationEffect
    from mi_toolkit.weights.weight_scores import WeightScores


Row = Mapping[Any, Any]

HEADER = ("rank", "weight, [in, out]", "part", "value", "score")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class WeightsView(SavedView):
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
        changed = Markup() if self.effect is None else perturbation_html(self.effect)
        return Section(
            title=self.title,
            caption=(
                f"The {len(self.top)} highest of {self.size:,} scores, and the share of all scores "
                "by head and by matrix. A score is a prediction: changing the weight tests it."
                + ("" if self.warning is None else f" Warning: {self.warning}")
            ),
            body=top_html(self) + changed + shares_html(self),
            height=500 + 30 * (len(self.top) + 2 * len({row["layer"] for row in self.layers})),
        )

    def figure(self) -> Figure:
        """The maps as one picture."""
        return figures.weight_maps(self.title, self.heads, self.layers)

    def __repr__(self) -> str:
        return f"WeightsView of {self.title}"


def view_weights(
    scores: WeightScores,
    k: int = 20,
    *,
    report: HeadReport | None = None,
    model: HookedModel | None = None,
    effect: PerturbationEffect | None = None,
) -> WeightsView:
    """Scores of weights to look at: in a notebook, as a page, as a picture.

    Args:
        scores: of `score_weights`.
        k: how many of the highest to list; ties at the end are cut.
        report: of the same model, whose labels stand next to the heads.
        model: that was scored, to show the weights' values.
        effect: of `perturbation_effect`, shown below the list.

    Example:
        >>> import mi_toolkit as mi
        >>> model = mi.load_model("toy-gpt2")
        >>> mi.view(mi.score_weights(model, "Mary and John went to the store"), k=5)
        WeightsView of Critical weights of toy-gpt2 by grad_x_weight
    """
    has_heads = any(place.unit == "head" for place in scores.places)
    top = scores.top(k, report=report, model=model)
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


def top_html(view: WeightsView, *, button: str = "", chosen: Sequence[Triple] = ()) -> Markup:
    """The highest scores as a table.

    Args:
        view: whose.
        button: what a button in each row says, whose `data-pick` is the row's number; none if
            empty.
        chosen: the weights whose rows are marked.
    """
    has_values = any("weight" in row for row in view.top)
    header = [name for name in HEADER if name != "value" or has_values]
    rows = [(_name(row), _cells(row), _place(row) in chosen) for row in view.top]
    return render("top_weights", header=header, has_values=has_values, rows=rows, button=button)


def _name(row: Row) -> str:
    parameter, at, column = _place(row)
    return f"{parameter}[{at}, {column}]"


def _cells(row: Row) -> tuple[str, str, str, str]:
    """Rank, part, value and score."""
    error = f" ± {row['standard_error']:.2g}" if "standard_error" in row else ""
    value = _figure(row["weight"]) if "weight" in row else ""
    return f"{row['rank']:,}", _part(row), value, _figure(row["score"]) + error


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


def shares_html(view: WeightsView) -> Markup:
    """The share of all scores by head and by matrix, layer by layer."""
    return render("shares", maps=share_maps(view.heads, view.layers))


def share_maps(heads: Sequence[Row], layers: Sequence[Row]) -> list[ShareMap]:
    """Shares of all scores, layers downwards: heads across, and matrices across.

    Args:
        heads: rows of `WeightScores.by_head`, or none.
        layers: rows of `WeightScores.by_layer`.
    """
    in_layers = [row for row in layers if _known(row["layer"])]
    cells = {
        ("Heads", "head"): {(int(row["layer"]), str(row["head"])): row["share"] for row in heads},
        ("Matrices", "matrix"): {
            (int(row["layer"]), str(row["component"])): row["share"] for row in in_layers
        },
    }
    maps = []
    for (title, across), shares in cells.items():
        rows = list(dict.fromkeys(layer for layer, _ in shares))
        columns = list(dict.fromkeys(column for _, column in shares))
        values = [
            [float(shares.get((row, column), math.nan)) for column in columns] for row in rows
        ]
        if shares:
            maps.append(ShareMap(title, across, list(map(str, rows)), columns, values))
    return maps


@dataclass(frozen=True)
class ShareMap:
    """Shares of all scores in rows and columns; NaN where there are none."""

    title: str
    across: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float]]

    @property
    def most(self) -> float:
        """The largest share; 1 where all are 0."""
        return max(value for row in self.values for value in row if value == value) or 1.0


def perturbation_html(effect: PerturbationEffect) -> Markup:
    """What changing weights does to a prompt: in words, the next tokens, the text."""
    before, after = effect.before, effect.after
    ranks = "" if after.rank == 1 else f" and is now number {after.rank:,}"
    controls = (
        f" {effect.n_less} of {len(effect.random_kl)} random sets of as many weights of the same "
        "matrices change the prediction less."
        if len(effect.random_kl)
        else ""
    )
    return render(
        "perturbation",
        title=effect.title(),
        said=(
            f"{visible(before.text)} goes from {before.probability:.2%} to {after.probability:.2%}"
            f"{ranks}; KL {effect.kl:.3g} nats.{controls}"
        ),
        bars=[
            bars_html("As it is", effect.top_before, target=before, colour=LINES[0]),
            bars_html("Changed", effect.top_after, target=after, colour=LINES[1]),
        ],
        texts=effect.texts,
    )


def _known(value: object) -> bool:
    """Whether a cell of a table holds something: pandas has several kinds of nothing."""
    if isinstance(value, float):
        return math.isfinite(value)
    return value is not None and str(value) != "<NA>"


def _figure(value: Any) -> str:
    return f"{value:.4g}".replace("-", "\N{MINUS SIGN}") if _known(value) else ""
