"""A pipeline on disk: its figures as tensors, the rest as a record."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from torch import Tensor

from mi_toolkit.heads.head import Head
from mi_toolkit.pipeline.pipeline import Pipeline
from mi_toolkit.pipeline.stages import (
    AttentionStage,
    EmbeddingStage,
    LensStage,
    MlpStage,
    OutputStage,
    TokenStage,
)
from mi_toolkit.predictions import Prediction
from mi_toolkit.provenance import Provenance
from mi_toolkit.record_file import load_record, save_record

FORMAT = "mi_toolkit pipeline 1"

_STAGES: Mapping[str, Any] = {
    "tokens": TokenStage,
    "embedding": EmbeddingStage,
    "attention": AttentionStage,
    "mlp": MlpStage,
    "output": OutputStage,
    "lens": LensStage,
}


def save_pipeline(traced: Pipeline, path: str | os.PathLike[str]) -> None:
    """Write a pipeline, whole or not at all."""
    tensors = {
        f"{name}/{field.name}": getattr(stage, field.name)
        for name, stage in _stages(traced).items()
        for field in fields(stage)
        if isinstance(getattr(stage, field.name), Tensor)
    }
    save_record(path, format=FORMAT, tensors=tensors, record=record(traced))


def _stages(traced: Pipeline) -> dict[str, Any]:
    found = {name: getattr(traced, name) for name in _STAGES if name != "lens"}
    lens = traced.output.lens
    return found if lens is None else {**found, "lens": lens}


def record(traced: Pipeline) -> dict[str, Any]:
    """What is not a tensor, as plain values that JSON can hold."""
    labels = [[str(head), list(carried)] for head, carried in traced.attention.labels]
    stages = {
        name: {
            field.name: getattr(stage, field.name)
            for field in fields(stage)
            if not isinstance(getattr(stage, field.name), Tensor | LensStage)
        }
        for name, stage in _stages(traced).items()
    }
    stages["attention"]["labels"] = labels
    stages["output"]["predictions"] = [asdict(each) for each in traced.output.predictions]
    return {
        "prompt": traced.prompt,
        **stages,
        "shapes": {stage: dict(shapes) for stage, shapes in traced.shapes.items()},
        "texts": {str(token): text for token, text in traced.texts.items()},
        "provenance": asdict(traced.provenance),
    }


def load_pipeline(path: str | os.PathLike[str]) -> Pipeline:
    """Read a pipeline back.

    Raises:
        ReportError: no such file, or it holds no pipeline.
    """
    tensors, stored = load_record(path, format=FORMAT, kind="pipeline")
    stages: dict[str, dict[str, Any]] = {
        name: stored.pop(name) for name in _STAGES if name in stored
    }
    for name, tensor in tensors.items():
        stage, _, figure = name.partition("/")
        stages[stage][figure] = tensor
    stages["tokens"]["texts"] = tuple(stages["tokens"]["texts"])
    attention, output = stages["attention"], stages["output"]
    attention["labels"] = tuple(
        (Head.of(head), tuple(carried)) for head, carried in attention["labels"]
    )
    output["predictions"] = tuple(Prediction(**each) for each in output["predictions"])
    lens = stages.pop("lens", None)
    if lens is not None:
        output["lens"] = LensStage(**{**lens, "names": tuple(lens["names"])})
    for of_layers in (attention, stages["mlp"]):
        of_layers["layers"] = tuple(of_layers["layers"])
    shapes = {
        stage: {name: tuple(shape) for name, shape in of_stage.items()}
        for stage, of_stage in stored.pop("shapes").items()
    }
    return Pipeline(
        prompt=stored["prompt"],
        **{name: _STAGES[name](**given) for name, given in stages.items()},
        shapes=shapes,
        texts={int(token): text for token, text in stored["texts"].items()},
        provenance=Provenance(**stored["provenance"]),
    )
