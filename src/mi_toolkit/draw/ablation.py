"""Ablations and patching as pages and pictures: one effect, two texts side by side, a sweep."""

from __future__ import annotations

import html
from collections.abc import Sequence

from mi_toolkit.core.display import html_table
from mi_toolkit.core.predictions import Prediction
from mi_toolkit.core.provenance import Provenance
from mi_toolkit.draw import figures
from mi_toolkit.draw.head_maps import signed
from mi_toolkit.draw.picture import PictureView, wide_table
from mi_toolkit.draw.primitives import LINES, SEQUENTIAL, bars_html, ink_on, shade, visible
from mi_toolkit.interventions.direct_attribution import DirectAttribution
from mi_toolkit.interventions.effect import FIGURES, HEADER, AblationEffect
from mi_toolkit.interventions.gradient_patching import AttributionPatching, EdgeAttribution
from mi_toolkit.interventions.patching import Patching
from mi_toolkit.interventions.sweep import HEADER as SWEEP_HEADER
from mi_toolkit.interventions.sweep import AblationSweep

HEADS_LISTED = 15


def view_ablation(result: AblationEffect | AblationSweep) -> PictureView:
    """An ablation to look at: in a notebook, as a page, as a picture.

    Example:
        >>> import mi_toolkit as mi
        >>> model = mi.load_model("toy-gpt2")
        >>> mi.view(mi.ablation_sweep(model, "one two three one two"))
        PictureView of Every head of toy-gpt2 under zero ablation, one at a time
    """
    return _sweep_view(result) if isinstance(result, AblationSweep) else _effect_view(result)


def _sweep_view(sweep: AblationSweep) -> PictureView:

    return PictureView(
        title=sweep.title(),
        caption=(
            f"What the model makes of {visible(sweep.clean.text)!r} after the prompt, which it "
            f"gives {sweep.clean.probability:.1%} (rank {sweep.clean.rank}), when one head is "
            "ablated. Orange is a fall, purple a rise. Each figure is of this one prompt: a head "
            "that matters here need not matter for the next."
        ),
        draw=lambda: figures.sweep_maps(sweep),
        body=_prompt(sweep.texts)
        + "<h3>The heads that change the log-probability most</h3>"
        + wide_table(SWEEP_HEADER, sweep.cells(HEADS_LISTED))
        + _facts(sweep.provenance, sweep.how, sweep.reference),
    )


def _effect_view(effect: AblationEffect) -> PictureView:

    beside = (
        f"{len(effect.controls)} random sets of the same size stand next to it: a change within "
        "theirs is no finding."
        if effect.controls
        else "No random set stands next to it."
    )
    return PictureView(
        title=effect.title(),
        caption=(
            f"The prediction after the prompt with nothing ablated, and with "
            f"{' '.join(map(str, effect.components)) or 'nothing'} ablated; the target is "
            f"{visible(effect.before.text)!r}. {beside}"
        ),
        draw=lambda: figures.effect_picture(effect),
        body=_prompt(effect.texts)
        + "<h3>Before and after</h3>"
        + wide_table(HEADER, effect.cells())
        + "<h3>The most probable next tokens</h3>"
        + wide_table(
            ["rank", "clean", "probability", "ablated", "probability"],
            _side_by_side(effect.top_before, effect.top_after),
        )
        + _free_text(effect)
        + _facts(effect.provenance, effect.how, effect.reference),
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


def _free_text(effect: AblationEffect) -> str:
    free = effect.free_text
    if free is None:
        return ""
    rows = [["clean", free.texts[0]], ["ablated", free.texts[1]]]
    note = (
        f"Greedily, {free.same} tokens alike. From the first that differs on, each goes on from "
        "its own text: how much they differ measures nothing."
    )
    return f"<h3>Generated freely</h3><p>{note}</p>" + wide_table(["", "text"], rows)


def _prompt(texts: tuple[str, ...]) -> str:
    return f"<p>Prompt: <code>{html.escape(''.join(texts))}</code></p>"


def _facts(made: Provenance, how: str, reference: str) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in made.versions.items())
    return (
        f'<p class="facts">{html.escape(made.model)} in {made.dtype} as {made.backend}. {how} '
        f"ablation, values from {html.escape(reference)}. {html.escape(versions)}.</p>"
    )


