"""DiT (Peebles & Xie 2023, arXiv:2212.09748) with one-way attention between frames.

Tokens of known frames see only each other; tokens of a target see the known frames and their own frame. So
the context is encoded once: its keys and values serve every sampling step, every target and every noise draw,
and the result is that of recomputing them. Positions are rotations (RoPE, Su et al. 2021, arXiv:2104.09864)
by real-valued time, height and width, so that no size and no spacing is baked in.
Shapes: B clips, C channels, K known frames, T noised frames (targets x draws), N patches a frame, D channels
a token, H heads.
"""

from dataclasses import dataclass
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vdp.models.denoisers.params import DitParams
from vdp.models.layers import fourier_features, zeroed
from vdp.tasks import anchor_frames

FEATURES = 64  # Fourier features of a noise level
LEVEL_PERIOD = 4.0  # their longest period; levels lie in [0, 1]
ROPE_BASE = 100.0  # ratio of the slowest to the fastest rotation
MLP_RATIO = 4


@dataclass(frozen=True)
class DitContext:
    """Keys and values of the known frames, a pair (B, H, K*N, D/H) per block, and what targets start from."""

    cache: tuple[tuple[Tensor, Tensor], ...]
    anchor: Tensor  # (B, C, targets, h, w), the nearest known frame of each target
    target_index: Tensor  # (B, targets)


def rotate(x: Tensor, position: Tensor) -> Tensor:
    """Rotate pairs of channels by angles of time (half of the channels), height and width (a quarter each).

    Args:
        x: queries or keys, (..., L, D/H).
        position: time, row and column of each token, (..., L, 3), broadcast over heads.
    """
    dim = x.shape[-1]
    angles = []
    for axis, share in enumerate((2, 4, 4)):
        pairs = dim // share // 2
        speed = ROPE_BASE ** (-torch.arange(pairs, device=x.device, dtype=torch.float32) / max(pairs, 1))
        angles.append(position[..., axis : axis + 1].float() * speed)
    angle = torch.cat(angles, dim=-1)
    a, b = x.float().chunk(2, dim=-1)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).to(x.dtype)


class Block(nn.Module):
    """Attention and MLP with adaLN-Zero: an embedding scales, shifts and gates; a new one is the identity."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(dim, elementwise_affine=False)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.query_norm = nn.RMSNorm(dim // heads, eps=1e-6)
        self.key_norm = nn.RMSNorm(dim // heads, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(dim, MLP_RATIO * dim), nn.GELU(approximate="tanh"), nn.Linear(MLP_RATIO * dim, dim)
        )
        self.modulation = zeroed(nn.Linear(dim, 6 * dim))

    def keys(
        self, x: Tensor, modulation: tuple[Tensor, ...], position: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries and keys, and values, of tokens (B, L, D): three of (B, H, L, D/H)."""
        shift, scale = modulation[:2]
        h = self.norm1(x) * (1 + scale) + shift
        q, k, v = rearrange(self.qkv(h), "b l (three h d) -> three b h l d", three=3, h=self.heads)
        q = rotate(self.query_norm(q.float()).to(v.dtype), position[:, None])
        k = rotate(self.key_norm(k.float()).to(v.dtype), position[:, None])
        return q, k, v

    def finish(self, x: Tensor, y: Tensor, modulation: tuple[Tensor, ...]) -> Tensor:
        """Add what attention gave, (B, H, L, D/H), and the MLP."""
        _, _, gate1, shift, scale, gate2 = modulation
        x = x + gate1 * self.proj(rearrange(y, "b h l d -> b l (h d)"))
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale) + shift)


