"""DiT (Peebles & Xie 2023, arXiv:2212.09748) that encodes its context once where the attention allows it.

`denoiser.dit.attention` selects the attention mask. Noise draws never attend to each other.
    one_way: tokens of context frames attend to context frames; tokens of a target frame attend to context
        frames and their own frame. The keys and values of the context serve all sampling steps, target frames
        and noise draws, with the same result as recomputing them.
    block: the target frames of one draw attend to each other too; the context is still encoded once.
    joint: full attention. Context frames attend to noised ones, so every step encodes everything.
Factorised blocks attend within each frame, then along time at each patch (Bertasius et al. 2021,
arXiv:2102.05095, divided attention), under the same mask. Positions are rotary (RoPE, Su et al. 2021,
arXiv:2104.09864) in real-valued time, height and width, so no size or spacing is fixed.
Shapes: B clips, C channels, K context frames, T noised frames (target frames x draws), N patches per frame,
D channels per token, E of an embedding, H heads, P channel pairs per head, S channels of the stem. G groups
of F frames that attend to each other: a clip's context, one target frame, or (block, joint) the target frames
of one draw.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vdp.core.context_frames import nearest_context
from vdp.models.denoisers.params import DiTParams
from vdp.models.layers import Unmoved, fourier_features, zero_init

FEATURES = 64  # Fourier features of a noise level
LEVEL_PERIOD = 4.0  # their longest period; levels lie in [0, 1]
ROPE_BASE = 100.0  # ratio of the highest to the lowest frequency
MLP_RATIO = 4
CONTEXT, TARGET, DROPPED = range(3)  # roles of a frame

KeyValues = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Tokens:
    """Inputs of the blocks."""

    x: Tensor  # (G, F, N, D)
    embedding: Tensor  # of each frame's noise level and role, (G, F, E)
    rotation: Tensor  # cosines and sines, (2, G, F, N, P)


@dataclass(frozen=True)
class DiTContext:
    """Encoded context frames."""

    tokens: Tokens  # before the blocks, (B, K, ...); input of joint attention
    cache: tuple[KeyValues, ...]  # keys and values per block; empty for joint attention
    anchor: Tensor  # (B, C, targets, h, w), the nearest context frame of each target frame
    rotation: Tensor  # of the target frames' tokens, (2, B, targets, N, P)


def rope(position: Tensor, pairs: int) -> Tensor:
    """Compute cosines and sines of rotations by time (half of the pairs), height and width (a quarter each).

    Position is the time, row and column of each token, (..., 3) -> (2, ..., pairs) in fp32; `pairs` is a
    multiple of 4.
    """
    angles = []
    for axis, count in enumerate((pairs // 2, pairs // 4, pairs // 4)):
        speed = ROPE_BASE ** (-torch.arange(count, device=position.device, dtype=torch.float32) / count)
        angles.append(position[..., axis : axis + 1].float() * speed)
    angle = torch.cat(angles, dim=-1)
    return torch.stack([angle.cos(), angle.sin()])


def apply_rope(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotate channel pairs of queries or keys (G, H, F, N, D/H)."""
    cos, sin = rotation[:, :, None]
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


def attend(q: Tensor, k: Tensor, v: Tensor, context: KeyValues | None) -> Tensor:
    """Attend over the tokens of a group, (G, H, L, D/H), and the context of its clip, (B, H, K*N, D/H)."""
    if context is not None:
        groups = len(k) // len(context[0])
        k, v = (
            torch.cat([shared[:, None].expand(-1, groups, -1, -1, -1).flatten(0, 1), own], dim=2)
            for shared, own in zip(context, (k, v), strict=True)
        )
    return F.scaled_dot_product_attention(q, k, v)


def attend_in_time(q: Tensor, k: Tensor, v: Tensor, context: KeyValues | None) -> Tensor:
    """`attend` over the tokens at each patch: (G, H, N, F, D/H), (B, H, N, K, D/H).

    Plain products are faster than fused attention for many sequences of a few tokens. The groups of a clip
    are folded into the queries, so the shared keys are not copied.
    """
    q = q * q.shape[-1] ** -0.5
    scores = q @ k.transpose(-1, -2)
    if context is None:
        return scores.softmax(dim=-1).to(v.dtype) @ v
    context_k, context_v = context
    batch, frames, context_len = len(context_k), q.shape[3], context_k.shape[3]
    fold, unfold = "(b g) h n f d -> b h n (g f) d", "b h n (g f) d -> (b g) h n f d"
    context_scores = rearrange(q, fold, b=batch) @ context_k.transpose(-1, -2)
    scores = torch.cat([rearrange(context_scores, unfold, f=frames), scores], dim=-1)
    weights = scores.softmax(dim=-1).to(v.dtype)
    y = rearrange(weights[..., :context_len], fold, b=batch) @ context_v
    return rearrange(y, unfold, f=frames) + weights[..., context_len:] @ v


