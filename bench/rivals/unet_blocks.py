"""Blocks of the diffusion rivals: time embedding, residual block, attention. All work on (B, C, T, H, W)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GROUPS = 8  # of group norms; divides all widths
HEADS = 4
MAX_PERIOD = 10_000.0
TIME_SCALE = 1000.0  # diffusion times in [0, 1] to the range of the embedding


def time_features(t: Tensor, dim: int) -> Tensor:
    """Sinusoidal features of times, (B,) -> (B, dim)."""
    rates = torch.exp(-math.log(MAX_PERIOD) / (dim // 2) * torch.arange(dim // 2, device=t.device))
    angles = TIME_SCALE * t[:, None].float() * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class TimeEmbedding(nn.Module):
    """Embed diffusion times, (B,) -> (B, 4 * dim)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.net = nn.Sequential(nn.Linear(dim, 4 * dim), nn.SiLU(), nn.Linear(4 * dim, 4 * dim))

    def forward(self, t: Tensor) -> Tensor:
        return self.net(time_features(t, self.dim))


class ResBlock(nn.Module):
    """Two convolutions within frames; the time embedding scales and shifts between them."""

    def __init__(self, channels: int, features: int, embedding: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(GROUPS, channels), nn.GroupNorm(GROUPS, features)
        self.conv1, self.conv2 = conv(channels, features), conv(features, features)
        self.modulation = nn.Linear(embedding, 2 * features)
        self.skip = nn.Conv3d(channels, features, 1) if channels != features else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.modulation(F.silu(embedding))[..., None, None, None].chunk(2, dim=1)
        h = self.norm2(h) * (1 + scale) + shift
        return self.skip(x) + self.conv2(F.silu(h))


class SpaceAttention(nn.Module):
    """Attention over the positions of each frame."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).permute(0, 2, 3, 4, 1)  # (B, T, H, W, C)
        mixed = attend(self.qkv(tokens.flatten(2, 3)), None)
        return x + self.out(mixed).unflatten(2, tokens.shape[2:4]).permute(0, 4, 1, 2, 3)


class TimeAttention(nn.Module):
    """Attention over the frames at each position, with a learned bias per distance of frames."""

    distance: Tensor  # of frames, as rows of the bias, (T, T)

    def __init__(self, channels: int, frames: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.bias = nn.Parameter(torch.zeros(HEADS, 2 * frames - 1))
        order = torch.arange(frames)
        self.register_buffer("distance", order[:, None] - order + frames - 1, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).permute(0, 3, 4, 2, 1)  # (B, H, W, T, C)
        mixed = attend(self.qkv(tokens), self.bias[:, self.distance])
        return x + self.out(mixed).permute(0, 4, 3, 1, 2)


def attend(qkv: Tensor, bias: Tensor | None) -> Tensor:
    """Multi-head attention over the second-last axis, (..., L, 3C) -> (..., L, C)."""
    lead = qkv.shape[:-2]
    heads = qkv.flatten(0, -3).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)  # (3, N, heads, L, D)
    q, k, v = heads.unbind(0)
    y = F.scaled_dot_product_attention(q, k, v, None if bias is None else bias.to(q.dtype)[None])
    return y.transpose(1, 2).flatten(2).unflatten(0, lead)


def conv(channels: int, features: int, stride: int = 1) -> nn.Conv3d:
    """3x3 convolution within frames."""
    return nn.Conv3d(channels, features, (1, 3, 3), (1, stride, stride), padding=(0, 1, 1))


def zero_conv(channels: int, features: int) -> nn.Conv3d:
    """`conv` with zero weights: a new network predicts zeros."""
    layer = conv(channels, features)
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


class DiffusionUNet(nn.Module):
    """U-Net over (B, C, T, H, W): a residual block per resolution on each side.

    Attention over space is at all resolutions but the finest, where it would cost most, and attention over
    time at all of them where there are several `frames`.
    """

    def __init__(self, channels: int, out: int, width: int, mults: tuple[int, ...], frames: int) -> None:
        super().__init__()
        widths = [width * mult for mult in mults]
        embedding = 4 * width
        self.time = TimeEmbedding(width)
        self.stem = conv(channels, width)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.shrink, self.grow = nn.ModuleList(), nn.ModuleList()
        for level, features in enumerate(widths):
            before = widths[max(level - 1, 0)]
            self.shrink.append(conv(before, before, stride=2) if level else nn.Identity())
            self.down.append(Stage(before, features, embedding, level > 0, frames))
            self.up.append(Stage(2 * features, before, embedding, level > 0, frames))
            self.grow.append(conv(before, before) if level else nn.Identity())
        self.out = nn.Sequential(nn.GroupNorm(GROUPS, width), nn.SiLU(), zero_conv(width, out))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Map (B, channels, T, H, W) at times (B,) to (B, out, T, H, W)."""
        embedding = self.time(t)
        x = self.stem(x)
        skips = []
        for shrink, stage in zip(self.shrink, self.down, strict=True):
            x = stage(shrink(x), embedding)
            skips.append(x)
        for level in reversed(range(len(self.up))):
            x = self.up[level](torch.cat([x, skips[level]], dim=1), embedding)
            if level:
                size = skips[level - 1].shape[-3:]
                x = self.grow[level](F.interpolate(x, size))
        return self.out(x)


class Stage(nn.Module):
    """A residual block and the attentions of one resolution."""

    def __init__(self, channels: int, features: int, embedding: int, space: bool, frames: int) -> None:
        super().__init__()
        self.block = ResBlock(channels, features, embedding)
        self.space = SpaceAttention(features) if space else nn.Identity()
        self.over_time = TimeAttention(features, frames) if frames > 1 else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.over_time(self.space(self.block(x, embedding)))
