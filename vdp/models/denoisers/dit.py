"""DiT (Peebles & Xie 2023, arXiv:2212.09748) whose context is encoded once where it can be.

Who sees whom is `denoiser.dit.attention`. Noise draws never see each other.
    one_way: tokens of known frames see only each other; tokens of a target see the known frames and their own
        frame. The context's keys and values serve every sampling step, every target and every noise draw,
        and the result is that of recomputing them.
    block: the targets of one draw see each other too; the context is still encoded once.
    joint: everything sees everything. Known frames read the noised ones, so every step encodes all again.
Factorised blocks attend within each frame and then, at each patch, along time (Bertasius et al. 2021,
arXiv:2102.05095, divided attention), where who sees whom stays the same. Positions are rotations (RoPE, Su et
al. 2021, arXiv:2104.09864) by real-valued time, height and width, so that no size and no spacing is baked in.
Shapes: B clips, C channels, K known frames, T noised frames (targets x draws), N patches a frame, D channels
a token, H heads, P pairs of channels in a head, S channels of the stem. G groups of F frames that see each
other: a group is a clip's context, one target, or (block, joint) the targets of one draw.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vdp.core.context_frames import anchor_frames
from vdp.models.denoisers.params import DiTParams
from vdp.models.layers import fourier_features, zeroed

FEATURES = 64  # Fourier features of a noise level
LEVEL_PERIOD = 4.0  # their longest period; levels lie in [0, 1]
ROPE_BASE = 100.0  # ratio of the slowest to the fastest rotation
MLP_RATIO = 4
KNOWN, NOISED, WITHHELD = range(3)  # roles of a frame


@dataclass(frozen=True)
class Tokens:
    """Frames as the blocks take them."""

    x: Tensor  # (G, F, N, D)
    embedding: Tensor  # of each frame's noise level and role, (G, F, D)
    turn: Tensor  # cosines and sines of the rotations, (2, G, F, N, P)


@dataclass(frozen=True)
class DiTContext:
    """What targets need of the known frames."""

    known: Tokens  # before the blocks, (B, K, ...): what joint attention starts from at every step
    cache: tuple[tuple[Tensor, Tensor], ...]  # keys and values per block; joint: none
    anchor: Tensor  # (B, C, targets, h, w), the nearest known frame of each target
    turn: Tensor  # of the targets' tokens, (2, B, targets, N, P)


def rope(position: Tensor, pairs: int) -> Tensor:
    """Cosines and sines of rotations by time (half of the pairs), height and width (a quarter each).

    Args:
        position: time, row and column of each token, (..., 3).
        pairs: pairs of channels to apply_rope, a multiple of 4.

    Returns:
        (2, ..., pairs), in fp32.
    """
    angles = []
    for axis, count in enumerate((pairs // 2, pairs // 4, pairs // 4)):
        speed = ROPE_BASE ** (-torch.arange(count, device=position.device, dtype=torch.float32) / count)
        angles.append(position[..., axis : axis + 1].float() * speed)
    angle = torch.cat(angles, dim=-1)
    return torch.stack([angle.cos(), angle.sin()])


def apply_rope(x: Tensor, turn: Tensor) -> Tensor:
    """Rotate pairs of channels of queries or keys (G, H, F, N, D/H)."""
    cos, sin = turn[:, :, None]
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


def attend(q: Tensor, k: Tensor, v: Tensor, seen: tuple[Tensor, Tensor] | None) -> Tensor:
    """Attention over all tokens of a group, and of the frames that all groups of its clip see besides.

    Args:
        q, k, v: of groups, (G, H, F*N, D/H); fewer may ask than are asked.
        seen: keys and values that a clip's groups share, (B, H, K*N, D/H).

    Returns:
        The shape of `q`.
    """
    if seen is not None:
        groups = len(k) // len(seen[0])
        k, v = (
            torch.cat([shared[:, None].expand(-1, groups, -1, -1, -1).flatten(0, 1), own], dim=2)
            for shared, own in zip(seen, (k, v), strict=True)
        )
    return F.scaled_dot_product_attention(q, k, v)


def attend_in_time(q: Tensor, k: Tensor, v: Tensor, seen: tuple[Tensor, Tensor] | None) -> Tensor:
    """`attend`, but each token sees only the tokens at its own patch: (G, H, N, F, D/H), (B, H, N, K, D/H).

    These are many sequences of a few tokens, for which plain products are faster than fused attention. The
    groups of one clip are folded into the queries, so that the keys they share are not copied.
    """
    q = q * q.shape[-1] ** -0.5
    scores = q @ k.transpose(-1, -2)
    if seen is None:
        return scores.softmax(dim=-1).to(v.dtype) @ v
    seen_k, seen_v = seen
    batch, frames, known = len(seen_k), q.shape[3], seen_k.shape[3]
    fold, unfold = "(b g) h n f d -> b h n (g f) d", "b h n (g f) d -> (b g) h n f d"
    before = rearrange(q, fold, b=batch) @ seen_k.transpose(-1, -2)
    scores = torch.cat([rearrange(before, unfold, f=frames), scores], dim=-1)
    weights = scores.softmax(dim=-1).to(v.dtype)
    y = rearrange(weights[..., :known], fold, b=batch) @ seen_v
    return rearrange(y, unfold, f=frames) + weights[..., known:] @ v


class Attention(nn.Module):
    """The weights of multi-head attention: into queries, keys and values, and out."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.query_norm = nn.RMSNorm(dim // heads, eps=1e-6)
        self.key_norm = nn.RMSNorm(dim // heads, eps=1e-6)

    def keys(self, x: Tensor, turn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries and keys, and values, of tokens (G, F, N, D): three of (G, H, F, N, D/H)."""
        q, k, v = rearrange(self.qkv(x), "g f n (three h d) -> three g h f n d", three=3, h=self.heads)
        q = apply_rope(self.query_norm(q.float()), turn).to(v.dtype)
        k = apply_rope(self.key_norm(k.float()), turn).to(v.dtype)
        return q, k, v

    def merge(self, y: Tensor) -> Tensor:
        return self.proj(rearrange(y, "g h f n d -> g f n (h d)"))


class Block(nn.Module):
    """Attention and MLP with adaLN-Zero: an embedding scales, shifts and gates; a new one is the identity.

    Factorised, attention is two: over space within each frame, then over time at each patch.
    """

    def __init__(self, dim: int, heads: int, factorised: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)  # without weights, so one serves all parts
        self.space = Attention(dim, heads) if factorised else None
        self.frames = Attention(dim, heads)
        self.mlp = nn.Sequential(
            nn.Linear(dim, MLP_RATIO * dim), nn.GELU(approximate="tanh"), nn.Linear(MLP_RATIO * dim, dim)
        )
        self.parts = 3 if factorised else 2
        self.modulation = zeroed(nn.Linear(dim, 3 * self.parts * dim))

    def forward(
        self, x: Tensor, embedding: Tensor, turn: Tensor, seen: tuple[Tensor, Tensor] | None, first: int
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """One use of the block; only frames from `first` on ask, and go on.

        Args:
            x: tokens, (G, F, N, D).
            embedding: of their frames, (G, F, D).
            turn: their rotations, (2, G, F, N, P).
            seen: keys and values that a clip's groups see besides their own, as this method returns them.
            first: frame from which on tokens are wanted, 0..F; at F only keys and values are.

        Returns:
            Tokens of the frames from `first` on, (G, F - first, N, D), and the keys and values of all frames,
            laid out as `attend` (factorised: `attend_in_time`) takes them.
        """
        modulation = self._modulate(embedding)
        x = self._attend_in_frames(x, modulation[0], turn)
        q, k, v = self._ask(x, modulation[-2], turn, first)
        x = x[:, first:]
        if x.shape[1]:
            x = self._finish(x, (q, k, v), [tuple(z[:, first:] for z in part) for part in modulation], seen)
        return x, (k, v)

    def _modulate(self, embedding: Tensor) -> list[tuple[Tensor, ...]]:
        """Shift, scale and gate of each part, from embeddings (G, F, D): (G, F, 1, D) each."""
        chunks = self.modulation(embedding)[:, :, None].chunk(3 * self.parts, dim=-1)
        return [chunks[i : i + 3] for i in range(0, len(chunks), 3)]

    def _attend_in_frames(self, x: Tensor, modulation: tuple[Tensor, ...], turn: Tensor) -> Tensor:
        """Add what attention over space gives, where the block has it."""
        if self.space is None:
            return x
        shift, scale, gate = modulation
        qkv = self.space.keys(self.norm(x) * (1 + scale) + shift, turn)
        q, k, v = (rearrange(z, "g h f n d -> (g f) h n d") for z in qkv)
        y = F.scaled_dot_product_attention(q, k, v)
        return x + gate * self.space.merge(rearrange(y, "(g f) h n d -> g h f n d", g=len(x)))

    def _ask(
        self, x: Tensor, modulation: tuple[Tensor, ...], turn: Tensor, first: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of the frames from `first` on, and keys and values of all, as attention takes them."""
        shift, scale, _ = modulation
        q, k, v = self.frames.keys(self.norm(x) * (1 + scale) + shift, turn)
        order = "g h f n d -> g h (f n) d" if self.space is None else "g h f n d -> g h n f d"
        q, k, v = (rearrange(z, order).contiguous() for z in (q[:, :, first:], k, v))
        return q, k, v

    def _finish(
        self,
        x: Tensor,
        qkv: tuple[Tensor, Tensor, Tensor],
        modulation: list[tuple[Tensor, ...]],
        seen: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        """Add what attention over frames gives, `seen` as in `attend`, and the MLP."""
        if self.space is None:
            y = rearrange(attend(*qkv, seen), "g h (f n) d -> g h f n d", f=x.shape[1])
        else:
            y = rearrange(attend_in_time(*qkv, seen), "g h n f d -> g h f n d")
        x = x + modulation[-2][2] * self.frames.merge(y)
        shift, scale, gate = modulation[-1]
        return x + gate * self.mlp(self.norm(x) * (1 + scale) + shift)


class PatchIn(nn.Module):
    """Frames to tokens, through a convolutional stem if it has channels; odd edges are padded to patches."""

    def __init__(self, channels: int, stem_channels: int, dim: int, patch: int) -> None:
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
        x = self.patches(F.pad(local, (0, -width % self.patch, 0, -height % self.patch)))
        return rearrange(x, "(b t) d h w -> b t (h w) d", b=len(frames)), local


class PatchOut(nn.Module):
    """Tokens to frames; with a stem, a convolution over them and the stem's features, which patches blur."""

    def __init__(self, channels: int, stem_channels: int, dim: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.patches = nn.Linear(dim, (stem_channels or channels) * patch**2)
        self.head = nn.Conv2d(2 * stem_channels, channels, 3, padding=1) if stem_channels else None
        zeroed(self.patches if self.head is None else self.head)

    def forward(self, x: Tensor, local: Tensor) -> Tensor:
        """Tokens (B*T, N, D) and the stem's features (B*T, S, H, W) -> (B*T, C, H, W)."""
        height, width = local.shape[-2:]
        frames = rearrange(
            self.patches(x),
            "m (gh gw) (c p q) -> m c (gh p) (gw q)",
            gh=-(-height // self.patch), p=self.patch, q=self.patch,
        )[..., :height, :width]  # fmt: skip
        if self.head is None:
            return frames
        return self.head(torch.cat([F.silu(frames), local], dim=1))


class DiT(nn.Module):
    """Denoiser; see the module's docstring and `vdp.diffusion.protocols.Denoiser` for the contract."""

    def __init__(self, params: DiTParams, channels: int) -> None:
        super().__init__()
        dim, stem, patch = params.hidden_dim, params.stem_channels, params.patch_size
        self.attention = params.attention
        self.pairs = dim // params.num_heads // 2
        self.known_in = PatchIn(channels, stem, dim, patch)
        self.noisy_in = PatchIn(2 * channels, stem, dim, patch)
        self.role = nn.Parameter(0.02 * torch.randn(3, dim))
        self.level = nn.Sequential(nn.Linear(FEATURES, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.layers = nn.ModuleList(
            Block(dim, params.num_heads, params.factorised) for _ in range(params.depth)
        )
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.modulation = zeroed(nn.Linear(dim, 2 * dim))
        self.out = PatchOut(channels, stem, dim, patch)
        self.pass_noise = nn.Linear(dim, channels)

    @property
    def joint(self) -> bool:
        """Whether the targets of one draw see each other."""
        return self.attention != "one_way"

    def blocks(self) -> list[nn.Module]:
        """The repeated parts, which are called through `forward` alone."""
        return list(self.layers)

    def context(
        self, frames: Tensor, index: Tensor, level: Tensor, dropped: Tensor, target_index: Tensor
    ) -> DiTContext:
        """Encode the known frames; see `vdp.diffusion.protocols.Denoiser.context`."""
        frames = frames.masked_fill(dropped[:, None, None, None, None], 0)
        level = level.masked_fill(dropped[:, None], 0)
        x, local = self.known_in(frames)
        role = torch.where(dropped, WITHHELD, KNOWN)[:, None]
        size = (local.shape[-2], local.shape[-1])
        origin = target_index[:, :1]  # only differences of time matter, and near zero they are the finest
        known = Tokens(x, self._embed(level, role), self._rope(index - origin, size))
        cache = [] if self.attention == "joint" else self._encode(known)
        anchor = anchor_frames(frames, index, target_index)
        return DiTContext(known, tuple(cache), anchor, self._rope(target_index - origin, size))

    def forward(self, xt: Tensor, t: Tensor, context: DiTContext) -> Tensor:
        """The network's output for noised targets; see `vdp.diffusion.protocols.Denoiser.__call__`."""
        batch, _, count, _, _ = xt.shape
        targets = context.anchor.shape[2]
        draws = count // targets
        anchor = context.anchor.repeat_interleave(draws, dim=2)
        x, local = self.noisy_in(torch.cat([xt, anchor], dim=1))
        embedding = self._embed(t, NOISED)
        frames = targets if self.joint else 1
        noised = Tokens(
            rearrange(x, "b (f r) n d -> (b r) f n d", f=frames),
            rearrange(embedding, "b (f r) d -> (b r) f d", f=frames),
            rearrange(
                context.turn.repeat_interleave(draws, dim=2), "two b (f r) n p -> two (b r) f n p", f=frames
            ),
        )
        x = self._joint(context.known, noised) if self.attention == "joint" else self._read(context, noised)
        x = rearrange(x, "(b r) f n d -> b (f r) n d", b=batch)
        shift, scale = self.modulation(embedding)[:, :, None].chunk(2, dim=-1)
        output = self.out((self.norm(x) * (1 + scale) + shift).flatten(0, 1), local)
        output = rearrange(output, "(b t) c h w -> b c t h w", b=batch)
        # the noise is most of the output; a gated shortcut passes it around the network
        gate = rearrange(self.pass_noise(embedding), "b t c -> b c t 1 1")
        return output.float() + gate.float() * xt.float()

    def _encode(self, known: Tokens) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of the known frames in each block."""
        x, cache = known.x, []
        for block in self.layers:
            # what the last block makes of the context nobody reads
            first = x.shape[1] if block is self.layers[-1] else 0
            x, seen = block(x, known.embedding, known.turn, None, first)
            cache.append(seen)
        return cache

    def _read(self, context: DiTContext, noised: Tokens) -> Tensor:
        """Noised tokens after all blocks, each group beside the cached context of its clip."""
        x = noised.x
        for block, seen in zip(self.layers, context.cache, strict=True):
            x, _ = block(x, noised.embedding, noised.turn, seen, 0)
        return x

    def _joint(self, known: Tokens, noised: Tokens) -> Tensor:
        """Noised tokens after all blocks, in one sequence with those of a context of their own."""
        draws, context = len(noised.x) // len(known.x), known.x.shape[1]
        x = torch.cat([known.x.repeat_interleave(draws, dim=0), noised.x], dim=1)
        embedding = torch.cat([known.embedding.repeat_interleave(draws, dim=0), noised.embedding], dim=1)
        turn = torch.cat([known.turn.repeat_interleave(draws, dim=1), noised.turn], dim=2)
        for block in self.layers:
            # what the last block makes of the context nobody reads
            first = context if block is self.layers[-1] else 0
            x, _ = block(x, embedding, turn, None, first)
        return x

    def _embed(self, level: Tensor, role: Tensor | int) -> Tensor:
        """Embedding of each frame's noise level and role, (B, F) -> (B, F, D)."""
        return F.silu(self.level(fourier_features(level, FEATURES, LEVEL_PERIOD)) + self.role[role])

    def _rope(self, index: Tensor, size: tuple[int, int]) -> Tensor:
        """Rotations of the tokens of frames of `size` positions at times (B, F): (2, B, F, N, P)."""
        patch = self.noisy_in.patch
        rows, columns = (torch.arange(-(-n // patch), device=index.device, dtype=torch.float32) for n in size)
        plane = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).reshape(-1, 2)
        batch, frames = index.shape
        time = index.float()[:, :, None, None].expand(batch, frames, len(plane), 1)
        return rope(torch.cat([time, plane.expand(batch, frames, -1, -1)], dim=-1), self.pairs)
