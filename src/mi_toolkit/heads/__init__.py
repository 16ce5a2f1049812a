"""What attention heads do.

`masks`, `targets`, `scores` and `labels` are pure: tensors in, tensors out. `behaviours` is the
table that names them. `plan` and `protocol` read the tokens; `measure`, `chunked_attention` and
`stimulus_run` a running model; `summary` and `report` the outcome. `classify` holds
`classify_heads`, which goes through them in turn.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
