"""The Makefile, where it refuses to begin."""

import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]


def make(venv: Path, free: str) -> subprocess.CompletedProcess[str]:
    """`make test` with a Python that makes no environment, so that nothing is ever installed."""
    words = ["make", "-C", str(REPO), "test", f"VENV={venv}", f"FREE_GB={free}", "PYTHON=true"]
    return subprocess.run(words, capture_output=True, text=True)


@pytest.mark.parametrize("needed", ["999999999", "999999999.5"])
def test_too_little_disk_is_told_before_anything_is_made(tmp_path: Path, needed: str):
    done = make(tmp_path / "new" / "venv", needed)
    assert done.returncode == 2 and "-m venv" not in done.stdout
    said = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert len(said) == 1
    assert said[0].startswith(f"{tmp_path}/new/venv: the environment needs {needed} GB of disk, ")
    assert "FREE_GB=0" in said[0] and not (tmp_path / "new").exists()


@pytest.mark.parametrize("needed", ["0", "0.001"])
def test_enough_disk_lets_the_environment_be_made(tmp_path: Path, needed: str):
    done = make(tmp_path / "new" / "venv", needed)
    assert "true -m venv" in done.stdout and "GB of disk" not in done.stderr
