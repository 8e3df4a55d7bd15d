"""Show the segmenter what it will see: frames that came out of the codec, some from noisy latents."""

import torch
from torch import Tensor

from vdp.models.codecs import Codec


def round_trip(
    codec: Codec, frames: Tensor, share: float, noise: float, generator: torch.Generator
) -> Tensor:
    """Pass a share of frames through the codec, with noise of a random strength on each one's latents.

    Args:
        codec: encodes and decodes; no gradient flows through it.
        frames: (B, 3, H, W) in [-1, 1].
        share: of the frames, the first ones of the batch.
        noise: largest standard deviation of the noise, in units of the latents' own.
        generator: source of randomness, on the frames' device.

    Returns:
        (B, 3, H, W), the frames in their order.
    """
    count = round(share * len(frames))
    if count == 0:
        return frames
    with torch.no_grad():
        latents = codec.encode(frames[:count, :, None])
        strength = torch.rand((count, 1, 1, 1, 1), generator=generator, device=frames.device)
        spread = latents.std(dim=(0, 2, 3, 4), keepdim=True) if count * latents[0, 0].numel() > 1 else 0
        drawn = torch.randn(latents.shape, generator=generator, device=frames.device)
        decoded = codec.decode(latents + noise * strength * spread * drawn)[:, :, 0]
    return torch.cat([decoded, frames[count:]])
