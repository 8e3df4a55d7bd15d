"""Segment clips, not frames: link the parts of the foreground over time to tracks, one class per track.

A frame decided alone confuses shapes; the evidence of all frames of an object does not.
Shapes: K frames of H x W pixels, 48 object classes (class id minus 1).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from vdp.core.classes import NUM_CLASSES
from vdp.models.segmenters.params import TrackParams

Float = NDArray[np.float32]
Mask = NDArray[np.bool_]

FLOOR = 1e-3  # added to a probability before its logarithm: one pixel cannot rule out a class
FRAGMENT = 0.35  # a part smaller than this share of one that it touches belongs to it
CLASS_DISTANCE = 0.1  # of two parts with no class in common, in frame heights: as far apart as that
SMOOTHING = 0.5  # share of the newest displacement in a track's velocity
NO_EVIDENCE: Float = np.zeros(NUM_CLASSES - 1, np.float32)
SMALL = 0.01  # area, in squared frame heights, under which a part shows less of its class
NEAR = 0.2  # mean distance, in frame heights, of two tracks that may be fragments of one object


@dataclass(frozen=True)
class Part:
    """One part of the foreground of a frame."""

    mask: Mask  # (H, W)
    centre: NDArray[np.float64]  # row and column
    pixels: int
    evidence: Float  # mean of its pixels' log-probabilities of the object classes, (48,)

    @property
    def weight(self) -> float:
        """Weight of its evidence: 1, or less for a small part."""
        return min(1.0, self.pixels / (SMALL * self.mask.shape[0] ** 2))


@dataclass
class Track:
    """One object: its part in each frame where it was found."""

    parts: dict[int, Part] = field(default_factory=dict)
    last: int = -1  # frame of the newest part
    pixels: int = 0  # of all parts
    evidence: Float = field(default_factory=lambda: NO_EVIDENCE)  # weighted sum over its parts
    pixel_evidence: Float = field(default_factory=lambda: NO_EVIDENCE)  # sum over its pixels
    velocity: NDArray[np.float64] = field(default_factory=lambda: np.zeros(2))  # pixels per frame

    def predict(self, frame: int) -> NDArray[np.float64]:
        """Extrapolate the centre to a frame."""
        return self.parts[self.last].centre + self.velocity * (frame - self.last)

    def append(self, frame: int, part: Part) -> None:
        if self.parts:
            moved = (part.centre - self.parts[self.last].centre) / (frame - self.last)
            share = SMOOTHING if len(self.parts) > 1 else 1.0
            self.velocity = (1 - share) * self.velocity + share * moved
        self.parts[frame], self.last = part, frame
        self.pixels += part.pixels
        self.evidence = self.evidence + part.weight * part.evidence
        self.pixel_evidence = self.pixel_evidence + part.pixels * part.evidence


def find_parts(probs: Float, threshold: float, min_pixels: int) -> list[Part]:
    """Split the foreground of a frame into parts, largest first.

    A part is a connected region of one likeliest class; small ones that touch a larger one join it.

    Args:
        probs: class probabilities, (49, H, W).
        threshold: min summed probability of the object classes of a foreground pixel.
        min_pixels: of a part.
    """
    objects = probs[1:]
    foreground = objects.sum(axis=0) >= threshold
    likeliest = np.where(foreground, objects.argmax(axis=0) + 1, 0).astype(np.uint8)
    regions: list[tuple[int, Mask]] = []
    for label in np.unique(likeliest[likeliest > 0]):
        same = (likeliest == label).astype(np.uint8)
        count, components, stats, _ = cv2.connectedComponentsWithStats(same)
        regions += [
            (int(stats[number, cv2.CC_STAT_AREA]), components == number) for number in range(1, count)
        ]
    regions.sort(key=lambda region: -region[0])
    owner = np.zeros(foreground.shape, np.int64)  # number of the part at each pixel; 0 is none
    sizes = [0]  # of the parts by number
    for size, region in regions:
        grown = cv2.dilate(region.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        touched = np.bincount(owner[grown], minlength=len(sizes))
        touched[size >= FRAGMENT * np.array(sizes)] = 0
        if touched.any():
            host = int(touched.argmax())
            owner[region], sizes[host] = host, sizes[host] + size
        elif size >= min_pixels:
            owner[region] = len(sizes)
            sizes.append(size)
    parts = []
    for number in range(1, len(sizes)):
        mask = owner == number
        pixels = objects[:, mask]
        log_probs = np.log(pixels / np.maximum(pixels.sum(axis=0), 1e-6) + FLOOR)
        centre = np.argwhere(mask).mean(axis=0)
        parts.append(Part(mask, centre, sizes[number], log_probs.mean(axis=1)))
    return parts


def link_parts(
    frames: Sequence[Sequence[Part]], height: int, max_gap: int, max_distance: float
) -> list[Track]:
    """Link the parts of consecutive frames to tracks by place and class (Hungarian assignment).

    Args:
        frames: parts of each frame.
        height: of the frame, pixels.
        max_gap: frames that a track may miss before it ends.
        max_distance: cost above which a part starts a track of its own, in frame heights.
    """
    tracks: list[Track] = []
    for number, parts in enumerate(frames):
        active = [track for track in tracks if number - track.last <= max_gap]
        free = set(range(len(parts)))
        if active and parts:
            cost = _costs(active, parts, number, height)
            for row, column in zip(*linear_sum_assignment(cost), strict=True):
                if cost[row, column] < max_distance:
                    active[row].append(number, parts[column])
                    free.discard(column)
        for column in sorted(free):
            track = Track()
            track.append(number, parts[column])
            tracks.append(track)
    return tracks


def assign_classes(tracks: Sequence[Track], evidence: Sequence[Float], height: int) -> list[int]:
    """Give each track its likeliest class, (48,) log-evidence each, the largest track first.

    A class occurs once in a clip: of two tracks of one class that share a frame, the smaller is a fragment of
    the larger if they are near each other, and else takes its next class.
    """
    classes = [0] * len(tracks)
    done: list[int] = []
    for number in sorted(range(len(tracks)), key=lambda n: -tracks[n].pixels):
        for label in np.argsort(-evidence[number]) + 1:
            same = [tracks[other] for other in done if classes[other] == label]
            if all(_distance(tracks[number], other) < NEAR * height for other in same):
                classes[number] = int(label)
                done.append(number)
                break
    return classes


def _distance(one: Track, other: Track) -> float:
    """Mean distance of two tracks in the frames that they share, in pixels; 0 if they share none."""
    shared = one.parts.keys() & other.parts.keys()
    if not shared:
        return 0.0
    return float(np.mean([np.hypot(*(one.parts[k].centre - other.parts[k].centre)) for k in shared]))


def track_labels(
    tracks: Sequence[Track], classes: Sequence[int], frames: int, size: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Label the pixels of the tracks, (K, H, W) object numbers, and their classes (N,).

    Tracks of one class are one object: parts of it, or it was hidden between them.
    """
    found = sorted({label for label in classes if label})
    labels = np.zeros((frames, *size), np.uint8)
    for track, label in zip(tracks, classes, strict=True):
        if label:
            for number, part in track.parts.items():
                labels[number][part.mask] = found.index(label) + 1
    return labels, np.array(found, np.uint8)


