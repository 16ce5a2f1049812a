"""Columns of Parquet files: the only door to pyarrow."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from mi_toolkit.core.errors import (
    MIToolkitError,
    PromptError,
    ReportError,
    StoreError,
    in_one_line,
)

if TYPE_CHECKING:
    from mi_toolkit.core.tables import DataFrame

Column = npt.NDArray[np.integer[Any]]


@contextmanager
def undamaged(path: str | os.PathLike[str], error: type[MIToolkitError]) -> Iterator[None]:
    """Inside, what is raised on a file that is no Parquet, or is damaged, is named as that.

    Raises:
        MIToolkitError: of the type `error`.
    """
    try:
        yield
    except MIToolkitError:
        raise
    # pyarrow's own errors are of these kinds, and damaged sizes ask for all memory there is.
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError, MemoryError) as failure:
        what = "is no Parquet file, or is damaged"
        if isinstance(failure, MemoryError):
            what = "is damaged, or takes more memory than is free"
        raise error(f"{path} {what}: {in_one_line(failure)}.") from failure


def write_columns(path: str | os.PathLike[str], columns: Mapping[str, Column]) -> None:
    """Write columns of integers as one Parquet file."""
    table = pa.table(dict(columns))
    pq.write_table(table, path, compression="zstd", write_page_checksum=True)


def read_columns(
    paths: Sequence[str | os.PathLike[str]], dtypes: Mapping[str, type[np.integer[Any]]]
) -> dict[str, Column]:
    """The named columns of several Parquet files, one file's rows after the other's.

    Raises:
        StoreError: a file is missing or damaged.
    """
    tables = []
    for path in paths:
        with undamaged(path, StoreError):
            table = pq.read_table(path, columns=list(dtypes), page_checksum_verification=True)
            tables.append({name: table[name].to_numpy().astype(dtypes[name]) for name in dtypes})
    return {
        name: np.concatenate([np.empty(0, dtype), *(table[name] for table in tables)])
        for name, dtype in dtypes.items()
    }


def column(path: Path, name: str) -> Iterator[Any]:
    """The values of one column, in batches: the file is never whole in memory.

    Raises:
        PromptError: it is no Parquet file, or has no such column.
    """
    with undamaged(path, PromptError), pq.ParquetFile(path) as file:
        known = file.schema_arrow.names
        if name not in known:
            raise PromptError(f"{path} has no column {name!r}: it has {', '.join(known)}.")
        for batch in file.iter_batches(batch_size=1024, columns=[name]):
            yield from batch.column(0).to_pylist()


def read_tables(paths: Sequence[str | os.PathLike[str]]) -> DataFrame:
    """Tables in Parquet files, one file's rows after the other's, each with its own columns.

    A column that one file holds whole numbers in, and another fractions or nothing, takes both.

    Raises:
        ReportError: a file is damaged, or columns of one name cannot be one.
    """
    try:
        schemas = [pq.read_schema(path).remove_metadata() for path in paths]
        schema = pa.unify_schemas(schemas, promote_options="permissive")
        found = ds.dataset([os.fspath(path) for path in paths], schema=schema)
        table: DataFrame = found.to_table().to_pandas()
        return table
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError) as error:
        raise ReportError(f"The tables cannot be read as one: {in_one_line(error)}.") from error
