"""Paths of the main checkout, also inside the temporary checkouts of DVC's experiments."""

import os
from pathlib import Path


def project_root() -> Path:
    """Return the main checkout, also inside the temporary checkouts of DVC's experiments."""
    return Path(os.environ.get("DVC_ROOT") or ".").resolve()


def from_checkout(path: Path) -> Path:
    """Return a path of the user's, which is relative to the main checkout where this one does not hold it.

    `dvc exp run --temp` and queued experiments run in a copy of the files in git, which lies elsewhere.
    """
    path = path.expanduser()
    if path.is_absolute() or os.path.lexists(path) or project_root() == Path.cwd():
        return path
    return project_root() / path
