"""The codec that changes nothing: latents are pixels in [-1, 1], so that denoisers work on frames too."""

from torch import Tensor, nn


class Pixel(nn.Module):
    """Identity codec; keeps the contract of `vdp.models.codecs.factory.Codec`."""

    factor = 1
    temporal_factor = 1
    channels = 3
    has_masks = False

    def encode(self, clip: Tensor) -> Tensor:
        """The clip itself, (B, 3, T, H, W), in fp32."""
        return clip.float()

    def decode(self, latents: Tensor) -> Tensor:
        """The latents, clamped to [-1, 1], in fp32."""
        return latents.float().clamp(-1, 1)

    def mask_logits(self, latents: Tensor) -> Tensor:
        """Refused: pixels carry no masks.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "codec.name=pixel has no mask head: set segment.codec_vote to 0 or codec.name to vae"
        )
