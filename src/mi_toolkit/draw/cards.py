"""The card of a head, and the families of a model's heads: a map of all, and what each lifts."""

from __future__ import annotations

import torch
from markupsafe import Markup

from mi_toolkit.cards.card import WORTH_SAYING, Example, HeadCard, LossChange, RelationFigure
from mi_toolkit.cards.circuits import TokenTable
from mi_toolkit.cards.families import DIFFUSE, FAMILY_HEADER, HeadFamilies
from mi_toolkit.core.display import TextTable
from mi_toolkit.core.head import Head
from mi_toolkit.draw import figures
from mi_toolkit.draw.head_maps import Cell, HeadMap, map_figure
from mi_toolkit.draw.markup import render, strip_svg, tables_html, value_grid
from mi_toolkit.draw.page import ResultView
from mi_toolkit.draw.primitives import (
    LABELS,
    LINES,
    NOTHING,
    SEQUENTIAL,
    ColouredToken,
    DotStrip,
    made_text,
    shade,
    signed,
    span_of,
    visible,
)
from mi_toolkit.heads.relations import RELATIONS
from mi_toolkit.interventions.confirm.confirmation import (
    with_interval,
)

STRIP_WIDTH, STRIP_HEIGHT = 200, 22
"""Pixels of a strip on a card."""


MOST_BEFORE = 40
"""Tokens of an example shown before its query, and those that much is moved from."""


def view_card(card: HeadCard) -> ResultView:
    """A head's card to look at: in a notebook, as a page, as a picture.

    Example:
        >>> import mi_toolkit as mi
        >>> texts = ["When Mary and John went to the store, John gave a drink to Mary."] * 4
        >>> card = mi.head_card(mi.load_model("toy-gpt2"), "L2H0", texts, parts=["examples"])
        >>> mi.view(card)
        View of L2H0 of toy-gpt2: induction
    """
    return ResultView(
        title=card.title(),
        caption=(
            "A key counts by the length of what it adds to the head's output; position 0, where "
            f"heads rest, is left out. {card.n_queries:,} queries in {card.n_documents:,} "
            "documents. Lift 0 is chance on the same tokens, 1 is nothing but keys of this kind."
        ),
        body=lambda: card_html(card),
        draw=lambda: figures.card_figure(card),
        height=2200,
    )


def card_html(card: HeadCard) -> Markup:
    """The card, as far as it was made."""
    by_kind: dict[str, list[LossChange]] = {}
    for loss in card.losses:
        by_kind.setdefault(loss.how, []).append(loss)
    return render(
        "head_card",
        card=card,
        sink=sink_in_words(card),
        clear=max(3, sum(each.low > 0 and each.lift > WORTH_SAYING for each in card.relations)),
        relations=_relation_rows(card),
        behaviours=[
            (
                each.behaviour,
                each.stimulus,
                with_interval(each.value, each.low, each.high, digits=2),
                "yes" if each.labels else "",
            )
            for each in card.behaviours
        ],
        examples=[_example(each) for each in card.examples],
        tables=[
            (said, _pairs(table))
            for said, table in (
                (_said_of_reads(card), card.reads),
                (_said_of_writes(card), card.writes),
            )
            if table is not None
        ],
        maps=[
            (each.name, str(each.n_pairs), with_interval(each.lift, each.low, each.high, digits=2))
            for each in card.maps
            if not each.not_applicable
        ],
        small_maps="; ".join(
            f"{each.name}: {each.not_applicable}" for each in card.maps if each.not_applicable
        ),
        losses=[(how, _loss_rows(rows)) for how, rows in by_kind.items()],
        links=[
            (
                str(link.writer),
                str(link.reader),
                link.way,
                f"{link.score:.3f}",
                f"{link.null:.3f}",
                f"{link.z:.1f}",
            )
            for link in card.links
        ],
        nearest=[
            (str(near.head), near.model, f"{near.distance:.2f}", f"{near.typical:.2f}")
            for near in card.nearest
        ],
        facts=made_text(card.provenance, further=f"Seed {card.provenance.seed}."),
    )


