"""Predict masks: probabilities of UNet++ and of the codec's mask head, their weighted mean, and thresholding.

Shapes: B frames or clips, S samples of a clip, K context frames, H and W pixels; 49 classes.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from vdp.core.classes import NUM_CLASSES
from vdp.core.device import autocast
from vdp.core.latent_time import LatentTime
from vdp.core.pixels import to_pixels, to_uint8
from vdp.models.codecs.protocols import Codec
from vdp.models.factored_classes import class_log_probs
from vdp.models.segmenters.params import SegmentParams
from vdp.models.segmenters.unetpp import UNetPlusPlus

Logits = Callable[[Tensor], Tensor]  # frames (B, 3, H, W) -> mask logits by factor (B, 14, H, W)


def class_probs(segmenter: Logits, frames: Tensor, flip: bool) -> Tensor:
    """Compute class probabilities, (B, 3, H, W) in [-1, 1] -> (B, 49, H, W), with flip TTA if `flip`."""
    probs = class_log_probs(segmenter(frames)).exp()
    if not flip:
        return probs
    mirrored = class_log_probs(segmenter(frames.flip(-1))).exp().flip(-1)
    return 0.5 * (probs + mirrored)


def probs_to_masks(probs: Tensor, object_threshold: float, allowed: Tensor | None) -> Tensor:
    """Select the likeliest object class where the summed object probability reaches a threshold, else 0.

    The Jaccard index J is maximised by a threshold of J / (1 + J), below one half where predictions are
    uncertain.

    Args:
        probs: (B, 49, H, W).
        object_threshold: min summed probability of all (allowed) objects.
        allowed: (B, 49) bool, selectable classes; None allows all.

    Source: Lipton et al. 2014 (arXiv:1402.1892) for F1, from which J = F1 / (2 - F1) follows.
    """
    objects = probs[:, 1:]
    if allowed is not None:
        objects = objects * allowed[:, 1:, None, None]
    likeliest = objects.argmax(dim=1) + 1
    return torch.where(objects.sum(dim=1) >= object_threshold, likeliest, 0).to(torch.uint8)


def blend(unetpp: Tensor, codec: Tensor | None, vote: float) -> Tensor:
    """Average class probabilities; `vote` is the weight of the codec's."""
    return unetpp if codec is None else (1 - vote) * unetpp + vote * codec


def seen_classes(masks: Tensor, pixels: int) -> Tensor:
    """Find classes with at least `pixels` in one mask, (B, K, H, W) -> (B, 49) bool; 0 is always included."""
    counts = torch.stack([(masks == c).sum(dim=(-2, -1)).amax(dim=1) for c in range(NUM_CLASSES)], dim=1)
    seen = counts >= pixels
    seen[:, 0] = True
    return seen


