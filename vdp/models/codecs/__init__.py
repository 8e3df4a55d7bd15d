"""Codecs behind one contract: frames to latents and back, each frame alone."""

from pathlib import Path
from typing import Protocol

from torch import Tensor

from vdp.models.codecs.params import CodecConfig
from vdp.models.codecs.pixel import Pixel
from vdp.models.codecs.vae import Vae
from vdp.models.store import load_config, load_weights


class Codec(Protocol):
    """What every codec offers. B clips, T frames, H x W pixels, C x h x w latents of a frame."""

    factor: int  # pixels per latent position along each side
    channels: int  # C
    has_masks: bool  # whether mask_logits was trained

    def encode(self, clip: Tensor) -> Tensor:
        """(B, 3, T, H, W) in [-1, 1] -> (B, C, T, h, w) in fp32; each frame as if it were alone."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, T, h, w) -> (B, 3, T, H, W) in [-1, 1] and fp32; each frame as if it were alone."""
        ...

    def mask_logits(self, latents: Tensor) -> Tensor:
        """Factor logits of masks, (B, C, T, h, w) -> (B, 14, T, H, W) in fp32; ValueError without a head."""
        ...


def load_codec(folder: Path) -> Vae | Pixel:
    """Rebuild a codec from its folder alone, in evaluation mode.

    Raises:
        FileNotFoundError: if the folder holds no model.
    """
    config = load_config(folder, CodecConfig)
    if config.vae is None:
        return Pixel()
    codec = Vae(config.vae, config.has_masks)
    load_weights(codec, folder)
    codec.eval()
    return codec
