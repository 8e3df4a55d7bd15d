"""Layers shared by several networks. Shapes: B frames, C channels, H height, W width, D embedding."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GROUP_CHANNELS = 8  # channels per normalisation group


def zero_init(layer: nn.Module) -> nn.Module:
    """Set all weights of a layer to zero and return it, so that a residual branch starts as the identity."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def group_norm(channels: int) -> nn.GroupNorm:
    """Build a GroupNorm with `GROUP_CHANNELS` channels per group, or one group if they do not divide."""
    groups = channels // GROUP_CHANNELS if channels % GROUP_CHANNELS == 0 else 1
    return nn.GroupNorm(groups, channels)


def fourier_features(x: Tensor, dim: int, max_period: float) -> Tensor:
    """Compute sines and cosines of real numbers at geometric frequencies, (...) -> (..., dim).

    Args:
        x: real numbers of any shape.
        dim: even number of features.
        max_period: longest period, in the unit of `x`, above 1; the shortest is half a unit.

    Source: Vaswani et al. 2017 (arXiv:1706.03762), section 3.5, for real-valued positions.
    """
    steps = torch.arange(dim // 2, device=x.device, dtype=torch.float32) / (dim // 2)
    frequencies = 2 * math.pi / max_period * torch.exp(steps * math.log(max_period * 2))
    angles = x.float()[..., None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def modulate(x: Tensor, scale_shift: Tensor) -> Tensor:
    """Scale and shift images (M*R, C, H, W) by maps (M, 2C, H, W), each shared by R adjacent images."""
    scale, shift = scale_shift[:, None].chunk(2, dim=2)
    images = x.unflatten(0, (len(scale_shift), -1))
    return (images * (1 + scale) + shift).flatten(0, 1)


class Unmoved:
    """A denoiser that does not move its context frames."""

    def move(self, frames: Tensor, index: Tensor, target_index: Tensor) -> Tensor | None:
        """Return None; see `vdp.diffusion.protocols.Denoiser.move`."""
        return None


class ResBlock(nn.Module):
    """Two 3x3 convolutions with pre-normalisation, optionally modulated by an embedding (FiLM).

    Optional maps modulate the output of each normalisation, see `modulate`.
    """

    def __init__(self, channels_in: int, channels_out: int, embedding_dim: int | None = None) -> None:
        super().__init__()
        self.norm1 = group_norm(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm2 = group_norm(channels_out)
        self.conv2 = zero_init(nn.Conv2d(channels_out, channels_out, 3, padding=1))
        self.skip = nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()
        self.film = zero_init(nn.Linear(embedding_dim, 2 * channels_out)) if embedding_dim else None

    def forward(
        self, x: Tensor, embedding: Tensor | None = None, maps: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """(B, C_in, H, W), embeddings (B, D), maps of 2*C_in and 2*C_out channels -> (B, C_out, H, W)."""
        h = self.norm1(x)
        if maps is not None:
            h = modulate(h, maps[0])
        h = self.norm2(self.conv1(F.silu(h)))
        if maps is not None:
            h = modulate(h, maps[1])
        if self.film is not None and embedding is not None:
            scale, shift = self.film(embedding)[:, :, None, None].chunk(2, dim=1)
            h = h * (1 + scale) + shift
        return self.skip(x) + self.conv2(F.silu(h))


class ImageAttention(nn.Module):
    """Multi-head self-attention over the positions of a frame; a residual branch initialised to zero."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = group_norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = zero_init(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W)
        batch, channels, height, width = x.shape
        qkv = self.qkv(self.norm(x)).reshape(batch, 3, self.heads, channels // self.heads, height * width)
        q, k, v = qkv.transpose(-1, -2).unbind(1)  # (B, heads, H*W, C/heads)
        y = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2)
        return x + self.proj(y.reshape(batch, channels, height, width))
