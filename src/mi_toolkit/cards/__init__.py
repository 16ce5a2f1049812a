"""What one head does, and which heads do alike.

`profile` reads what every head moves in a collection of texts, in one pass. `card` puts together
what is known of one head; what its weights say of it is in `circuits`. `families` groups the heads
that move the same.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
