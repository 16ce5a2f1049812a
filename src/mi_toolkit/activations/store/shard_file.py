"""One shard: a safetensors file, written block by block and read where it lies.

Written by hand, as the library's `save_file` wants each tensor whole: the blocks of a shard would
be copied together, then turned into bytes, and take three times its size. The format is the
library's own (a length, a JSON header, the tensors one behind the other), and it reads the files.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
"""The names that safetensors has for what activations are kept in."""

_CODES = {dtype: code for code, dtype in DTYPES.items()}


def write_shard(path: Path, blocks: Mapping[str, Sequence[Tensor]]) -> tuple[int, str]:
    """Write tensors given as blocks of rows; the file's size in bytes and its SHA-256."""
    header: dict[str, Any] = {}
    offset = 0
    for name, parts in blocks.items():
        end = offset + sum(part.nbytes for part in parts)
        header[name] = {
            "dtype": _CODES[parts[0].dtype],
            "shape": [sum(len(part) for part in parts), *parts[0].shape[1:]],
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    sha, size = hashlib.sha256(), 0
    with path.open("wb") as file:
        for part in itertools.chain([len(text).to_bytes(8, "little"), text], _bytes(blocks)):
            file.write(part)
            sha.update(part)
            size += len(part)
    return size, sha.hexdigest()


def _bytes(blocks: Mapping[str, Sequence[Tensor]]) -> Iterator[memoryview | bytes]:
    for parts in blocks.values():
        for part in parts:
            if part.numel():
                yield part.contiguous().flatten().view(torch.uint8).numpy().data


def map_shard(path: Path) -> dict[str, Tensor]:
    """The tensors of a shard, mapped: what is not looked at is not read.

    The map is private: writing into a tensor changes nothing on disk.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    start = 8 + length
    if path.stat().st_size == start:
        return {name: _empty(entry) for name, entry in header.items()}
    data = torch.from_numpy(np.memmap(path, dtype=np.uint8, mode="c", offset=start))
    return {
        name: data[slice(*entry["data_offsets"])]
        .view(DTYPES[entry["dtype"]])
        .reshape(entry["shape"])
        for name, entry in header.items()
    }


def _empty(entry: Mapping[str, Any]) -> Tensor:
    return torch.empty(entry["shape"], dtype=DTYPES[entry["dtype"]])
