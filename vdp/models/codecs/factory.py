"""Codecs behind one contract: frames to latents and back, each frame alone or, where asked, a few as one."""

from pathlib import Path
from typing import Protocol

from torch import Tensor

from vdp.models.checkpoint import load_config, load_weights
from vdp.models.codecs.params import CodecConfig
from vdp.models.codecs.pixel import Pixel
from vdp.models.codecs.vae import VAE


class Codec(Protocol):
    """What every codec offers. B clips, T frames, H x W pixels, C x h x w latents of each of N latent frames.

    With a temporal factor of 1, T is N and each frame is treated as if it were alone. With a factor f above 1
    the first frame is one latent frame and each further f frames are another, T = 1 + f (N - 1); no latent
    frame depends on later frames, and no frame on later latent frames.
    """

    factor: int  # pixels per latent position along each side
    temporal_factor: int  # frames per latent frame, after the first
    channels: int  # C
    has_masks: bool  # whether mask_logits was trained

    def encode(self, clip: Tensor) -> Tensor:
        """(B, 3, T, H, W) in [-1, 1] -> (B, C, N, h, w) in fp32; ValueError for sizes that do not fit."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, N, h, w) -> (B, 3, T, H, W) in [-1, 1] and fp32."""
        ...

    def mask_logits(self, latents: Tensor) -> Tensor:
        """Factor logits of masks, (B, C, N, h, w) -> (B, 14, T, H, W) in fp32; ValueError without a head."""
        ...


def load_codec(folder: Path) -> VAE | Pixel:
    """Rebuild a codec from its folder alone, in evaluation mode.

    Raises:
        FileNotFoundError: if the folder holds no model.
    """
    config = load_config(folder, CodecConfig)
    if config.vae is None:
        return Pixel()
    codec = VAE(config.vae, config.has_masks)
    load_weights(codec, folder)
    codec.eval()
    return codec


def load_frame_codec(folder: Path) -> VAE | Pixel:
    """`load_codec`, for what needs single frames.

    Raises:
        FileNotFoundError: if the folder holds no model.
        ValueError: if the codec joins frames.
    """
    codec = load_codec(folder)
    if codec.temporal_factor > 1:
        raise ValueError(
            f"vae.temporal_factor={codec.temporal_factor}: single frames are needed here, as hops are not "
            "evenly spaced in time; set it to 1"
        )
    return codec
