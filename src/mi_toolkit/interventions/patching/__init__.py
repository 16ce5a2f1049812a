"""Which parts of a model carry a difference between prompts, or write a prediction.

1. Activation patching and attribution patching are TransformerLens' own, on pairs of prompts of the
   same length that differ in what the answer hangs on: an activation of the clean run is put into
   the corrupted one, or a gradient estimates what that would do.
2. Direct logit attribution splits one logit into what each part writes. TransformerLens' own needs
   weights folded for good; this one reads the raw weights, and states what it leaves over.
"""

from mi_toolkit.interventions.patching.activation import activation_patching as activation_patching
from mi_toolkit.interventions.patching.attribution import (
    AttributionPatching as AttributionPatching,
)
from mi_toolkit.interventions.patching.attribution import (
    attribution_patching as attribution_patching,
)
from mi_toolkit.interventions.patching.direct import DirectAttribution as DirectAttribution
from mi_toolkit.interventions.patching.direct import (
    direct_logit_attribution as direct_logit_attribution,
)
from mi_toolkit.interventions.patching.edges import EdgeAttribution as EdgeAttribution
from mi_toolkit.interventions.patching.edges import edge_attribution as edge_attribution
from mi_toolkit.interventions.patching.patching import Patching as Patching
