"""Augmentation of frames, masks and clips by albumentations; no hue jitter, as colour is the class.

All frames of one call get the same augmentation, so that motion is kept.
"""

import os
import random
import zlib
from collections.abc import Iterator

import cv2
import numpy as np

from vdp.data.params import Changes, ClipChanges
from vdp.data.stores.clips import Pixels

# importing albumentations would look for a newer version on the network
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A  # noqa: E402

FRAME_SHARE = 0.5  # share of a training's frames that are changed by each augmentation
MIN_BLUR = 1e-3  # pixels: the library takes no zero
ASPECT = 0.1  # largest relative change of a crop's aspect ratio


class Augment:
    """Random crops (resized back), flips, rotation, brightness, blur, noise; equal in all frames of a call.

    `share` is the probability of each of them, but of a flip: that is 0.5.
    """

    def __init__(self, changes: Changes, height: int, width: int, share: float = FRAME_SHARE) -> None:
        steps: list[A.BasicTransform] = []
        if changes.flip:
            steps.append(A.HorizontalFlip(p=0.5))
        if changes.crop_scale < 1:
            area = (changes.crop_scale**2, 1.0)
            ratio = ((1 - ASPECT) * width / height, (1 + ASPECT) * width / height)
            steps.append(A.RandomResizedCrop((height, width), scale=area, ratio=ratio, p=share))
        if changes.rotation:
            # mirrored at the border, frames and masks alike: a border of one colour would be learned
            angles, border = (-changes.rotation, changes.rotation), cv2.BORDER_REFLECT_101
            steps.append(A.Rotate(angles, border_mode=border, p=share))
        if changes.brightness:
            limit = (-changes.brightness, changes.brightness)
            steps.append(A.RandomBrightnessContrast(brightness_limit=limit, contrast_limit=limit, p=share))
        if changes.blur:
            steps.append(A.GaussianBlur(blur_limit=0, sigma_limit=(MIN_BLUR, changes.blur), p=share))
        if changes.noise:
            steps.append(A.GaussNoise(std_range=(0.0, changes.noise), p=share))
        self._steps = A.Compose(steps)

    def __call__(self, frames: Pixels, masks: Pixels, seed: int) -> tuple[Pixels, Pixels]:
        """Augment frames (T, H, W, 3) and masks (T, H, W), both uint8, with random numbers of `seed`."""
        self._seed(seed)
        changed = self._steps(images=frames, masks=masks)
        return changed["images"], changed["masks"]

    def frames(self, frames: Pixels, seed: int) -> Pixels:
        """Augment frames without masks."""
        self._seed(seed)
        return self._steps(images=frames)["images"]

    def _seed(self, seed: int) -> None:
        # set_random_seed would give each step the same numbers: a crop with every flip, and none without
        self._steps.set_random_state(np.random.default_rng(seed), random.Random(seed))


class ClipViews:
    """Views of a clip to encode: the clip itself, then its mirror image and random views if enabled.

    A random view depends on the seed, the split's name and the clip's index only.
    """

    def __init__(self, changes: ClipChanges, height: int, width: int, seed: int, split: str) -> None:
        self.changes = changes
        self._seed = [seed, zlib.crc32(split.encode())]
        # share 1: a stored view without an augmentation would repeat another one
        self._augment = Augment(changes, height, width, share=1.0)

    def __call__(self, frames: Pixels, clip: int) -> Iterator[Pixels]:
        """Yield the views of the frames (T, H, W, 3) of clip number `clip`."""
        yield frames
        if self.changes.flip:
            yield frames[:, :, ::-1]
        rng = np.random.default_rng([*self._seed, clip])
        for _ in range(self.changes.random_views):
            yield self._augment.frames(frames, int(rng.integers(2**31)))
