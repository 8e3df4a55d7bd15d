"""The Makefile, where it refuses to begin."""

import subprocess
from pathlib import Path

REPO = Path(__file__).parents[1]


def test_too_little_disk_is_told_before_anything_is_installed(tmp_path: Path):
    place = tmp_path / "new" / "venv"
    words = ["make", "-C", str(REPO), "test", f"VENV={place}", "FREE_GB=999999999"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 2 and not place.exists()
    said = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert len(said) == 1 and said[0].startswith(f"{place}: the environment needs 999999999 GB of disk, ")
    assert said[0].endswith("are free: free some, or make VENV=/elsewhere/venv")
