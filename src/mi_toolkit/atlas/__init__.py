"""The standard protocol for a list of models, in one folder that is opened with a browser."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
