"""An ablation beside the original, as HTML: the target, the next tokens, the random sets."""

from __future__ import annotations

import html
from collections.abc import Sequence

from mi_toolkit.interventions.effects import AblationEffect
from mi_toolkit.interventions.effects.result import FIGURES
from mi_toolkit.shown import html_table
from mi_toolkit.views.colours import LINES, SEQUENTIAL, ink_on, shade
from mi_toolkit.views.head_maps import signed
from mi_toolkit.views.prediction_bars import bars_html
from mi_toolkit.views.tokens import visible

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
        note = "No random set stands beside it, so nothing says whether any heads would do as much."
    strips = "".join(_strip(effect, name) for name in FIGURES)
    return f'<h3>Beside random heads</h3><p>{note}</p><div class="strips">{strips}</div>'


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
        tip = html.escape(f"behind {text!r}: {divergence:.3f} nats")
        tokens.append(
            f'<span style="background:{colour};color:{ink_on(colour)}" title="{tip}">'
            f"{html.escape(visible(text))}</span><wbr>"
        )
    return (
        "<details><summary>Where in the prompt predictions change</summary>"
        "<p>Colour is the KL divergence of the prediction behind each token, up to "
        f'{float(effect.kl.max()):.3f} nats.</p><p class="heat">{"".join(tokens)}</p></details>'
    )
