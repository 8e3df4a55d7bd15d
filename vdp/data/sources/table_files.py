"""Read rows of Arrow and parquet files one at a time, however large the files are."""

import stat
from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

MAX_OPEN = 64  # files kept open at once: each holds a file descriptor, of which a process has about 1000
# what opening or reading a broken file raises; ValueError is of the types that `datasets` registers
UNREADABLE = (pa.lib.ArrowException, OSError, ValueError)


class TableFile(Protocol):
    """One file of rows. Its methods raise one of `UNREADABLE` where the file is broken."""

    schema: pa.Schema
    num_rows: int

    def row(self, index: int, columns: list[str]) -> dict[str, pa.Array]:
        """The cell of each column in that row, as an array of length 1 that is safe to read."""
        ...

    def list_length(self, index: int, column: str) -> int:
        """Length of the list in that cell, 0 where it is null or not known without reading the list."""
        ...


def open_table(path: Path) -> TableFile:
    """The file at `path`, parquet by its suffix and an Arrow stream otherwise; open once in each process.

    Raises:
        pa.lib.ArrowException, OSError, ValueError: if it is not there or not such a file (`UNREADABLE`).
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError("not a file")  # a pipe would be waited for
    return _open(path, status.st_mtime_ns)


@lru_cache(maxsize=MAX_OPEN)
def _open(path: Path, _changed: int) -> TableFile:
    return _ParquetFile(path) if path.suffix.lower() == ".parquet" else _ArrowFile(path)


class _ArrowFile:
    """A memory-mapped Arrow stream: a row costs what is read of it."""

    def __init__(self, path: Path) -> None:
        self._table: pa.Table = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
        self.schema: pa.Schema = self._table.schema
        self.num_rows: int = self._table.num_rows

    def row(self, index: int, columns: list[str]) -> dict[str, pa.Array]:
        return {name: _valid(self._cell(index, name)) for name in columns}

    def list_length(self, index: int, column: str) -> int:
        return _length(self._cell(index, column))

    def _cell(self, index: int, column: str) -> pa.Array:
        return _one_chunk(self._table.column(column).slice(index, 1))


class _ParquetFile:
    """A parquet file, read forwards: the rows of a group can only be decoded in their order.

    Rows that are asked for in ascending order are decoded once, with what lies between; a smaller one starts
    its group anew. What is kept is a row, and the page of the file that it lies on.
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
        with self._lock:
            group, start = self._group(index)
            if columns != self._columns or not start <= self._index <= index:
                self._ahead = self._file.iter_batches(1, [group], columns, use_threads=False)
                self._columns, self._index = columns, start - 1
            while self._index < index:
                before, self._index = self._index, -1  # should this fail, the next row starts anew
                self._last = next(self._ahead, None)
                if self._last is None:
                    raise pa.ArrowInvalid("it has fewer rows than it says")
                self._index = before + 1
            assert self._last is not None
            return {name: _valid(self._last.column(name)) for name in columns}

    def list_length(self, index: int, column: str) -> int:
        with self._lock:
            group, start = self._group(index)
            if self._lengths is None or self._lengths[:2] != (group, column):
                # the pictures' names lie apart from the pictures, and there are as many
                leaves = [self._file.schema.column(i).path for i in range(len(self._file.schema))]
                names = [leaf for leaf in leaves if leaf.startswith(f"{column}.") and leaf.endswith(".path")]
                if not names:
                    return 0
                lists = self._file.read_row_group(group, names[:1], use_threads=False).column(column)
                self._lengths = (group, column, lists)
            return _length(_one_chunk(self._lengths[2].slice(index - start, 1)))

    def _group(self, index: int) -> tuple[int, int]:
        """Number of the row group that holds a row, and the group's first row."""
        group = bisect_right(self._ends, index)
        return group, self._ends[group - 1] if group else 0


def _valid(cell: pa.Array) -> pa.Array:
    """Checked as a whole: offsets are used as the file has them, and a wrong one would crash."""
    cell.validate(full=True)
    return cell


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    chunk = next((chunk for chunk in column.chunks if len(chunk)), None)
    if chunk is None:
        raise pa.ArrowInvalid("it has fewer rows than it says")
    return chunk


def _length(cell: pa.Array) -> int:
    storage = cell.storage if isinstance(cell, pa.ExtensionArray) else cell
    return pc.list_value_length(storage)[0].as_py() or 0
