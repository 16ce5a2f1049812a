"""Ablating parts of a model: their activations replaced, for as long as a context lasts.

1. A `Target` names one activation and marks what of it is replaced, alike in every row of a batch
   or row by row.
2. A kind of ablation takes from a reference what it needs, once, and then makes hooks for targets:
   `KINDS` is the table of them, and what to put in a mark's place is all that they differ in.
3. `ablating` holds the hooks of one set of components while a context lasts; whoever runs many sets
   gives each row of a batch its own.

Kinds differ in what they leave in place, and none is neutral. `zero` puts a part where it may never
have been; `mean` keeps what it always writes and takes what depends on the text; `resample` keeps
its distribution and brings another text's information in; `pattern_preserving` takes only what the
part's output carries, not what later heads attend to because of it.
"""

from mi_toolkit.interventions.ablation.component import Component as Component
from mi_toolkit.interventions.ablation.component import ComponentName as ComponentName
from mi_toolkit.interventions.ablation.component import HeadName as HeadName
from mi_toolkit.interventions.ablation.context import ablating as ablating
from mi_toolkit.interventions.ablation.kinds import KINDS as KINDS
from mi_toolkit.interventions.ablation.kinds import check_kind as check_kind
