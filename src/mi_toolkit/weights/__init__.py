"""Critical weights: score every weight, rank them exactly, prove it by perturbation.

`coordinates` says where a weight is, in the model that runs and in the Hugging Face checkpoint.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
