"""Compose frames and masks from objects: each object's pixels, moved and scaled, over the background.

Shapes: K context frames of H x W pixels, N objects, F = len(vdp.core.objects.FEATURES).
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from vdp.core.classes import COLORS, MATERIALS
from vdp.core.ground import Ground
from vdp.core.objects import AREA, CUT, SEEN, X, Y

WHOLE_SHARE = 0.85  # of its largest scaled area: an object that shows less is partly hidden
MIN_VISIBILITY = 0.5  # of an object that is drawn
# exponents of the superellipses that stand for the outlines of cubes, spheres and cylinders
OUTLINES = (2.5, 2.0, 3.0)
RIM = (
    1  # pixels around a mask that mix object and floor, or show its contact shadow: they move with the object
)
INPAINT_RADIUS = 3  # pixels, for background that every context frame hides

CLASSES_PER_SHAPE = len(MATERIALS) * len(COLORS)

Pixels = NDArray[np.uint8]
Float = NDArray[np.float32]


@dataclass(frozen=True)
class Sprite:
    """An object's pixels in the context frame that shows it best."""

    label: int  # class id
    mask: Pixels  # (H + 2 M, W + 2 M), 0 or 1, with a margin M around the frame
    cover: Pixels  # the mask and its rim, less other objects
    frame: Pixels  # (H + 2 M, W + 2 M, 3)
    centre: tuple[float, float]  # x and y, in frame heights from the frame's centre
    margin: int  # M; above 0 only where the border cuts the object


class Composer:
    """Composes target frames of one clip from its context.

    Args:
        frames: context frames, (K, H, W, 3) uint8.
        labels: object numbers of their pixels, (K, H, W), 1..N; 0 is the background.
        states: of the objects in the context frames, (N, K, F).
        classes: class ids, (N,).
        ground: gives the size of an object at its place.
    """

    def __init__(
        self, frames: Pixels, labels: Pixels, states: Float, classes: Pixels, ground: Ground
    ) -> None:
        self.height, self.width = labels.shape[1:]
        self.ground = ground
        self.background = background(frames, np.stack([grown(shown) for shown in labels > 0]))
        self.sprites: list[Sprite | None] = [
            self._sprite(number, frames, labels, states[number], int(label))
            for number, label in enumerate(classes)
        ]

    def __call__(self, places: Float) -> tuple[Pixels, Pixels]:
        """Compose one target frame.

        Args:
            places: x, y and visibility of each object, (N, 3).

        Returns:
            The frame (H, W, 3) and its class ids (H, W), uint8. Objects lower in the frame are nearer.
        """
        frame = self.background.astype(np.float32)
        mask = np.zeros((self.height, self.width), np.uint8)
        for sprite, shape, place in self._drawn(places):
            moved = self._transform(sprite, place)
            pixels = cv2.warpAffine(
                sprite.frame,
                moved,
                (self.width, self.height),
                flags=cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_REPLICATE,
            )
            frame += self._moved_mask(sprite.cover, moved)[:, :, None] * (pixels - frame)
            mask[shape >= 0.5] = sprite.label
        return frame.round().clip(0, 255).astype(np.uint8), mask

    def mask(self, places: Float) -> Pixels:
        """Compose the class ids only, (H, W)."""
        mask = np.zeros((self.height, self.width), np.uint8)
        for sprite, shape, _ in self._drawn(places):
            mask[shape >= 0.5] = sprite.label
        return mask

    def _drawn(self, places: Float) -> list[tuple[Sprite, Float, Float]]:
        """Visible objects with their moved masks and places, far to near."""
        drawn = []
        for sprite, place in zip(self.sprites, places, strict=True):
            if sprite is None or place[2] < MIN_VISIBILITY:
                continue
            shape = self._moved_mask(sprite.mask, self._transform(sprite, place))
            rows = np.flatnonzero((shape >= 0.5).any(axis=1))
            if len(rows):
                drawn.append((int(rows[-1]), sprite, shape, place))
        drawn.sort(key=lambda item: (item[0], item[1].label))
        return [(sprite, shape, place) for _, sprite, shape, place in drawn]

    def _moved_mask(self, mask: Pixels, moved: NDArray[np.float64]) -> Float:
        """A mask of a sprite at its place, (H, W), 0 to 1."""
        size = (self.width, self.height)
        return np.asarray(
            cv2.warpAffine(mask.astype(np.float32), moved, size, flags=cv2.INTER_LINEAR), np.float32
        )

    def _transform(self, sprite: Sprite, place: Float) -> NDArray[np.float64]:
        """Affine map of the sprite's pixels to its place, (2, 3)."""
        scale = float(size_at(self.ground, place[1]) / size_at(self.ground, sprite.centre[1]))
        source = [pixel + sprite.margin for pixel in self._pixel(*sprite.centre)]
        goal = self._pixel(float(place[0]), float(place[1]))
        return np.array(
            [[scale, 0, goal[0] - scale * source[0]], [0, scale, goal[1] - scale * source[1]]], np.float64
        )

    def _pixel(self, x: float, y: float) -> tuple[float, float]:
        """Column and row of a place."""
        return x * self.height + (self.width - 1) / 2, y * self.height + (self.height - 1) / 2

    def _sprite(
        self, number: int, frames: Pixels, labels: Pixels, states: Float, label: int
    ) -> Sprite | None:
        best = best_frame(states, self.ground)
        if not label or best is None:
            return None
        mask = (labels[best] == number + 1).astype(np.uint8)
        cover = grown(mask) & ((labels[best] == 0) | (mask > 0))
        centre = (float(states[best, X]), float(states[best, Y]))
        if states[best, CUT] < 0.5 or not self.ground.reach:
            return Sprite(label, mask, cover, frames[best], centre, 0)
        return self._completed(label, mask, cover, frames[best], centre)

    def _completed(
        self, label: int, mask: Pixels, cover: Pixels, frame: Pixels, centre: tuple[float, float]
    ) -> Sprite:
        """Add the outline of a cut object beyond the border of the frame, in the colours at the border."""
        shape = (label - 1) // CLASSES_PER_SHAPE
        size = float(size_at(self.ground, centre[1])) * self.height
        across, upright = (reach * size for reach in self.ground.reach[shape])
        margin = int(np.ceil(2 * max(across, upright)))
        column, row = self._pixel(*centre)
        rows, columns = np.ogrid[-margin : self.height + margin, -margin : self.width + margin]
        power = OUTLINES[shape]
        outline = np.abs((columns - column) / across) ** power + np.abs((rows - row) / upright) ** power <= 1
        inside = (rows >= 0) & (rows < self.height) & (columns >= 0) & (columns < self.width)
        whole, covered = (
            np.where(inside, np.pad(part, margin), outline).astype(np.uint8) for part in (mask, cover)
        )
        pixels = np.pad(frame, [(margin, margin), (margin, margin), (0, 0)], mode="edge")
        return Sprite(label, whole, covered, pixels, centre, margin)