class Attention(nn.Module):
    """Projections of multi-head attention, with normalised and rotated queries and keys."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.query_norm = nn.RMSNorm(dim // heads, eps=1e-6)
        self.key_norm = nn.RMSNorm(dim // heads, eps=1e-6)

    def project_in(self, x: Tensor, rotation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project tokens (G, F, N, D) to queries, keys and values, three of (G, H, F, N, D/H)."""
        q, k, v = rearrange(self.qkv(x), "g f n (three h d) -> three g h f n d", three=3, h=self.heads)
        q = apply_rope(self.query_norm(q.float()), rotation).to(v.dtype)
        k = apply_rope(self.key_norm(k.float()), rotation).to(v.dtype)
        return q, k, v

    def project_out(self, y: Tensor) -> Tensor:
        return self.proj(rearrange(y, "g h f n d -> g f n (h d)"))


class Block(nn.Module):
    """Attention and MLP with adaLN-Zero: an embedding scales, shifts and gates; initialised to the identity.

    Factorised, attention runs over space within each frame, then over time at each patch.
    """

    def __init__(self, dim: int, embedding_dim: int, heads: int, factorised: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)  # without weights, so shared by all parts
        self.space = Attention(dim, heads) if factorised else None
        self.frames = Attention(dim, heads)
        self.mlp = nn.Sequential(
            nn.Linear(dim, MLP_RATIO * dim), nn.GELU(approximate="tanh"), nn.Linear(MLP_RATIO * dim, dim)
        )
        self.parts = 3 if factorised else 2
        self.modulation = zero_init(nn.Linear(embedding_dim, 3 * self.parts * dim))

    def forward(
        self, x: Tensor, embedding: Tensor, rotation: Tensor, context: KeyValues | None, first: int
    ) -> tuple[Tensor, KeyValues]:
        """Apply the block; only frames from `first` on are queries and are returned.

        Args:
            x, embedding, rotation: see `Tokens`.
            context: keys and values of the clip's context, as this method returns them.
            first: 0..F; at F only keys and values are computed.

        Returns:
            Tokens of the frames from `first` on, (G, F - first, N, D), and keys and values of all frames.
        """
        chunks = self.modulation(embedding)[:, :, None].chunk(3 * self.parts, dim=-1)  # (G, F, 1, D) each
        modulation = [chunks[i : i + 3] for i in range(0, len(chunks), 3)]
        if self.space is not None:
            x = self._attend_in_space(self.space, x, modulation[0], rotation)
        shift, scale, _ = modulation[-2]
        q, k, v = self.frames.project_in(self.norm(x) * (1 + scale) + shift, rotation)
        order = "g h f n d -> g h (f n) d" if self.space is None else "g h f n d -> g h n f d"
        q, k, v = (rearrange(z, order).contiguous() for z in (q[:, :, first:], k, v))
        x = x[:, first:]
        if x.shape[1]:
            if self.space is None:
                y = rearrange(attend(q, k, v, context), "g h (f n) d -> g h f n d", f=x.shape[1])
            else:
                y = rearrange(attend_in_time(q, k, v, context), "g h n f d -> g h f n d")
            x = x + modulation[-2][2][:, first:] * self.frames.project_out(y)
            shift, scale, gate = (z[:, first:] for z in modulation[-1])
            x = x + gate * self.mlp(self.norm(x) * (1 + scale) + shift)
        return x, (k, v)

    def _attend_in_space(
        self, space: Attention, x: Tensor, modulation: tuple[Tensor, ...], rotation: Tensor
    ) -> Tensor:
        shift, scale, gate = modulation
        qkv = space.project_in(self.norm(x) * (1 + scale) + shift, rotation)
        q, k, v = (rearrange(z, "g h f n d -> (g f) h n d") for z in qkv)
        y = F.scaled_dot_product_attention(q, k, v)
        return x + gate * space.project_out(rearrange(y, "(g f) h n d -> g h f n d", g=len(x)))


