"""Tables: the door to pandas, which takes half a second and is imported when a table is made."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mi_toolkit.core.errors import ReportError
from mi_toolkit.core.io import atomic_write

if TYPE_CHECKING:
    from pandas import DataFrame as DataFrame


def table_of(rows: Iterable[Mapping[str, Any]]) -> DataFrame:
    """One row per record, a column per key, in the order in which keys first appear."""
    return _made(list(rows))


def joined(frames: Iterable[DataFrame]) -> DataFrame:
    """Tables with the same columns, one under the other."""
    import pandas as pd

    return pd.concat(list(frames), ignore_index=True)


def write_parquet(table: DataFrame, path: str | os.PathLike[str]) -> None:
    """Write a table to a Parquet file, whole or not at all; equal tables give equal files."""
    with atomic_write(path) as draft:
        table.to_parquet(draft, index=False, compression="zstd", write_page_checksum=True)


def read_parquet(path: str | os.PathLike[str]) -> DataFrame:
    """Read a table back; whole numbers that may be missing stay whole.

    Raises:
        ReportError: no such file, or it is damaged.
    """
    import pandas as pd

    from mi_toolkit.core.parquet import undamaged  # which imports pyarrow

    with undamaged(path, ReportError):
        return pd.read_parquet(path, page_checksum_verification=True)


def frame(columns: Mapping[str, Any], *, integers: Sequence[str] = ()) -> DataFrame:
    """A table of columns, of which a single value fills its own.

    Those named in `integers` may have missing values, and stay integers.
    """
    return _made(dict(columns)).astype(dict.fromkeys(integers, "Int64"))


def _made(rows_or_columns: Any) -> DataFrame:
    import pandas as pd

    return pd.DataFrame(rows_or_columns)