def best_frame(states: Float, ground: Ground) -> int | None:
    """Find the latest context frame that shows an object whole, (K, F); None where it is never visible."""
    seen = states[:, SEEN] > 0.5
    if not seen.any():
        return None
    area = np.where(seen, states[:, AREA] / size_at(ground, states[:, Y]) ** 2, 0)
    inside = seen & (states[:, CUT] < 0.5)
    candidates = inside if inside.any() else seen
    whole = candidates & (area >= WHOLE_SHARE * area[candidates].max())
    return int(np.flatnonzero(whole)[-1])


def grown(mask: NDArray[np.uint8 | np.bool_]) -> Pixels:
    """A mask (H, W) with its rim, 0 or 1."""
    side = 2 * RIM + 1
    return np.asarray(cv2.dilate(mask.astype(np.uint8), np.ones((side, side), np.uint8)), np.uint8)


def background(frames: Pixels, hidden: NDArray[np.uint8 | np.bool_]) -> Pixels:
    """Median of the context frames where no object hides it, (K, H, W, 3), (K, H, W) -> (H, W, 3).

    Pixels that are hidden in every frame are filled from around them (Telea 2004).
    """
    shown = np.ma.masked_array(frames, np.broadcast_to(hidden[..., None] > 0, frames.shape))
    picture: Pixels = np.empty(frames.shape[1:], np.uint8)
    picture[...] = np.ma.median(shown, axis=0).filled(0).round()
    holes = np.asarray(hidden.all(axis=0))
    if holes.all():
        return frames[-1].copy()
    if holes.any():
        filled = cv2.inpaint(picture, np.asarray(holes, np.uint8), INPAINT_RADIUS, cv2.INPAINT_TELEA)
        return np.asarray(filled, np.uint8)
    return picture


def size_at(ground: Ground, y: Float | float) -> Float:
    """Size of an object at a height y, in frame heights."""
    return ground.size(torch.tensor(y, dtype=torch.float32)).numpy()  # copied: a memory map is read-only
