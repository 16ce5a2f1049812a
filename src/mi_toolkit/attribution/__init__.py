"""Which tokens of a prompt a prediction rests on.

1. The prompt becomes ids, and the question one number F: the logit (or log-probability) of a target
   as the next token, or of one token less another.
2. F is taken as a function of the token embeddings, before any position is added: at the hook
   `hook_embed`, which every family has. Weights play no part but to be run.
3. A method, of the table `METHODS`, gives each token a score from F, its gradient, or the patterns.
4. Scores of a method that explains a difference, F(prompt) − F(baseline), are summed and held
   against it: the completeness error.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
