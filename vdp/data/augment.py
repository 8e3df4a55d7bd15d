"""Augmentation of labelled frames for the segmenter, by albumentations; no hue, for colour is the class."""

import os

import numpy as np

# importing albumentations would look for a newer one on the network
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A  # noqa: E402

Pixels = np.ndarray


class Augment:
    """Random crops (resized back), mirrors and brightness, the same for a frame and its mask."""

    def __init__(self, height: int, width: int, flip: bool, brightness: float, crop_scale: float) -> None:
        steps: list[A.BasicTransform] = []
        if flip:
            steps.append(A.HorizontalFlip(p=0.5))
        if crop_scale < 1:
            area = (crop_scale**2, 1.0)
            ratio = (0.9 * width / height, 1.1 * width / height)
            steps.append(A.RandomResizedCrop((height, width), scale=area, ratio=ratio, p=0.5))
        if brightness:
            limit = (-brightness, brightness)
            steps.append(A.RandomBrightnessContrast(brightness_limit=limit, contrast_limit=limit, p=0.5))
        self._steps = A.Compose(steps)

    def __call__(self, frame: Pixels, mask: Pixels, seed: int) -> tuple[Pixels, Pixels]:
        """Augment a frame (H, W, 3) and its mask (H, W), both uint8, with the randomness of `seed`."""
        self._steps.set_random_seed(seed)
        result = self._steps(image=frame, mask=mask)
        return result["image"], result["mask"]
