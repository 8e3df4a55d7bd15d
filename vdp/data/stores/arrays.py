"""Write `.npy` files of more rows than memory holds."""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
from numpy.typing import NDArray


class ArrayWriter:
    """Writes an array of `rows` rows to `path`, some rows at a time, in the format of `np.save`.

    The rows are written, not mapped: mapped pages count as memory of the process. A context manager, which
    raises a ValueError at its end if rows are missing.
    """

    def __init__(self, path: Path, rows: int) -> None:
        self.path, self.rows = path, rows
        self._written = 0
        self._shape: tuple[int, ...] | None = None
        self._file: BinaryIO = path.open("wb")

    def append(self, rows: NDArray[np.generic]) -> None:
        """Append rows (n, ...) of the type and shape of the first ones."""
        if self._shape is None:
            self._shape = rows.shape[1:]
            header = np.lib.format.header_data_from_array_1_0(rows[:0])
            header["shape"] = (self.rows, *self._shape)
            np.lib.format.write_array_header_1_0(self._file, header)
        if rows.shape[1:] != self._shape:
            raise ValueError(f"{self.path}: expected rows of shape {self._shape}, got {rows.shape[1:]}")
        self._file.write(np.ascontiguousarray(rows).data)
        self._written += len(rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if kind is None and self._written != self.rows:
            raise ValueError(f"{self.path}: expected {self.rows} rows, got {self._written}")


def write_parts(folder: Path, parts: Iterable[Mapping[str, NDArray[np.generic]]], rows: int) -> None:
    """Write arrays of `rows` rows, given in parts of some rows each, as `<name>.npy` in a new folder."""
    folder.mkdir(parents=True)
    with ExitStack() as stack:
        files: dict[str, ArrayWriter] = {}
        for arrays in parts:
            for name, array in arrays.items():
                if name not in files:
                    files[name] = stack.enter_context(ArrayWriter(folder / f"{name}.npy", rows))
                files[name].append(array)
