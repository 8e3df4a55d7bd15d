"""Transformer over the objects of a clip: a denoiser of all target frames at once.

A token is an object with all its frames, so the cost does not grow with the frames squared. Pairs of objects
enter as a bias of the attention and as a part of its values (Shaw et al. 2018, arXiv:1803.02155, for pairs of
positions; here from the distance of two objects, now and as their velocities extrapolate it). Objects have no
order. The context is encoded once; a head of fewer blocks denoises.
Shapes: B clips, K context frames, T target frames, R noise draws, N objects, D channels per token, E channels
per pair, H heads, S slots: frames by their distance from the last context frame.
"""

import torch
from einops import rearrange
from torch import Tensor, nn

from vdp.core.ground import Ground
from vdp.models.layers import Unmoved
from vdp.models.motion.features import (
    PAIR_FEATURES,
    MotionContext,
    TargetSlots,
    known_objects,
    target_slots,
    token_features,
)
from vdp.models.motion.params import MotionParams

MLP_RATIO = 4


class PairAttention(nn.Module):
    """Multi-head attention over objects, with a bias and values of pairs; absent objects are no keys."""

    def __init__(self, dim: int, heads: int, pair_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.bias = nn.Linear(pair_dim, heads)
        self.proj = nn.Linear(dim + heads * pair_dim, dim)  # of the values of objects and of pairs

    def forward(self, x: Tensor, pairs: Tensor, mask: Tensor) -> Tensor:
        """Tokens (B*R, N, D), pairs (B, N, N, E), mask (B, 1, 1, N), 0 or -inf -> (B*R, N, D)."""
        q, k, v = rearrange(self.qkv(x), "m n (three h d) -> three m h n d", three=3, h=self.heads)
        bias = rearrange(self.bias(pairs), "b n k h -> b h n k") + mask
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        weights = (scores.unflatten(0, (len(pairs), -1)) + bias[:, None]).softmax(dim=-1)
        y = rearrange(weights.flatten(0, 1) @ v, "m h n d -> m n (h d)")
        # the mean of the pairs, then their values: a mean is linear, and there are fewer objects than pairs
        mean = rearrange(weights, "b r h n k -> b n (r h) k") @ pairs
        mean = rearrange(mean, "b n (r h) e -> (b r) n (h e)", h=self.heads)
        return self.proj(torch.cat([y, mean], dim=-1))


class Block(nn.Module):
    """Attention over objects and an MLP per object, both residual."""

    def __init__(self, dim: int, heads: int, pair_dim: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = PairAttention(dim, heads, pair_dim)
        self.mlp = nn.Sequential(nn.Linear(dim, MLP_RATIO * dim), nn.GELU(), nn.Linear(MLP_RATIO * dim, dim))

    def forward(self, x: Tensor, pairs: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x), pairs, mask)
        return x + self.mlp(self.norm2(x))


class MotionTransformer(Unmoved, nn.Module):
    """Denoiser of objects; implements `vdp.diffusion.protocols.Denoiser`."""

    joint = True

    def __init__(self, params: MotionParams, ground: Ground) -> None:
        super().__init__()
        dim, pair_dim = params.hidden_dim, params.pair_dim
        self.ground = ground
        self.context_slots = params.context_slots
        self.embed = nn.Sequential(
            nn.Linear(token_features(self.context_slots), dim), nn.SiLU(), nn.Linear(dim, dim)
        )
        self.embed_pairs = nn.Sequential(
            nn.Linear(PAIR_FEATURES, pair_dim), nn.SiLU(), nn.Linear(pair_dim, pair_dim)
        )
        self.encoder = nn.ModuleList([Block(dim, params.num_heads, pair_dim) for _ in range(params.depth)])
        self.head = nn.ModuleList([Block(dim, params.num_heads, pair_dim) for _ in range(params.head_depth)])
        self.targets = TargetSlots(dim, params.target_slots)

    def blocks(self) -> list[nn.Module]:
        """Repeated modules that are called through `forward` only."""
        return [*self.encoder, *self.head]

    def context(
        self, frames: Tensor, index: Tensor, level: Tensor, dropped: Tensor, target_index: Tensor
    ) -> MotionContext:
        """Encode the objects of the context, (B, C, K, 1, N); `dropped` clips have no visible object."""
        known = frames * ~dropped[:, None, None, None, None]
        objects = known_objects(known, index, self.context_slots, self.ground)
        pairs, mask = self.embed_pairs(objects.pairs), _key_mask(objects.present)
        x = self.embed(objects.tokens)
        for block in self.encoder:
            x = block(x, pairs, mask)
        return MotionContext(x, pairs, objects.present, target_slots(index, target_index, self.targets.slots))

    def __call__(self, xt: Tensor, t: Tensor, context: MotionContext) -> Tensor:
        return super().__call__(xt, t, context)

    def forward(self, xt: Tensor, t: Tensor, context: MotionContext) -> Tensor:
        """Predict all target frames, (B, 3, T*R, 1, N), at one time per draw, (B, T*R)."""
        x, mask = self.targets.embed(xt, t, context), _key_mask(context.present)
        for block in self.head:
            x = block(x, context.pairs, mask)
        return self.targets.predict(x, context)


def _key_mask(present: Tensor) -> Tensor:
    """0 for objects of the context and -inf for absent ones; 0 for all where there is none: (B, 1, 1, N)."""
    usable = present | ~present.any(dim=1, keepdim=True)
    return torch.zeros_like(present, dtype=torch.float32).masked_fill(~usable, -torch.inf)[:, None, None]
