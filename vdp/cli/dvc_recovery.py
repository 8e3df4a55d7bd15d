"""Repair the lock files of a killed DVC.

DVC writes `dvc.lock` and `.dvc/tmp/rwlock` in place. A kill during the write leaves a truncated file, which
DVC cannot read. DVC's run cache still has the results of the finished stages.
"""

import fcntl
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict

from vdp.config.yaml_file import read_file
from vdp.core.errors import UserError

LOCK = Path("dvc.lock")
PROCESS_LOCK = Path(".dvc/tmp/lock")  # held by DVC, except while it waits for a stage
RWLOCK = Path(".dvc/tmp/rwlock")  # processes that read and write each path


class Process(TypedDict):
    """A process in rwlock."""

    pid: int
    cmd: str


class PathLocks(TypedDict, total=False):
    """Content of rwlock, by path."""

    write: dict[str, Process]
    read: dict[str, list[Process]]


def repair_locks() -> list[str]:
    """Repair the lock files in the current folder, unless DVC is running there; return messages."""
    with _exclusive() as acquired:
        return [*_repair_lock(), *_repair_rwlock()] if acquired else []


@contextmanager
def _exclusive() -> Iterator[bool]:
    """Hold DVC's process lock; yield False if there is none or DVC holds it."""
    if not PROCESS_LOCK.parent.is_dir():
        yield False
        return
    with PROCESS_LOCK.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _repair_lock() -> Iterator[str]:
    """Replace an invalid dvc.lock by the committed one, or remove it."""
    if not LOCK.is_file() or _is_valid(LOCK):
        return
    committed = subprocess.run(["git", "show", f"HEAD:./{LOCK}"], capture_output=True)
    if committed.returncode == 0:
        _replace(LOCK, committed.stdout)
    else:
        LOCK.unlink()
    yield f"{LOCK}: truncated by a killed run; reset, DVC's cache still has the finished stages"


def _is_valid(lock: Path) -> bool:
    # slow to import
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA  # type: ignore[import-untyped]
    from voluptuous import Invalid

    try:
        COMPILED_LOCKFILE_SCHEMA(read_file(lock))
    except (UserError, Invalid):
        return False
    return True


def _repair_rwlock() -> Iterator[str]:
    """Remove an invalid rwlock, or its entries of processes other than DVC.

    DVC removes the entries of dead processes, but not if another program has their pid, as after a restart.
    """
    if not RWLOCK.is_file():
        return
    try:
        locks: PathLocks = json.loads(RWLOCK.read_text())
    except ValueError:
        RWLOCK.unlink()
        yield f"{RWLOCK}: truncated by a killed run; removed"
        return
    write = {path: process for path, process in locks.get("write", {}).items() if _may_be_dvc(process)}
    read = {
        path: kept
        for path, processes in locks.get("read", {}).items()
        if (kept := [process for process in processes if _may_be_dvc(process)])
    }
    _replace(RWLOCK, json.dumps({"write": write, "read": read}).encode())


def _may_be_dvc(process: Process) -> bool:
    """Whether a process may be DVC; True on systems without /proc."""
    if not Path("/proc/self/cmdline").is_file():
        return True
    command = Path(f"/proc/{process['pid']}/cmdline")
    return command.is_file() and b"dvc" in command.read_bytes()


def _replace(path: Path, content: bytes) -> None:
    new = path.with_name(path.name + ".new")
    new.write_bytes(content)
    new.replace(path)
