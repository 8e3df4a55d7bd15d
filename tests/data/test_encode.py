from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from vdp.core import device
from vdp.core.pixels import to_pixels
from vdp.data.augment import ClipViews
from vdp.data.encode import decode_frames, encode_clips, encode_composed, encode_conditions, encode_frames
from vdp.data.params import ClipChanges
from vdp.data.stores.clips import Clip, ClipStore, write_clips
from vdp.data.stores.latents import Moments
from vdp.data.stores.predictions import FRAMES, kept_arrays, read_latents, write_predictions

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute in fp32 also on a CPU with bf16 support."""
    monkeypatch.setattr(device, "BF16_FLAGS", set())


def frames_of(seed: int, count: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 12, 3), dtype=np.uint8)


def make_store(folder: Path, clips: int = 3) -> ClipStore:
    return write_clips(folder, [Clip(f"c{n}", frames_of(n), None) for n in range(clips)], shard_mb=1)


def half(clip: Tensor) -> Tensor:
    """An encoder that does not commute with a flip: every other column."""
    return clip[..., ::2]


@pytest.mark.parametrize("batch_frames", [1, 2, 5, 100])
def test_the_number_of_frames_encoded_at_once_does_not_matter(batch_frames):
    frames = frames_of(0)
    expected = half(to_pixels(frames).transpose(0, 1))
    assert torch.equal(encode_frames(half, frames, batch_frames, CPU), expected)


@pytest.mark.parametrize(("batch_frames", "calls"), [(4, [4, 4, 2] * 3), (10, [10] * 3), (20, [20, 10])])
def test_clips_and_their_views_share_calls_of_the_encoder(tmp_path, batch_frames, calls):
    store, sizes = make_store(tmp_path / "train"), []

    def counted(clip: Tensor) -> Tensor:
        sizes.append(clip.shape[2])
        return half(clip)

    encoded = list(encode_clips(counted, store, range(len(store)), two_views, batch_frames, CPU))
    assert sizes == calls
    np.testing.assert_array_equal(
        encoded, list(encode_clips(half, store, range(len(store)), two_views, 1, CPU))
    )


def test_clips_of_several_lengths_share_calls_of_the_encoder(tmp_path):
    clips = [Clip(f"c{n}", frames_of(n, n + 2), None) for n in range(3)]
    store = write_clips(tmp_path / "train", clips, shard_mb=1)
    encoded = list(encode_clips(half, store, range(len(store)), two_views, 100, CPU))
    assert [latents.shape[:2] for latents in encoded] == [(2, 4), (2, 3), (2, 2)]
    for clip, latents in enumerate(encoded):
        expected = to_pixels(store.frames(clip)).numpy()[..., ::2].astype(np.float16)
        np.testing.assert_array_equal(latents[0], expected)


def test_every_view_of_a_clip_is_encoded(tmp_path):
    store = make_store(tmp_path / "train")

    def views(frames: np.ndarray, clip: int) -> Iterator[np.ndarray]:
        yield from (frames, frames[:, :, ::-1], frames // (clip + 2))

    encoded = list(encode_clips(half, store, range(len(store)), views, 2, CPU))
    assert [latents.shape for latents in encoded] == [(3, 5, 3, 8, 6)] * 3
    for clip, latents in enumerate(encoded):
        pixels = to_pixels(store.frames(clip)).numpy()
        darker = to_pixels(store.frames(clip) // (clip + 2)).numpy()
        np.testing.assert_array_equal(latents[0], pixels[..., ::2].astype(np.float16))
        np.testing.assert_array_equal(latents[1], pixels[..., ::-1][..., ::2].astype(np.float16))
        np.testing.assert_array_equal(latents[2], darker[..., ::2].astype(np.float16))


def test_equal_runs_with_random_views_give_equal_bytes(tmp_path):
    store = make_store(tmp_path / "train")
    changes = ClipChanges(
        flip=True, crop_scale=0.7, brightness=0.2, rotation=0.0, noise=0.0, blur=0.0, random_views=2
    )

    def encoded(seed: int) -> bytes:
        views = ClipViews(changes, 8, 12, seed, "train")
        return np.stack(list(encode_clips(half, store, range(len(store)), views, 2, CPU))).tobytes()

    assert encoded(0) == encoded(0)
    assert encoded(0) != encoded(1)


def two_views(frames: np.ndarray, clip: int) -> Iterator[np.ndarray]:
    yield from (frames, frames[:, :, ::-1])


def test_a_form_is_degraded_from_its_view(tmp_path):
    store = make_store(tmp_path / "train")

    def darker(frames: np.ndarray, clip: int, number: int) -> np.ndarray:
        return frames // (2 + clip + number)

    encoded = list(encode_conditions(half, store, range(len(store)), two_views, darker, 5, 2, CPU))
    assert [latents.shape for latents in encoded] == [(5, 5, 3, 8, 6)] * 3
    for clip, latents in enumerate(encoded):
        for number in range(5):
            shown = list(two_views(store.frames(clip), clip))[number % 2]
            pixels = to_pixels(darker(shown, clip, number)).numpy()
            np.testing.assert_array_equal(latents[number], pixels[..., ::2].astype(np.float16))


def test_stored_degraded_frames_are_encoded_in_the_views(tmp_path):
    own = frames_of(9)
    clips = [Clip("a", frames_of(0), None), Clip("b", frames_of(1), None, own)]
    store = write_clips(tmp_path / "train", clips, shard_mb=1)

    def black(frames: np.ndarray, clip: int, number: int) -> np.ndarray:
        return np.zeros_like(frames)

    conditions = encode_conditions(half, store, range(len(store)), two_views, black, 3, 2, CPU)
    encoded = dict(zip(store.names, conditions, strict=True))
    assert (encoded["a"] == -1).all()
    for number, shown in enumerate((own, own[:, :, ::-1], own)):
        expected = to_pixels(shown).numpy()[..., ::2].astype(np.float16)
        np.testing.assert_array_equal(encoded["b"][number], expected)


def test_stored_degraded_frames_get_the_random_views_of_their_clip(tmp_path):
    clips = [Clip(f"c{n}", frames_of(n), None, frames_of(n)) for n in range(2)]
    store = write_clips(tmp_path / "train", clips, shard_mb=1)
    changes = ClipChanges(
        flip=True, crop_scale=0.7, brightness=0.2, rotation=0.0, noise=0.0, blur=0.0, random_views=2
    )
    views = ClipViews(changes, 8, 12, 0, "train")
    clean = np.stack(list(encode_clips(half, store, range(len(store)), views, 2, CPU)))

    def never(frames: np.ndarray, clip: int, number: int) -> np.ndarray:
        raise AssertionError("the store has degraded frames")

    degraded = np.stack(list(encode_conditions(half, store, range(len(store)), views, never, 6, 2, CPU)))
    np.testing.assert_array_equal(degraded, np.concatenate([clean, clean[:, :2]], axis=1))


def test_composed_frames_get_the_views_of_their_clip(tmp_path):
    """A clip that is composed of its own frames has its own latents; one without has none."""
    store = make_store(tmp_path / "train")
    changes = ClipChanges(
        flip=True, crop_scale=0.7, brightness=0.2, rotation=0.0, noise=0.0, blur=0.0, random_views=2
    )
    views = ClipViews(changes, 8, 12, 0, "train")
    clean = list(encode_clips(half, store, range(len(store)), views, 2, CPU))
    composed = [store.frames(0)[2:], None, store.frames(2)[2:]]
    encoded = list(encode_composed(half, range(len(store)), views, composed, 2, CPU))
    assert encoded[1] is None and len(encoded) == 3
    for clip in (0, 2):
        np.testing.assert_array_equal(encoded[clip], clean[clip][:, 2:])


def test_moments_are_those_of_the_encoded_clips(tmp_path):
    store, moments = make_store(tmp_path / "train"), Moments(3)
    encoded = np.stack(list(encode_clips(half, store, range(3), lambda frames, clip: [frames], 2, CPU)))
    for clip in encoded:
        moments.add(clip)
    assert encoded.shape == (3, 1, 5, 3, 8, 6)
    mean = encoded.astype(np.float64).mean(axis=(0, 1, 2, 4, 5))
    np.testing.assert_allclose(moments.normalisation().mean, mean)


def test_decoding_undoes_encoding():
    frames = np.stack([frames_of(0), frames_of(1)])
    latents = to_pixels(frames).transpose(1, 2)
    np.testing.assert_array_equal(decode_frames(lambda latents: latents, latents, CPU), frames)


def test_predictions_are_written_in_batches_and_read_back(tmp_path):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (5, 2, 3, 8, 12, 3), dtype=np.uint8)
    latents = rng.standard_normal((5, 2, 4, 2, 3)).astype(np.float16)
    parts = [
        kept_arrays(frames[rows], latents[rows].astype(np.float32), "all")
        for rows in (slice(0, 2), slice(2, 4), slice(4, 5))
    ]
    write_predictions(tmp_path / "set", list("abcde"), [13, 17, 22], 2, parts)
    np.testing.assert_array_equal(np.load(tmp_path / "set" / FRAMES), frames)
    np.testing.assert_array_equal(read_latents(tmp_path / "set"), latents)


def test_missing_predictions_name_the_command_to_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="run `dvc repro predict`"):
        read_latents(tmp_path)
