"""What a DVC that was killed leaves half written is put right, so that the next one can start.

DVC writes `dvc.lock` and `.dvc/tmp/rwlock`, its notes of who is at work, in place: a kill at that moment
leaves a part of a file, which it then refuses to read. Nothing is lost with `dvc.lock`: what it said about
finished stages is in DVC's run cache, from which the next run takes their results.
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
AT_WORK = Path(".dvc/tmp/lock")  # held by a DVC that is not waiting for a stage
NOTES = Path(".dvc/tmp/rwlock")  # who reads and writes what


class Note(TypedDict):
    """One of DVC's notes: a process."""

    pid: int
    cmd: str


class Notes(TypedDict, total=False):
    """DVC's notes, by path."""

    write: dict[str, Note]
    read: dict[str, list[Note]]


def mend_after_a_kill() -> list[str]:
    """Put right what a killed DVC has left in this checkout; does nothing while another DVC is at work.

    Returns:
        What was done, one line each.
    """
    with _alone() as alone:
        return [*_mend_lock(), *_mend_notes()] if alone else []


@contextmanager
def _alone() -> Iterator[bool]:
    """Keep every DVC of this checkout waiting, by its own means; False where one is at work."""
    if not AT_WORK.parent.is_dir():
        yield False  # no DVC has been here
        return
    with AT_WORK.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _mend_lock() -> Iterator[str]:
    """A dvc.lock that DVC would refuse gives way to that of the last commit, or to none."""
    if not LOCK.is_file() or _is_whole(LOCK):
        return
    committed = subprocess.run(["git", "show", f"HEAD:./{LOCK}"], capture_output=True)
    if committed.returncode == 0:
        _replace(LOCK, committed.stdout)
    else:
        LOCK.unlink()
    yield f"{LOCK}: was left half written by a killed run; made anew, finished stages come from DVC's cache"


def _is_whole(lock: Path) -> bool:
    """Whether DVC would read it; where an entry only reads like a whole one, DVC looks its stage up again."""
    # slow to import, as is all of DVC
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA  # type: ignore[import-untyped]
    from voluptuous import Invalid

    try:
        COMPILED_LOCKFILE_SCHEMA(read_file(lock))
    except (UserError, Invalid):
        return False
    return True


def _mend_notes() -> Iterator[str]:
    """Notes that cannot be read give way to none; those of processes that are no DVC are struck out.

    DVC strikes out those of processes that are gone, but not where another program has their number by now,
    as after a restart or in the next container.
    """
    if not NOTES.is_file():
        return
    try:
        notes: Notes = json.loads(NOTES.read_text())
    except ValueError:
        NOTES.unlink()
        yield f"{NOTES}: was left half written by a killed run; removed"
        return
    writing = {path: note for path, note in notes.get("write", {}).items() if _may_be_dvc(note["pid"])}
    reading = {
        path: [note for note in of_path if _may_be_dvc(note["pid"])]
        for path, of_path in notes.get("read", {}).items()
    }
    _replace(NOTES, json.dumps({"write": writing, "read": {k: v for k, v in reading.items() if v}}).encode())


def _may_be_dvc(pid: int) -> bool:
    """Whether a process is a DVC, as far as this system tells."""
    command = Path(f"/proc/{pid}/cmdline")
    if not Path("/proc/self/cmdline").is_file():
        return True
    return command.is_file() and b"dvc" in command.read_bytes()


def _replace(path: Path, content: bytes) -> None:
    new = path.with_name(path.name + ".new")
    new.write_bytes(content)
    new.replace(path)
