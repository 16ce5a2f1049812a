"""Pictures of results, for notebooks, files and papers: `mi_toolkit.view` for all of them."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
