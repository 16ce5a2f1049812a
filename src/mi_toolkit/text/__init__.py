"""What a model makes of a prompt: free generation, and a trace of the way through its layers.

`generate`, by greedy or beam search, under whatever hooks are active:

1. Hugging Face's own `generate` decodes: of the model that a bridge wraps, whose modules run the
   bridge's hooks, or of a `HookedTransformer` as Hugging Face sees one (`lens_model`).
2. A processor of scores, which changes none, records at each step which beams run and what they
   give the best next tokens.
3. The record becomes the tree of beams, and each sequence its log-probabilities and alternatives.

`trace_pipeline` reads one hooked pass stage by stage.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
