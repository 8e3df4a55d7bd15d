"""Protocol of a codec: frames to latents and back."""

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Codec(Protocol):
    """B clips, T frames of H x W pixels, N latent frames of C x h x w.

    With a temporal factor of 1, N is T and each frame is coded independently. With a factor f above 1 the
    first frame is one latent frame and each further f frames, a group, are another, causal in time. A clip is
    encoded as if copies of its last frame completed its last group, and decoded with them, T = 1 + f (N - 1).
    """

    factor: int  # pixels per latent position along each side
    temporal_factor: int  # frames per latent frame, after the first
    channels: int  # C
    has_masks: bool  # whether `mask_logits` is trained

    def encode(self, clip: Tensor) -> Tensor:
        """(B, 3, T, H, W) in [-1, 1] -> (B, C, N, h, w) in fp32; ValueError for sizes that do not divide."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, N, h, w) -> (B, 3, T, H, W) in [-1, 1], in fp32."""
        ...

    def mask_logits(self, latents: Tensor) -> Tensor:
        """Mask logits by factor, (B, C, N, h, w) -> (B, 14, T, H, W) in fp32; ValueError without a head."""
        ...

    def decode_with_masks(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """The results of `decode` and `mask_logits`, in one pass; ValueError without a head."""
        ...
