"""Objects of a clip, tracked by masks and classes of crops around them, with fakes of both networks."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.models.test_link import PARAMS, box, probs_of
from vdp.core.classes import NUM_CLASSES, factor_indices
from vdp.models.classifiers.crops import FACTORS
from vdp.models.segmenters.track import ObjectTracker

SURE = 0.7  # probability of the masks' classes


class FakeMasks:
    """Masks in the red channel of the frames; the frames' own decision is in the green one."""

    def context_probs(self, frames: np.ndarray) -> Tensor:
        return torch.from_numpy(probs_of(frames[..., 0], sure=SURE))

    def context_masks(self, probs: Tensor) -> np.ndarray:
        return probs.argmax(dim=1).byte().numpy()


class BlueClassifier(nn.Module):
    """Decides the class that the blue channel of a crop names."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))  # has the device

    def forward(self, crops: Tensor) -> Tensor:
        named = ((crops[:, 2, 0, 0] + 1) * 127.5).round().long()
        starts = (0, FACTORS[0], FACTORS[0] + FACTORS[1])
        logits = torch.zeros(len(crops), sum(FACTORS))
        for start, index in zip(starts, factor_indices(named), strict=True):
            logits[torch.arange(len(crops)), start + index] = 9.0
        return logits


def clip(named: list[int]) -> np.ndarray:
    """An object that the masks take for class 5 moves right; in frame k the crop names class `named[k]`."""
    frames = np.stack([box(5, 4, 4 + 2 * k) for k in range(len(named))])[..., None].repeat(3, axis=3)
    for frame, label in zip(frames, named, strict=True):
        frame[..., 2] = label
    return frames


def tracker(weight: float, places: list[tuple[float, float]] | None = None) -> ObjectTracker:
    def crop(frame: np.ndarray, row: float, column: float) -> np.ndarray:
        if places is not None:
            places.append((row, column))
        return frame[int(row) : int(row) + 1, int(column) : int(column) + 1]

    params = PARAMS.model_copy(update={"classifier_weight": weight})
    return ObjectTracker(FakeMasks(), BlueClassifier(), crop, params)


def test_the_classifier_decides_between_what_the_masks_leave_open():
    frames = clip([37] * 6)
    assert tracker(0.0)(frames).classes.tolist() == [5]
    found = tracker(1.0)(frames)
    assert found.classes.tolist() == [37]
    np.testing.assert_array_equal(found.labels, frames[..., 0] > 0)


@pytest.mark.parametrize("wrong", [0, 5])
def test_the_evidence_of_all_frames_of_a_track_is_summed(wrong):
    """The classifier is wrong in one of six frames."""
    assert tracker(1.0)(clip([9 if k == wrong else 37 for k in range(6)])).classes.tolist() == [37]


def test_the_masks_decided_frame_by_frame_are_those_before_tracking():
    frames = clip([37] * 4)
    np.testing.assert_array_equal(tracker(1.0)(frames).frame_masks, frames[..., 0])


def test_each_object_is_cropped_around_its_centre_in_each_of_its_frames():
    places: list[tuple[float, float]] = []
    masks = np.stack([box(5, 4, 4 + 2 * k) + (box(20, 20, 30) if k != 1 else 0) for k in range(3)])
    tracker(1.0, places)(masks[..., None].astype(np.uint8).repeat(3, axis=3))
    expected = [(6.5, 6.5 + 2 * k) for k in range(3)] + [(22.5, 32.5)] * 2
    np.testing.assert_allclose(sorted(places), sorted(expected))


def test_the_evidence_of_crops_goes_to_the_object_that_they_show():
    masks = np.stack([box(5, 4, 4) + box(20, 20, 30) for _ in range(3)])
    frames = masks[..., None].repeat(3, axis=3).astype(np.uint8)
    frames[..., 2] = np.where(masks == 5, 37, 44)
    found = tracker(1.0)(frames)
    assert sorted(found.classes.tolist()) == [37, 44]
    by_class = np.concatenate([[0], found.classes])[found.labels]
    np.testing.assert_array_equal(by_class, np.where(masks == 5, 37, np.where(masks == 20, 44, 0)))


def test_a_clip_without_objects_is_not_cropped():
    found = tracker(1.0)(np.zeros((3, 32, 48, 3), np.uint8))
    assert found.classes.shape == (0,) and not found.labels.any() and found.labels.shape == (3, 32, 48)
    assert NUM_CLASSES > found.frame_masks.max() == 0
