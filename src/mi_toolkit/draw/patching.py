"""Patching and attribution to components as pages and pictures."""

from __future__ import annotations

import html

from mi_toolkit.core.provenance import Provenance
from mi_toolkit.draw.picture import PictureView, wide_table
from mi_toolkit.draw.primitives import visible
from mi_toolkit.interventions.attribution_patching import AttributionPatching, EdgeAttribution
from mi_toolkit.interventions.direct_attribution import DirectAttribution
from mi_toolkit.interventions.patching import Patching

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
    from mi_toolkit.draw.figures.patching import patching_map
    from mi_toolkit.draw.figures.style import sheet_of

    rows = [
        [str(layer), visible(place), f"{share:+.3f}"] for layer, place, share in found.top(LISTED)
    ]
    return PictureView(
        title=found.title(),
        caption=(
            f"The {found.metric} is {found.clean:+.3f} behind the clean prompt and "
            f"{found.corrupted:+.3f} behind the corrupted one. Each cell is the corrupted run with "
            f"one clean {found.what} put in: 0 changes nothing, 1 brings all of the difference "
            "back. Orange takes it further away."
        ),
        draw=lambda: sheet_of(patching_map(found)),
        body=wide_table(["layer", found.place.replace("_", " "), "share brought back"], rows)
        + _facts(found.provenance),
    )


def _attribution(found: AttributionPatching) -> PictureView:
    from mi_toolkit.draw.figures.patching import attribution_maps

    rows = [[part, visible(token), f"{value:+.3f}"] for part, token, value in found.top(LISTED)]
    return PictureView(
        title=found.title(),
        caption=(
            f"The {found.metric} is {found.clean:+.3f} behind the clean prompt and "
            f"{found.corrupted:+.3f} behind the corrupted one. Each cell estimates by a gradient "
            "what putting that clean activation into the corrupted run would change it by: purple "
            "raises it, orange lowers it. It is of first order: activation patching checks it."
        ),
        draw=lambda: attribution_maps(found),
        body=wide_table(["part", "at token", "estimated change"], rows) + _facts(found.provenance),
    )


def _edges(found: EdgeAttribution) -> PictureView:
    from mi_toolkit.draw.figures.patching import edge_figure
    from mi_toolkit.draw.figures.style import sheet_of

    rows = [
        [writer, reader, visible(token), f"{value:+.3f}"]
        for writer, reader, token, value in found.top(LISTED)
    ]
    return PictureView(
        title=found.title(),
        caption=(
            f"The {found.metric} is {found.clean:+.3f} behind the clean prompt and "
            f"{found.corrupted:+.3f} behind the corrupted one. Each arrow estimates by a gradient "
            "what the writer's clean output, read by that one reader, would change it by: purple "
            "raises it, orange lowers it, thicker is more. The strongest paths are shown, of "
            f"{len(found.scores):,}; what a head moves between tokens happens inside it."
        ),
        draw=lambda: sheet_of(edge_figure(found)),
        body=wide_table(["from", "to", "at token", "estimated change"], rows)
        + _facts(found.provenance),
    )


def _direct(found: DirectAttribution) -> PictureView:
    from mi_toolkit.draw.figures.patching import direct_map
    from mi_toolkit.draw.figures.style import sheet_of

    rows = [[part, f"{value:+.3f}"] for part, value in found.top(LISTED)]
    return PictureView(
        title=found.title(),
        caption=(
            f"It is {found.logit:+.3f}, the sum of what embedding, heads, attention biases and "
            "MLPs write towards it, read through the final norm with its scale held, and of a "
            f"constant; the residue is {found.residue:+.1e}. Purple writes for it, orange against. "
            "Only the direct path counts: what a head changes in later parts is theirs."
        ),
        draw=lambda: sheet_of(direct_map(found)),
        body=f"<p>Prompt: <code>{html.escape(''.join(found.texts))}</code></p>"
        + wide_table(["part", "write"], rows)
        + _facts(found.provenance),
    )


def _facts(made: Provenance) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in made.versions.items())
    told = f"{made.model} in {made.dtype} as {made.backend}. {versions}."
    return f'<p class="facts">{html.escape(told)}</p>'
