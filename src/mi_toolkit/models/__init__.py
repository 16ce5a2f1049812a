"""Models: the table of seven, every name that loads, `load_model`, `describe_model`."""

from __future__ import annotations

import lazy_loader

from mi_toolkit.core.progress import import_bars

import_bars()  # before any module of this package asks for transformers

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
