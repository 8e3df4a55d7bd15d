"""Augment the segmenter's training with codec round trips of frames, partly from noisy latents."""

import torch
from torch import Tensor

from vdp.core.rng import BatchRng
from vdp.models.codecs.protocols import Codec


def round_trip(codec: Codec, frames: Tensor, share: float, noise: float, batch_rng: BatchRng) -> Tensor:
    """Encode and decode a share of frames, with noise of a random strength on the latents of each.

    Args:
        codec: receives no gradient.
        frames: (B, 3, H, W) in [-1, 1].
        share: of the frames of the whole batch, from the first.
        noise: max standard deviation of the noise, relative to each frame's latents per channel.
    """
    batch, _, height, width = frames.shape
    strength = noise * batch_rng.uniform(batch, 1, 1, 1, 1)
    drawn = batch_rng.normal(batch, codec.channels, 1, height // codec.factor, width // codec.factor)
    count = min(max(round(share * batch_rng.samples) - batch_rng.rows.start, 0), batch)
    if count == 0:
        return frames
    with torch.no_grad():
        latents = codec.encode(frames[:count, :, None])
        # the deviation of a single number is undefined
        spread = latents.std(dim=(2, 3, 4), keepdim=True) if latents[0, 0].numel() > 1 else 0
        decoded = codec.decode(latents + strength[:count] * spread * drawn[:count])[:, :, 0]
    return torch.cat([decoded, frames[count:]])
