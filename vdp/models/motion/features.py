"""Inputs of the motion models: features of each object's known frames and of pairs of objects.

Shapes: B clips, C channels of `vdp.core.objects`, K context frames, N objects, S slots: frames by their
distance from the last context frame.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from vdp.core.anchor import find_anchor
from vdp.core.collisions import roll_out
from vdp.core.ground import Ground, length
from vdp.core.objects import AREA, CHANNELS, DIFFUSED, FEATURES, HEIGHT, SEEN, WIDTH, X, Y
from vdp.models.layers import fourier_features, zero_init

KINDS = CHANNELS - len(FEATURES)
# units that bring the features near 1: a place is within the frame, an object a sixth of its height
PLACE_SCALE, FLOOR_SCALE, CHANGE_SCALE, PATH_SCALE, SIZE_SCALE, AREA_SCALE = 4.0, 0.3, 2.0, 0.5, 6.0, 50.0
HORIZONS = (0, 1, 2, 3, 4, 5, 6, 7, 9, 11)  # frames ahead of the base at which objects and pairs are seen
LEVEL_FEATURES, LEVEL_PERIOD = 32, 4.0  # Fourier features of a noise level, and their longest period
NEAR = (0.5, 1.0, 3.0)  # distances, in sizes of an object, of the kernels that turn them into features
PAIR_FEATURES = 6 + len(HORIZONS) * len(NEAR) + 2 * KINDS


@dataclass(frozen=True)
class KnownObjects:
    """Features of the objects of a context."""

    tokens: Tensor  # (B, N, F)
    pairs: Tensor  # (B, N, N, PAIR_FEATURES)
    present: Tensor  # whether an object is visible in the context, (B, N) bool


@dataclass(frozen=True)
class MotionContext:
    """Encoded context of a motion model."""

    tokens: Tensor  # (B, N, D)
    pairs: Tensor  # (B, N, N, E)
    present: Tensor  # (B, N) bool
    slots: Tensor  # slot of each target frame, (B, T)


class TargetSlots(nn.Module):
    """Input and output of a denoising head: noised and predicted target frames of each object, in slots."""

    def __init__(self, dim: int, slots: int) -> None:
        super().__init__()
        self.slots = slots
        self.embed_noised = nn.Linear((DIFFUSED + 1) * slots, dim)
        self.embed_level = nn.Sequential(nn.Linear(LEVEL_FEATURES, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.norm = nn.LayerNorm(dim)
        self.out = zero_init(nn.Linear(dim, DIFFUSED * slots))

    def embed(self, xt: Tensor, t: Tensor, context: MotionContext) -> Tensor:
        """Add noised frames (B, 3, T*R, 1, N) at times (B, T*R) to the context's tokens, (B*R, N, D)."""
        draws = xt.shape[2] // context.slots.shape[1]
        noised = rearrange(xt[:, :, :, 0], "b c (t r) n -> (b r) c t n", r=draws)
        given = torch.ones_like(noised[:, :1])  # a target frame, not an empty slot
        frames = slot_frames(
            torch.cat([noised, given], dim=1), context.slots.repeat_interleave(draws, dim=0), self.slots
        )
        times = rearrange(t, "b (t r) -> (b r) t", r=draws)[:, 0]
        level = self.embed_level(fourier_features(times, LEVEL_FEATURES, LEVEL_PERIOD))
        x = context.tokens.repeat_interleave(draws, dim=0) + level[:, None]
        return x + self.embed_noised(rearrange(frames, "m c s n -> m n (c s)"))

    def predict(self, x: Tensor, context: MotionContext) -> Tensor:
        """Read the target frames of tokens (B*R, N, D), (B, 3, T*R, 1, N)."""
        draws = len(x) // len(context.slots)
        slots = context.slots.repeat_interleave(draws, dim=0)[:, None, :, None]
        out = rearrange(self.out(self.norm(x)), "m n (c s) -> m c s n", c=DIFFUSED).float()
        chosen = out.gather(2, slots.expand(-1, DIFFUSED, -1, out.shape[3]))
        return rearrange(chosen, "(b r) c t n -> b c (t r) 1 n", r=draws)


def token_features(slots: int) -> int:
    """Features of an object, F."""
    return slots * (len(FEATURES) + 2) + 2 * len(HORIZONS[1:]) + KINDS + 5


