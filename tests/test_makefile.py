"""The Makefile checks free disk space and git before it builds the environment, in a folder of any name."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]


def make(venv: Path, free: str) -> subprocess.CompletedProcess[str]:
    """`make test` with a Python that creates no environment, so that nothing is installed."""
    words = ["make", "-C", str(REPO), "test", f"VENV={venv}", f"FREE_GB={free}", "PYTHON=true"]
    return subprocess.run(words, capture_output=True, text=True)


@pytest.mark.parametrize("needed", ["999999999", "999999999.5"])
def test_too_little_disk_fails_in_one_line_before_anything_is_written(tmp_path: Path, needed: str):
    done = make(tmp_path / "new" / "venv", needed)
    assert done.returncode == 2 and "-m venv" not in done.stdout
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert f"needs {needed} GB" in line and "FREE_GB=0" in line
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("needed", ["0", "0.001"])
def test_with_enough_disk_the_environment_is_built(tmp_path: Path, needed: str):
    done = make(tmp_path / "new" / "venv", needed)
    assert "true -m venv" in done.stdout and "GB of disk" not in done.stderr


@pytest.mark.parametrize(("target", "selects"), [("test", False), ("quick", True)])
def test_quick_leaves_slow_tests_out(tmp_path: Path, target: str, selects: bool):
    words = ["make", "-C", str(REPO), target, f"VENV={tmp_path / 'venv'}", "--dry-run"]
    printed = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert ('-m "not slow and not end_to_end"' in printed) == selects


STUB = """\
#!/bin/sh
[ "$2" = venv ] && mkdir -p "$3/bin" && cp "$0" "$3/bin/python"
printf '%s|' "$PWD" "$LOGNAME" "${PATH%%:*}" "$@" >> calls
echo >> calls
"""


def make_in(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`make` in a folder with a copy of the Makefile and a Python that writes its arguments to `calls`."""
    for name in ("Makefile", "requirements.txt"):
        shutil.copy2(REPO / name, folder)  # with its time: nothing is to be installed again
    (folder / "stub").write_text(STUB)
    (folder / "stub").chmod(0o755)
    ceiling = {"GIT_CEILING_DIRECTORIES": str(folder.parent)}
    return subprocess.run(
        ["make", *words, "FREE_GB=0", "PYTHON=./stub"],
        cwd=folder, env={**os.environ, **ceiling}, capture_output=True, text=True,
    )  # fmt: skip


def test_a_folder_outside_of_git_is_named_before_anything_is_installed(tmp_path: Path):
    done = make_in(tmp_path, "run")
    assert done.returncode == 2 and not (tmp_path / "calls").exists() and not (tmp_path / ".venv").exists()
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert "not a git repository, which DVC needs" in line and "git init" in line


def test_a_run_works_in_a_folder_of_any_name(tmp_path: Path):
    folder = tmp_path / "a b%20c?d#e"
    folder.mkdir()
    subprocess.run(["git", "init", "--quiet", folder], check=True)
    for _ in range(2):
        done = make_in(folder, "run")
        assert done.returncode == 0, done.stderr
    calls = [line.split("|") for line in (folder / "calls").read_text().splitlines()]
    ran = [call[3:-1] for call in calls]
    assert ran[0] == ["-m", "venv", ".venv"] and ran[1][:3] == ["-m", "pip", "install"]
    assert [words[:3] for words in ran[2:]] == 2 * [
        ["-m", "vdp", "check"],
        ["-m", "dvc", "repro"],
        ["-m", "vdp", "summary"],
    ]
    assert {call[0] for call in calls} == {str(folder)} and all(call[1] for call in calls)
    assert {call[2] for call in calls if "dvc" in call} == {f"{folder}/.venv/bin"}
