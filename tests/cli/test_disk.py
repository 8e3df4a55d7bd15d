"""The disk space of a run."""

import pytest

from tests.cli.test_cost import SIZE, run_params
from vdp.cli.data_size import DataSize, SplitSize
from vdp.cli.disk import disk_estimate, disk_line


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """`run_params` writes params.yaml to the current folder."""
    monkeypatch.chdir(tmp_path)


def test_fewer_frames_that_are_kept_take_less():
    sizes = [
        disk_estimate(run_params(predict={"keep": keep}), SIZE)["predictions"]
        for keep in ("last", "hops", "all")
    ]
    assert sizes == sorted(set(sizes))


def test_twice_the_clips_take_twice_the_space():
    once = disk_estimate(run_params(), SIZE)
    splits = {
        name: SplitSize(*(2 * count for count in vars(split).values())) for name, split in SIZE.splits.items()
    }
    twice = disk_estimate(run_params(), DataSize(splits, 2 * SIZE.test_clips, 2 * SIZE.scored_clips))
    assert twice == pytest.approx({name: 2 * size for name, size in once.items()})


def test_without_masks_there_are_neither_tracks_nor_masks():
    size = DataSize({"train": SplitSize(3, 66, later_frames=33)}, 2, 2)
    assert set(disk_estimate(run_params(), size)) == {"clips", "latents", "predictions"}


def test_a_disk_that_is_too_small_is_named_before_the_work(tmp_path):
    assert "not enough" not in disk_line({"clips": 1.0}, tmp_path)
    assert "2e+12 with DVC's copies" in (line := disk_line({"clips": 1e21}, tmp_path))
    assert "not enough; free some, or set predict.keep to last" in line