def _relation_rows(card: HeadCard) -> list[tuple[str, ...]]:
    span = span_of(map(relation_strip, card.relations))
    return [
        (
            each.relation,
            RELATIONS[each.relation].meaning,
            with_interval(each.lift, each.low, each.high, digits=2),
            strip_svg(relation_strip(each), span, width=STRIP_WIDTH, height=STRIP_HEIGHT),
            f"{each.share:.1%}",
            f"{each.chance:.1%}",
            signed(each.attention_lift),
        )
        for each in card.relations
    ]


def sink_in_words(card: HeadCard) -> str:
    """How much rests on position 0, and whether attention and what is moved disagree."""
    said = (
        f"{card.sink_attended:.0%} of its attention rests on position 0, from which "
        f"{card.sink_moved:.0%} of what it moves comes"
    )
    if card.sink_attended - card.sink_moved > 0.2:
        said += ": attention there moves little, so it says where the head rests"
    window = "" if card.window is None else f" Its layer sees {card.window} tokens back."
    rank = f"It moves the most of its layer's heads, {card.activity:.2f} at a query in the mean."
    if card.activity_rank > 1:
        rank = (
            f"{card.activity_rank - 1} of its layer's heads move more than it does, "
            f"{card.activity:.2f} at a query in the mean."
        )
    return f"{said}. {rank}{window}"


def relation_strip(found: RelationFigure) -> DotStrip:
    """A lift with its interval; the dot is that of attention alone."""
    return DotStrip(
        value=found.lift,
        others=[found.attention_lift],
        low=found.low,
        high=found.high,
        said=f"lift {found.lift:.2f}, by attention alone {found.attention_lift:.2f}",
        colour=LINES[0],
    )


def loss_strip(found: LossChange) -> DotStrip:
    """A change of loss with its interval, among those of other heads of the layer."""
    return DotStrip(
        value=found.effect.change,
        others=found.effect.random.tolist(),
        low=found.effect.change_low,
        high=found.effect.change_high,
        said=f"change {found.effect.change:.4f} nats among those of other heads",
    )


def _loss_rows(losses: list[LossChange]) -> list[tuple[str, str, str, Markup, str]]:
    span = span_of(map(loss_strip, losses))
    return [
        (
            loss.kind,
            f"{loss.n_tokens:,}",
            with_interval(
                loss.effect.change, loss.effect.change_low, loss.effect.change_high, digits=4
            ),
            strip_svg(loss_strip(loss), span, width=STRIP_WIDTH, height=STRIP_HEIGHT),
            _reaching(loss),
        )
        for loss in losses
    ]


def _reaching(loss: LossChange) -> str:
    reached = loss.effect.random.abs() >= abs(loss.effect.change)
    return f"{int(reached.sum())} of {len(reached)}"


def _example(found: Example) -> tuple[str, list[ColouredToken], ColouredToken, str]:
    """A title, the tokens before the query, the query, and what comes after it as text."""
    n = len(found.moved)
    shares = (found.moved / found.moved.sum().clamp_min(1e-30)).tolist()
    tokens = [
        ColouredToken(
            text=visible(text),
            colour=shade(share, SEQUENTIAL),
            tip=f"{text!r} at {place}: {share:.1%} of what is moved, attention {attended:.1%}",
        )
        for place, (text, share, attended) in enumerate(
            zip(found.texts, shares, found.attended.tolist(), strict=False)
        )
    ]
    shown = [
        token
        for place, token in enumerate(tokens[: n - 1])
        if place >= n - MOST_BEFORE or shares[place] > 0.02
    ]
    which = "most" if found.tenth is None else f"tenth {found.tenth} of 10"
    title = f"{which}, {found.activity:.2f}, document {found.document}:"
    return title, shown, tokens[n - 1], visible("".join(found.texts[n:]), longest=40)


def _pairs(table: TokenTable) -> list[tuple[str, str, str, str]]:
    return [
        (
            f"{visible(high.source)} → {visible(high.target)}",
            signed(high.value),
            f"{visible(low.source)} → {visible(low.target)}",
            signed(low.value),
        )
        for high, low in zip(table.highest, table.lowest, strict=True)
    ]


def _said_of_reads(card: HeadCard) -> str:
    if card.reads is None:
        return ""
    return (
        f"Query → key, {card.offset} apart, over the {card.reads.n_tokens:,} most frequent tokens: "
        + _said(card.reads, "keys that every query likes", "a token with itself")
    )


