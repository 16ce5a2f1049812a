"""What ablation does to one prediction: of chosen parts, and of every head alone.

1. The figures are teacher-forced: the prompt's own ids run, and one token, the target, is asked
   about behind them. Text that is generated freely is reported apart: it drifts away from the first
   token that differs, so it shows a change without measuring it.
2. A set of components stands beside random sets of the same size from the same layers: what any
   such set does is no finding.
3. Layers before the first ablated one compute what they did, so they do not run again.
"""

from mi_toolkit.interventions.effects.effect import ablation_effect as ablation_effect
from mi_toolkit.interventions.effects.result import AblationEffect as AblationEffect
from mi_toolkit.interventions.effects.sweep import AblationSweep as AblationSweep
from mi_toolkit.interventions.effects.sweep import ablation_sweep as ablation_sweep
