from .lengths import LengthSweep as LengthSweep
from .lengths import length_sweep as length_sweep
from .model_comparison import ModelComparison as ModelComparison
from .models import compare_models as compare_models
from .stimuli import StimulusComparison as StimulusComparison
from .stimuli import compare_stimuli as compare_stimuli
