"""Ablations and patching as pages and pictures: one effect, two texts side by side, a sweep."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from mi_toolkit.core.display import TextTable, counted
from mi_toolkit.core.predictions import Prediction
from mi_toolkit.draw import figures
from mi_toolkit.draw.markup import bars_html, render, strip_svg, tables_html
from mi_toolkit.draw.page import ResultView
from mi_toolkit.draw.primitives import (
    LINES,
    SEQUENTIAL,
    ColouredToken,
    DotStrip,
    made_text,
    shade,
    signed,
    visible,
)
from mi_toolkit.interventions.direct_attribution import DirectAttribution
from mi_toolkit.interventions.effect import FIGURES, HEADER, AblationEffect
from mi_toolkit.interventions.gradient_patching import AttributionPatching, EdgeAttribution
from mi_toolkit.interventions.patching import Patching
from mi_toolkit.interventions.sweep import HEADER as SWEEP_HEADER
from mi_toolkit.interventions.sweep import AblationSweep

LISTED = 15


def view_ablation(result: AblationEffect | AblationSweep) -> ResultView:
    """An ablation to look at: in a notebook, as a page, as a picture.

    Example:
        >>> import mi_toolkit as mi
        >>> model = mi.load_model("toy-gpt2")
        >>> mi.view(mi.ablation_sweep(model, "one two three one two"))
        View of Every head of toy-gpt2 under zero ablation, one at a time
    """
    return _sweep_view(result) if isinstance(result, AblationSweep) else _effect_view(result)


def _sweep_view(sweep: AblationSweep) -> ResultView:
    title = "The heads that change the log-probability most"
    return ResultView(
        title=sweep.title(),
        caption=(
            f"What the model makes of {visible(sweep.clean.text)!r} after the prompt, which it "
            f"gives {sweep.clean.probability:.1%} (rank {sweep.clean.rank}), when one head is "
            "ablated. Orange is a fall, purple a rise. Each figure is of this one prompt: a head "
            "that matters here need not matter for the next."
        ),
        draw=lambda: figures.sweep_maps(sweep),
        body=lambda: tables_html(
            TextTable(title=title, header=SWEEP_HEADER, rows=sweep.cells(LISTED)),
            prompt="".join(sweep.texts),
            facts=_facts(sweep),
        ),
    )


def _effect_view(effect: AblationEffect) -> ResultView:
    controls = (
        f"{len(effect.controls)} random sets of the same size stand next to it: a change within "
        "theirs is no finding."
        if effect.controls
        else "No random set stands next to it."
    )
    return ResultView(
        title=effect.title(),
        caption=(
            f"The prediction after the prompt with nothing ablated, and with "
            f"{' '.join(map(str, effect.components)) or 'nothing'} ablated; the target is "
            f"{visible(effect.before.text)!r}. {controls}"
        ),
        draw=lambda: figures.effect_picture(effect),
        body=lambda: tables_html(
            TextTable(title="Before and after", header=HEADER, rows=effect.cells()),
            TextTable(
                title="The most probable next tokens",
                header=["rank", "clean", "probability", "ablated", "probability"],
                rows=_side_by_side(effect.top_before, effect.top_after),
            ),
            *_free_text(effect),
            prompt="".join(effect.texts),
            facts=_facts(effect),
        ),
    )


def _side_by_side(before: tuple[Prediction, ...], after: tuple[Prediction, ...]) -> list[list[str]]:
    return [
        [
            str(rank),
            visible(one.text),
            f"{one.probability:.2%}",
            visible(other.text),
            f"{other.probability:.2%}",
        ]
        for rank, (one, other) in enumerate(zip(before, after, strict=True), start=1)
    ]


def _free_text(effect: AblationEffect) -> list[TextTable | str]:
    free = effect.free_text
    if free is None:
        return []
    rows = [["clean", free.texts[0]], ["ablated", free.texts[1]]]
    note = (
        f"Greedily, {counted(free.same, 'token')} alike. From the first that differs on, each goes "
        "on from its own text: how much they differ measures nothing."
    )
    return [TextTable(title="Generated freely", header=["", "text"], rows=rows), note]


def _facts(found: AblationEffect | AblationSweep) -> str:
    ablated = f"{found.how} ablation, values from {found.reference}."
    return made_text(found.provenance, further=ablated)


ORIGINAL, ABLATED = LINES[0], LINES[1]
WIDTH, HEIGHT = 280, 26
NAMED = 6


def effect_html(effect: AblationEffect) -> Markup:
    """What happened to the target, the most probable tokens side by side, and the random sets."""
    return render(
        "effect",
        finding=finding(effect),
        figures=_figures(effect),
        bars=[
            bars_html("Original", effect.top_before, target=effect.before, colour=ORIGINAL),
            bars_html("Ablated", effect.top_after, target=effect.after, colour=ABLATED),
        ],
        strips=strips_html(effect),
        tokens=_divergence(effect),
        largest=float(effect.kl.max()),
    )


def finding(effect: AblationEffect) -> str:
    """What ablation does to the target, and whether random sets do as much, in words."""
    before, after = effect.before, effect.after
    names = " ".join(map(str, effect.components)) or "nothing"
    if len(effect.components) > NAMED:
        names = f"{len(effect.components)} heads"
    if after.probability == before.probability:
        change = "stays at"
    else:
        change = "falls to" if after.probability < before.probability else "rises to"
    ranks = f"rank {before.rank:,}"
    if after.rank != before.rank:
        ranks += f" to {after.rank:,}"
    said = (
        f"With {names} ablated the probability of {visible(before.text)} {change} "
        f"{after.probability:.1%}, from {before.probability:.1%} ({ranks})."
    )
    n_random = len(effect.controls)
    if not n_random:
        return said
    less = round(effect.share_beyond("log_prob") * n_random)
    sets = "random set" if n_random == 1 else "random sets"
    return f"{said} {less} of {n_random} {sets} of as many heads change its log-probability less."


def strips_html(effect: AblationEffect) -> Markup:
    """For each figure a line with its change and those of the random sets."""
    if effect.controls:
        n_random = len(effect.controls)
        note = (
            "A diamond is the change, a dot that of one random set of as many heads from the same "
            f"layers. {n_random} such {'sets' if n_random > 1 else 'set'} ran; a change within "
            "theirs is no finding."
        )
    else:
        note = (
            "No random set stands next to it, so nothing says whether any heads would do as much."
        )
    strips = []
    for name, measured in effect.measured.items():
        strip = strip_of(effect, name)
        said = strip.said.removeprefix(f"{measured}: ")
        strips.append((measured, said, strip_svg(strip, width=WIDTH, height=HEIGHT)))
    return render("strips", note=note, strips=strips)


def texts_html(rows: Sequence[tuple[str, str, str]]) -> Markup:
    """Texts side by side: what each is, the original, the ablated."""
    return render("texts", header=["", "original", "ablated"], rows=rows)


def _figures(effect: AblationEffect) -> list[list[str]]:
    loss = [float(each.mean()) for each in (effect.losses_before, effect.losses_after)]
    target = visible(effect.before.text)
    return [
        [
            f"probability of {target}",
            f"{effect.before.probability:.2%}",
            f"{effect.after.probability:.2%}",
        ],
        [f"rank of {target}", f"{effect.before.rank:,}", f"{effect.after.rank:,}"],
        ["KL from the original (nats)", "0", f"{float(effect.kl[-1]):.4g}"],
        ["loss of the prompt's tokens (nats)", *(f"{each:.3f}" for each in loss)],
    ][: None if "loss" in effect.measured else -1]


def strip_of(effect: AblationEffect, name: str) -> DotStrip:
    """One figure's change among those of random sets."""
    random: list[float] = effect.control_changes[name].tolist()
    said = f"{FIGURES[name]}: {_number(name, effect.change[name])}"
    if random:
        less = round(effect.share_beyond(name) * len(random))
        said += f", more than {less} of {len(random)}"
    return DotStrip(
        value=effect.change[name],
        others=random,
        said=said,
        tips=[
            f"{' '.join(map(str, heads))}: {_number(name, figure)}"
            for heads, figure in zip(effect.controls, random, strict=True)
        ],
        colour=ABLATED,
        radius=4,
    )


