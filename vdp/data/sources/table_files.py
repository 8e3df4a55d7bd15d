"""Read single rows of Arrow and parquet files of any size."""

import stat
from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

MAX_OPEN = 64  # open files, each with a file descriptor, of which a process has about 1000
# raised for a broken file; ValueError by the types that `datasets` registers
UNREADABLE = (pa.lib.ArrowException, OSError, ValueError)
TOO_SHORT = "fewer rows than its header states"


def open_table(path: Path) -> "TableFile":
    """Open a parquet file or, of any other suffix, an Arrow stream; cached per process.

    For a missing or broken file this and the methods of the returned file raise one of `UNREADABLE`.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError("not a file")  # opening a pipe would block
    return _open(path, status.st_mtime_ns)


@lru_cache(maxsize=MAX_OPEN)
def _open(path: Path, _modified: int) -> "TableFile":
    return _ParquetFile(path) if path.suffix.lower() == ".parquet" else _ArrowFile(path)


class _ArrowFile:
    def __init__(self, path: Path) -> None:
        self._table: pa.Table = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
        self.schema: pa.Schema = self._table.schema
        self.num_rows: int = self._table.num_rows

    def row(self, index: int, columns: list[str]) -> dict[str, pa.Array]:
        """Return the cell of each column, as a validated array of length 1."""
        return {name: _validate(_cell(self._table.column(name), index)) for name in columns}

    def list_length(self, index: int, column: str) -> int:
        """Return the length of the list in a cell; 0 if null or unknown without reading the list."""
        return _length(_cell(self._table.column(column), index))


class _ParquetFile:
    """A parquet file; the rows of a row group decode in order, so only ascending reads are fast.

    One row and the page of the file that holds it are kept in memory.
    """

    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetFile(path, memory_map=True)
        self.schema: pa.Schema = self._file.schema_arrow
        groups = range(self._file.num_row_groups)
        self._ends = list(accumulate(self._file.metadata.row_group(g).num_rows for g in groups))
        self.num_rows: int = self._file.metadata.num_rows
        self._lock = Lock()  # threads share the file
        self._ahead: Iterator[pa.RecordBatch] = iter(())
        self._columns: list[str] = []
        self._last: pa.RecordBatch | None = None
        self._index = -1  # of the row in `_last`
        self._lengths: tuple[int, str, pa.Array] | None = None  # of one group and column

    def row(self, index: int, columns: list[str]) -> dict[str, pa.Array]:
        """As `_ArrowFile.row`."""
        with self._lock:
            group, start = self._group(index)
            if columns != self._columns or not start <= self._index <= index:
                self._ahead = self._file.iter_batches(1, [group], columns, use_threads=False)
                self._columns, self._index = columns, start - 1
            while self._index < index:
                before, self._index = self._index, -1  # after a failure the next read restarts the group
                self._last = next(self._ahead, None)
                if self._last is None:
                    raise pa.ArrowInvalid(TOO_SHORT)
                self._index = before + 1
            assert self._last is not None
            return {name: _validate(self._last.column(name)) for name in columns}

    def list_length(self, index: int, column: str) -> int:
        """As `_ArrowFile.list_length`; counts the paths of the pictures, which are stored separately."""
        with self._lock:
            group, start = self._group(index)
            if self._lengths is None or self._lengths[:2] != (group, column):
                leaves = [self._file.schema.column(i).path for i in range(len(self._file.schema))]
                paths = [leaf for leaf in leaves if leaf.startswith(f"{column}.") and leaf.endswith(".path")]
                if not paths:
                    return 0
                lists = self._file.read_row_group(group, paths[:1], use_threads=False).column(column)
                self._lengths = (group, column, lists)
            return _length(_cell(self._lengths[2], index - start))

    def _group(self, index: int) -> tuple[int, int]:
        """Number and first row of the row group of a row."""
        group = bisect_right(self._ends, index)
        return group, self._ends[group - 1] if group else 0


TableFile: TypeAlias = _ArrowFile | _ParquetFile


def _validate(cell: pa.Array) -> pa.Array:
    """Check the offsets of the file: a wrong one would crash the process."""
    cell.validate(full=True)
    return cell


def _cell(column: pa.ChunkedArray, index: int) -> pa.Array:
    chunk = next((chunk for chunk in column.slice(index, 1).chunks if len(chunk)), None)
    if chunk is None:
        raise pa.ArrowInvalid(TOO_SHORT)
    return chunk


def _length(cell: pa.Array) -> int:
    storage = cell.storage if isinstance(cell, pa.ExtensionArray) else cell
    return pc.list_value_length(storage)[0].as_py() or 0