ORIGINAL, ABLATED = LINES[0], LINES[1]
WIDTH, HEIGHT, MARGIN = 280, 26, 8
NAMED = 6


def effect_html(effect: AblationEffect) -> str:
    """What happened to the target, the most probable tokens side by side, and the random sets."""
    return (
        f'<p role="status"><b>{html.escape(finding(effect))}</b></p>{_figures(effect)}'
        '<h3>The most probable next tokens</h3><div class="sides">'
        + bars_html("Original", effect.top_before, target=effect.before, colour=ORIGINAL)
        + bars_html("Ablated", effect.top_after, target=effect.after, colour=ABLATED)
        + f"</div>{strips_html(effect)}{_divergence(effect)}"
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


def strips_html(effect: AblationEffect) -> str:
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
    strips = "".join(_strip(effect, name) for name in FIGURES)
    return f'<h3>Next to random heads</h3><p>{note}</p><div class="strips">{strips}</div>'


def texts_html(rows: Sequence[tuple[str, str, str]]) -> str:
    """Texts side by side: what each is, the original, the ablated."""
    table = html_table(["", "original", "ablated"], rows)
    note = "From the first token that differs on, each goes on from its own text."
    return f'<h3>What it writes</h3><p>{note}</p><div class="texts">{table}</div>'


def _figures(effect: AblationEffect) -> str:
    loss = [float(each.mean()) for each in (effect.losses_before, effect.losses_after)]
    target = visible(effect.before.text)
    rows = [
        [
            f"probability of {target}",
            f"{effect.before.probability:.2%}",
            f"{effect.after.probability:.2%}",
        ],
        [f"rank of {target}", f"{effect.before.rank:,}", f"{effect.after.rank:,}"],
        ["KL from the original (nats)", "0", f"{float(effect.kl[-1]):.3f}"],
        ["loss of the prompt's tokens (nats)", f"{loss[0]:.3f}", f"{loss[1]:.3f}"],
    ]
    return f'<div class="wide">{html_table(["", "original", "ablated"], rows)}</div>'


def _strip(effect: AblationEffect, name: str) -> str:
    change = effect.change[name]
    random: list[float] = effect.control_changes[name].tolist()
    every = [0.0, change, *random]
    low, span = min(every), (max(every) - min(every)) or 1.0

    def at(figure: float) -> float:
        return MARGIN + (figure - low) / span * (WIDTH - 2 * MARGIN)

    middle = HEIGHT / 2
    dots = "".join(
        f'<circle cx="{at(figure):.1f}" cy="{middle}" r="4">'
        f"<title>{' '.join(map(str, heads))}: {_number(name, figure)}</title></circle>"
        for heads, figure in zip(effect.controls, random, strict=True)
    )
    x, said = at(change), _number(name, change)
    beside = ""
    if random:
        less = round(effect.share_beyond(name) * len(random))
        beside = f", more than {less} of {len(random)}"
    text = html.escape(f"{FIGURES[name]}: {said}{beside}")
    return (
        f"<figure><figcaption><b>{html.escape(FIGURES[name])}</b> {said}{beside}</figcaption>"
        f'<svg role="img" aria-label="{text}" viewBox="0 0 {WIDTH} {HEIGHT}">'
        f'<path class="axis" d="M0 {middle}H{WIDTH}M{at(0.0):.1f} 3V{HEIGHT - 3}"/>{dots}'
        f'<path class="change" d="M{x:.1f} {middle - 7}l6 7l-6 7l-6 -7z">'
        f"<title>{said}</title></path></svg></figure>"
    )


def _number(name: str, figure: float) -> str:
    sign = "+" if figure > 0 else ""
    return f"{sign}{figure:,.0f}" if name == "rank" else f"{sign}{signed(figure)}"


def _divergence(effect: AblationEffect) -> str:
    largest = float(effect.kl.max()) or 1.0
    tokens = []
    for text, divergence in zip(effect.texts, effect.kl.tolist(), strict=True):
        colour = shade(divergence / largest, SEQUENTIAL)
        tip = html.escape(f"after {text!r}: {divergence:.3f} nats")
        tokens.append(
            f'<span style="background:{colour};color:{ink_on(colour)}" title="{tip}">'
            f"{html.escape(visible(text))}</span><wbr>"
        )
    return (
        "<details><summary>Where in the prompt predictions change</summary>"
        "<p>Colour is the KL divergence of the prediction after each token, up to "
        f'{float(effect.kl.max()):.3f} nats.</p><p class="heat">{"".join(tokens)}</p></details>'
    )


LISTED = 15


Found = Patching | AttributionPatching | EdgeAttribution | DirectAttribution


def view_patching(found: Found) -> PictureView:
    """What parts carry or write, to look at: in a notebook, as a page, as a picture.

    Example:
        >>> import mi_toolkit as mi
        >>> model = mi.load_model("toy-gpt2")
        >>> mi.view(mi.direct_logit_attribution(model, "Mary and John went to"))
        PictureView of What writes the logit of ' the' in toy-gpt2
    """
    if isinstance(found, Patching):
        return _patching(found)
    if isinstance(found, EdgeAttribution):
        return _edges(found)
    return _attribution(found) if isinstance(found, AttributionPatching) else _direct(found)


def _patching(found: Patching) -> PictureView:

    rows = [
        [str(layer), visible(place), f"{share:+.3f}"] for layer, place, share in found.top(LISTED)
    ]
    return PictureView(
        title=found.title(),
        caption=(
            f"The {found.metric} is {found.clean:+.3f} after the clean prompt and "
            f"{found.corrupted:+.3f} after the corrupted one. Each cell is the corrupted run with "
            f"one clean {found.what} put in: 0 changes nothing, 1 brings all of the difference "
            "back. Orange takes it further away."
        ),
        draw=lambda: figures.sheet_of(figures.patching_map(found)),
        body=wide_table(["layer", found.place.replace("_", " "), "share brought back"], rows)
        + _patching_facts(found.provenance),
    )


def _attribution(found: AttributionPatching) -> PictureView:

    rows = [[part, visible(token), f"{value:+.3f}"] for part, token, value in found.top(LISTED)]
    return PictureView(
        title=found.title(),
        caption=(
            f"The {found.metric} is {found.clean:+.3f} after the clean prompt and "
            f"{found.corrupted:+.3f} after the corrupted one. Each cell estimates by a gradient "
            "what putting that clean activation into the corrupted run would change it by: purple "
            "raises it, orange lowers it. It is of first order: activation patching checks it."
        ),
        draw=lambda: figures.attribution_maps(found),
        body=wide_table(["part", "at token", "estimated change"], rows)
        + _patching_facts(found.provenance),
    )


def _edges(found: EdgeAttribution) -> PictureView:

    rows = [
        [writer, reader, visible(token), f"{value:+.3f}"]
        for writer, reader, token, value in found.top(LISTED)
    ]
    return PictureView(
        title=found.title(),
        caption=(
            f"The {found.metric} is {found.clean:+.3f} after the clean prompt and "
            f"{found.corrupted:+.3f} after the corrupted one. Each arrow estimates by a gradient "
            "what the writer's clean output, read by that one reader, would change it by: purple "
            "raises it, orange lowers it, thicker is more. The strongest paths are shown, of "
            f"{len(found.scores):,}; what a head moves between tokens happens inside it."
        ),
        draw=lambda: figures.sheet_of(figures.edge_figure(found)),
        body=wide_table(["from", "to", "at token", "estimated change"], rows)
        + _patching_facts(found.provenance),
    )


def _direct(found: DirectAttribution) -> PictureView:

    rows = [[part, f"{value:+.3f}"] for part, value in found.top(LISTED)]
    return PictureView(
        title=found.title(),
        caption=(
            f"It is {found.logit:+.3f}, the sum of what embedding, heads, attention biases and "
            "MLPs write towards it, read through the final norm with its scale held, and of a "
            f"constant; the residue is {found.residue:+.1e}. Purple writes for it, orange against. "
            "Only the direct path counts: what a head changes in later parts is theirs."
        ),
        draw=lambda: figures.sheet_of(figures.direct_map(found)),
        body=f"<p>Prompt: <code>{html.escape(''.join(found.texts))}</code></p>"
        + wide_table(["part", "write"], rows)
        + _patching_facts(found.provenance),
    )


def _patching_facts(made: Provenance) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in made.versions.items())
    told = f"{made.model} in {made.dtype} as {made.backend}. {versions}."
    return f'<p class="facts">{html.escape(told)}</p>'