def _number(name: str, figure: float) -> str:
    sign = "+" if figure > 0 else ""
    return f"{sign}{figure:,.0f}" if name == "rank" else f"{sign}{signed(figure)}"


def _divergence(effect: AblationEffect) -> list[ColouredToken]:
    largest = float(effect.kl.max()) or 1.0
    return [
        ColouredToken(
            text=visible(text),
            colour=shade(divergence / largest, SEQUENTIAL),
            tip=f"after {text!r}: {divergence:.3f} nats",
        )
        for text, divergence in zip(effect.texts, effect.kl.tolist(), strict=True)
    ]


Found = Patching | AttributionPatching | EdgeAttribution | DirectAttribution


def view_patching(found: Found) -> ResultView:
    """What parts carry or write, to look at: in a notebook, as a page, as a picture.

    Example:
        >>> import mi_toolkit as mi
        >>> model = mi.load_model("toy-gpt2")
        >>> mi.view(mi.direct_logit_attribution(model, "Mary and John went to"))
        View of What writes the logit of ' the' in toy-gpt2
    """
    if isinstance(found, Patching):
        return _patching(found)
    if isinstance(found, EdgeAttribution):
        return _edges(found)
    return _attribution(found) if isinstance(found, AttributionPatching) else _direct(found)


def _patching(found: Patching) -> ResultView:

    rows = [[str(layer), place, f"{share:+z.3f}"] for layer, place, share in found.top(LISTED)]
    return ResultView(
        title=found.title(),
        caption=(
            f"The {found.metric} is {found.clean:+z.3f} after the clean prompt and "
            f"{found.corrupted:+z.3f} after the corrupted one. Each cell is the corrupted run with "
            f"one clean {found.what} put in: 0 changes nothing, 1 brings all of the difference "
            "back. Orange takes it further away."
        ),
        draw=lambda: figures.sheet_of(figures.patching_map(found)),
        body=lambda: tables_html(
            TextTable(
                title="",
                header=["layer", found.place.replace("_", " "), "share brought back"],
                rows=rows,
            ),
            facts=made_text(found.provenance),
        ),
    )


