"""The Makefile checks free disk space before it builds the environment."""

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
