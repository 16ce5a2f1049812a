"""Token batches to test behaviours on."""

from mi_toolkit.prompts.stimuli import STIMULI as STIMULI
from mi_toolkit.prompts.stimuli import natural as natural
from mi_toolkit.prompts.stimuli import repeated_random as repeated_random
from mi_toolkit.prompts.tokens import Prompt as Prompt
from mi_toolkit.prompts.tokens import TokenBatch as TokenBatch
from mi_toolkit.prompts.tokens import bos_token_id as bos_token_id
from mi_toolkit.prompts.tokens import tokenise as tokenise
