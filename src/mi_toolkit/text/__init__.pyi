from .generation import GeneratedSequence as GeneratedSequence
from .generation import Generation as Generation
from .pipeline import Pipeline as Pipeline
from .trace import trace_pipeline as trace_pipeline
