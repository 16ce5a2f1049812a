"""Names of activations: the short forms of the field, globs, and whole hook names.

1. A short form stands for a hook of every layer: `resid_post`, `z`, `pattern`; with a layer,
   `("z", 5)`, `("z", [0, -1])` or `"z5"`, for that layer's. `embed`, `pos_embed` and `ln_final`
   have no layer.
2. A glob stands for every hook that it matches. `*`, `?` and `[0-3]` stay between two dots; `**`
   crosses them: `blocks.*.hook_resid_post`, `blocks.[0-3].mlp.*`, `**.hook_scale`.
3. Anything else is a whole hook name.

Nothing here sees a model: it is given the hooks that there are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import torch

from mi_toolkit.core.errors import UnknownNameError, unknown_name

Name = str | tuple[str, int | Sequence[int]]
"""A short form, a short form with a layer or several, a glob, or a whole hook name."""

Names = Name | Sequence[Name]
"""One name or several: `("z", 5)` is one, `["z", "q"]` two."""

IN_EVERY_LAYER: Mapping[str, str] = {
    "resid_pre": "hook_resid_pre",
    "resid_mid": "hook_resid_mid",
    "resid_post": "hook_resid_post",
    "attn_out": "hook_attn_out",
    "mlp_out": "hook_mlp_out",
    "q": "attn.hook_q",
    "k": "attn.hook_k",
    "v": "attn.hook_v",
    "z": "attn.hook_z",
    "rot_q": "attn.hook_rot_q",
    "rot_k": "attn.hook_rot_k",
    "attn_scores": "attn.hook_attn_scores",
    "pattern": "attn.hook_pattern",
    "result": "attn.hook_result",
    "pre": "mlp.hook_pre",
    "mlp_pre": "mlp.hook_pre",
    "pre_linear": "mlp.hook_pre_linear",
    "post": "mlp.hook_post",
    "mlp_post": "mlp.hook_post",
}
"""Short forms that stand for a hook of each block."""

WITHOUT_LAYER: Mapping[str, str] = {
    "embed": "hook_embed",
    "pos_embed": "hook_pos_embed",
    # Before the norm's weight and bias. After them only a bridge has a hook: `ln_final.hook_out`.
    "ln_final": "ln_final.hook_normalized",
}
"""Short forms that stand for one hook."""

PATTERNS = ("hook_pattern", "hook_attn_scores")
"""Hooks whose activation is `[batch, head, query, key]`; any other's is `[batch, position, …]`."""

AXES: Mapping[str, tuple[str, ...]] = {
    "hook_pattern": ("head", "query", "key"),
    "hook_attn_scores": ("head", "query", "key"),
    "hook_result": ("position", "head", "d_model"),
    **dict.fromkeys(
        ("hook_q", "hook_k", "hook_v", "hook_z", "hook_rot_q", "hook_rot_k"),
        ("position", "head", "d_head"),
    ),
    **dict.fromkeys(("hook_pre", "hook_pre_linear", "hook_post"), ("position", "d_mlp")),
    "hook_scale": ("position", "scale"),
}

RESIDUAL = (
    "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "embed", "hook_normalized",
    "ln_final.hook_out",
)  # fmt: skip
"""How the hooks end whose activation is as wide as the residual stream."""

_LAYER_AFTER = re.compile(r"(?P<form>[a-z_]+?)(?P<layer>\d+)")
_GLOB = re.compile(r"[*?\[]")


def is_pattern(name: str) -> bool:
    """Whether the activation has a query and a key axis instead of a position."""
    return name.endswith(PATTERNS)


def is_glob(name: Name) -> bool:
    """Whether a name is a glob: such a name may match hooks that do not fire."""
    return isinstance(name, str) and _GLOB.search(name) is not None


def axes_of(name: str, n_axes: int) -> tuple[str, ...]:
    """The names of an activation's axes after the batch.

    >>> axes_of("blocks.0.attn.hook_z", 3)
    ('position', 'head', 'd_head')
    >>> axes_of("blocks.0.hook_resid_post", 2)
    ('position', 'd_model')
    """
    known = AXES.get(name.rpartition(".")[2])
    if known is not None and len(known) == n_axes:
        return known
    if n_axes == 2:
        return ("position", "d_model" if name.endswith(RESIDUAL) else "unit")
    return ("position", *(f"axis_{number}" for number in range(1, n_axes)))


def several(names: Names) -> list[Name]:
    """The names one by one.

    >>> several(("z", 5)), several(["z", "q"])
    ([('z', 5)], ['z', 'q'])
    """
    if isinstance(names, str) or _has_layers(names):
        return [names]  # type: ignore[list-item]
    given: Any = names
    found = list(given) if isinstance(given, Iterable) else [given]
    if not found:
        raise UnknownNameError(
            "The list of names is empty: name at least one activation, such as 'resid_post'."
        )
    return found


def resolve(names: Names, known: Collection[str], n_layers: int, owner: str) -> tuple[str, ...]:
    """The hook names that `names` stand for, each once, in the order in which they were named.

    Args:
        names: short forms, globs and hook names.
        known: the hooks that there are.
        n_layers: how many layers there are; a negative layer counts from the last.
        owner: what has these hooks, for messages.

    Raises:
        UnknownNameError: a name stands for nothing here.

    >>> known = ["hook_embed", "blocks.0.attn.hook_z", "blocks.1.attn.hook_z"]
    >>> resolve(["embed", ("z", -1)], known, 2, "a model")
    ('hook_embed', 'blocks.1.attn.hook_z')
    >>> resolve("blocks.*.attn.hook_z", known, 2, "a model")
    ('blocks.0.attn.hook_z', 'blocks.1.attn.hook_z')
    """
    found: dict[str, None] = {}
    for name in several(names):
        form, layers = _split(name, known)
        matched = _matching(form, layers, known, n_layers, owner)
        if not matched:
            raise _unknown(name, form, known, owner)
        found |= dict.fromkeys(matched)
    return tuple(found)


