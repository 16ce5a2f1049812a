"""A prompt's way through a model, in five stages: tokens, embedding, attention, MLP, output."""

from mi_toolkit.pipeline.pipeline import Pipeline as Pipeline
from mi_toolkit.pipeline.trace import trace_pipeline as trace_pipeline
