"""Tables: the only door to pandas."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from pandas import DataFrame as DataFrame

from mi_toolkit.core.io import atomic_write


def table_of(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """One row per record, a column per key, in the order in which keys first appear."""
    return pd.DataFrame(list(rows))


def joined(frames: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Tables with the same columns, one under the other."""
    return pd.concat(list(frames), ignore_index=True)


def write_parquet(table: pd.DataFrame, path: str | os.PathLike[str]) -> None:
    """Write a table to a Parquet file, whole or not at all; equal tables give equal files."""
    with atomic_write(path) as draft:
        table.to_parquet(draft, index=False, compression="zstd")


def read_parquet(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a table back."""
    return pd.read_parquet(path)


def frame(columns: Mapping[str, Sequence[Any]], *, integers: Sequence[str] = ()) -> pd.DataFrame:
    """A table of columns; those named in `integers` may have missing values, and stay integers."""
    made = pd.DataFrame(dict(columns))
    for name in integers:
        made[name] = pd.array(list(columns[name]), dtype="Int64")
    return made


def read_table(path: Path) -> pd.DataFrame:
    """A table from a Parquet file; whole numbers that may be missing stay whole."""
    return pd.read_parquet(path)