def known_objects(frames: Tensor, index: Tensor, slots: int, ground: Ground) -> KnownObjects:
    """Compute the features of objects in context frames (B, C, K, 1, N) at frame indices (B, K)."""
    last = index.amax(dim=1, keepdim=True)
    found = find_anchor(frames, index, ground)
    kind = found.frame[:, len(FEATURES) :]
    features = slot_frames(frames[:, :, :, 0], index - last + slots - 1, slots)
    visible = features[:, SEEN : SEEN + 1]
    floor = torch.stack(ground.to_floor(features[:, X], features[:, Y]), dim=1)
    change = (floor - found.place[:, :, None]) * visible * CHANGE_SCALE
    scaled = features[:, : len(FEATURES)] * _scale(features)[:, None, None]
    ahead = roll_out(found, last, HORIZONS[-1], ground)[:, :, [horizon - 1 for horizon in HORIZONS[1:]]]
    path = (ahead - found.place[:, :, None]) * PATH_SCALE
    age = (last - found.index) * found.present / slots
    tokens = torch.cat(
        [
            rearrange(torch.cat([scaled, change], dim=1), "b c s n -> b n (c s)"),
            rearrange(path, "b c h n -> b n (c h)"),
            rearrange(kind, "b c n -> b n c"),
            rearrange(found.velocity * CHANGE_SCALE, "b c n -> b n c"),
            rearrange(found.place * FLOOR_SCALE, "b c n -> b n c"),
            age[..., None],
        ],
        dim=-1,
    )
    here = found.at(last)[0]
    places = torch.cat([here[:, :, None], ahead], dim=2)
    return KnownObjects(tokens, pair_features(found.velocity, places, kind), found.present)


def slot_frames(frames: Tensor, offsets: Tensor, slots: int) -> Tensor:
    """Sort frames into slots, leaving out those beyond: (B, C, K, N), offsets (B, K) -> (B, C, slots, N)."""
    slot = offsets.round().long()
    inside = (slot >= 0) & (slot < slots)
    index = torch.where(inside, slot, slots)[:, None, :, None].expand_as(frames)
    out = frames.new_zeros(*frames.shape[:2], slots + 1, frames.shape[3])
    return out.scatter(2, index, frames)[:, :, :slots]


def target_slots(index: Tensor, target_index: Tensor, slots: int) -> Tensor:
    """Slot of each target frame, its distance from the last context frame less one: (B, K), (B, T) -> (B, T).

    Raises:
        ValueError: if one is beyond the slots.
    """
    last = index.amax(dim=1, keepdim=True)
    slot = (target_index - last - 1).round().long()
    if int(slot.min()) < 0 or int(slot.max()) >= slots:
        raise ValueError(
            f"target frames {target_index[0].tolist()} after {last[0].item():g}: expected up to "
            f"motion.target_slots={slots} frames on; raise it and train again"
        )
    return slot


def pair_features(velocity: Tensor, places: Tensor, kind: Tensor) -> Tensor:
    """Features of ordered pairs of objects, (B, N, N, E_in).

    Args:
        velocity: at their last sighting, (B, 2, N).
        places: now and at the horizons, (B, 2, L, N).
        kind: shapes and materials, (B, S, N).
    """
    apart = _differences(places[:, :, 0])
    relative = _differences(velocity)
    distances = length(_differences(places))  # (B, L, N, N)
    kernels = [torch.exp(-distances / near) for near in NEAR]
    near = torch.exp(-length(apart)[:, None] / NEAR[-1])
    count = kind.shape[2]
    kinds = [kind[:, :, :, None].expand(-1, -1, -1, count), kind[:, :, None].expand(-1, -1, count, -1)]
    moved = relative * CHANGE_SCALE
    parts = [apart * near, moved * near, moved, *kernels, *kinds]
    return rearrange(torch.cat(parts, dim=1), "b c n m -> b n m c")


def _differences(values: Tensor) -> Tensor:
    """Values of the second less those of the first of each pair, (..., N) -> (..., N, N)."""
    return values[..., None, :] - values[..., :, None]


def _scale(like: Tensor) -> Tensor:
    scale = like.new_ones(len(FEATURES))
    scale[[X, Y]] = PLACE_SCALE
    scale[[WIDTH, HEIGHT]] = SIZE_SCALE
    scale[AREA] = AREA_SCALE
    return scale
