"""Interaction network (Battaglia et al. 2016, arXiv:1612.00222) over pairs of objects: few frames per hop.

Rounds of messages between all pairs of objects encode the context. As in learned simulators (Sanchez-Gonzalez
et al. 2020, arXiv:2002.09405), a rollout predicts a frame or two per hop, from which the next hop starts. A
head of further rounds denoises the target frames of all objects jointly.
Shapes: B clips, K context frames, T target frames, R noise draws, N objects, D channels per object, E
channels per pair.
"""

import torch
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


def mlp(channels_in: int, channels: int) -> nn.Sequential:
    """Three layers; the last is linear."""
    return nn.Sequential(
        nn.Linear(channels_in, channels), nn.SiLU(),
        nn.Linear(channels, channels), nn.SiLU(), nn.Linear(channels, channels),
    )  # fmt: skip


class Round(nn.Module):
    """One round of messages: each object adds what it makes of the sum of its messages."""

    def __init__(self, dim: int, pair_dim: int) -> None:
        super().__init__()
        self.message = mlp(2 * dim + pair_dim, pair_dim)
        self.update = mlp(dim + pair_dim, dim)

    def forward(self, nodes: Tensor, pairs: Tensor, senders: Tensor) -> Tensor:
        """Nodes (B*R, N, D), pairs (B, N, N, E), senders (B, N, N, 1) -> nodes."""
        count, repeats = nodes.shape[1], len(nodes) // len(pairs)
        pairs, senders = (part.repeat_interleave(repeats, dim=0) for part in (pairs, senders))
        receiver = nodes[:, :, None].expand(-1, -1, count, -1)
        sender = nodes[:, None].expand(-1, count, -1, -1)
        messages = self.message(torch.cat([receiver, sender, pairs], dim=-1)) * senders
        return nodes + self.update(torch.cat([nodes, messages.sum(dim=2)], dim=-1))


class InteractionNetwork(Unmoved, nn.Module):
    """Denoiser of objects; implements `vdp.diffusion.protocols.Denoiser`."""

    joint = True

    def __init__(self, params: MotionParams, ground: Ground) -> None:
        super().__init__()
        dim, pair_dim = params.hidden_dim, params.pair_dim
        self.ground = ground
        self.context_slots = params.context_slots
        self.embed = mlp(token_features(self.context_slots), dim)
        self.embed_pairs = mlp(PAIR_FEATURES, pair_dim)
        self.rounds = nn.ModuleList([Round(dim, pair_dim) for _ in range(params.depth)])
        self.head = nn.ModuleList([Round(dim, pair_dim) for _ in range(params.head_depth)])
        self.targets = TargetSlots(dim, params.target_slots)

    def blocks(self) -> list[nn.Module]:
        """Repeated modules that are called through `forward` only."""
        return [*self.rounds, *self.head]

    def context(
        self, frames: Tensor, index: Tensor, level: Tensor, dropped: Tensor, target_index: Tensor
    ) -> MotionContext:
        """Encode the objects of the context, (B, C, K, 1, N); `dropped` clips have no visible object."""
        known = frames * ~dropped[:, None, None, None, None]
        objects = known_objects(known, index, self.context_slots, self.ground)
        senders = _senders(objects.present)
        nodes, pairs = self.embed(objects.tokens), self.embed_pairs(objects.pairs)
        for one in self.rounds:
            nodes = one(nodes, pairs, senders)
        slots = target_slots(index, target_index, self.targets.slots)
        return MotionContext(nodes, pairs, objects.present, slots)

    def __call__(self, xt: Tensor, t: Tensor, context: MotionContext) -> Tensor:
        return super().__call__(xt, t, context)

    def forward(self, xt: Tensor, t: Tensor, context: MotionContext) -> Tensor:
        """Predict the target frames, (B, 3, T*R, 1, N), at one time per draw, (B, T*R)."""
        x, senders = self.targets.embed(xt, t, context), _senders(context.present)
        for one in self.head:
            x = one(x, context.pairs, senders)
        return self.targets.predict(x, context)


def _senders(present: Tensor) -> Tensor:
    """Which objects send messages to which: 1 for the pairs of two present ones, (B, N) -> (B, N, N, 1)."""
    others = ~torch.eye(present.shape[1], dtype=torch.bool, device=present.device)
    return (present[:, None] & present[:, :, None] & others)[..., None].float()
