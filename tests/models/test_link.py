"""Parts of the foreground, linked over time to tracks with one class each."""

import numpy as np
import pytest

from vdp.core.classes import NUM_CLASSES
from vdp.models.segmenters.link import assign_classes, clip_tracks, find_parts, track_labels
from vdp.models.segmenters.params import TrackParams

SIZE = (32, 48)
PARAMS = TrackParams(
    object_threshold=0.4, min_pixels=4, max_gap=3, max_distance=0.125, classifier_weight=0.0, unlabeled=0
)


def probs_of(masks: np.ndarray, sure: float = 0.9) -> np.ndarray:
    """Probabilities (K, 49, H, W) that have the masks (K, H, W) as their likeliest classes."""
    probs = np.full((len(masks), NUM_CLASSES, *masks.shape[1:]), (1 - sure) / (NUM_CLASSES - 1), np.float32)
    np.put_along_axis(probs, masks[:, None].astype(int), sure, axis=1)
    return probs / probs.sum(axis=1, keepdims=True)


def box(label: int, top: int, left: int, side: int = 6) -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    mask[top : top + side, left : left + side] = label
    return mask


def labelled(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    tracks = clip_tracks(probs_of(masks), PARAMS)
    classes = assign_classes(tracks, [track.evidence for track in tracks], SIZE[0])
    return track_labels(tracks, classes, len(masks), SIZE)


def class_masks(masks: np.ndarray) -> np.ndarray:
    labels, classes = labelled(masks)
    return np.concatenate([[0], classes]).astype(np.uint8)[labels]


def test_clear_masks_come_back_unchanged():
    masks = np.stack([box(5, 4, 4 + 2 * k) + box(20, 20, 30 - k) for k in range(6)])
    np.testing.assert_array_equal(class_masks(masks), masks)


def test_a_frame_with_another_class_takes_the_class_of_its_track():
    masks = np.stack([box(21 if k == 3 else 5, 4, 4 + 2 * k) for k in range(7)])
    assert set(np.unique(class_masks(masks))) == {0, 5}


def test_a_gap_is_bridged_to_one_object():
    masks = np.stack([box(5, 4, 4 + 3 * k) if k != 3 else box(0, 0, 0) for k in range(7)])
    labels, classes = labelled(masks)
    assert classes.tolist() == [5]
    assert labels[3].max() == 0
    tracks = clip_tracks(probs_of(masks), PARAMS)
    assert len(tracks) == 1


def test_two_objects_that_cross_keep_their_identity():
    masks = np.stack([np.maximum(box(5, 4, 2 + 4 * k), box(40, 14, 38 - 4 * k)) for k in range(9)])
    np.testing.assert_array_equal(class_masks(masks), masks)


def test_distant_objects_of_one_frame_have_different_classes():
    masks = np.stack([box(5, 4, 4) + box(5, 20, 30) for _ in range(4)])
    _, classes = labelled(masks)
    assert len(classes) == 2 and 5 in classes


def test_near_parts_of_one_class_are_one_object():
    masks = np.stack([box(5, 4, 4, side=4) + box(5, 4, 9, side=3) for _ in range(4)])
    assert len(clip_tracks(probs_of(masks), PARAMS)) == 2
    np.testing.assert_array_equal(class_masks(masks), masks)


def test_a_small_part_says_less_of_the_class():
    masks = np.stack([box(5, 4, 4), box(21, 6, 6, side=2)])
    (track,) = clip_tracks(probs_of(masks), PARAMS)
    assert [part.weight for part in track.parts.values()] == pytest.approx([1.0, 4 / (0.01 * 32**2)])
    assert track.evidence.argmax() == 4


def test_a_small_part_of_another_class_joins_the_object_that_it_touches():
    mask = box(5, 4, 4, side=8)
    mask[4:6, 4:6] = 9
    (part,) = find_parts(probs_of(mask[None])[0], threshold=0.4, min_pixels=4)
    assert part.pixels == 64
    assert part.evidence.argmax() == 4


def test_parts_of_few_pixels_are_left_out():
    masks = np.stack([box(5, 4, 4, side=1)])
    assert not find_parts(probs_of(masks)[0], threshold=0.4, min_pixels=4)


def test_evidence_beside_the_masks_decides_the_class():
    masks = np.stack([box(5, 4, 4 + 2 * k) for k in range(5)])
    (track,) = clip_tracks(probs_of(masks, sure=0.5), PARAMS)
    other = np.zeros(NUM_CLASSES - 1, np.float32)
    other[36] = 100
    assert assign_classes([track], [track.evidence + other], SIZE[0]) == [37]


def test_an_empty_clip_has_no_objects():
    labels, classes = labelled(np.zeros((3, *SIZE), np.uint8))
    assert not labels.any() and not len(classes)


def test_probabilities_of_other_classes_are_refused():
    with pytest.raises(ValueError, match="49"):
        clip_tracks(np.zeros((2, 14, *SIZE), np.float32), PARAMS)