class Dit(nn.Module):
    """Denoiser; see the module's docstring and `vdp.diffusion.contract.Denoiser` for the contract."""

    def __init__(self, params: DitParams, channels: int) -> None:
        super().__init__()
        dim = params.hidden_dim
        self.patch = params.patch_size
        self.known_in = nn.Conv2d(channels, dim, self.patch, stride=self.patch)
        self.noisy_in = nn.Conv2d(2 * channels, dim, self.patch, stride=self.patch)
        self.role = nn.Parameter(0.02 * torch.randn(2, dim))  # known, noised
        self.level = nn.Sequential(nn.Linear(FEATURES, dim), nn.SiLU(), nn.Linear(dim, dim))
        blocks = nn.ModuleList(Block(dim, params.num_heads) for _ in range(params.depth))
        self.blocks = cast(list[Block], blocks)  # a ModuleList does not tell the type of what it holds
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.modulation = zeroed(nn.Linear(dim, 2 * dim))
        self.out = zeroed(nn.Linear(dim, channels * self.patch**2))
        self.pass_noise = nn.Linear(dim, channels)

    def context(self, frames: Tensor, index: Tensor, level: Tensor, target_index: Tensor) -> DitContext:
        """Encode the known frames; see `vdp.diffusion.contract.Denoiser.context`."""
        x, grid = self._tokens(self.known_in, frames)
        embedding = self._embed(level, role=0)
        position = self._positions(index, grid)
        known, patches = frames.shape[2], grid[0] * grid[1]
        x = rearrange(x, "(b k) n d -> b (k n) d", k=known)
        cache = []
        for i, block in enumerate(self.blocks):
            per_frame = block.modulation(F.silu(embedding)).repeat_interleave(patches, dim=1)
            modulation = per_frame.chunk(6, dim=-1)
            q, k, v = block.keys(x, modulation, rearrange(position, "b k n p -> b (k n) p"))
            cache.append((k, v))
            if i + 1 < len(self.blocks):  # what the last block makes of the context nobody reads
                x = block.finish(x, F.scaled_dot_product_attention(q, k, v), modulation)
        return DitContext(tuple(cache), anchor_frames(frames, index, target_index), target_index)

    def forward(self, xt: Tensor, t: Tensor, context: DitContext) -> Tensor:
        """Velocity of noised targets; see `vdp.diffusion.contract.Denoiser.forward`."""
        batch, _, count, height, width = xt.shape
        draws = count // context.target_index.shape[1]
        anchor = context.anchor.repeat_interleave(draws, dim=2)
        x, grid = self._tokens(self.noisy_in, torch.cat([xt, anchor], dim=1))  # (B*T, N, D)
        embedding = rearrange(self._embed(t, role=1), "b t d -> (b t) 1 d")
        position = self._positions(context.target_index.repeat_interleave(draws, dim=1), grid)
        position = rearrange(position, "b t n p -> (b t) n p")
        for block, (known_k, known_v) in zip(self.blocks, context.cache, strict=True):
            modulation = block.modulation(F.silu(embedding)).chunk(6, dim=-1)
            q, k, v = block.keys(x, modulation, position)
            k = torch.cat([known_k.repeat_interleave(count, dim=0), k], dim=2)
            v = torch.cat([known_v.repeat_interleave(count, dim=0), v], dim=2)
            x = block.finish(x, F.scaled_dot_product_attention(q, k, v), modulation)
        shift, scale = self.modulation(F.silu(embedding)).chunk(2, dim=-1)
        pixels = self.out(self.norm(x) * (1 + scale) + shift)
        velocity = rearrange(
            pixels,
            "(b t) (gh gw) (c p q) -> b c t (gh p) (gw q)",
            b=batch, gh=grid[0], gw=grid[1], p=self.patch, q=self.patch,
        )[..., :height, :width]  # fmt: skip
        # the noise is most of a velocity; a gated shortcut passes it around the network
        shortcut = rearrange(self.pass_noise(embedding), "(b t) 1 c -> b c t 1 1", b=batch) * xt
        return velocity.float() + shortcut.float()

    def _tokens(self, layer: nn.Module, frames: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Patches of frames padded to whole ones, (B, C, T, H, W) -> (B*T, N, D), and their grid."""
        height, width = frames.shape[-2:]
        pad = (0, -width % self.patch, 0, -height % self.patch)
        x = layer(F.pad(rearrange(frames, "b c t h w -> (b t) c h w"), pad))
        return rearrange(x, "m d h w -> m (h w) d"), (x.shape[-2], x.shape[-1])

    def _embed(self, level: Tensor, role: int) -> Tensor:
        """Embedding of each frame's noise level and role, (B, T) -> (B, T, D)."""
        return self.level(fourier_features(level, FEATURES, LEVEL_PERIOD)) + self.role[role]

    def _positions(self, index: Tensor, grid: tuple[int, int]) -> Tensor:
        """Time, row and column of each token, (B, T) -> (B, T, N, 3)."""
        rows, columns = (torch.arange(n, device=index.device, dtype=torch.float32) for n in grid)
        plane = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).reshape(-1, 2)
        batch, frames = index.shape
        time = index.float()[:, :, None, None].expand(batch, frames, len(plane), 1)
        return torch.cat([time, plane.expand(batch, frames, -1, -1)], dim=-1)
