"""Mechanistic interpretability of language models: load, classify heads, see.

What a notebook begins with is here; all else is found by package: `heads`, `weights`,
`interventions`, `activations`, `attribution`, `text`, `compare`, `cards`, `draw`, `models`, `core`.
Names are imported when they are first used, so that `import mi_toolkit` costs nothing: the stub
next to this file says where each lives.
"""

from __future__ import annotations

from typing import Any

import lazy_loader

_PACKAGES = (
    *("heads", "weights", "interventions", "activations", "attribution", "text", "compare"),
    *("draw", "models", "verification", "cards", "sweeps", "atlas", "core"),
)

_lazy, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    try:
        return _lazy(name)
    except AttributeError:
        for package in _PACKAGES:
            if name in _lazy(package).__all__:
                raise AttributeError(
                    f"mi_toolkit has no {name}: it is mi_toolkit.{package}.{name}", name=name
                ) from None
        if name.startswith(("view_", "plot_", "show_", "draw_")):
            raise AttributeError(
                f"mi_toolkit has no {name}: mi.view(result) draws any result, mi.view_attention "
                "attention patterns",
                name=name,
            ) from None
        raise
