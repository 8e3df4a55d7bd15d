"""Repair of the lock files that a killed DVC leaves truncated."""

import fcntl
import json
import subprocess
import sys
from pathlib import Path

import pytest
from dvc.schema import COMPILED_LOCKFILE_SCHEMA

from vdp.cli.dvc_recovery import LOCK, PROCESS_LOCK, RWLOCK, repair_locks
from vdp.config.yaml_file import read_file

pytestmark = pytest.mark.slow

ENTRY = """\
  {name}:
    cmd: python -m stages.{name}
    deps:
    - path: vdp/core/files.py
      hash: md5
      md5: 92eb5ffee6ae2fec3ad71c777531578f
      size: 2000
    params:
      params.yaml:
        {name}:
          steps: 3
          none: null
    outs:
    - path: data/{name}
      hash: md5
      md5: 0cc175b9c0f1b6a831c399e269772661.dir
      size: 100
      nfiles: 2
"""
VALID = "schema: '2.0'\nstages:\n" + "".join(ENTRY.format(name=name) for name in ("predict", "segment"))


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a repository with a committed dvc.lock, in which a DVC has run."""
    monkeypatch.chdir(tmp_path)
    PROCESS_LOCK.parent.mkdir(parents=True)
    LOCK.write_text(VALID)
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", LOCK], [*author, "commit", "-qm", "lock"]):
        subprocess.run(["git", *words], check=True)
    return tmp_path


def test_valid_files_are_unchanged(checkout):
    newer = VALID.replace("size: 100", "size: 200")
    LOCK.write_text(newer)
    RWLOCK.write_text("{}")
    assert repair_locks() == []
    assert LOCK.read_text() == newer


@pytest.mark.parametrize(
    "left", ["", "sch", "schema: '2.0'\nstages:\n  make:\n    c", VALID.rpartition("md5:")[0] + "m"]
)
def test_an_invalid_lock_file_is_replaced_by_the_committed_one(checkout, left):
    LOCK.write_text(left)
    (message,) = repair_locks()
    assert message.startswith("dvc.lock: truncated")
    assert LOCK.read_text() == VALID
    assert repair_locks() == []


def test_after_a_kill_at_any_byte_dvc_accepts_the_lock_file(checkout):
    for size in range(0, len(VALID), 7):
        LOCK.write_text(VALID[:size])
        repair_locks()
        COMPILED_LOCKFILE_SCHEMA(read_file(LOCK))


def test_without_a_commit_an_invalid_lock_file_is_removed(checkout):
    LOCK.write_text("sch")
    subprocess.run(["git", "update-ref", "-d", "HEAD"], check=True)
    assert len(repair_locks()) == 1
    assert not LOCK.exists()


def test_a_truncated_rwlock_is_removed(checkout):
    RWLOCK.write_text('{"write": {"/a": {"pid"')
    (message,) = repair_locks()
    assert "rwlock: truncated" in message
    assert not RWLOCK.exists()


def test_entries_of_processes_other_than_dvc_are_removed_from_rwlock(checkout):
    dvc = subprocess.Popen([sys.executable, "-c", "input()", "dvc", "repro"], stdin=subprocess.PIPE)
    other = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    stale, running = ({"pid": process.pid, "cmd": "dvc repro"} for process in (other, dvc))
    RWLOCK.write_text(
        json.dumps({"write": {"/a": stale, "/b": running}, "read": {"/c": [stale], "/d": [stale, running]}})
    )
    try:
        assert repair_locks() == []
    finally:
        for process in (dvc, other):
            process.communicate(b"")
    assert json.loads(RWLOCK.read_text()) == {"write": {"/b": running}, "read": {"/d": [running]}}


def test_nothing_is_repaired_while_a_dvc_runs(checkout):
    LOCK.write_text("sch")
    with PROCESS_LOCK.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert repair_locks() == []
    assert LOCK.read_text() == "sch"


def test_nothing_is_created_where_no_dvc_has_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert repair_locks() == []
    assert list(tmp_path.iterdir()) == []