def _said_of_writes(card: HeadCard) -> str:
    if card.writes is None:
        return ""
    return "Token read → token whose logit rises: " + _said(
        card.writes, "logits that every token raises", "a token and its own logit"
    )


def _said(table: TokenTable, common: str, itself: str) -> str:
    """What the table's ends are held against, in words."""
    favoured = " ".join(visible(pair.target) for pair in table.common[:5])
    return (
        f"in standard deviations of what is left without the means of rows and columns. A shuffled "
        f"vocabulary reaches {signed(table.shuffled_highest)} and "
        f"{signed(table.shuffled_lowest)}. {itself[0].upper()}{itself[1:]}: "
        f"{signed(table.itself)} in the mean, ±{1.96 * table.itself_error:.2f} for shuffled pairs. "
        f"{table.common_share:.0%} of the differences within rows are the same in all: {common} "
        f"({favoured})."
    )


FAMILY_COLOURS = tuple(
    dict.fromkeys([*LINES[:-1], *(each for name, each in LABELS.items() if name != "first_token")])
)


DIFFUSE_COLOUR = LABELS["first_token"]


def view_families(found: HeadFamilies) -> ResultView:
    """The families of a model's heads to look at: in a notebook, as a page, as a picture.

    Example:
        >>> import mi_toolkit as mi
        >>> texts = ["When Mary and John went to the store, John gave a drink to Mary."] * 4
        >>> mi.view(mi.head_families(mi.load_model("toy-gpt2"), texts, min_size=2, n_draws=2))
        View of Families of the heads of toy-gpt2: ...
    """
    table = TextTable(title="Families", header=FAMILY_HEADER, rows=found.cells())
    return ResultView(
        title=found.title(),
        caption=(
            "Heads that move the same kinds of keys, however strongly. Stability is the Jaccard "
            f"index with the most similar group over {found.n_draws} draws of documents: a family "
            "under 0.8 is unstable. Gain, where it was tested, is how much more a member's changes "
            "of loss under ablation go with another member's than with those of the heads of that "
            "other one's layer that are none, a difference of correlations; a family whose gain is "
            "not above 0 beyond doubt is shown as failed. Where other models were looked at, it "
            "recurs in those with more heads like it than chance gives."
        ),
        body=lambda: render(
            "families",
            maps=[map_figure(shown) for shown in family_maps(found)],
            table=tables_html(table),
            grid=family_strips(found),
        ),
        draw=lambda: figures.map_grid(family_maps(found), found.title()),
        height=500
        + sum(90 + 26 * len(family) for family in found.family.values())
        + 40 * len(found.families),
    )


STRIP_CELL = 26
"""Pixels of a relation in a family's strip."""


def family_strips(found: HeadFamilies) -> Markup:
    """What each family lifts in the mean, a strip of all relations for each."""
    if not found.families:
        return Markup()
    return value_grid(
        torch.stack([each.profile for each in found.families]),
        down=[f"{each.name} ({len(each.members)})" for each in found.families],
        across=found.relations,
        said="Mean lift of each relation, family by family",
        cell=STRIP_CELL,
    )


def family_maps(found: HeadFamilies) -> list[HeadMap]:
    """Every head by its family, model by model; those in none, and in unstable ones, stay grey."""
    colours, names, others = {-1: NOTHING}, {-1: "no family"}, iter(FAMILY_COLOURS * 9)
    for place, each in enumerate(found.families):
        names[place] = f"{each.name} ({each.verdict})"
        if each.name == DIFFUSE:
            colours[place] = DIFFUSE_COLOUR
        else:
            colours[place] = NOTHING if each.verdict == "unstable" else next(others)
    legend = {names[place]: colours[place] for place in names if colours[place] != NOTHING}
    legend["no stable family"] = NOTHING
    last = list(found.family)[-1]
    return [
        HeadMap(
            title=model if len(found.family) > 1 else "families",
            subtitle="what a head moves",
            layers=tuple(map(str, range(len(family)))),
            n_heads=family.shape[1],
            cells=tuple(
                Cell(
                    head=Head(layer, head),
                    colours=(colours[place],),
                    tip=f"{Head(layer, head)}: {names[place]}",
                )
                for layer, row in enumerate(family.tolist())
                for head, place in enumerate(row)
            ),
            legend=legend if model == last else {},  # the same for all
        )
        for model, family in found.family.items()
    ]
