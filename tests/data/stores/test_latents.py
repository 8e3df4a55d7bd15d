import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from vdp.data.stores import memory_map as maps
from vdp.data.stores.latents import (
    LatentClips,
    Moments,
    Normalisation,
    read_statistics,
    write_latents,
    write_statistics,
)

CHANNELS = 3
OFFSET = np.array([0.0, 5.0, -2.0])[:, None, None]
SPREAD = np.array([1.0, 0.1, 3.0])[:, None, None]


def clip_of(seed: int, views: int = 2, frames: int = 4, height: int = 8, width: int = 6) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = OFFSET + SPREAD * rng.standard_normal((views, frames, CHANNELS, height, width))
    return values.astype(np.float16)


def write(root: Path, splits: dict[str, list[np.ndarray]], shard_mb: int = 1) -> Moments:
    moments = Moments(CHANNELS)
    for split, clips in splits.items():
        for clip in clips:
            moments.add(clip)
        write_latents(root / split, clips, shard_mb)
    write_statistics(root, moments.normalisation())
    return moments


def test_what_is_written_is_read_back_normalised(tmp_path):
    clips = [clip_of(seed) for seed in range(3)]
    write(tmp_path, {"train": clips})
    latents = LatentClips(tmp_path, ["train"])
    assert (len(latents), latents.views, latents.num_frames, latents.channels) == (3, 2, 4, CHANNELS)
    read = latents.read([2, 0], [1, 0], [[3, 0], [1, 1]])
    assert read.shape == (2, CHANNELS, 2, 8, 6)
    raw = latents.normalisation.invert(read)
    expected = np.stack([clips[2][1][[3, 0]], clips[0][0][[1, 1]]]).astype(np.float32)
    torch.testing.assert_close(raw, torch.from_numpy(expected).transpose(1, 2), atol=1e-5, rtol=1e-5)


def test_normalised_latents_have_no_mean_and_unit_variance_in_each_channel(tmp_path):
    write(tmp_path, {"train": [clip_of(seed) for seed in range(20)]})
    latents = LatentClips(tmp_path, ["train"])
    every = torch.cat([latents.read(range(20), [view] * 20, [range(4)] * 20) for view in (0, 1)])
    torch.testing.assert_close(every.mean(dim=(0, 2, 3, 4)), torch.zeros(CHANNELS), atol=1e-4, rtol=0)
    torch.testing.assert_close(every.std(dim=(0, 2, 3, 4)), torch.ones(CHANNELS), atol=1e-4, rtol=0)


def test_running_moments_are_those_of_all_latents_at_once():
    clips = [clip_of(seed) for seed in range(5)]
    moments = Moments(CHANNELS)
    for clip in clips:
        moments.add(clip)
    every = np.stack(clips).astype(np.float64)
    normalisation = moments.normalisation()
    np.testing.assert_allclose(normalisation.mean, every.mean(axis=(0, 1, 2, 4, 5)))
    np.testing.assert_allclose(normalisation.std, every.std(axis=(0, 1, 2, 4, 5)))


def test_a_channel_that_never_varies_is_refused():
    moments = Moments(CHANNELS)
    clip = clip_of(0)
    clip[:, :, 1] = 2
    moments.add(clip)
    with pytest.raises(ValueError, match="a channel is constant over all clips"):
        moments.normalisation()