def _has_layers(name: object) -> bool:
    """Whether this is `(form, layer)` or `(form, layers)`, and not a sequence of names."""
    return (
        isinstance(name, tuple)
        and len(name) == 2
        and isinstance(name[0], str)
        and not isinstance(name[1], str)
        and (
            isinstance(name[1], int)
            or (isinstance(name[1], Iterable) and all(isinstance(layer, int) for layer in name[1]))
        )
    )


def _split(name: Name, known: Collection[str]) -> tuple[str, list[int] | None]:
    if not isinstance(name, str) and not _has_layers(name):
        raise UnknownNameError(
            f"{name!r} names no activation: write 'z', ('z', 1) for one layer, or ('z', [0, 2]) "
            "for several."
        )
    if not isinstance(name, str):
        form, layers = name
        return form, [layers] if isinstance(layers, int) else list(layers)
    after = _LAYER_AFTER.fullmatch(name)
    if after and name not in known and after["form"] in IN_EVERY_LAYER:
        return after["form"], [int(after["layer"])]
    return name, None


def _matching(
    form: str, layers: list[int] | None, known: Collection[str], n_layers: int, owner: str
) -> list[str]:
    if form in IN_EVERY_LAYER:
        wanted = range(n_layers) if layers is None else [_layer(l, n_layers, owner) for l in layers]
        hooks = [f"blocks.{layer}.{IN_EVERY_LAYER[form]}" for layer in wanted]
        there = [hook for hook in hooks if hook in known]
        return there if layers is None or len(there) == len(hooks) else []
    if layers is not None:
        if form in WITHOUT_LAYER or form in known:
            raise UnknownNameError(f"{form!r} has no layer: leave it out of {(form, layers)!r}.")
        return []
    if form in WITHOUT_LAYER:
        form = WITHOUT_LAYER[form]
    if is_glob(form):
        matches = glob(form)
        return [hook for hook in known if matches(hook)]
    return [form] if form in known else []


def _layer(layer: int, n_layers: int, owner: str) -> int:
    if -n_layers <= layer < n_layers:
        return layer % n_layers
    raise UnknownNameError(
        f"There is no layer {layer} in {owner}: they are 0 to {n_layers - 1}, or -1 for the last."
    )


def glob(pattern: str) -> Callable[[str], bool]:
    """Whether a hook name fits a glob: `*` stays between two dots, `**` crosses them.

    >>> fits = glob("blocks.*.hook_out")
    >>> fits("blocks.3.hook_out"), fits("blocks.3.attn.hook_out")
    (True, False)
    """
    parts = re.split(r"(\*\*|\*|\?|\[!?[^\]]+\])", pattern)
    signs = {"**": ".*", "*": "[^.]*", "?": "[^.]"}
    regex = "".join(
        signs.get(part) or (part.replace("[!", "[^", 1) if part[:1] == "[" else re.escape(part))
        for part in parts
    )
    compiled = re.compile(regex)
    return lambda name: compiled.fullmatch(name) is not None


def _unknown(name: Name, form: str, known: Collection[str], owner: str) -> UnknownNameError:
    forms = [*WITHOUT_LAYER, *IN_EVERY_LAYER]
    there = _forms_among(known)
    shown = [*there, f"and the hooks themselves, as in {min(known, default='none')!r}"]
    if form in forms:
        return UnknownNameError(
            f"{owner} has no activation that {name!r} stands for. Known: {', '.join(shown)}."
        )
    return unknown_name(f"activation of {owner}", form, [*forms, *known], shown=shown)


def _forms_among(known: Collection[str]) -> list[str]:
    """The short forms that stand for something."""
    folded = {fold(hook) for hook in known}
    single = [form for form, hook in WITHOUT_LAYER.items() if hook in known]
    return single + [form for form, tail in IN_EVERY_LAYER.items() if f"blocks.*.{tail}" in folded]


def fold(hook: str) -> str:
    """A hook name without its layer.

    >>> fold("blocks.11.hook_mlp_out")
    'blocks.*.hook_mlp_out'
    """
    return re.sub(r"^blocks\.\d+\.", "blocks.*.", hook)


MEGABYTE = 10**6


def rows_of(
    sizes: Mapping[str, Mapping[str, int]], dtype: torch.dtype, n_layers: int
) -> list[tuple[str, str, str, str]]:
    """A row for each hook, and one for a hook that several layers have.

    Args:
        sizes: axes with their sizes, by hook name.
        dtype: of the values.
        n_layers: layers of the model, to say where all of them are there.
    """
    groups: dict[str, list[str]] = {}
    for hook in sizes:
        groups.setdefault(fold(hook), []).append(hook)
    rows = []
    for folded, hooks in groups.items():
        axes = sizes[hooks[0]]
        n_bytes = sum(math.prod(sizes[hook].values()) for hook in hooks) * dtype.itemsize
        rows.append(
            (
                _which(folded, hooks, n_layers),
                ", ".join(f"{axis} {size:,}" for axis, size in axes.items()),
                str(dtype).removeprefix("torch."),
                f"{n_bytes / MEGABYTE:,.2f} MB",
            )
        )
    return rows


def _which(folded: str, hooks: list[str], n_layers: int) -> str:
    if len(hooks) == 1:
        return hooks[0]
    layers = [hook.split(".")[1] for hook in hooks]
    return f"{folded} ({'all layers' if len(hooks) == n_layers else ', '.join(layers)})"
