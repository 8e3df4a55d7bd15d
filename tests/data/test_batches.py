import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from vdp.data.augment import Augment
from vdp.data.clips import Clip, ClipStore, write_clips
from vdp.data.frame_batches import FrameBatches
from vdp.data.hop_batches import HopBatches
from vdp.data.latents import LatentClips, Normalisation, write_latents, write_statistics
from vdp.pixels import to_uint8

CPU = torch.device("cpu")
HEIGHT, WIDTH, FRAMES = 16, 24, 4


def block_mask(rng: np.random.Generator, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A few large rectangles of random classes."""
    mask = np.zeros((height, width), np.uint8)
    for _ in range(4):
        top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
        mask[top : top + height // 2, left : left + width // 2] = rng.integers(1, 49)
    return mask


def painted(mask: np.ndarray) -> np.ndarray:
    """A frame whose colour is five times the class, so that it tells its own mask."""
    return (5 * mask)[..., None].repeat(3, axis=-1)


def make_store(folder: Path, labelled: int, unlabelled: int) -> ClipStore:
    rng = np.random.default_rng(0)
    clips = []
    for number in range(labelled + unlabelled):
        masks = np.stack([block_mask(rng) for _ in range(FRAMES)])
        given = masks if number < labelled else None
        clips.append(Clip(f"video_{number}", painted(masks), given))
    return write_clips(folder, clips, shard_mb=1)


def frame_batches(
    store: ClipStore, labelled_only: bool, flip: bool, augment: Augment | None = None
) -> FrameBatches:
    return FrameBatches([store], 64, labelled_only, flip, CPU, augment)


# --- Frames ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flip", [False, True])
def test_frames_come_with_their_own_masks_mirrored_or_not(tmp_path, flip):
    store = make_store(tmp_path / "train", labelled=3, unlabelled=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batch = frame_batches(store, True, flip)(np.random.default_rng(0))
    assert batch.frames.shape == (64, 3, HEIGHT, WIDTH)
    assert batch.labelled.all()
    np.testing.assert_array_equal(to_uint8(batch.frames), painted(batch.masks.numpy()))
    every = {store.masks(i)[t].tobytes() for i in range(3) for t in range(FRAMES)}
    mirrored = {
        np.ascontiguousarray(store.masks(i)[t, :, ::-1]).tobytes() for i in range(3) for t in range(FRAMES)
    }
    found = {mask.tobytes() for mask in batch.masks.numpy()}
    assert found <= every | mirrored
    assert len(found & every) > 8  # most of the frames come up in a batch of 64
    assert bool(found & (mirrored - every)) == flip


def test_unlabelled_frames_are_marked_and_their_masks_empty(tmp_path):
    store = make_store(tmp_path / "train", labelled=1, unlabelled=2)
    batch = frame_batches(store, False, False)(np.random.default_rng(0))
    assert 0 < batch.labelled.sum() < 64
    assert not batch.masks[~batch.labelled].any()
    assert batch.masks[batch.labelled].flatten(1).any(dim=1).all()
    assert to_uint8(batch.frames[~batch.labelled]).any()


def test_labelled_frames_alone_are_drawn_where_asked(tmp_path):
    store = make_store(tmp_path / "train", labelled=1, unlabelled=9)
    assert frame_batches(store, True, False)(np.random.default_rng(0)).labelled.all()


def test_several_stores_are_drawn_from_alike(tmp_path):
    stores = [make_store(tmp_path / "train", 2, 0), make_store(tmp_path / "unlabeled", 0, 2)]
    batches = FrameBatches(stores, 400, False, False, CPU)
    labelled = batches(np.random.default_rng(0)).labelled
    assert labelled.float().mean().item() == pytest.approx(0.5, abs=0.1)


def test_without_a_mask_to_learn_from_the_error_says_what_to_give(tmp_path):
    store = make_store(tmp_path / "train", labelled=0, unlabelled=2)
    with pytest.raises(ValueError, match="expected some with masks to learn from, found none; put mask.npy"):
        frame_batches(store, True, False)


def test_a_batch_depends_on_its_generator_alone(tmp_path):
    store = make_store(tmp_path / "train", labelled=3, unlabelled=1)
    augment = Augment(HEIGHT, WIDTH, flip=True, brightness=0.2, crop_scale=0.7)
    batches = frame_batches(store, False, True, augment)
    first, other, again = (batches(np.random.default_rng(seed)) for seed in (0, 1, 0))
    assert torch.equal(first.frames, again.frames) and torch.equal(first.masks, again.masks)
    assert not torch.equal(first.frames, other.frames)


# --- Augmentation ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("flip", "crop_scale"), [(True, 1.0), (False, 0.6), (True, 0.6)])
def test_augmented_masks_stay_aligned_with_their_frames(flip, crop_scale):
    """Colours tell classes: away from the edges of blocks, where the frame is blurred, the two agree."""
    rng, agreed, changed = np.random.default_rng(0), [], 0
    augment = Augment(64, 96, flip, brightness=0.0, crop_scale=crop_scale)
    for seed in range(60):
        mask = block_mask(rng, 64, 96)
        image, moved = augment(painted(mask), mask, seed)
        assert image.shape == (64, 96, 3) and moved.shape == (64, 96)
        agreed.append(float((image == painted(moved)).all(axis=-1).mean()))
        changed += not np.array_equal(moved, mask)
    assert np.mean(agreed) > 0.95
    assert min(agreed) > 0.85
    assert 10 < changed < 60


def test_augmentation_makes_no_new_classes():
    rng = np.random.default_rng(0)
    augment = Augment(HEIGHT, WIDTH, flip=True, brightness=0.3, crop_scale=0.5)
    for seed in range(60):
        mask = block_mask(rng)
        _, moved = augment(painted(mask), mask, seed)
        assert set(np.unique(moved).tolist()) <= set(np.unique(mask).tolist())
        assert moved.dtype == np.uint8


def test_brightness_leaves_the_mask_and_the_grey_of_grey_alone():
    """The same change for all colours: a hue that shifted would change the class."""
    mask = block_mask(np.random.default_rng(0))
    augment, changed = Augment(HEIGHT, WIDTH, flip=False, brightness=0.3, crop_scale=1.0), 0
    for seed in range(20):
        image, kept = augment(painted(mask), mask, seed)
        np.testing.assert_array_equal(kept, mask)
        assert (image == image[..., :1]).all()
        changed += not np.array_equal(image, painted(mask))
    assert 0 < changed < 20


def test_with_all_of_it_off_augmentation_is_the_identity():
    mask = block_mask(np.random.default_rng(0))
    augment = Augment(HEIGHT, WIDTH, flip=False, brightness=0.0, crop_scale=1.0)
    for seed in range(5):
        image, kept = augment(painted(mask), mask, seed)
        np.testing.assert_array_equal(image, painted(mask))
        np.testing.assert_array_equal(kept, mask)


def test_the_seed_alone_decides_the_augmentation():
    mask = block_mask(np.random.default_rng(0))
    one, two = (Augment(HEIGHT, WIDTH, flip=True, brightness=0.3, crop_scale=0.5) for _ in range(2))
    images = [one(painted(mask), mask, seed)[0] for seed in range(10)]
    assert len({image.tobytes() for image in images}) > 4
    for seed in reversed(range(10)):
        np.testing.assert_array_equal(two(painted(mask), mask, seed)[0], images[seed])


# --- Hops ------------------------------------------------------------------------------------------------


def telling_latents(root: Path, clips: int = 5, views: int = 2, frames: int = 22) -> LatentClips:
    """Latents whose values tell their place: channels hold the clip, the view and the frame."""
    arrays = []
    for clip in range(clips):
        values = np.zeros((views, frames, 3, 2, 2), np.float16)
        values[:, :, 0] = clip
        values[:, :, 1] = np.arange(views)[:, None, None, None]
        values[:, :, 2] = np.arange(frames)[None, :, None, None]
        arrays.append(values)
    write_latents(root / "train", arrays, shard_mb=1)
    write_statistics(root, Normalisation((0.0,) * 3, (1.0,) * 3))
    return LatentClips(root, ["train"])


def hop_batches(latents: LatentClips, batch_size: int = 32, known: int = 6, targets: int = 1) -> HopBatches:
    return HopBatches(latents, batch_size, known, [1, 2], max_hops=5, targets=targets, device=CPU)


@pytest.mark.parametrize("targets", [1, 2, 3])
def test_the_frames_of_a_hop_are_those_that_its_times_name(tmp_path, targets):
    batches = hop_batches(telling_latents(tmp_path), targets=targets)
    for seed in range(20):
        hops = batches(np.random.default_rng(seed))
        clip, view, frame = hops.known[:, 0, :, 0, 0], hops.known[:, 1, :, 0, 0], hops.known[:, 2, :, 0, 0]
        assert torch.equal(frame, hops.index)
        assert torch.equal(hops.target[:, 2, :, 0, 0], hops.target_index)
        # known frames and target are of one clip and one view
        assert (hops.target[:, 0, :, 0, 0] == clip[:, :1]).all()
        assert (hops.target[:, 1, :, 0, 0] == view[:, :1]).all()
        assert (clip == clip[:, :1]).all() and (view == view[:, :1]).all()
        assert (hops.index.amax(dim=1, keepdim=True) < hops.target_index).all()
        assert hops.target.shape == (32, 3, targets, 2, 2)


def test_every_clip_and_view_comes_up(tmp_path):
    hops = hop_batches(telling_latents(tmp_path), batch_size=200)(np.random.default_rng(0))
    places = {(int(clip), int(view)) for clip, view in hops.target[:, :2, 0, 0, 0].tolist()}
    assert places == {(clip, view) for clip in range(5) for view in range(2)}


def test_most_batches_have_all_known_frames_and_some_have_fewer(tmp_path):
    batches = hop_batches(telling_latents(tmp_path), batch_size=2)
    counts = [batches(np.random.default_rng(seed)).known.shape[2] for seed in range(400)]
    assert set(counts) == set(range(1, 7))
    assert 0.8 < counts.count(6) / 400 < 0.95


def test_equal_generators_give_equal_hops(tmp_path):
    batches = hop_batches(telling_latents(tmp_path))
    first, again, other = (batches(np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert torch.equal(first.known, again.known) and torch.equal(first.target_index, again.target_index)
    assert not torch.equal(first.target_index, other.target_index)


def test_hops_that_do_not_fit_fail_before_training_starts(tmp_path):
    latents = telling_latents(tmp_path, frames=6)
    with pytest.raises(ValueError, match="do not fit into clips of 6 frames; lower train_denoiser.known"):
        hop_batches(latents, known=6)
