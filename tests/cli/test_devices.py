"""A command in two processes, started by Fabric, writes what one process writes."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.small_models import HEIGHT, WIDTH, save_small_models
from vdp.data.video.write import write_frames

pytestmark = pytest.mark.slow


def predict(folder: Path, devices: int) -> tuple[dict[str, bytes], str]:
    """Predict the clips of a folder; the outputs by name, and what was printed."""
    out = folder / f"by_{devices}"
    out.mkdir()
    clips = [str(folder / f"clip_{n}") for n in range(3)]
    words = ["predict", *clips, "-o", "future", "--frames", "2", "--steps", "1", "--devices", str(devices)]
    done = subprocess.run(
        [sys.executable, "-m", "vdp", *words, "--models", str(folder / "models")], cwd=out,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    files = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    return files, done.stdout + done.stderr


def test_two_processes_share_the_clips_and_write_the_same_files(tmp_path):
    save_small_models(tmp_path / "models")
    rng = np.random.default_rng(0)
    for n in range(3):
        frames = rng.integers(0, 256, (6, HEIGHT, WIDTH, 3), dtype=np.uint8)
        write_frames(tmp_path / f"clip_{n}", iter(frames), 10)
    one, _ = predict(tmp_path, 1)
    two, printed = predict(tmp_path, 2)
    assert one == two and len({name.split("/")[0] for name in one}) >= 3
    assert "already exists" not in printed
