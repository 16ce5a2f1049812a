"""Whether a model that was loaded is the model that was published.

1. The checkpoint is read a second time, by transformers alone: the reference, which nothing wraps.
2. Each check of the table `CHECKS` sets the hooked model against the reference, or against what
   its config says of it, and gives a figure, the limit that it is held to, and a sentence.
3. Structure says nothing of sense: the last checks let the model speak, and look at what it says.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
