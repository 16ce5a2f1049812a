"""Which keys each query of a layer may see: read off the model, never assumed.

1. A short pass notes what transformers' mask functions are asked for, and which mask arrives at
   which layer. A mask function says of any query and key whether they meet, at any length.
2. At the length of a prompt each function is laid next to the causal window that the config
   declares. Where it is one, attention can be computed in blocks of queries; else the whole square
   is kept, for chance and targets to follow.
3. What the attention applies by itself (GPT-Neo's buffer `bias`, the mask of a `HookedTransformer`)
   counts as well. Where nothing is known of a layer, two sequences of random ids show it: a mask
   hides the same keys from both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS as TABLE

from mi_toolkit.core.blocks_on_disk import BringsBlock
from mi_toolkit.core.model import HookedModel, attached, evaluating, pattern_hook, uncached
from mi_toolkit.core.passes import visit_activations
from mi_toolkit.core.process_state import allowing_nan
from mi_toolkit.core.sight import Sight, Square

ROWS = 512
"""Queries whose keys are looked at together."""

_SHORT = 4

_MaskRows = Callable[[int, int, int], Tensor]
"""`(first query, last query + 1, keys)` to what these queries see, `["query key"]`, boolean."""

_read_before: WeakKeyDictionary[Any, tuple[str, dict[int, _MaskRows]]] = WeakKeyDictionary()
"""By model: its config when its masks were read, and the masks of its layers."""


def sights(
    model: HookedModel, layers: Sequence[int], windows: Sequence[int | None], n: int
) -> dict[int, Sight]:
    """What the queries of each layer see in a prompt of `n` tokens.

    Args:
        model: the hooked model.
        layers: which layers to look at.
        windows: the window that each layer of the model declares.
        n: the length of the prompt.
    """
    known = _masks(model)
    found: dict[int, Sight] = {}
    by_mask: dict[tuple[int, int | None], Sight] = {}
    unknown = [layer for layer in layers if layer not in known]
    squares = _observed(model, unknown, windows, n) if unknown else {}
    for layer in layers:
        if layer in squares:
            found[layer] = _as_window(squares[layer], windows[layer], n)
            continue
        key = id(known[layer]), windows[layer]
        if key not in by_mask:
            by_mask[key] = _as_window(known[layer], windows[layer], n)
        found[layer] = by_mask[key]
    return found


def _as_window(rows: _MaskRows, declared: int | None, n: int) -> Sight:
    """The causal window that a mask is, the declared one where it fits; else its square."""
    if _is_window(rows, declared, n):
        return declared
    seen = int(rows(n - 1, n, n).sum())
    other = None if seen == n else seen
    if other != declared and _is_window(rows, other, n):
        return other
    blocks = [rows(start, min(start + ROWS, n), n) for start in range(0, n, ROWS)]
    return Square(torch.cat(blocks).cpu())


def _is_window(rows: _MaskRows, window: int | None, n: int) -> bool:
    key = torch.arange(n)
    for start in range(0, n, ROWS):
        stop = min(start + ROWS, n)
        query = key[start:stop, None]
        wanted = key <= query
        if window is not None:
            wanted &= key > query - window
        if not torch.equal(rows(start, stop, n).cpu(), wanted):
            return False
    return True


def _masks(model: HookedModel) -> dict[int, _MaskRows]:
    original = getattr(model, "original_model", None)
    if original is None:
        return _own_masks(model)
    own = getattr(original, "config", None)  # none of TransformerLens' own modules
    config = str(own.get_text_config().__dict__) if own is not None else str(model.cfg.__dict__)
    before = _read_before.get(model)
    if before is None or before[0] != config:
        before = config, _read(model)
        _read_before[model] = before
    return before[1]


def _own_masks(model: Any) -> dict[int, _MaskRows]:
    """Of a `HookedTransformer`, each of whose layers makes its own mask."""

    def masked(attention: Any) -> _MaskRows:
        def rows(start: int, stop: int, n: int) -> Tensor:
            mask: Tensor = attention._make_causal_mask(stop - start, n, start, torch.device("cpu"))
            return mask[0, 0]

        return rows

    def open_to_all(start: int, stop: int, n: int) -> Tensor:
        return torch.ones(stop - start, n, dtype=torch.bool)

    if model.cfg.attention_dir != "causal":
        return dict.fromkeys(range(model.cfg.n_layers), open_to_all)
    made = {block.attn.attn_type: masked(block.attn) for block in model.blocks}
    return {layer: made[block.attn.attn_type] for layer, block in enumerate(model.blocks)}


def _read(model: Any) -> dict[int, _MaskRows]:
    """The mask of each layer at which one arrives that transformers made."""
    made: list[tuple[Tensor, _MaskRows]] = []
    found: dict[int, _MaskRows] = {}
    own: dict[tuple[int, int], _MaskRows] = {}

    def watching(layer: int) -> Callable[..., None]:
        def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            arrived = [*args, *kwargs.values()]
            rows = [each for mask, each in made if any(part is mask for part in arrived)]
            bias = getattr(getattr(module, "original_component", None), "bias", None)
            if not rows:
                return
            found[layer] = rows[0]
            if isinstance(bias, Tensor) and bias.ndim == 4:
                found[layer] = own.setdefault((id(rows[0]), id(bias)), _both(rows[0], bias))

        return look

    ids = torch.arange(_SHORT, device=model.cfg.device)[None] % int(model.cfg.d_vocab)
    watched = attached(
        block.attn.register_forward_pre_hook(watching(layer), with_kwargs=True)
        for layer, block in enumerate(model.blocks)
        if hasattr(block, "attn")
    )
    with _silent(model), _noted(made), evaluating(model), watched, torch.no_grad():
        model(ids, return_type=None, attention_mask=torch.ones_like(ids), **uncached(model))
    return found


def _both(rows: _MaskRows, bias: Tensor) -> _MaskRows:
    def seen(start: int, stop: int, n: int) -> Tensor:
        return rows(start, stop, n) & bias[0, 0, start:stop, :n].bool()

    return seen


@contextmanager
def _noted(made: list[tuple[Tensor, _MaskRows]]) -> Iterator[None]:
    """Inside, every mask that transformers makes for eager attention is noted."""
    eager, boolean = TABLE["eager"], TABLE["sdpa"]

    def note(*args: Any, **asked: Any) -> Any:
        mask = eager(*args, **asked)
        if mask is not None:
            made.append((mask, _rows_of(boolean, asked)))
        return mask

    TABLE["eager"] = note
    try:
        yield
    finally:
        TABLE["eager"] = eager


def _rows_of(boolean: Callable[..., Any], asked: Mapping[str, Any]) -> _MaskRows:
    kept = {name: asked[name] for name in ("mask_function", "use_vmap", "config") if name in asked}

    def rows(start: int, stop: int, n: int) -> Tensor:
        mask: Tensor = boolean(
            batch_size=1,
            q_length=stop - start,
            kv_length=n,
            q_offset=start,
            kv_offset=0,
            allow_is_causal_skip=False,
            allow_is_bidirectional_skip=False,
            device=asked.get("device", "cpu"),
            **kept,
        )
        return mask[0, 0]

    return rows


@contextmanager
def _silent(model: Any) -> Iterator[None]:
    """Inside, no hook of anybody fires: they were made for other prompts than ours.

    What brings the weights of a block is none of these.
    """
    held = [
        (module, name, hooks)
        for module in {*model.modules(), *model.original_model.modules()}
        for name in ("_forward_hooks", "_forward_pre_hooks")
        if (hooks := getattr(module, name))
    ]
    for module, name, hooks in held:
        kept = ((key, hook) for key, hook in hooks.items() if isinstance(hook, BringsBlock))
        module.__dict__[name] = type(hooks)(kept)
    try:
        yield
    finally:
        for module, name, hooks in held:
            module.__dict__[name] = hooks


def _observed(
    model: Any, layers: Sequence[int], windows: Sequence[int | None], n: int
) -> dict[int, _MaskRows]:
    """What each of these layers is seen to look at, in two sequences of random ids."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(int(model.cfg.d_vocab), (2, n), generator=generator)
    layer_of = {pattern_hook(layer): layer for layer in layers}
    found: dict[int, _MaskRows] = {}

    def look(name: str, patterns: Tensor) -> None:
        one, other = (patterns > 0).any(dim=1)
        found[layer_of[name]] = _square_rows(
            # What underflows to 0 differs with the text; a mask does not.
            one if torch.equal(one, other) else _declared(one, windows[layer_of[name]])
        )

    stack = _silent(model) if hasattr(model, "original_model") else ExitStack()
    # Whatever else random ids do to the model, a mask shows.
    with stack, allowing_nan():
        visit_activations(model, ids, list(layer_of), look)
    return found


def _square_rows(square: Bool[Tensor, "query key"]) -> _MaskRows:
    return lambda start, stop, n: square[start:stop, :n]


def _declared(like: Tensor, window: int | None) -> Bool[Tensor, "query key"]:
    causal = torch.ones_like(like).tril()
    return causal if window is None else causal.triu(1 - window)
