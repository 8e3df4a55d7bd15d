"""The report of `vdp train`: which held-out clips it scores."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from vdp.api import train_report
from vdp.api.sampling import Sampling
from vdp.config.schema import ClipParams
from vdp.data.stores.clips import Clip, ClipStore, Pixels, write_clips

pytestmark = pytest.mark.slow

CLIP = ClipParams(frames=4, known=2, height=16, width=16)


class Copier:
    """Stands for a model: repeats the last context frame, and records the level of each clip."""

    def __init__(self, gains: list[float] | None) -> None:
        self.diffusion = SimpleNamespace(config=SimpleNamespace(gains=gains))
        self.scored: list[int] = []

    def predictable(self, count: int) -> list[int]:
        return list(range(1, count + 1))

    def predict(self, clip: Pixels, frames: None, samples: int, sampling: Sampling, at: list[int]) -> Pixels:
        self.scored.append(int(clip[0, 0, 0, 0]))
        return np.repeat(clip[None, -1:], len(at), axis=1)

    def round_trip(self, clip: Pixels) -> Pixels:
        return clip


def held_out(folder: Path, count: int) -> ClipStore:
    """Clips whose level is their row."""
    noise = np.random.default_rng(0).integers(0, 2, (4, 16, 16, 3), dtype=np.uint8)
    write_clips(folder, (Clip(f"v_{row:05d}", noise * 0 + np.uint8(row)) for row in range(count)), shard_mb=1)
    return ClipStore(folder)


@pytest.mark.parametrize(
    ("count", "gains", "scored", "note"),
    [
        (10, [1.0, 0.5], range(5, 10), train_report.OTHER_CLIPS),
        (7, [1.0, 0.5], range(7), train_report.SAME_CLIPS),
        (10, None, range(10), None),
    ],
)
def test_clips_that_gains_were_measured_on_are_not_scored_or_named(tmp_path, count, gains, scored, note):
    model = Copier(gains)
    result = train_report.evaluate(model, held_out(tmp_path / "val", count), CLIP, Sampling(seed=0))
    assert model.scored == list(scored) and result.clips == len(scored)
    (tmp_path / "report").mkdir()
    train_report.write_report(tmp_path / "report", result, {}, {}, [])
    shown = (tmp_path / "report/report.html").read_text()
    for each in (train_report.OTHER_CLIPS, train_report.SAME_CLIPS):
        assert (each in shown) == (each == note)
