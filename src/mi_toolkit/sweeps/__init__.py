"""Sweeps: many jobs on many models, in one process or on a cluster, to the same bits."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
