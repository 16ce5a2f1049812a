from .generation import GeneratedSequence as GeneratedSequence
from .generation import Generation as Generation
from .generation import Sampling as Sampling
from .pipeline import Pipeline as Pipeline
from .trace import trace_and_classify as trace_and_classify
from .trace import trace_pipeline as trace_pipeline
