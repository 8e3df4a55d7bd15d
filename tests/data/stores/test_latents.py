import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from vdp.core.latent_time import EVERY_FRAME, LatentTime
from vdp.data.stores import memory_map
from vdp.data.stores.latents import (
    EncodedClip,
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


def make_clip(seed: int, views: int = 2, frames: int = 4, height: int = 8, width: int = 6) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = OFFSET + SPREAD * rng.standard_normal((views, frames, CHANNELS, height, width))
    return values.astype(np.float16)


def make_large(count: int) -> list[np.ndarray]:
    """Clips of 288 KiB, of which 1 MiB holds three."""
    return [make_clip(seed, height=64, width=96) for seed in range(count)]


def write(root: Path, splits: dict[str, list[np.ndarray]]) -> Moments:
    moments = Moments(CHANNELS)
    for split, clips in splits.items():
        for clip in clips:
            moments.add(clip)
        write_latents(root / split, map(EncodedClip, clips), shard_mb=1, known=0)
    write_statistics(root, moments.normalisation())
    return moments


def assert_raw(latents: LatentClips, read: torch.Tensor, expected: list[np.ndarray]) -> None:
    """Compare with raw latents (T, C, h, w) of each clip."""
    raw = latents.normalisation.invert(read).transpose(1, 2)
    torch.testing.assert_close(raw, torch.from_numpy(np.stack(expected)).float(), atol=1e-4, rtol=1e-5)


def test_latents_are_read_back_normalised(tmp_path):
    clips = [make_clip(seed) for seed in range(3)]
    write(tmp_path, {"train": clips})
    latents = LatentClips(tmp_path, ["train"])
    assert (len(latents), latents.views, latents.num_frames, latents.channels) == (3, 2, 4, CHANNELS)
    assert latents.size == (8, 6)
    read = latents.read([2, 0], [1, 0], [[3, 0], [1, 1]])
    assert read.shape == (2, CHANNELS, 2, 8, 6)
    assert_raw(latents, read, [clips[2][1, [3, 0]], clips[0][0, [1, 1]]])


def test_the_time_of_latent_frames_of_several_frames_is_read_back(tmp_path):
    write(tmp_path, {"train": [make_clip(0)]})
    assert LatentClips(tmp_path, ["train"]).time == EVERY_FRAME
    assert "known" not in (tmp_path / "train/manifest.json").read_text()
    write_latents(tmp_path / "train", [EncodedClip(make_clip(0))], 1, known=11, temporal_factor=4)
    assert LatentClips(tmp_path, ["train"]).time == LatentTime(4, known=11)


def test_normalised_latents_have_zero_mean_and_unit_variance_per_channel(tmp_path):
    write(tmp_path, {"train": [make_clip(seed) for seed in range(20)]})
    latents = LatentClips(tmp_path, ["train"])
    every = torch.cat([latents.read(range(20), [view] * 20, [range(4)] * 20) for view in (0, 1)])
    torch.testing.assert_close(every.mean(dim=(0, 2, 3, 4)), torch.zeros(CHANNELS), atol=1e-4, rtol=0)
    torch.testing.assert_close(every.std(dim=(0, 2, 3, 4)), torch.ones(CHANNELS), atol=1e-4, rtol=0)


def test_running_moments_are_those_of_all_latents():
    clips = [make_clip(seed) for seed in range(5)]
    moments = Moments(CHANNELS)
    for clip in clips:
        moments.add(clip)
    every = np.stack(clips).astype(np.float64)
    normalisation = moments.normalisation()
    np.testing.assert_allclose(normalisation.mean, every.mean(axis=(0, 1, 2, 4, 5)))
    np.testing.assert_allclose(normalisation.std, every.std(axis=(0, 1, 2, 4, 5)))


def test_a_constant_channel_is_refused():
    moments = Moments(CHANNELS)
    clip = make_clip(0)
    clip[:, :, 1] = 2
    moments.add(clip)
    with pytest.raises(ValueError, match="a channel is constant"):
        moments.normalisation()


def test_invert_undoes_apply():
    normalisation = Normalisation((1.0, -2.0), (0.5, 4.0))
    latents = torch.randn((2, 2, 3, 4, 5), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(normalisation.invert(normalisation.apply(latents)), latents)
    assert normalisation.apply(torch.tensor([2.0, 2.0]).reshape(1, 2, 1, 1, 1)).flatten().tolist() == [2, 1]


def test_statistics_are_read_back(tmp_path):
    normalisation = Normalisation((0.1, -2 / 3), (1e-3, 7.0))
    write_statistics(tmp_path, normalisation)
    assert read_statistics(tmp_path) == normalisation


def test_missing_splits_are_skipped(tmp_path):
    write(tmp_path, {"train": [make_clip(0), make_clip(1)], "unlabeled": [make_clip(2)]})
    assert len(LatentClips(tmp_path, ["train"])) == 2
    both = LatentClips(tmp_path, ["train", "nowhere", "unlabeled"])
    assert len(both) == 3
    alone = LatentClips(tmp_path, ["unlabeled"])
    torch.testing.assert_close(both.read([2], [0], [[1]]), alone.read([0], [0], [[1]]))
    with pytest.raises(FileNotFoundError, match="no latents of val; run `dvc repro encode_latents`"):
        LatentClips(tmp_path, ["val"])


@pytest.mark.parametrize("max_open", [256, 2])
def test_clips_are_found_in_many_shards_with_few_open_files(tmp_path, monkeypatch, max_open):
    """Shards of 3, 3, 1 and of 3, 2 clips."""
    monkeypatch.setattr(memory_map, "MAX_OPEN", max_open)
    clips = make_large(12)
    write(tmp_path, {"train": clips[:7], "unlabeled": clips[7:]})
    assert len(list((tmp_path / "train").glob("*.npy"))) == 3
    latents = LatentClips(tmp_path, ["train", "unlabeled"])
    order = [11, 0, 6, 7, 9, 10, 2, 3]
    assert_raw(latents, latents.read(order, [1] * 8, [[2]] * 8), [clips[n][1, [2]] for n in order])
    assert len(latents._maps) <= max_open


def test_each_file_is_opened_once(tmp_path, monkeypatch):
    write(tmp_path, {"train": make_large(7)})
    opened, load = [], np.load
    monkeypatch.setattr(np, "load", lambda path, **how: opened.append(path) or load(path, **how))
    latents = LatentClips(tmp_path, ["train"])
    for _ in range(3):
        latents.read(list(range(7)), [0] * 7, [[0]] * 7)
    assert len(opened) == len(set(opened)) == 3


def test_latents_are_pickled_without_their_arrays(tmp_path):
    write(tmp_path, {"train": [make_clip(seed) for seed in range(50)]})
    latents = LatentClips(tmp_path, ["train"])
    first = latents.read([3], [1], [[0, 2]])
    sent = pickle.dumps(latents)
    assert len(sent) < 2000  # 50 clips have 38 kB
    assert torch.equal(pickle.loads(sent).read([3], [1], [[0, 2]]), first)


def test_degraded_forms_are_read_back(tmp_path):
    """Two to a shard: 1 MiB holds two clips of 288 KiB with their 144 KiB of conditions."""
    clips = make_large(5)
    degraded = [make_clip(50 + seed, views=1, height=64, width=96) for seed in range(5)]
    write(tmp_path, {"train": clips[:2]})
    write_latents(tmp_path / "unlabeled", map(EncodedClip, clips, degraded), 1, known=0)
    assert [path.name for path in sorted((tmp_path / "unlabeled").glob("*.npy"))] == [
        f"{kind}_00{shard}.npy" for kind in ("conditions", "latents") for shard in range(3)
    ]
    latents = LatentClips(tmp_path, ["unlabeled"])
    assert (latents.degraded, latents.views) == (1, 2)
    order, frames = [4, 0, 3], [[3, 0]] * 3
    assert_raw(
        latents, latents.read_conditions(order, [0] * 3, frames), [degraded[n][0, [3, 0]] for n in order]
    )
    assert_raw(latents, latents.read(order, [1] * 3, frames), [clips[n][1, [3, 0]] for n in order])


def test_without_degraded_forms_there_are_no_files_of_them(tmp_path):
    write(tmp_path, {"train": [make_clip(0)]})
    names = sorted(path.name for path in (tmp_path / "train").iterdir())
    assert names == ["latents_000.npy", "manifest.json"]
    assert (tmp_path / "train" / "manifest.json").read_text() == '{\n  "shards": [\n    1\n  ]\n}\n'
    latents = LatentClips(tmp_path, ["train"])
    assert latents.degraded == 0
    with pytest.raises(ValueError, match="encode_latents.degraded=0: .+ set it to 1 or more and run"):
        latents.read_conditions([0], [0], [[0]])


def test_splits_of_different_runs_are_refused(tmp_path):
    write(tmp_path, {"train": [make_clip(0)]})
    write_latents(tmp_path / "unlabeled", [EncodedClip(make_clip(1), make_clip(2))], 1, known=0)
    with pytest.raises(ValueError, match="train and unlabeled have different numbers of degraded forms"):
        LatentClips(tmp_path, ["train", "unlabeled"])


@pytest.mark.parametrize("name", ["latents_000.npy", "conditions_000.npy"])
def test_a_missing_file_is_an_error_before_any_training(tmp_path, name):
    write(tmp_path, {"train": [make_clip(0)]})
    write_latents(tmp_path / "train", [EncodedClip(make_clip(0), make_clip(1))], 1, known=0)
    (tmp_path / "train" / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name}: no such file; run `dvc repro --force"):
        LatentClips(tmp_path, ["train"])


# --- Composed frames -------------------------------------------------------------------------------------

COMPOSED = {1: 60, 2: 61, 6: 62}  # seeds of the composed frames of some of 7 clips


def write_composed(folder: Path, first: int = 1) -> list[np.ndarray]:
    """Seven clips of four frames, of which the last are composed in some; shards of 2, 2, 3 or less clips."""
    clips, views, frames = make_large(7), 2, 4 - first
    encoded = [
        EncodedClip(clip, composed=make_clip(COMPOSED[number], views, frames, 64, 96))
        if number in COMPOSED
        else EncodedClip(clip)
        for number, clip in enumerate(clips)
    ]
    write_latents(folder, encoded, shard_mb=1, known=first)
    return clips


@pytest.mark.parametrize("first", [1, 3])
def test_composed_frames_of_some_clips_are_read_back(tmp_path, first):
    write(tmp_path, {"val": [make_clip(0, height=64, width=96)]})
    clips = write_composed(tmp_path / "train", first)
    latents = LatentClips(tmp_path, ["val", "train"])
    assert (latents.composed, latents.composed_from) == ([2, 3, 7], first)  # after the clip of val
    assert len(list((tmp_path / "train").glob("latents_*"))) > 2
    order, frames = [7, 2, 3], [[3], [3], [first]]
    expected = [
        make_clip(seed, 2, 4 - first, 64, 96)[1, [frame[0] - first]]
        for seed, frame in zip((62, 60, 61), frames, strict=True)
    ]
    assert_raw(latents, latents.read_composed(order, [1] * 3, frames), expected)
    assert_raw(
        latents, latents.read([3, 6], [0, 1], [[3, 0]] * 2), [clips[2][0, [3, 0]], clips[5][1, [3, 0]]]
    )


def test_shards_without_a_composed_clip_have_no_file_of_it(tmp_path):
    encoded = [EncodedClip(clip) for clip in make_large(5)]
    encoded[4] = EncodedClip(encoded[4].views, composed=make_clip(60, frames=2, height=64, width=96))
    write_latents(tmp_path / "train", encoded, shard_mb=1, known=2)
    write_statistics(tmp_path, Normalisation((0.0,) * 3, (1.0,) * 3))
    assert [path.name for path in (tmp_path / "train").glob("composed*")] == ["composed_001.npy"]
    latents = LatentClips(tmp_path, ["train"])
    assert latents.composed == [4]
    assert_raw(latents, latents.read_composed([4], [0], [[3, 2]]), [encoded[4].composed[0, [1, 0]]])


def test_statistics_do_not_depend_on_the_layout_of_the_arrays():
    """The parts of a clip are those of the codec in one process, and read from files in another."""
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((2, 11, CHANNELS, 16, 24)).astype(np.float16)
    strided = np.ascontiguousarray(np.moveaxis(latents, 2, 0)).transpose(1, 2, 0, 3, 4)
    moments = [Moments(CHANNELS), Moments(CHANNELS)]
    for each, array in zip(moments, (latents, strided), strict=True):
        each.add(array)
    assert moments[0].normalisation() == moments[1].normalisation()


def test_without_composed_frames_there_are_no_files_of_them(tmp_path):
    write(tmp_path, {"train": [make_clip(0)]})
    latents = LatentClips(tmp_path, ["train"])
    assert (latents.composed, latents.composed_from) == ([], None)


def test_a_missing_file_of_composed_frames_is_named_before_any_training(tmp_path):
    write_composed(tmp_path / "train")
    write_statistics(tmp_path, Normalisation((0.0,) * 3, (1.0,) * 3))
    path = sorted((tmp_path / "train").glob("composed*"))[-1]
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"{path.name}: no such file; run `dvc repro --force"):
        LatentClips(tmp_path, ["train"])


@pytest.mark.parametrize("size", [0, 60, 1000])
def test_an_incomplete_file_is_named(tmp_path, size):
    write(tmp_path, {"train": [make_clip(0)]})
    path = tmp_path / "train" / "latents_000.npy"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match="latents_000.npy: .+; run `dvc repro --force encode_latents`"):
        LatentClips(tmp_path, ["train"])


def test_an_error_during_encoding_leaves_no_half_written_split(tmp_path):
    def failing():
        yield EncodedClip(make_clip(0))
        raise ValueError("broken clip")

    with pytest.raises(ValueError, match="broken clip"):
        write_latents(tmp_path / "train", failing(), 1, known=0)
    assert list(tmp_path.iterdir()) == []


def test_equal_latents_give_equal_bytes(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / name, {"train": [make_clip(seed) for seed in range(3)]})
    for path in sorted((tmp_path / "a").rglob("*.*")):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()
