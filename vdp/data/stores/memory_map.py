"""Memory maps of .npy files, opened when they are asked for."""

from pathlib import Path

import numpy as np

MAX_OPEN = 256  # maps held at once: each holds a file descriptor, of which a process has about 1000


class Maps:
    """Memory maps by the paths of their files; the one that has been open longest is let go of first.

    None of them travels to another process, which opens its own.
    """

    def __init__(self) -> None:
        self._open: dict[Path, np.ndarray] = {}

    def __getitem__(self, path: Path) -> np.ndarray:
        """The array of a file, read-only.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError, EOFError: as numpy raises them, without the file's name, if it is not whole.
        """
        if path not in self._open:
            if len(self._open) >= MAX_OPEN:
                del self._open[next(iter(self._open))]
            self._open[path] = np.load(path, mmap_mode="r")
        return self._open[path]

    def __len__(self) -> int:
        return len(self._open)

    def __getstate__(self) -> dict[str, object]:
        return {"_open": {}}
