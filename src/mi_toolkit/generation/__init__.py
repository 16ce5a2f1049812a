"""Free generation, by greedy or beam search, under whatever hooks are active.

1. Hugging Face's own `generate` decodes: of the model that a bridge wraps, whose modules run the
   bridge's hooks, or of a `HookedTransformer` as Hugging Face sees one (`lens_model`).
2. A processor of scores, which changes none, records at each step which beams run and what they
   give the best next tokens.
3. The record becomes the tree of beams, and each sequence its log-probabilities and alternatives.
"""

from mi_toolkit.generation.generate import generate as generate
from mi_toolkit.generation.generation import GeneratedSequence as GeneratedSequence
from mi_toolkit.generation.generation import Generation as Generation