def _attribution(found: AttributionPatching) -> ResultView:

    rows = [[part, place, f"{value:+z.3f}"] for part, place, value in found.top(LISTED)]
    return ResultView(
        title=found.title(),
        caption=(
            f"The {found.metric} is {found.clean:+z.3f} after the clean prompt and "
            f"{found.corrupted:+z.3f} after the corrupted one. Each cell estimates by a gradient "
            "what putting that clean activation into the corrupted run would change it by: purple "
            "raises it, orange lowers it. It is of first order: activation patching checks it."
        ),
        draw=lambda: figures.attribution_maps(found),
        body=lambda: tables_html(
            TextTable(title="", header=["part", "at token", "estimated change"], rows=rows),
            facts=made_text(found.provenance),
        ),
    )


def _edges(found: EdgeAttribution) -> ResultView:

    rows = [
        [writer, reader, place, f"{value:+z.3f}"]
        for writer, reader, place, value in found.top(LISTED)
    ]
    return ResultView(
        title=found.title(),
        caption=(
            f"The {found.metric} is {found.clean:+z.3f} after the clean prompt and "
            f"{found.corrupted:+z.3f} after the corrupted one. Each arrow estimates by a gradient "
            "what the writer's clean output, read by that one reader, would change it by: purple "
            "raises it, orange lowers it, thicker is more. The strongest paths are shown, of "
            f"{len(found.scores):,}; what a head moves between tokens happens inside it."
        ),
        draw=lambda: figures.sheet_of(figures.edge_figure(found)),
        body=lambda: tables_html(
            TextTable(title="", header=["from", "to", "at token", "estimated change"], rows=rows),
            facts=made_text(found.provenance),
        ),
    )


def _direct(found: DirectAttribution) -> ResultView:

    rows = [[part, f"{value:+z.3f}"] for part, value in found.top(LISTED)]
    return ResultView(
        title=found.title(),
        caption=(
            f"It is {found.logit:+z.3f}, the sum of what embedding, heads, attention biases and "
            "MLPs write towards it, read through the final norm with its scale held, and of a "
            f"constant; the residue is {found.residue:+.1e}. Purple writes for it, orange against. "
            "Only the direct path counts: what a head changes in later parts is theirs."
        ),
        draw=lambda: figures.sheet_of(figures.direct_map(found)),
        body=lambda: tables_html(
            TextTable(title="", header=["part", "write"], rows=rows),
            prompt="".join(found.texts),
            facts=made_text(found.provenance),
        ),
    )
