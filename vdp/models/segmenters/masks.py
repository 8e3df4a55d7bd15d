"""Masks from frames: probabilities of UNet++ and of the codec's mask head, their vote, and the decision.

Shapes: B frames or clips, S sampled futures of a clip, K known frames, H and W pixels; 49 classes.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from vdp.core.classes import NUM_CLASSES
from vdp.core.device import autocast
from vdp.core.pixels import to_pixels, to_uint8
from vdp.models.codecs.pixel import Pixel
from vdp.models.codecs.vae import VAE
from vdp.models.factored_classes import class_log_probs
from vdp.models.segmenters.params import SegmentParams
from vdp.models.segmenters.unetpp import UNetPlusPlus

Logits = Callable[[Tensor], Tensor]  # frames (B, 3, H, W) -> factor logits (B, 14, H, W)


def class_probs(segmenter: Logits, frames: Tensor, flip: bool) -> Tensor:
    """Class probabilities, (B, 3, H, W) in [-1, 1] -> (B, 49, H, W); mean with the mirror image if `flip`."""
    probs = class_log_probs(segmenter(frames)).exp()
    if not flip:
        return probs
    mirrored = class_log_probs(segmenter(frames.flip(-1))).exp().flip(-1)
    return 0.5 * (probs + mirrored)


def decide(probs: Tensor, object_threshold: float, allowed: Tensor | None) -> Tensor:
    """Class ids from class probabilities: the likeliest object if objects are likely enough, else background.

    The score is the Jaccard index: with an index of J within reach, calling a pixel an object pays from a
    probability of J / (1 + J) on, below one half wherever the future is uncertain. So the threshold is a
    parameter.

    Args:
        probs: (B, 49, H, W).
        object_threshold: least summed probability of all (allowed) objects.
        allowed: (B, 49) bool, the classes that may be given; None allows all.

    Returns:
        (B, H, W) uint8.

    Source: Lipton et al. 2014 (arXiv:1402.1892) for F1, from which the index follows by J = F1 / (2 - F1).
    """
    objects = probs[:, 1:]
    if allowed is not None:
        objects = objects * allowed[:, 1:, None, None]
    likeliest = objects.argmax(dim=1) + 1
    return torch.where(objects.sum(dim=1) >= object_threshold, likeliest, 0).to(torch.uint8)


def seen_classes(masks: Tensor, pixels: int) -> Tensor:
    """Classes that cover at least `pixels` in a known mask, (B, K, H, W) -> (B, 49) bool; 0 always does."""
    counts = torch.stack([(masks == c).sum(dim=(-2, -1)).amax(dim=1) for c in range(NUM_CLASSES)], dim=1)
    seen = counts >= pixels
    seen[:, 0] = True
    return seen


class MaskMaker:
    """Makes the masks of one test clip: of its known frames, its predicted and its true target.

    Known and predicted frames are decided by one rule, the filter to seen classes included, so that the copy
    baseline differs from the result in the frames alone. Ceilings are not filtered: they bound it.
    """

    def __init__(
        self, segmenter: UNetPlusPlus, codec: VAE | Pixel, params: SegmentParams, device: torch.device
    ) -> None:
        if params.codec_vote > 0 and not codec.has_masks:
            raise ValueError(
                f"segment.codec_vote={params.codec_vote}: this codec has no trained mask head; set it to 0, "
                "or codec.name to vae and pretrain_vae.mask_weight above 0"
            )
        self.segmenter = segmenter
        self.codec = codec
        self.params = params
        self.device = device

    def clip_masks(
        self, known: np.ndarray, futures: np.ndarray, latents: np.ndarray, truth: np.ndarray | None
    ) -> dict[str, np.ndarray]:
        """Masks of one clip.

        Args:
            known: true known frames, (K, H, W, 3) uint8.
            futures: the predicted target of each sample, (S, H, W, 3) uint8.
            latents: its raw latents, (S, C, h, w).
            truth: the true target, (H, W, 3) uint8; None where the clip has none.

        Returns:
            'known' (K, H, W); 'prediction', 'truth', 'truth_unetpp' (by UNet++ alone) and 'round_trip'
            (H, W), uint8; the last three are zero where there is no true target.
        """
        threshold = self.params.object_threshold
        known_probs = self.probs(known, self.encode(known), self.params.codec_vote)
        known_masks = decide(known_probs, threshold, None)
        allowed = None
        if self.params.seen_classes_only:
            allowed = seen_classes(known_masks[None], self.params.seen_pixels)
            known_masks = decide(known_probs, threshold, allowed.expand(len(known_probs), -1))
        codes = torch.from_numpy(np.array(latents, np.float32)).to(self.device)
        voted = self.probs(futures, codes, self.params.codec_vote).mean(dim=0, keepdim=True)
        masks = {"known": known_masks, "prediction": decide(voted, threshold, allowed)[0]}
        if truth is None:
            empty = torch.zeros_like(masks["prediction"])
            masks |= {"truth": empty, "truth_unetpp": empty, "round_trip": empty}
        else:
            encoded = self.encode(truth[None])
            vote, rounded = self.params.codec_vote, self.decode(encoded)
            masks["truth"] = decide(self.probs(truth[None], encoded, vote), threshold, None)[0]
            masks["truth_unetpp"] = decide(self.probs(truth[None], encoded, 0), threshold, None)[0]
            masks["round_trip"] = decide(self.probs(rounded, encoded, vote), threshold, None)[0]
        return {kind: mask.cpu().numpy() for kind, mask in masks.items()}

    @torch.inference_mode()
    def probs(self, frames: np.ndarray, latents: Tensor, vote: float) -> Tensor:
        """Class probabilities (B, 49, H, W) of frames (B, H, W, 3) uint8 and raw latents (B, C, h, w).

        UNet++ reads the frames; the codec's mask head reads the latents, with the weight `vote`.
        """
        pixels = to_pixels(frames).to(self.device)
        parts = []
        for chunk, code in zip(
            pixels.split(self.params.batch_frames), latents.split(self.params.batch_frames), strict=True
        ):
            with autocast(self.device):
                probs = class_probs(self.segmenter, chunk, self.params.flip_tta)
                if vote > 0:
                    logits = self.codec.mask_logits(code[:, :, None])[:, :, 0]
                    probs = (1 - vote) * probs + vote * class_log_probs(logits).exp()
            parts.append(probs)
        return torch.cat(parts)

    @torch.inference_mode()
    def encode(self, frames: np.ndarray) -> Tensor:
        """Raw latents of frames (B, H, W, 3) uint8, (B, C, h, w)."""
        pixels = to_pixels(frames).to(self.device)
        with autocast(self.device):
            return self.codec.encode(pixels[:, :, None])[:, :, 0]

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> np.ndarray:
        """Frames of raw latents (B, C, h, w), rounded to uint8 as predictions are: (B, H, W, 3)."""
        with autocast(self.device):
            pixels = self.codec.decode(latents[:, :, None])[:, :, 0]
        return to_uint8(pixels)