def clip_tracks(probs: Float, params: TrackParams) -> list[Track]:
    """Find the tracks of a clip from the class probabilities of its frames, (K, 49, H, W)."""
    if probs.shape[1] != NUM_CLASSES:
        raise ValueError(f"probs: expected {NUM_CLASSES} classes on axis 1, got shape {probs.shape}")
    parts = [find_parts(frame, params.object_threshold, params.min_pixels) for frame in probs]
    return link_parts(parts, probs.shape[2], params.max_gap, params.max_distance)


def _costs(tracks: Sequence[Track], parts: Sequence[Part], frame: int, height: int) -> NDArray[np.float64]:
    """Distance of parts from the tracks' extrapolated centres and classes, in frame heights."""
    centres = np.stack([track.predict(frame) for track in tracks])[:, None] - [part.centre for part in parts]
    of_tracks = _softmax(np.stack([track.pixel_evidence / track.pixels for track in tracks]))
    of_parts = _softmax(np.stack([part.evidence for part in parts]))
    similarity = np.sqrt(of_tracks) @ np.sqrt(of_parts).T  # Bhattacharyya coefficient
    return np.hypot(centres[..., 0], centres[..., 1]) / height + CLASS_DISTANCE * (1 - similarity)


def _softmax(logits: Float) -> Float:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