def test_normalising_and_undoing_it_are_inverse():
    normalisation = Normalisation((1.0, -2.0), (0.5, 4.0))
    latents = torch.randn((2, 2, 3, 4, 5), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(normalisation.invert(normalisation.apply(latents)), latents)
    assert normalisation.apply(torch.tensor([2.0, 2.0]).reshape(1, 2, 1, 1, 1)).flatten().tolist() == [2, 1]


def test_statistics_are_read_as_they_were_written(tmp_path):
    normalisation = Normalisation((0.1, -2 / 3), (1e-3, 7.0))
    write_statistics(tmp_path, normalisation)
    assert read_statistics(tmp_path) == normalisation


def test_many_clips_fill_several_shards_and_keep_their_order(tmp_path):
    clips = [clip_of(seed, height=64, width=96) for seed in range(8)]  # 288 KiB each: three to a shard
    write(tmp_path, {"train": clips})
    shards = sorted(path.name for path in (tmp_path / "train").glob("*.npy"))
    assert shards == ["latents_000.npy", "latents_001.npy", "latents_002.npy"]
    latents = LatentClips(tmp_path, ["train"])
    for number, clip in enumerate(clips):
        raw = latents.normalisation.invert(latents.read([number], [0], [[2]]))
        torch.testing.assert_close(
            raw[0, :, 0], torch.from_numpy(clip[0, 2].astype(np.float32)), atol=1e-4, rtol=0
        )


def test_splits_are_read_one_after_the_other_and_missing_ones_passed_over(tmp_path):
    train, more = [clip_of(0), clip_of(1)], [clip_of(2)]
    write(tmp_path, {"train": train, "unlabeled": more})
    assert len(LatentClips(tmp_path, ["train"])) == 2
    both = LatentClips(tmp_path, ["train", "nowhere", "unlabeled"])
    assert len(both) == 3
    torch.testing.assert_close(
        both.read([2], [0], [[1]]), LatentClips(tmp_path, ["unlabeled"]).read([0], [0], [[1]])
    )


def test_clips_are_found_in_many_shards_of_several_splits(tmp_path):
    """1 MiB holds three clips of 288 KiB: shards of 3, 3, 1 and of 3, 2 clips."""
    clips = [clip_of(seed, height=64, width=96) for seed in range(12)]
    write(tmp_path, {"train": clips[:7], "unlabeled": clips[7:]})
    latents = LatentClips(tmp_path, ["train", "unlabeled"])
    order = [11, 0, 6, 7, 9, 10, 2, 3]
    raw = latents.normalisation.invert(latents.read(order, [1] * 8, [[2]] * 8))
    expected = np.stack([clips[n][1, 2] for n in order]).astype(np.float32)
    torch.testing.assert_close(raw[:, :, 0], torch.from_numpy(expected), atol=1e-4, rtol=0)


def test_no_more_maps_are_open_at_once_than_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr(maps, "MAX_OPEN", 2)
    clips = [clip_of(seed, height=64, width=96) for seed in range(10)]
    write(tmp_path, {"train": clips})
    latents, every = LatentClips(tmp_path, ["train"]), list(range(10)) * 2
    raw = latents.normalisation.invert(latents.read(every, [0] * 20, [[0]] * 20))
    expected = np.stack([clips[n][0, 0] for n in every]).astype(np.float32)
    torch.testing.assert_close(raw[:, :, 0], torch.from_numpy(expected), atol=1e-4, rtol=0)
    assert len(latents._maps) <= 2


def test_a_file_is_opened_once_however_often_it_is_read(tmp_path, monkeypatch):
    write(tmp_path, {"train": [clip_of(seed, height=64, width=96) for seed in range(7)]})
    opened, load = [], np.load
    monkeypatch.setattr(np, "load", lambda path, **how: opened.append(path) or load(path, **how))
    latents = LatentClips(tmp_path, ["train"])
    for _ in range(3):
        latents.read(list(range(7)), [0] * 7, [[0]] * 7)
    assert len(opened) == len(set(opened)) == 3


def test_latents_travel_to_another_process_without_their_arrays(tmp_path):
    write(tmp_path, {"train": [clip_of(seed) for seed in range(50)]})
    latents = LatentClips(tmp_path, ["train"])
    first = latents.read([3], [1], [[0, 2]])
    sent = pickle.dumps(latents)
    assert len(sent) < 2000  # 50 clips have 38 kB
    assert torch.equal(pickle.loads(sent).read([3], [1], [[0, 2]]), first)


def test_degraded_forms_are_read_back_as_the_clean_ones_are(tmp_path):
    """Two to a shard: 1 MiB holds two clips of 288 KiB with their 144 KiB of conditions."""
    clips = [clip_of(seed, height=64, width=96) for seed in range(5)]
    made = [clip_of(50 + seed, views=1, height=64, width=96) for seed in range(5)]
    write(tmp_path, {"train": clips[:2]})
    write_latents(tmp_path / "unlabeled", clips, 1, made)
    assert [path.name for path in sorted((tmp_path / "unlabeled").glob("*.npy"))] == [
        f"{kind}_00{shard}.npy" for kind in ("conditions", "latents") for shard in range(3)
    ]
    latents = LatentClips(tmp_path, ["unlabeled"])
    assert (latents.degraded, latents.views) == (1, 2)
    order = [4, 0, 3]
    read = latents.read_conditions(order, [0] * 3, [[3, 0]] * 3)
    assert read.shape == (3, CHANNELS, 2, 64, 96)
    expected = np.stack([made[n][0, [3, 0]] for n in order]).astype(np.float32)
    raw = latents.normalisation.invert(read).transpose(1, 2)
    torch.testing.assert_close(raw, torch.from_numpy(expected), atol=1e-4, rtol=0)
    clean = np.stack([clips[n][1, [3, 0]] for n in order]).astype(np.float32)
    raw = latents.normalisation.invert(latents.read(order, [1] * 3, [[3, 0]] * 3)).transpose(1, 2)
    torch.testing.assert_close(raw, torch.from_numpy(clean), atol=1e-4, rtol=0)


def test_without_degraded_forms_nothing_on_disk_speaks_of_them(tmp_path):
    write(tmp_path, {"train": [clip_of(0)]})
    names = sorted(path.name for path in (tmp_path / "train").iterdir())
    assert names == ["latents_000.npy", "manifest.json"]
    assert (tmp_path / "train" / "manifest.json").read_text() == '{\n  "shards": [\n    1\n  ]\n}\n'
    latents = LatentClips(tmp_path, ["train"])
    assert latents.degraded == 0
    with pytest.raises(ValueError, match="encode_latents.degraded=0: .+ set it to 1 or more and run"):
        latents.read_conditions([0], [0], [[0]])


def test_splits_with_and_without_degraded_forms_are_not_of_one_run(tmp_path):
    write(tmp_path, {"train": [clip_of(0)]})
    write_latents(tmp_path / "unlabeled", [clip_of(1)], 1, [clip_of(2)])
    with pytest.raises(ValueError, match="train and unlabeled have other numbers of degraded encodings"):
        LatentClips(tmp_path, ["train", "unlabeled"])


def test_a_missing_file_of_degraded_forms_is_told_before_any_training(tmp_path):
    write(tmp_path, {"train": [clip_of(0)]})
    write_latents(tmp_path / "train", [clip_of(0)], 1, [clip_of(1)])
    (tmp_path / "train" / "conditions_000.npy").unlink()
    with pytest.raises(FileNotFoundError, match="conditions_000.npy: no such file; run `dvc repro --force"):
        LatentClips(tmp_path, ["train"])


def test_a_missing_file_is_told_before_any_training(tmp_path):
    write(tmp_path, {"train": [clip_of(0)]})
    (tmp_path / "train" / "latents_000.npy").unlink()
    with pytest.raises(FileNotFoundError, match="latents_000.npy: no such file; run `dvc repro --force"):
        LatentClips(tmp_path, ["train"])


@pytest.mark.parametrize("size", [0, 60, 1000])
def test_a_file_that_is_not_whole_is_named(tmp_path, size):
    write(tmp_path, {"train": [clip_of(0)]})
    path = tmp_path / "train" / "latents_000.npy"
    path.write_bytes(path.read_bytes()[:size])
    latents = LatentClips(tmp_path, ["train"])
    with pytest.raises(ValueError, match="latents_000.npy: .+; run `dvc repro --force encode_latents`"):
        latents.read([0], [0], [[0]])


def test_without_any_split_the_error_says_what_to_run(tmp_path):
    write(tmp_path, {"train": [clip_of(0)]})
    with pytest.raises(FileNotFoundError, match="no latents of val; run `dvc repro encode_latents`"):
        LatentClips(tmp_path, ["val"])


def test_an_error_while_clips_are_encoded_leaves_no_half_written_split(tmp_path):
    def failing():
        yield clip_of(0)
        raise ValueError("broken clip")

    with pytest.raises(ValueError, match="broken clip"):
        write_latents(tmp_path / "train", failing(), 1)
    assert list(tmp_path.iterdir()) == []


def test_equal_latents_are_written_as_equal_bytes(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / name, {"train": [clip_of(seed) for seed in range(3)]})
    for path in sorted((tmp_path / "a").rglob("*.*")):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()
