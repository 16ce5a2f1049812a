"""Results on disk: one safetensors file, what is not a tensor as JSON in its header. No pickle."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mi_toolkit.errors import ReportError
from mi_toolkit.files import written_whole


def save_record(
    path: str | os.PathLike[str],
    *,
    format: str,
    tensors: Mapping[str, Tensor],
    record: Mapping[str, Any],
) -> None:
    """Write tensors and the record beside them, whole or not at all.

    Args:
        path: the file.
        format: what the file holds and its version, such as `mi_toolkit head report 1`.
        tensors: by name.
        record: plain values that JSON can hold.

    Raises:
        OSError: it cannot be written: the disk is full, say.
    """
    metadata = {"format": format, "report": json.dumps(record)}
    with written_whole(path) as draft:
        try:
            plain = {name: tensor.contiguous() for name, tensor in tensors.items()}
            save_file(plain, draft, metadata=metadata)
        except SafetensorError as error:
            raise _of_the_system(error) from error
        _order_metadata(draft)


def _of_the_system(error: SafetensorError) -> OSError:
    """What the operating system said, which safetensors puts into words."""
    number = re.search(r"os error (\d+)", str(error))
    if number is None:
        return OSError(str(error))
    return OSError(int(number[1]), os.strerror(int(number[1])))


def _order_metadata(path: Path) -> None:
    """Put the header's metadata in order: safetensors writes it in another one each time.

    So equal results are equal files. The header keeps its length, and the tensors their place.
    """
    with path.open("r+b") as opened:
        size = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        ordered = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        if len(ordered) <= size:
            opened.seek(8)
            opened.write(ordered.ljust(size))


def load_record(
    path: str | os.PathLike[str],
    *,
    format: str | tuple[str, ...],
    kind: str,
    outdated: Mapping[str, str] = MappingProxyType({}),
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read back what `save_record` wrote.

    Args:
        path: the file.
        format: the format that it must have been saved with, or those, the newest first.
        kind: what it is called in an error, such as `head report`.
        outdated: older formats that are refused: why, and what to do.

    Raises:
        ReportError: no such file, it is damaged, or it holds something else.
    """
    if not Path(path).is_file():
        raise ReportError(f"No {kind} at {path}: there is no such file.")
    try:
        with safe_open(path, framework="pt") as stored:
            metadata = stored.metadata() or {}
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ReportError(f"{path} is no safetensors file, or is damaged: {error}.") from error
    if metadata.get("format") in outdated:
        why = outdated[metadata["format"]]
        raise ReportError(f"{path} holds a {kind} of an older version: {why}.")
    formats = (format,) if isinstance(format, str) else format
    if metadata.get("format") not in formats:
        raise ReportError(
            f"{path} is a safetensors file, but holds no {kind} of this version "
            f"({metadata.get('format', 'no format named')}; wanted {formats[0]!r})."
        )
    return tensors, json.loads(metadata["report"])


def load_tensor(path: str | os.PathLike[str], name: str) -> Tensor:
    """Read one tensor of a record, and leave the others on the disk.

    Raises:
        ReportError: no such file, or it is damaged.
    """
    try:
        with safe_open(path, framework="pt") as stored:
            tensor: Tensor = stored.get_tensor(name)
            return tensor
    except (OSError, SafetensorError) as error:
        raise ReportError(f"{path} cannot be read: {error}.") from error
