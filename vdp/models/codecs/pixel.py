"""Identity codec: latents are pixels in [-1, 1]."""

from torch import Tensor, nn


class PixelCodec(nn.Module):
    """Identity codec; implements `vdp.models.codecs.protocols.Codec`."""

    factor = 1
    temporal_factor = 1
    channels = 3
    has_masks = False

    def encode(self, clip: Tensor) -> Tensor:
        """Return the clip, (B, 3, T, H, W), in fp32."""
        return clip.float()

    def decode(self, latents: Tensor) -> Tensor:
        """Return the latents, clamped to [-1, 1], in fp32."""
        return latents.float().clamp(-1, 1)

    def decode_with_masks(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Raise ValueError: pixels carry no masks."""
        return self.decode(latents), self.mask_logits(latents)

    def mask_logits(self, latents: Tensor) -> Tensor:
        """Raise ValueError: pixels carry no masks."""
        raise ValueError(
            "codec.name=pixel has no mask head: set segment.codec_vote to 0 or codec.name to vae"
        )
