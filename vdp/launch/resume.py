"""The folders under `.resume/` from which stages continue: one for each stage and key."""

import shutil
from contextlib import suppress
from pathlib import Path

from vdp.core.files import try_lock

RESUME = ".resume"
LOCK, FINISHED = "lock", "finished"  # files in a folder


def resume_folder(root: Path, stage: str, key: str) -> Path:
    """Return the folder of a stage under the main checkout `root`, so that a run in a temporary one resumes.

    Args:
        key: of its params, code and inputs, by `vdp.launch.stage_key.stage_key`.
    """
    return root / RESUME / f"{stage}-{key}"


def clear_finished(root: Path, stage: str, lock: Path) -> None:
    """Delete the files of finished stages, of which DVC has kept the outputs, before `stage` starts.

    Those of `stage` itself stay if DVC was stopped before it wrote its `lock` file: they give its outputs
    again without any work.
    """
    for folder in (root / RESUME).glob("*-*/"):
        finished = folder / FINISHED
        if finished.is_file():
            committed = lock.is_file() and lock.stat().st_mtime > finished.stat().st_mtime
            if committed or not folder.name.startswith(f"{stage}-"):
                _delete(folder)


def clear_outdated(root: Path, stage: str, current: Path) -> None:
    """Delete the batches of `stage` with other params, code and inputs than those of the folder `current`."""
    for folder in (root / RESUME).glob(f"{stage}-*/"):
        if folder != current and any(folder.glob("*/*.npz")):
            _delete(folder)


def remove_without_batches(folder: Path) -> None:
    """Delete a folder in which no batch is written, and the one above if it is empty."""
    if not any(folder.glob("*/*.npz")):
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):
            folder.parent.rmdir()


def _delete(folder: Path) -> None:
    with try_lock(folder / LOCK) as free:  # else it is in use, as in a temporary checkout
        if free:
            shutil.rmtree(folder, ignore_errors=True)
