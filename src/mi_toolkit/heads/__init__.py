"""What attention heads do: masks, scores and chance (pure); measuring, labels and reports."""

from mi_toolkit.heads.behaviours import BEHAVIOURS as BEHAVIOURS
from mi_toolkit.heads.classify import classify_heads as classify_heads
from mi_toolkit.heads.head import Head as Head
from mi_toolkit.heads.report import HeadReport as HeadReport
