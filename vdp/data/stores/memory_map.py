"""Memory maps of .npy files, opened on first use."""

from pathlib import Path

import numpy as np

MAX_OPEN = 256  # maps held at once: each holds a file descriptor, of which a process has about 1000


class MemoryMaps:
    """Read-only memory maps by path; the oldest is closed first. Pickling drops the open maps."""

    def __init__(self) -> None:
        self._open: dict[Path, np.ndarray] = {}

    def __getitem__(self, path: Path) -> np.ndarray:
        """Return the array of a file; numpy's ValueError or EOFError does not name an incomplete file."""
        if path not in self._open:
            if len(self._open) >= MAX_OPEN:
                del self._open[next(iter(self._open))]
            self._open[path] = np.load(path, mmap_mode="r")
        return self._open[path]

    def __len__(self) -> int:
        return len(self._open)

    def __getstate__(self) -> dict[str, object]:
        return {"_open": {}}
