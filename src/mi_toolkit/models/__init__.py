"""Models: the table of seven, every name that loads, `load_model`, `describe_model`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mi_toolkit.core.progress import import_bars
from mi_toolkit.models.registry import BUNDLED as BUNDLED
from mi_toolkit.models.registry import SIBLINGS as SIBLINGS
from mi_toolkit.models.registry import known_models as known_models
from mi_toolkit.models.specs import MODELS as MODELS
from mi_toolkit.models.specs import KnownModel as KnownModel
from mi_toolkit.models.specs import ModelSpec as ModelSpec

if TYPE_CHECKING:
    from mi_toolkit.models.describe import describe_model as describe_model
    from mi_toolkit.models.facts import ModelFacts as ModelFacts
    from mi_toolkit.models.load import load_model as load_model

import_bars()  # before any module of this package asks for transformers

# torch and transformers take seconds to import: the table of models does without them.
_LAZY = {
    "load_model": "mi_toolkit.models.load",
    "describe_model": "mi_toolkit.models.describe",
    "ModelFacts": "mi_toolkit.models.facts",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
