"""Training batches of object crops."""

import numpy as np
import pytest
import torch

from vdp.data.batches.crops import CropBatches, mirror_half
from vdp.data.batches.frames import Augmentation
from vdp.data.crops import crop_frame, crop_mask, crop_side
from vdp.data.stores.clips import Clip, ClipStore, write_clips
from vdp.training.seeds import step_rng

SIZE = (32, 48)
COLORS = {5: (250, 10, 10), 30: (10, 10, 250)}


def clips(folder, labelled: bool = True, empty: bool = False) -> ClipStore:
    """Clips with one object each, of a class that its colour tells."""
    made = []
    for number in range(6):
        label = 5 if number % 2 else 30
        masks = np.zeros((3, *SIZE), np.uint8)
        if not empty:
            masks[:, 10 : 10 + 6, 3 * number : 3 * number + 6] = label
        frames = np.where(masks[..., None] > 0, np.array(COLORS[label]), 90).astype(np.uint8)
        made.append(Clip(f"c{number}", frames, masks if labelled else None))
    return write_clips(folder, made, shard_mb=1)


def batches(
    store: ClipStore,
    jitter: float = 0.1,
    size: int | None = 12,
    background: float = 0.0,
    augment: Augmentation = mirror_half,
) -> CropBatches:
    return CropBatches(store, 6, 0.375, size, jitter, background, augment, seed=3)


def test_a_crop_has_its_object_in_the_middle_and_the_object_s_class(tmp_path):
    batch = batches(clips(tmp_path / "c"), jitter=0.0)(0, step_rng(0, 0), range(6))
    for crop, label in zip(batch.frames, batch.classes.tolist(), strict=True):
        middle = ((crop[:, 5:7, 5:7].mean(dim=(1, 2)) + 1) * 127.5).round().int().tolist()
        assert tuple(middle) == COLORS[label]
    assert batch.weight.tolist() == [1.0] * 6


def test_rows_of_a_batch_are_the_rows_of_the_whole(tmp_path):
    source = batches(clips(tmp_path / "c"))
    whole, part = source(4, step_rng(0, 4), range(6)), source(4, step_rng(0, 4), range(2, 5))
    torch.testing.assert_close(part.frames, whole.frames[2:5])
    assert part.classes.tolist() == whole.classes[2:5].tolist()


def test_clips_without_objects_have_no_weight_and_those_without_masks_are_refused(tmp_path):
    batch = batches(clips(tmp_path / "c", empty=True))(0, step_rng(0, 0), range(6))
    assert batch.weight.tolist() == [0.0] * 6
    with pytest.raises(ValueError, match="masks"):
        batches(clips(tmp_path / "d", labelled=False))


@pytest.mark.parametrize("size", [None, 12, 24])
def test_the_mask_of_a_crop_shows_where_its_object_is(tmp_path, size):
    batch = batches(clips(tmp_path / "c"), jitter=0.2, size=size)(0, step_rng(0, 0), range(6))
    assert batch.masks.shape == (6, size or 12, size or 12) and batch.masks.dtype == torch.uint8
    pixels = ((batch.frames + 1) * 127.5).round().int()
    for crop, mask, label in zip(pixels, batch.masks, batch.classes.tolist(), strict=True):
        assert set(mask.unique().tolist()) == {0, label}
        shown = (crop.movedim(0, -1) == torch.tensor(COLORS[label])).all(dim=-1)
        # resized crops have mixed colours at the outline
        assert torch.equal(shown, mask == label) if size != 24 else not (shown & (mask == 0)).any()


def test_a_share_of_the_crops_is_anywhere(tmp_path):
    store, steps = clips(tmp_path / "c"), range(40)
    classes = torch.cat([batches(store, background=0.25)(s, step_rng(0, s), range(6)).classes for s in steps])
    assert 0.17 < (classes == 0).float().mean() < 0.33
    everywhere = [batches(store, background=1.0)(s, step_rng(0, s), range(6)) for s in steps]
    assert not torch.cat([batch.weight for batch in everywhere]).any()
    share = torch.cat([batch.masks for batch in everywhere]).gt(0).float().mean(dim=(1, 2))
    assert (share == 0).any() and (share > 0).any()


def test_crops_and_masks_are_augmented_with_one_seed_each(tmp_path):
    seeds = []

    def blank(frames, masks, seed):
        seeds.append(seed)
        assert (frames.shape, masks.shape) == ((1, 12, 12, 3), (1, 12, 12))
        return np.full_like(frames, 255), masks + 1

    batch = batches(clips(tmp_path / "c"), augment=blank)(0, step_rng(0, 0), range(6))
    assert (batch.frames == 1).all() and batch.masks.min() == 1 and len(set(seeds)) == 6


def test_half_of_the_crops_are_mirrored_together_with_their_masks():
    frames, masks = (
        np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3),
        np.arange(40, dtype=np.uint8),
    )
    masks = masks.reshape(2, 4, 5)
    mirrored = 0
    for seed in range(200):
        changed, labels = mirror_half(frames, masks, seed)
        if not np.array_equal(changed, frames):
            mirrored += 1
            np.testing.assert_array_equal(changed, frames[:, :, ::-1])
            np.testing.assert_array_equal(labels, masks[:, :, ::-1])
    assert 70 < mirrored < 130


def test_a_crop_repeats_the_border_and_is_resized():
    frame = np.zeros((*SIZE, 3), np.uint8)
    frame[0, 0] = 200
    corner = crop_frame(frame, 0, 0, side=5, size=5)
    assert (corner[:3, :3] == 200).all() and not corner[3:].any()
    assert crop_frame(frame, 10, 10, side=6, size=12).shape == (12, 12, 3)
    mask = crop_mask(frame[:, :, 0], 0, 0, side=5, size=10)
    assert (mask[:6, :6] == 200).all() and not mask[6:].any() and mask.shape == (10, 10)
    assert crop_side(0.375, 64) == 24
    assert crop_side(0.375, 160) == 60
