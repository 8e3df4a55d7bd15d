"""Training batches of object crops."""

import numpy as np
import pytest
import torch

from vdp.data.batches.crops import CropBatches
from vdp.data.crops import crop_frame, crop_side
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


def batches(store: ClipStore, jitter: float = 0.1, size: int = 6) -> CropBatches:
    return CropBatches(store, size, size=12, scale=0.375, jitter=jitter, seed=3)


def test_a_crop_has_its_object_in_the_middle_and_the_object_s_class(tmp_path):
    batch = batches(clips(tmp_path / "c"), jitter=0.0)(0, step_rng(0, 0), range(6))
    for crop, label in zip(batch.crops, batch.classes.tolist(), strict=True):
        middle = ((crop[:, 5:7, 5:7].mean(dim=(1, 2)) + 1) * 127.5).round().int().tolist()
        assert tuple(middle) == COLORS[label]
    assert batch.weight.tolist() == [1.0] * 6


def test_rows_of_a_batch_are_the_rows_of_the_whole(tmp_path):
    source = batches(clips(tmp_path / "c"))
    whole, part = source(4, step_rng(0, 4), range(6)), source(4, step_rng(0, 4), range(2, 5))
    torch.testing.assert_close(part.crops, whole.crops[2:5])
    assert part.classes.tolist() == whole.classes[2:5].tolist()


def test_clips_without_objects_have_no_weight_and_those_without_masks_are_refused(tmp_path):
    batch = batches(clips(tmp_path / "c", empty=True))(0, step_rng(0, 0), range(6))
    assert batch.weight.tolist() == [0.0] * 6
    with pytest.raises(ValueError, match="masks"):
        batches(clips(tmp_path / "d", labelled=False))


def test_a_crop_repeats_the_border_and_is_resized():
    frame = np.zeros((*SIZE, 3), np.uint8)
    frame[0, 0] = 200
    corner = crop_frame(frame, 0, 0, side=5, size=5)
    assert (corner[:3, :3] == 200).all() and not corner[3:].any()
    assert crop_frame(frame, 10, 10, side=6, size=12).shape == (12, 12, 3)
    assert crop_side(0.375, 64) == 24
    assert crop_side(0.375, 160) == 60
