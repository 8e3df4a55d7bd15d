"""What a killed DVC leaves half written no longer stops the next one."""

import fcntl
import json
import subprocess
import sys
from pathlib import Path

import pytest

from vdp.cli.dvc_recovery import AT_WORK, LOCK, NOTES, mend_after_a_kill

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
WHOLE = "schema: '2.0'\nstages:\n" + "".join(ENTRY.format(name=name) for name in ("make", "learn"))


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a repository in which a DVC has run."""
    monkeypatch.chdir(tmp_path)
    AT_WORK.parent.mkdir(parents=True)
    LOCK.write_text(WHOLE)
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", LOCK], [*author, "commit", "-qm", "lock"]):
        subprocess.run(["git", *words], check=True)
    return tmp_path


def test_what_is_whole_stays(checkout):
    newer = WHOLE.replace("size: 100", "size: 200")
    LOCK.write_text(newer)
    NOTES.write_text("{}")
    assert mend_after_a_kill() == []
    assert LOCK.read_text() == newer


@pytest.mark.parametrize(
    "left", ["", "sch", "schema: '2.0'\nstages:\n  make:\n    c", WHOLE.rpartition("md5:")[0] + "m"]
)
def test_a_lock_file_that_dvc_refuses_is_that_of_the_last_commit_again(checkout, left):
    LOCK.write_text(left)
    (told,) = mend_after_a_kill()
    assert "dvc.lock: was left half written" in told
    assert LOCK.read_text() == WHOLE
    assert mend_after_a_kill() == []


def test_after_a_kill_at_any_byte_dvc_reads_what_is_there(checkout):
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA

    from vdp.config.yaml_file import read_file

    for size in range(0, len(WHOLE), 7):
        LOCK.write_text(WHOLE[:size])
        mend_after_a_kill()
        COMPILED_LOCKFILE_SCHEMA(read_file(LOCK))


def test_without_a_commit_it_begins_anew(checkout):
    LOCK.write_text("sch")
    subprocess.run(["git", "update-ref", "-d", "HEAD"], check=True)
    assert len(mend_after_a_kill()) == 1
    assert not LOCK.exists()


def test_notes_of_who_is_at_work_that_are_half_written_are_removed(checkout):
    NOTES.write_text('{"write": {"/a": {"pid"')
    (told,) = mend_after_a_kill()
    assert "rwlock: was left half written" in told
    assert not NOTES.exists()


def test_a_killed_dvcs_number_that_another_program_has_by_now_is_struck_out(checkout):
    dvc = subprocess.Popen([sys.executable, "-c", "input()", "dvc", "repro"], stdin=subprocess.PIPE)
    other = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    gone, living = ({"pid": process.pid, "cmd": "dvc repro"} for process in (other, dvc))
    NOTES.write_text(
        json.dumps({"write": {"/a": gone, "/b": living}, "read": {"/c": [gone], "/d": [gone, living]}})
    )
    try:
        assert mend_after_a_kill() == []
    finally:
        for process in (dvc, other):
            process.communicate(b"")
    assert json.loads(NOTES.read_text()) == {"write": {"/b": living}, "read": {"/d": [living]}}


def test_nothing_is_touched_while_a_dvc_is_at_work(checkout):
    LOCK.write_text("sch")
    with AT_WORK.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert mend_after_a_kill() == []
    assert LOCK.read_text() == "sch"


def test_where_no_dvc_has_been_nothing_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert mend_after_a_kill() == []
    assert list(tmp_path.iterdir()) == []
