"""Augmentation of frames, of their masks and of clips, by albumentations; no hue, for colour is the class.

All frames of one call are changed alike, so that a clip stays a clip.
"""

import os
import random
import zlib
from collections.abc import Iterator

import numpy as np

from vdp.data.params import Changes, ClipChanges
from vdp.data.stores.clips import Pixels

# importing albumentations would look for a newer one on the network
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A  # noqa: E402

FRAME_SHARE = 0.5  # of the frames of a training that are cropped, and that change their brightness
ASPECT = 0.1  # largest relative change of a crop's aspect ratio


class Augment:
    """Random crops (resized back), mirrors and brightness, the same for all frames of a call and their masks.

    Args:
        changes: what may be changed; half of the draws are mirrored where it says so.
        height: of the frames, in pixels.
        width: of the frames, in pixels.
        share: part of the draws with a crop, and part with another brightness, where these are on; 0..1.
    """

    def __init__(self, changes: Changes, height: int, width: int, share: float = FRAME_SHARE) -> None:
        steps: list[A.BasicTransform] = []
        if changes.flip:
            steps.append(A.HorizontalFlip(p=0.5))
        if changes.crop_scale < 1:
            area = (changes.crop_scale**2, 1.0)
            ratio = ((1 - ASPECT) * width / height, (1 + ASPECT) * width / height)
            steps.append(A.RandomResizedCrop((height, width), scale=area, ratio=ratio, p=share))
        if changes.brightness:
            limit = (-changes.brightness, changes.brightness)
            steps.append(A.RandomBrightnessContrast(brightness_limit=limit, contrast_limit=limit, p=share))
        self._steps = A.Compose(steps)

    def __call__(self, frames: Pixels, masks: Pixels, seed: int) -> tuple[Pixels, Pixels]:
        """Frames (T, H, W, 3) and their masks (T, H, W), both uint8, changed by the batch_rng of `seed`."""
        self._seed(seed)
        changed = self._steps(images=frames, masks=masks)
        return changed["images"], changed["masks"]

    def frames(self, frames: Pixels, seed: int) -> Pixels:
        """Frames alone, as `__call__` changes them."""
        self._seed(seed)
        return self._steps(images=frames)["images"]

    def _seed(self, seed: int) -> None:
        # set_random_seed would give each step the same numbers: a crop with every mirror, and none without
        self._steps.set_random_state(np.random.default_rng(seed), random.Random(seed))


class ClipViews:
    """The views of a clip that are encoded: as it is, its mirror image, and random ones, all where asked.

    What a random view looks like depends on the seed, the split's name and the clip's index alone.
    """

    def __init__(self, changes: ClipChanges, height: int, width: int, seed: int, split: str) -> None:
        self.changes = changes
        self._seed = [seed, zlib.crc32(split.encode())]
        # a view that is made once and kept is always changed: it would repeat another one otherwise
        self._augment = Augment(changes, height, width, share=1.0)

    def __call__(self, frames: Pixels, clip: int) -> Iterator[Pixels]:
        """Views of the frames (T, H, W, 3) of clip number `clip`, one in memory at a time."""
        yield frames
        if self.changes.flip:
            yield frames[:, :, ::-1]
        rng = np.random.default_rng([*self._seed, clip])
        for _ in range(self.changes.random_views):
            yield self._augment.frames(frames, int(rng.integers(2**31)))
