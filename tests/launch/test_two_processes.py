"""Two processes, started by Fabric, share work, and end together when one of them fails."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.launch.process import ROWS

pytestmark = pytest.mark.slow


def share(folder: Path, *failing: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "tests.launch.process", str(folder), *failing],
        capture_output=True, text=True, timeout=300, cwd=Path(__file__).parents[2],
    )  # fmt: skip


def test_a_process_that_fails_ends_all_and_the_batches_stay(tmp_path):
    """Process 1 has the rows 1, 3 and 5, and fails at the last one."""
    failed = share(tmp_path / "work", "5")
    assert failed.returncode == 1
    errors = [line for line in failed.stderr.splitlines() if line.startswith("error")]
    assert errors[0] == "error in process 1: row 5: cannot be computed"
    assert len(errors) == 2 and "another process of this stage cannot be reached" in errors[1]
    assert "Traceback" not in failed.stderr
    assert len(list((tmp_path / "work").rglob("*.npz"))) == ROWS - 1
    again = share(tmp_path / "work")
    assert again.returncode == 0, again.stderr
    assert "squares all: 6 of 7 batches are those of an earlier run" in again.stderr
    squares, processes = again.stdout.splitlines()
    assert squares == " ".join(str(row**2) for row in range(ROWS))
    assert processes == "3 processes", "both of the first run, and one of the second"
