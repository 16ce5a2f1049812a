"""Attention patterns of chosen heads on one prompt, to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mi_toolkit.activations.activations import Activations
from mi_toolkit.core.errors import ActivationsError, HookError, PromptError, UnknownNameError
from mi_toolkit.core.head import Head
from mi_toolkit.core.model import HookedModel, attention_layers, pattern_hook
from mi_toolkit.core.passes import patterns_of
from mi_toolkit.core.process_state import one_job, require_hooks
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
                f"Head {name} of which layer? Give a layer, or the head's whole name: 'L0H{name}'."
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
    if not isinstance(layer, SupportsIndex):
        raise UnknownNameError(f"layer is a number, as in layer={known[-1]}; not {layer!r}.")
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

    heads: tuple[Head | str, ...]
    """The order of the first axis; of patterns that were given without a layer, what they are
    called."""

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
        layers = sorted({head.layer for head in self.heads if isinstance(head, Head)})
        if len(self.heads) <= 4 or not layers:
            return ", ".join(map(str, self.heads))
        places = f"layer{'s' if len(layers) > 1 else ''} {', '.join(map(str, layers))}"
        return f"{len(self.heads)} heads of {places}"

    def __repr__(self) -> str:
        return f"AttentionView of {self.model}: {self._which()}, on {len(self.tokens)} tokens"


@one_job
def view_attention(
    model: HookedModel | Activations | Tensor,
    prompt: Prompt | int | None = None,
    *,
    layer: int | Sequence[int] | None = None,
    heads: Sequence[HeadName] | HeadName | None = None,
    prepend_bos: bool | None = None,
    attention_mask: Any = None,
) -> AttentionView:
    """Where heads look on one prompt: patterns of one layer, several, or heads by name.

    Patterns that were computed elsewhere are drawn as they are: `view_attention(patterns, tokens)`.

    Args:
        model: a HookedTransformer or a TransformerBridge, which is left as it was; or recorded
            activations with patterns, `record(model, prompts, "pattern")`; or patterns themselves,
            `[query key]`, `[head query key]`, or with a batch of one in front.
        prompt: one string, or the token ids of one sequence; of recorded activations, the number
            of a prompt, which may be left out where there is one; of patterns, the tokens as
            strings.
        layer: one layer or several, from zero. May be left out where `heads` are named. Of
            patterns: the layer that they are of, or, of `[layer head query key]`, the layers.
        heads: `["L5H1", (6, 9)]`, `report.heads("induction")`, or numbers within each of the
            layers; None for all of the layers' heads. Of patterns without a layer: what each head
            is called.
        prepend_bos: put a BOS before a string; None: as the model was trained to read it.
        attention_mask: of ids with padding: 1 where a token is real, in the shape of the ids.

    Raises:
        PromptError: several prompts, or one that cannot be fed.
        UnknownNameError: the model has no such layer or head.
        ActivationsError: patterns that are none, or not of these tokens.
        ModelTypeError: the name of a model, or anything else that is none.

    Example:
        >>> import mi_toolkit as mi
        >>> model = mi.load_model("toy-gpt2")
        >>> mi.view_attention(model, "When Mary and John went to the store", layer=0, heads=[0, 2])
        AttentionView of toy-gpt2: L0H0, L0H2, on 9 tokens
        >>> mi.view_attention(torch.eye(3)[None], ["one", " two", " three"])
        AttentionView of given patterns: H0, on 3 tokens
    """
    if isinstance(model, Activations):
        return _recorded(model, prompt, layer, heads)
    if isinstance(model, Tensor | np.ndarray):
        return _given(torch.as_tensor(model), prompt, layer, heads)
    require_hooks(model, "view_attention")
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


GIVEN = "given patterns"
"""What a view calls the model of patterns that were computed elsewhere."""


def _given(
    patterns: Tensor,
    tokens: Any,
    layer: int | Sequence[int] | None,
    heads: Sequence[HeadName] | HeadName | None,
) -> AttentionView:
    """The view of patterns that somebody else computed.

    Raises:
        ActivationsError: they are no attention patterns, or not of these tokens.
    """
    layers = None if layer is None else [layer] if isinstance(layer, int) else list(layer)
    stack = _stack_of(patterns.detach().cpu().float(), layers)
    _, n_heads, size, _ = stack.shape
    if isinstance(tokens, str | Tensor) or not all(isinstance(each, str) for each in tokens or [0]):
        raise ActivationsError(
            "Patterns come with their tokens as a list of strings, one for each position: "
            "view_attention(patterns, model.to_str_tokens(prompt))."
        )
    if len(tokens) != size:
        raise ActivationsError(f"The patterns are of {size} tokens, and {len(tokens)} were given.")
    _check_patterns(stack)
    if layers is None:
        called: list[Any] = [f"H{number}" for number in range(n_heads)]
        if heads is not None:
            called = _names(heads)
        if len(called) != n_heads:
            raise ActivationsError(
                f"heads= names the heads of patterns, which are {n_heads}, not {len(called)}: cut "
                "the patterns, or say layer=, and heads= chooses among that layer's."
            )
        names = tuple(head if isinstance(head, str) else Head.of(head) for head in called)
        return AttentionView(model=GIVEN, tokens=tuple(tokens), heads=names, patterns=stack[0])
    grid = HeadGrid(owner=GIVEN, layers=layers, n_layers=max(layers) + 1, n_heads=n_heads)
    chosen = chosen_heads(grid, layers, heads)
    shown = [stack[layers.index(head.layer), head.head] for head in chosen]
    return _view(GIVEN, tuple(tokens), chosen, shown)


def _stack_of(
    patterns: Tensor, layers: Sequence[int] | None
) -> Float[Tensor, "layer head query key"]:
    """Patterns with an axis for the layer and one for the head."""
    n_layers, given = 1 if layers is None else len(layers), list(patterns.shape)
    if patterns.ndim in (2, 3):
        patterns = patterns[(None,) * (4 - patterns.ndim)]
    if patterns.ndim == 5 and len(patterns) == 1:
        patterns = patterns[0]
    if patterns.ndim != 4 or patterns.shape[2] != patterns.shape[3] or 0 in patterns.shape:
        raise ActivationsError(
            "Attention patterns are [query key] or [head query key], as many keys as queries; "
            f"these have shape {given}."
        )
    if len(patterns) != n_layers:
        raise ActivationsError(
            f"The first of four axes has {len(patterns)} entries: of a batch, give one text's "
            "(patterns[0]); of several layers, name them all (layer=[0, 1, …])."
        )
    return patterns


def _check_patterns(patterns: Tensor) -> None:
    """Check that they are attention after the softmax, and that nobody sees the future."""
    if not ((patterns >= 0) & (patterns <= 1.001)).all():
        raise ActivationsError(
            "Attention after the softmax is between 0 and 1, and these patterns are not: scores "
            "before it (hook_attn_scores) are no pattern."
        )
    if (patterns.triu(1) > 1e-6).any():
        raise ActivationsError(
            "In these patterns some query looks at a later token, which a causal model cannot: is "
            "the axis of queries the last but one?"
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
