"""Attention patterns of chosen heads on one prompt, to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from mi_toolkit.activations.activations import Activations
from mi_toolkit.core.errors import HookError, PromptError, UnknownNameError
from mi_toolkit.core.head import Head
from mi_toolkit.core.model import HookedModel, attention_layers, pattern_hook
from mi_toolkit.core.passes import patterns_of
from mi_toolkit.core.process_state import one_job
from mi_toolkit.core.tokenizer import token_texts
from mi_toolkit.core.tokens import Prompt, tokenise_one
from mi_toolkit.draw import figures
from mi_toolkit.draw.page import SavedView, Section, attention_heads
from mi_toolkit.draw.primitives import visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HeadName = Head | tuple[int, int] | str | int
"""A head by name, or by its number within the layers that are shown."""


@dataclass(frozen=True, kw_only=True)
class HeadGrid:
    """The heads that there are to show."""

    owner: str
    """What has them, for messages."""

    layers: Sequence[int]
    """The layers that have a pattern."""

    n_layers: int
    """All layers."""

    n_heads: int
    """Query heads of each layer."""


def chosen_heads(
    grid: HeadGrid,
    layer: int | Sequence[int] | None,
    heads: Sequence[HeadName] | HeadName | None,
) -> tuple[Head, ...]:
    """The heads that `layer` and `heads` name, each once.

    Raises:
        UnknownNameError: there is no such layer or head.
    """
    layers = None if layer is None else [layer] if isinstance(layer, int) else list(layer)
    for number in layers or []:
        _check_layer(grid, number)
    if heads is None:
        if not layers:
            raise UnknownNameError(
                f"Say which heads of {grid.owner} to show: layer=0, layer=[0, 1] or heads=['L0H1']."
            )
        return tuple(Head(l, h) for l in layers for h in range(grid.n_heads))
    chosen: dict[Head, None] = {}
    for name in _names(heads):
        chosen |= dict.fromkeys(_heads_called(grid, name, layers))
    if not chosen:
        raise UnknownNameError("The list of heads is empty: name at least one, or leave it out.")
    return tuple(chosen)


def _names(heads: Sequence[HeadName] | HeadName) -> list[HeadName]:
    """The heads one by one: `(5, 1)` is one head, and so is a `Head`; `[5, 1]` is two."""
    if isinstance(heads, int | str):
        return [heads]
    names = list(heads)
    numbers = [name for name in names if isinstance(name, int)]
    return (
        [Head(*numbers)] if isinstance(heads, tuple) and len(numbers) == len(names) == 2 else names
    )


def _heads_called(grid: HeadGrid, name: HeadName, layers: list[int] | None) -> list[Head]:
    if isinstance(name, int) or (isinstance(name, str) and name.strip().isdecimal()):
        if layers is None:
            raise UnknownNameError(
                f"Head {name} of which layer? Give layer=…, or the head's whole name: 'L0H{name}'."
            )
        found = [Head(l, int(name)) for l in layers]
    else:
        found = [Head.of(name)]
        if layers is not None and found[0].layer not in layers:
            shown = ", ".join(map(str, layers))
            raise UnknownNameError(
                f"{found[0]} is not in layer {shown}. Leave layer out: the head's name has it."
            )
    for head in found:
        _check_layer(grid, head.layer)
        if not 0 <= head.head < grid.n_heads:
            raise UnknownNameError(
                f"{grid.owner} has no head {head.head} in layer {head.layer}: its heads "
                f"are 0 to {grid.n_heads - 1}."
            )
    return found


def _check_layer(grid: HeadGrid, layer: int) -> None:
    known = list(grid.layers)
    if layer in known:
        return
    everywhere = known == list(range(grid.n_layers))
    layers = f"0 to {known[-1]}" if everywhere else ", ".join(map(str, known))
    raise UnknownNameError(
        f"{grid.owner} has no attention in layer {layer}: its layers"
        f"{'' if everywhere else ' with attention'} are {layers}."
    )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class AttentionView(SavedView):
    """Attention patterns that a notebook draws and a file keeps."""

    model: str
    """The model's name."""

    tokens: tuple[str, ...]
    """The text of each position, leading spaces and BOS included."""

    heads: tuple[Head, ...]
    """The order of the first axis."""

    patterns: Float[Tensor, "head query key"]
    """Attention of each query to each key: rows sum to 1. On the CPU."""

    def section(self) -> Section:
        """The view's part of a page."""
        choice = " Click a head to see it large." if len(self.heads) > 1 else ""
        return Section(
            title=f"Attention in {self.model}: {self._which()}",
            caption=(
                "Each row is a query, the token that looks (destination); each column a key, the "
                "token looked at (source). The stronger the blue, the more of the row's attention "
                "goes there; grey is the future, which no token sees. A dot (·) is a "
                f"space.{choice}"
            ),
            properties=attention_heads(
                self.patterns,
                [visible(token) for token in self.tokens],
                [str(head) for head in self.heads],
            ),
            height=340 + 115 * -(-len(self.heads) // 8) + min(128 * len(self.tokens), 640),
        )

    def figure(self) -> Figure:
        """All heads, side by side."""
        labels = [visible(token) for token in self.tokens]
        return figures.pattern_grid(self.patterns, labels, [str(head) for head in self.heads])

    def _which(self) -> str:
        layers = sorted({head.layer for head in self.heads})
        if len(self.heads) <= 4:
            return ", ".join(map(str, self.heads))
        places = f"layer{'s' if len(layers) > 1 else ''} {', '.join(map(str, layers))}"
        return f"{len(self.heads)} heads of {places}"

    def __repr__(self) -> str:
        return f"AttentionView of {self.model}: {self._which()}, on {len(self.tokens)} tokens"


@one_job
def view_attention(
    model: HookedModel | Activations,
    prompt: Prompt | int | None = None,
    *,
    layer: int | Sequence[int] | None = None,
    heads: Sequence[HeadName] | HeadName | None = None,
    prepend_bos: bool | None = None,
    attention_mask: Any = None,
) -> AttentionView:
    """Where heads look on one prompt: patterns of one layer, several, or heads by name.

    Args:
        model: a HookedTransformer or a TransformerBridge, which is left as it was; or recorded
            activations with patterns, `record(model, prompts, "pattern")`.
        prompt: one string, or the token ids of one sequence; of recorded activations, the number
            of a prompt, which may be left out where there is one.
        layer: one layer or several, from zero. May be left out where `heads` are named.
        heads: `["L5H1", (6, 9)]`, `report.heads("induction")`, or numbers within each of the
            layers; None for all of the layers' heads.
        prepend_bos: put a BOS before a string; None: as the model was trained to read it.
        attention_mask: of ids with padding: 1 where a token is real, in the shape of the ids.

    Raises:
        PromptError: several prompts, or one that cannot be fed.
        UnknownNameError: the model has no such layer or head.

    Example:
        >>> import mi_toolkit as mi
        >>> model = mi.load_model("toy-gpt2")
        >>> mi.view_attention(model, "When Mary and John went to the store", layer=0, heads=[0, 2])
        AttentionView of toy-gpt2: L0H0, L0H2, on 9 tokens
    """
    if isinstance(model, Activations):
        return _recorded(model, prompt, layer, heads)
    if prompt is None or isinstance(prompt, int):
        raise PromptError("Say what the model is to read: a string, or token ids.")
    grid = HeadGrid(
        owner=model.cfg.model_name,
        layers=attention_layers(model),
        n_layers=model.cfg.n_layers,
        n_heads=model.cfg.n_heads,
    )
    chosen = chosen_heads(grid, layer, heads)
    batch = tokenise_one(
        model,
        prompt,
        "A view",
        prepend_bos=prepend_bos,
        attention_mask=attention_mask,
        otherwise="view each, and put the views on one page with Page([...])",
    )
    kept = patterns_of(model, batch.ids, [head.layer for head in chosen])
    return _view(
        model.cfg.model_name,
        token_texts(model.tokenizer, batch.sequence(0).tolist()),
        chosen,
        [kept[head.layer][0, head.head] for head in chosen],
    )


def _recorded(
    activations: Activations,
    prompt: Prompt | int | None,
    layer: int | Sequence[int] | None,
    heads: Sequence[HeadName] | HeadName | None,
) -> AttentionView:
    """The view of patterns that were recorded before."""
    kept = {l: pattern_hook(l) for l in range(activations.n_layers)}
    kept = {l: hook for l, hook in kept.items() if hook in activations.tensors}
    if not kept or activations.chosen.single:
        raise PromptError(
            "These activations hold no whole pattern: record them with names='pattern' and all "
            "positions."
        )
    n_prompts = len(activations.batch)
    number = 0 if prompt is None and n_prompts == 1 else prompt
    if not isinstance(number, int) or not 0 <= number < n_prompts:
        raise PromptError(
            f"Say which of the {n_prompts} recorded prompts to show by its number, 0 to "
            f"{n_prompts - 1}, not {prompt!r}."
        )
    tokens = activations.texts[number]
    if activations.positions[number].tolist()[: len(tokens)] != list(range(len(tokens))):
        raise PromptError("A view shows all queries: record the patterns with all positions.")
    grid = HeadGrid(
        owner=f"the recording of {activations.model}",
        layers=list(kept),
        n_layers=activations.n_layers,
        n_heads=activations[next(iter(kept.values()))].shape[1],
    )
    chosen = chosen_heads(grid, layer, heads)
    patterns = [
        activations[kept[head.layer]][number, head.head, : len(tokens), : len(tokens)]
        for head in chosen
    ]
    return _view(activations.model, tokens, chosen, patterns)


def _view(
    name: str, tokens: tuple[str, ...], heads: tuple[Head, ...], patterns: Sequence[Tensor]
) -> AttentionView:
    stacked = torch.stack(list(patterns)).float()
    if not stacked.isfinite().all():
        raise HookError(f"{name} gives attention that is not a number (NaN).")
    return AttentionView(model=name, tokens=tokens, heads=heads, patterns=stacked)
