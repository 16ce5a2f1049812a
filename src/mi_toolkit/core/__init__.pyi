from .head import Head as Head
from .stimuli import ioi_prompts as ioi_prompts
from .stimuli import needle_prompts as needle_prompts
from .tokens import TokenBatch as TokenBatch
