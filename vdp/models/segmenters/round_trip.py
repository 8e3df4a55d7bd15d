"""Show the segmenter what it will see: frames that came out of the codec, some from noisy latents."""

import torch
from torch import Tensor

from vdp.core.rng import BatchRng
from vdp.models.codecs.factory import Codec


def round_trip(codec: Codec, frames: Tensor, share: float, noise: float, batch_rng: BatchRng) -> Tensor:
    """Pass a share of frames through the codec, with noise of a random strength on each one's latents.

    Args:
        codec: encodes and decodes; no gradient flows through it.
        frames: (B, 3, H, W) in [-1, 1].
        share: of the frames of the whole batch, the first ones of it.
        noise: largest standard deviation of the noise, in units of each frame's own latents per channel.
        batch_rng: source of randomness, on the frames' device.

    Returns:
        (B, 3, H, W), the frames in their order.
    """
    batch, _, height, width = frames.shape
    strength = noise * batch_rng.uniform(batch, 1, 1, 1, 1)
    drawn = batch_rng.normal(batch, codec.channels, 1, height // codec.factor, width // codec.factor)
    count = min(max(round(share * batch_rng.samples) - batch_rng.rows.start, 0), batch)
    if count == 0:
        return frames
    with torch.no_grad():
        latents = codec.encode(frames[:count, :, None])
        # one number alone has no spread
        spread = latents.std(dim=(2, 3, 4), keepdim=True) if latents[0, 0].numel() > 1 else 0
        decoded = codec.decode(latents + strength[:count] * spread * drawn[:count])[:, :, 0]
    return torch.cat([decoded, frames[count:]])