class MaskPredictor:
    """Predicts the masks of a test clip: of its context frames, its predicted and its true target frame.

    Context and predicted frames use the same threshold and filter of seen classes, so that the copy baseline
    differs in the frames only. Masks of the true frame, the ceilings, are not filtered.
    """

    def __init__(
        self, segmenter: UNetPlusPlus, codec: Codec, params: SegmentParams, device: torch.device
    ) -> None:
        if params.codec_vote > 0 and not codec.has_masks:
            raise ValueError(
                f"segment.codec_vote={params.codec_vote}: expected 0, as the codec has no trained mask head; "
                "set it to 0, or codec.name to vae and pretrain_vae.mask_weight above 0"
            )
        self.segmenter = segmenter
        self.codec = codec
        self.params = params
        self.device = device

    def context_probs(self, frames: np.ndarray) -> Tensor:
        """Compute class probabilities of a clip's context frames, (K, H, W, 3) -> (K, 49, H, W)."""
        vote = self.params.codec_vote
        return self.probs(frames, self.encode(frames) if vote > 0 else None, vote)

    def context_masks(self, probs: Tensor) -> np.ndarray:
        """Decide the masks of a clip's context frames one by one, probs (K, 49, H, W) -> (K, H, W)."""
        masks = probs_to_masks(probs, self.params.object_threshold, None)
        if self.params.seen_classes_only:
            allowed = seen_classes(masks[None], self.params.seen_pixels)
            masks = probs_to_masks(probs, self.params.object_threshold, allowed.expand(len(probs), -1))
        return masks.cpu().numpy()

    def allowed_classes(self, masks: np.ndarray) -> np.ndarray:
        """Classes that a predicted frame may have, (49,) bool, by its context's masks (K, H, W)."""
        if not self.params.seen_classes_only:
            return np.ones(NUM_CLASSES, bool)
        return np.bincount(masks.ravel(), minlength=NUM_CLASSES) > 0

    def prediction(
        self, samples: np.ndarray, latents: np.ndarray, allowed: np.ndarray, composed: np.ndarray | None
    ) -> np.ndarray:
        """Decide the mask of a clip's predicted target frame, (H, W) uint8.

        Args:
            samples: predicted target frame of each sample, (S, H, W, 3) uint8.
            latents: their raw latents, (S, C, h, w).
            allowed: classes that the masks of predicted frames may have, (49,) bool.
            composed: composed masks of the sampled motions, (R, H, W) uint8; None without a motion model.
        """
        weight = 0.0 if composed is None else self.params.motion_vote
        threshold = self.params.vote_threshold if weight > 0 else self.params.object_threshold
        probs = torch.zeros(1, NUM_CLASSES, *samples.shape[1:3])
        if weight < 1:
            codes = torch.from_numpy(np.array(latents, np.float32)).to(self.device)
            mean = self.probs(samples, codes, self.params.codec_vote).mean(dim=0, keepdim=True).float().cpu()
            probs = (1 - weight) * mean * torch.from_numpy(allowed)[None, :, None, None]
        if composed is not None and weight > 0:
            votes = [(composed == label).mean(axis=0) for label in range(NUM_CLASSES)]
            probs = probs + weight * torch.from_numpy(np.stack(votes)).float()
        return probs_to_masks(probs, threshold, None)[0].numpy()

    def truth(self, clip: np.ndarray, known: int) -> dict[str, np.ndarray]:
        """Decide the masks of a true frame: 'truth', by UNet++ only and of its round trip.

        Args:
            clip: true frames (T, H, W, 3), of which the last one is the frame.
            known: context frames; a codec that compresses time codes the clip in groups after them.
        """
        threshold, vote = self.params.object_threshold, self.params.codec_vote
        frame = clip[-1]
        if self.codec.temporal_factor > 1:
            decoded, codec = self._clip_round_trip(clip, known)
        else:
            decoded, codec = self.round_trip(self.encode(frame[None]))
        unetpp, unetpp_decoded = self.unetpp_probs(frame[None]), self.unetpp_probs(decoded)
        probs = {
            "truth": blend(unetpp, codec, vote),
            "truth_unetpp": unetpp,
            "round_trip": blend(unetpp_decoded, codec, vote),
        }
        return {kind: probs_to_masks(p, threshold, None)[0].cpu().numpy() for kind, p in probs.items()}

    def probs(self, frames: np.ndarray, latents: Tensor | None, vote: float) -> Tensor:
        """Compute class probabilities (B, 49, H, W) of frames (B, H, W, 3) uint8 and latents (B, C, h, w).

        `vote` is the weight of the codec's mask head on the latents, which are not used if it is 0; UNet++ on
        the frames has the rest.
        """
        codec = self.codec_probs(latents) if vote > 0 and latents is not None else None
        return blend(self.unetpp_probs(frames), codec, vote)

    @torch.inference_mode()
    def unetpp_probs(self, frames: np.ndarray) -> Tensor:
        """Compute class probabilities (B, 49, H, W) of frames (B, H, W, 3) uint8 by UNet++."""
        chunks = to_pixels(frames).to(self.device).split(self.params.batch_frames)
        with autocast(self.device):
            return torch.cat([class_probs(self.segmenter, chunk, self.params.flip_tta) for chunk in chunks])

    @torch.inference_mode()
    def codec_probs(self, latents: Tensor) -> Tensor:
        """Compute class probabilities (B, 49, H, W) of raw latents (B, C, h, w) by the codec's mask head."""
        chunks = latents[:, :, None].split(self.params.batch_frames)
        with autocast(self.device):
            logits = [self.codec.mask_logits(chunk)[:, :, 0] for chunk in chunks]
            return torch.cat([class_log_probs(part).exp() for part in logits])

    @torch.inference_mode()
    def encode(self, frames: np.ndarray) -> Tensor:
        """Encode frames (B, H, W, 3) uint8 to raw latents (B, C, h, w)."""
        pixels = to_pixels(frames).to(self.device)
        with autocast(self.device):
            return self.codec.encode(pixels[:, :, None])[:, :, 0]

    @torch.inference_mode()
    def round_trip(self, latents: Tensor) -> tuple[np.ndarray, Tensor | None]:
        """Decode raw latents, and compute the codec's class probabilities of them if it votes."""
        if self.params.codec_vote == 0:
            return self.decode(latents), None
        with autocast(self.device):
            pixels, logits = self.codec.decode_with_masks(latents[:, :, None])
            return to_uint8(pixels[:, :, 0]), class_log_probs(logits[:, :, 0]).exp()

    @torch.inference_mode()
    def _clip_round_trip(self, clip: np.ndarray, known: int) -> tuple[np.ndarray, Tensor | None]:
        """`round_trip` of the last frame of a clip, coded as a whole."""
        time = LatentTime(self.codec.temporal_factor, known)
        pixels = to_pixels(time.pad(clip)).to(self.device)
        last = time.position(len(clip) - 1)
        with autocast(self.device):
            latents = self.codec.encode(pixels[None].transpose(1, 2))
            if self.params.codec_vote == 0:
                return to_uint8(self.codec.decode(latents)[:, :, last]), None
            decoded, logits = self.codec.decode_with_masks(latents)
        return to_uint8(decoded[:, :, last]), class_log_probs(logits[:, :, last]).exp()

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> np.ndarray:
        """Decode raw latents (B, C, h, w) to frames (B, H, W, 3) uint8."""
        with autocast(self.device):
            pixels = self.codec.decode(latents[:, :, None])[:, :, 0]
        return to_uint8(pixels)
