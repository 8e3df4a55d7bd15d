"""Augmentation of frames and clips, and section `augment`."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from vdp.config.messages import validate
from vdp.config.read import read_section
from vdp.config.yaml_file import read_file
from vdp.core.errors import UserError
from vdp.data.augment import Augment, ClipViews
from vdp.data.params import AugmentParams, Changes, ClipAugment, ClipChanges

REPO = Path(__file__).parents[2]
HEIGHT, WIDTH = 16, 24
EVERYTHING = Changes(flip=True, crop_scale=0.5, brightness=0.3, rotation=0.0, noise=0.0, blur=0.0)


def block_masks(seed: int, frames: int = 1, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A few large rectangles of random classes in each frame."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((frames, height, width), np.uint8)
    for mask in masks:
        for _ in range(4):
            top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
            mask[top : top + height // 2, left : left + width // 2] = rng.integers(1, 49)
    return masks


def paint(masks: np.ndarray) -> np.ndarray:
    """Frames whose colour is five times the class."""
    return (5 * masks)[..., None].repeat(3, axis=-1)


def augment(
    flip: bool = False,
    crop_scale: float = 1.0,
    brightness: float = 0.0,
    rotation: float = 0.0,
    noise: float = 0.0,
    blur: float = 0.0,
) -> Augment:
    return Augment(
        Changes(
            flip=flip, crop_scale=crop_scale, brightness=brightness, rotation=rotation, noise=noise, blur=blur
        ),
        HEIGHT,
        WIDTH,
    )


@pytest.mark.parametrize(("flip", "crop_scale"), [(True, 1.0), (False, 0.6), (True, 0.6)])
def test_augmented_masks_stay_aligned_with_their_frames(flip, crop_scale):
    """Frames and masks agree except at the edges of blocks, which resizing blurs; no new class appears."""
    agreed, changed = [], 0
    change = Augment(
        Changes(flip=flip, crop_scale=crop_scale, brightness=0.0, rotation=0.0, noise=0.0, blur=0.0), 64, 96
    )
    for seed in range(60):
        masks = block_masks(seed, height=64, width=96)
        frames, moved = change(paint(masks), masks, seed)
        assert frames.shape == (1, 64, 96, 3) and moved.shape == (1, 64, 96) and moved.dtype == np.uint8
        assert set(np.unique(moved).tolist()) <= set(np.unique(masks).tolist())
        agreed.append(float((frames == paint(moved)).all(axis=-1).mean()))
        changed += not np.array_equal(moved, masks)
    assert np.mean(agreed) > 0.95
    assert min(agreed) > 0.85
    assert 10 < changed < 60


def test_brightness_changes_neither_the_mask_nor_the_hue():
    masks, changed = block_masks(0), 0
    for seed in range(20):
        frames, kept = augment(brightness=0.3)(paint(masks), masks, seed)
        np.testing.assert_array_equal(kept, masks)
        assert (frames == frames[..., :1]).all()
        changed += not np.array_equal(frames, paint(masks))
    assert 0 < changed < 20


def test_without_augmentations_nothing_changes():
    masks = block_masks(0, frames=3)
    frames = np.random.default_rng(0).integers(0, 256, (3, HEIGHT, WIDTH, 3), dtype=np.uint8)
    for seed in range(5):
        same, kept = augment()(frames, masks, seed)
        np.testing.assert_array_equal(same, frames)
        np.testing.assert_array_equal(kept, masks)


def test_the_augmentation_depends_on_the_seed_alone():
    masks = block_masks(0)
    one, two = (Augment(EVERYTHING, HEIGHT, WIDTH) for _ in range(2))
    images = [one(paint(masks), masks, seed)[0] for seed in range(10)]
    assert len({image.tobytes() for image in images}) > 4
    for seed in reversed(range(10)):
        np.testing.assert_array_equal(two(paint(masks), masks, seed)[0], images[seed])


def test_flips_crops_and_brightness_are_independent():
    """Each is in half of 400 draws, so two are in 100 of them; the standard deviation is 9."""
    masks = block_masks(0)
    frames = paint(masks)
    change, counts = Augment(EVERYTHING, HEIGHT, WIDTH), Counter()
    for seed in range(400):
        changed, moved = change(frames, masks, seed)
        whole = any(np.array_equal(moved, mask) for mask in (masks, masks[:, :, ::-1]))
        bright = np.isin(changed, frames).mean() < 0.8  # a crop blurs edges alone
        counts[whole, bright] += 1
        if whole:
            counts["mirrored"] += not np.array_equal(moved, masks)
    for key in ("mirrored", *((whole, bright) for whole in (False, True) for bright in (False, True))):
        assert counts[key] == pytest.approx(100, abs=40)


@pytest.mark.parametrize("length", [2, 22, 300])
def test_all_frames_of_a_clip_get_the_augmentation_of_the_first(length):
    masks, change, changed = block_masks(0, length), Augment(EVERYTHING, HEIGHT, WIDTH), 0
    for seed in range(8):
        frames, moved = change(paint(masks), masks, seed)
        assert frames.shape == (length, HEIGHT, WIDTH, 3)
        for t in (0, 1, length - 1):
            alone, mask = change(paint(masks[t : t + 1]), masks[t : t + 1], seed)
            np.testing.assert_array_equal(frames[t], alone[0])
            np.testing.assert_array_equal(moved[t], mask[0])
        np.testing.assert_array_equal(change.frames(paint(masks), seed), frames)
        changed += not np.array_equal(frames, paint(masks))
    assert changed > 4


def test_rotated_masks_stay_aligned_with_their_frames_by_at_most_the_angle():
    """A bar through the middle: half of the frames turn, to angles within the limit, masks with them."""
    masks = np.zeros((2, 65, 97), np.uint8)
    masks[:, 30:35] = 9
    changes = Changes(flip=False, crop_scale=1.0, brightness=0.0, rotation=20.0, noise=0.0, blur=0.0)
    change, angles = Augment(changes, 65, 97), []
    for seed in range(60):
        frames, moved = change(paint(masks), masks, seed)
        assert (frames == paint(moved)).all(axis=-1).mean() > 0.9
        assert set(np.unique(moved)) <= {0, 9} and np.array_equal(moved[0], moved[1])
        rows = [np.flatnonzero(moved[0, :, column]).mean() for column in (24, 72)]
        angles.append(np.degrees(np.arctan2(rows[1] - rows[0], 48)))
    turned = np.abs(angles) > 0.5
    assert 15 < turned.sum() < 45 and 10 < np.max(angles) < 21 and -21 < np.min(angles) < -10


def test_noise_has_up_to_its_deviation_and_leaves_the_masks():
    masks, deviations = block_masks(0, 2, 64, 96), []
    frames = np.full((2, 64, 96, 3), 128, np.uint8)
    for seed in range(80):
        noisy, kept = augment(noise=0.1)(frames, masks, seed)
        np.testing.assert_array_equal(kept, masks)
        np.testing.assert_array_equal(noisy[0], noisy[1])
        deviations.append(noisy.std() / 255)
    assert 20 < sum(value > 0 for value in deviations) < 60
    assert 0.085 < max(deviations) < 0.105


def test_blur_smooths_frames_and_leaves_the_masks():
    masks, changed = block_masks(0), 0
    frames = np.random.default_rng(0).integers(0, 256, (1, HEIGHT, WIDTH, 3), dtype=np.uint8)
    for seed in range(40):
        smooth, kept = augment(blur=2.0)(frames, masks, seed)
        np.testing.assert_array_equal(kept, masks)
        assert smooth.std() <= frames.std()
        changed += smooth.std() < 0.7 * frames.std()
    assert 8 < changed < 32


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_share_is_the_probability_of_a_crop(share):
    masks = block_masks(0)
    change = Augment(
        Changes(flip=False, crop_scale=0.5, brightness=0.0, rotation=0.0, noise=0.0, blur=0.0),
        HEIGHT,
        WIDTH,
        share,
    )
    changed = [not np.array_equal(change(paint(masks), masks, seed)[1], masks) for seed in range(100)]
    assert np.mean(changed) == pytest.approx(share, abs=0.15)


# --- Views of clips --------------------------------------------------------------------------------------


def clip_changes(
    flip: bool = True, crop_scale: float = 0.7, brightness: float = 0.2, random_views: int = 2
) -> ClipChanges:
    return ClipChanges(
        flip=flip,
        crop_scale=crop_scale,
        brightness=brightness,
        rotation=0.0,
        noise=0.0,
        blur=0.0,
        random_views=random_views,
    )


def views_of(changes: ClipChanges, clip: int = 0, seed: int = 0, split: str = "train") -> list[np.ndarray]:
    return list(ClipViews(changes, HEIGHT, WIDTH, seed, split)(paint(block_masks(7, 3)), clip))


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("random_views", [0, 1, 3])
def test_views_are_the_clip_its_mirror_image_and_random_ones(flip, random_views):
    frames = paint(block_masks(7, 3))
    views = views_of(clip_changes(flip=flip, random_views=random_views))
    assert len(views) == 1 + flip + random_views
    np.testing.assert_array_equal(views[0], frames)
    if flip:
        np.testing.assert_array_equal(views[1], frames[:, :, ::-1])
    assert len({view.tobytes() for view in views}) == len(views)
    assert all(view.shape == frames.shape and view.dtype == np.uint8 for view in views)


def test_a_still_clip_stays_still_in_all_views():
    still = paint(block_masks(7, 1)).repeat(5, axis=0)
    for view in ClipViews(clip_changes(random_views=10), HEIGHT, WIDTH, 0, "train")(still, 0):
        assert (view == view[:1]).all()


def test_random_views_depend_on_seed_split_and_clip_alone():
    changes = clip_changes()
    first = [view.tobytes() for view in views_of(changes)]
    views = ClipViews(changes, HEIGHT, WIDTH, 0, "train")
    for clip in (5, 2, 0):
        again = [view.tobytes() for view in views(paint(block_masks(7, 3)), clip)]
        assert (again == first) == (clip == 0)
    for other in ({"seed": 1}, {"split": "unlabeled"}, {"clip": 1}):
        assert [view.tobytes() for view in views_of(changes, **other)][2:] != first[2:]


@pytest.mark.parametrize(("flip", "expected"), [(False, 0.0), (True, 0.5)])
def test_random_views_are_mirrored_only_where_flips_are_on(flip, expected):
    frames = paint(block_masks(7, 3)).astype(int)
    views = views_of(clip_changes(flip, crop_scale=1.0, brightness=0.05, random_views=60))[1 + flip :]
    mirrored = [np.abs(view - frames[:, :, ::-1]).mean() < np.abs(view - frames).mean() for view in views]
    assert np.mean(mirrored) == pytest.approx(expected, abs=0.2)


# --- Params ----------------------------------------------------------------------------------------------


def test_validation_of_the_default_params_has_no_augmentation(monkeypatch):
    monkeypatch.chdir(REPO)
    params = read_section(AugmentParams, "augment")
    masks = block_masks(0)
    frames = np.random.default_rng(0).integers(0, 256, (1, HEIGHT, WIDTH, 3), dtype=np.uint8)
    for changes in (params.codec.val, params.segmenter.val):
        for seed in range(5):
            np.testing.assert_array_equal(Augment(changes, HEIGHT, WIDTH)(frames, masks, seed)[0], frames)
    assert len(views_of(params.denoiser.val)) == 1


@pytest.mark.parametrize(
    ("split", "changes", "message"),
    [
        ("train", {"random_views": 2}, "train.random_views=2: expected 0"),
        ("val", {"crop_scale": 0.8}, "val.crop_scale=0.8: expected 1.0 with random_views=0"),
        ("train", {"brightness": 0.1}, "train.brightness=0.1: expected 0.0 with random_views=0"),
        ("train", {"rotation": 5.0}, "train.rotation=5.0: expected 0.0 with random_views=0"),
        ("val", {"blur": 17.0}, "val.blur=17.0: expected a number 0..16"),
        ("val", {"crop_scale": 0.0}, "val.crop_scale=0.0: expected a number"),
        ("val", {"hue": 0.1}, "val.hue is not a known key; known: "),
    ],
)
def test_an_invalid_or_idle_augmentation_is_named(split, changes, message):
    section = read_file(REPO / "params.yaml")["augment"]
    section["denoiser"][split].update(changes)
    for cls, value, name in (
        (AugmentParams, section, "augment"),
        (ClipAugment, section["denoiser"], "augment.denoiser"),
    ):
        with pytest.raises(UserError) as error:
            validate(cls, value, name)
        assert str(error.value).startswith(f"params.yaml: augment.denoiser.{message}")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("changes", [{"crop_scale": 0.8}, {"brightness": 0.1}, {"noise": 0.1}])
def test_random_views_with_an_augmentation_are_accepted(changes):
    section = read_file(REPO / "params.yaml")["augment"]["denoiser"]
    section["train"].update(changes, random_views=1)
    assert validate(ClipAugment, section, "augment.denoiser").train.random_views == 1