class PatchIn(nn.Module):
    """Frames to tokens, through an optional convolutional stem; sizes are padded to whole patches."""

    def __init__(self, channels: int, stem_channels: int, dim: int, patch: tuple[int, int]) -> None:
        super().__init__()
        self.patch = patch
        self.stem = nn.Sequential()
        if stem_channels:
            self.stem.append(nn.Conv2d(channels, stem_channels, 3, padding=1)).append(nn.SiLU())
            self.stem.append(nn.Conv2d(stem_channels, stem_channels, 3, padding=1)).append(nn.SiLU())
        self.patches = nn.Conv2d(stem_channels or channels, dim, patch, stride=patch)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, T, H, W) -> tokens (B, T, N, D) and the stem's features (B*T, S, H, W)."""
        local = self.stem(rearrange(frames, "b c t h w -> (b t) c h w"))
        height, width = local.shape[-2:]
        x = self.patches(F.pad(local, (0, -width % self.patch[1], 0, -height % self.patch[0])))
        return rearrange(x, "(b t) d h w -> b t (h w) d", b=len(frames)), local


class PatchOut(nn.Module):
    """Tokens to frames; with a stem, a convolution over them and the stem's features, which add detail."""

    def __init__(self, channels: int, stem_channels: int, dim: int, patch: tuple[int, int]) -> None:
        super().__init__()
        self.patch = patch
        self.patches = nn.Linear(dim, (stem_channels or channels) * patch[0] * patch[1])
        self.head = nn.Conv2d(2 * stem_channels, channels, 3, padding=1) if stem_channels else None
        zero_init(self.patches if self.head is None else self.head)

    def forward(self, x: Tensor, local: Tensor) -> Tensor:
        """Tokens (B*T, N, D) and the stem's features (B*T, S, H, W) -> (B*T, C, H, W)."""
        height, width = local.shape[-2:]
        frames = rearrange(
            self.patches(x),
            "m (gh gw) (c p q) -> m c (gh p) (gw q)",
            gh=-(-height // self.patch[0]), p=self.patch[0], q=self.patch[1],
        )[..., :height, :width]  # fmt: skip
        if self.head is None:
            return frames
        return self.head(torch.cat([F.silu(frames), local], dim=1))


class DiT(Unmoved, nn.Module):
    """DiT denoiser; implements `vdp.diffusion.protocols.Denoiser`."""

    def __init__(self, params: DiTParams, channels: int) -> None:
        super().__init__()
        self.params = params  # of its config
        dim, stem, patch = params.hidden_dim, params.stem_channels, params.patch_sides
        embedding_dim = params.time_embedding_dim or dim
        self.attention = params.attention
        self.pairs = dim // params.num_heads // 2
        self.known_in = PatchIn(channels, stem, dim, patch)
        self.noisy_in = PatchIn(2 * channels, stem, dim, patch)
        self.role = nn.Parameter(0.02 * torch.randn(3, embedding_dim))
        self.level = nn.Sequential(
            nn.Linear(FEATURES, embedding_dim), nn.SiLU(), nn.Linear(embedding_dim, embedding_dim)
        )
        self.layers = nn.ModuleList(
            Block(dim, embedding_dim, params.num_heads, params.factorised) for _ in range(params.depth)
        )
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.modulation = zero_init(nn.Linear(embedding_dim, 2 * dim))
        self.out = PatchOut(channels, stem, dim, patch)
        self.pass_noise = nn.Linear(embedding_dim, channels)

    @property
    def joint(self) -> bool:
        """Whether the target frames of one draw attend to each other."""
        return self.attention != "one_way"

    def blocks(self) -> list[nn.Module]:
        """Repeated modules that are called through `forward` only."""
        return list(self.layers)

    def context(
        self, frames: Tensor, index: Tensor, level: Tensor, dropped: Tensor, target_index: Tensor
    ) -> DiTContext:
        """Encode the context frames; see `vdp.diffusion.protocols.Denoiser.context`."""
        frames = frames.masked_fill(dropped[:, None, None, None, None], 0)
        level = level.masked_fill(dropped[:, None], 0)
        x, local = self.known_in(frames)
        role = torch.where(dropped, DROPPED, CONTEXT)[:, None]
        size = (local.shape[-2], local.shape[-1])
        origin = target_index[:, :1]  # small positions have the highest precision; only differences matter
        tokens = Tokens(x, self._embed(level, role), self._rope(index - origin, size))
        cache = [] if self.attention == "joint" else self._encode(tokens)
        anchor = nearest_context(frames, index, target_index)
        return DiTContext(tokens, tuple(cache), anchor, self._rope(target_index - origin, size))

    def forward(self, xt: Tensor, t: Tensor, context: DiTContext) -> Tensor:
        """Denoise target frames; see `vdp.diffusion.protocols.Denoiser.__call__`."""
        batch, _, count, _, _ = xt.shape
        targets = context.anchor.shape[2]
        draws = count // targets
        anchor = context.anchor.repeat_interleave(draws, dim=2)
        x, local = self.noisy_in(torch.cat([xt, anchor], dim=1))
        embedding = self._embed(t, TARGET)
        rotation = context.rotation.repeat_interleave(draws, dim=2)
        frames = targets if self.joint else 1
        noised = Tokens(
            rearrange(x, "b (f r) n d -> (b r) f n d", f=frames),
            rearrange(embedding, "b (f r) d -> (b r) f d", f=frames),
            rearrange(rotation, "two b (f r) n p -> two (b r) f n p", f=frames),
        )
        if self.attention == "joint":
            x = self._attend_jointly(context.tokens, noised)
        else:
            x = noised.x
            for block, cached in zip(self.layers, context.cache, strict=True):
                x, _ = block(x, noised.embedding, noised.rotation, cached, 0)
        x = rearrange(x, "(b r) f n d -> b (f r) n d", b=batch)
        shift, scale = self.modulation(embedding)[:, :, None].chunk(2, dim=-1)
        output = self.out((self.norm(x) * (1 + scale) + shift).flatten(0, 1), local)
        output = rearrange(output, "(b t) c h w -> b c t h w", b=batch)
        # most of the output is the noise; a gated shortcut passes it around the network
        gate = rearrange(self.pass_noise(embedding), "b t c -> b c t 1 1")
        return output.float() + gate.float() * xt.float()

    def _encode(self, tokens: Tokens) -> list[KeyValues]:
        """Compute keys and values of the context frames in each block."""
        x, cache = tokens.x, []
        for block in self.layers:
            first = x.shape[1] if block is self.layers[-1] else 0  # the last block's output is unused
            x, key_values = block(x, tokens.embedding, tokens.rotation, None, first)
            cache.append(key_values)
        return cache

    def _attend_jointly(self, context: Tokens, noised: Tokens) -> Tensor:
        """Apply all blocks to context and noised tokens in one sequence; return the noised ones."""
        draws, count = len(noised.x) // len(context.x), context.x.shape[1]
        x = torch.cat([context.x.repeat_interleave(draws, dim=0), noised.x], dim=1)
        embedding = torch.cat([context.embedding.repeat_interleave(draws, dim=0), noised.embedding], dim=1)
        rotation = torch.cat([context.rotation.repeat_interleave(draws, dim=1), noised.rotation], dim=2)
        for block in self.layers:
            first = count if block is self.layers[-1] else 0
            x, _ = block(x, embedding, rotation, None, first)
        return x

    def _embed(self, level: Tensor, role: Tensor | int) -> Tensor:
        """Embed each frame's noise level and role, (B, F) -> (B, F, E)."""
        return F.silu(self.level(fourier_features(level, FEATURES, LEVEL_PERIOD)) + self.role[role])

    def _rope(self, index: Tensor, size: tuple[int, int]) -> Tensor:
        """Compute rotations of the tokens of frames of `size` at indices (B, F): (2, B, F, N, P)."""
        patch = self.noisy_in.patch
        rows, columns = (
            torch.arange(-(-n // side), device=index.device, dtype=torch.float32)
            for n, side in zip(size, patch, strict=True)
        )
        plane = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).reshape(-1, 2)
        batch, frames = index.shape
        time = index.float()[:, :, None, None].expand(batch, frames, len(plane), 1)
        return rope(torch.cat([time, plane.expand(batch, frames, -1, -1)], dim=-1), self.pairs)
