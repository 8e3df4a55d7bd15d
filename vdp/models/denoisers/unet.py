"""Latent U-Net, its context encoded once (Ronneberger et al. 2015, arXiv:1505.04597; FiLM, arXiv:1709.07871).

A U-Net looks at the known frames nearest to each target, stacked as channels, and gives features at every
resolution; it never sees the noise, so one pass serves all sampling steps and all noise draws of a training
step. A light head at the finest `head_levels` of those resolutions, fed with those features, denoises. Any
number of known frames, at any real-valued times, fills a fixed number of slots; times and noise levels enter
by FiLM.
Shapes: B clips, C channels, K known frames, N targets, R noise draws of each target, S slots, D embedding.
"""

from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F

from vdp.models.denoisers.params import UnetParams
from vdp.models.layers import ImageAttention, ResBlock, fourier_features, group_norm
from vdp.tasks import distance

MAX_OFFSET = 64.0  # frames; longest period of the features of a time offset
TIME_PERIOD = 4.0  # longest period of the features of diffusion time and noise level, which lie in [0, 1]
FEATURES = 32  # Fourier features of one number
HEAD_CHANNELS = 32  # least channels of an attention head


@dataclass(frozen=True)
class UnetContext:
    """What the known frames say about each target: features, fine to coarse, each (B*N, C_i, H_i, W_i)."""

    features: tuple[Tensor, ...]
    targets: int


def attention_heads(channels: int) -> int:
    """Most heads of `HEAD_CHANNELS` channels or more that divide the channels; one at least."""
    most = max(1, channels // HEAD_CHANNELS)
    return next(heads for heads in range(most, 0, -1) if channels % heads == 0)


class Slots(nn.Module):
    """The S known frames nearest to each target, as channels, and an embedding of when they were."""

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        self.count = count
        self.embed = nn.Sequential(
            nn.Linear(count * (2 * FEATURES + 1), dim), nn.SiLU(), nn.Linear(dim, dim), nn.SiLU()
        )

    def forward(
        self, frames: Tensor, index: Tensor, level: Tensor, target_index: Tensor
    ) -> tuple[Tensor, Tensor]:
        batch, channels, known, height, width = frames.shape
        offset = index[:, None, :] - target_index[:, :, None]  # (B, N, K)
        used = min(known, self.count)
        order = distance(index, target_index).argsort(dim=2, stable=True)[:, :, :used]
        rows = torch.arange(batch, device=frames.device)[:, None, None]
        chosen = frames[rows, :, order]  # (B, N, used, C, H, W)
        first = chosen[:, :, :1]
        chosen = torch.cat([first, chosen[:, :, 1:] - first], dim=2)  # differences: what stands still is zero
        chosen = F.pad(chosen, (0, 0, 0, 0, 0, 0, 0, self.count - used))
        when = fourier_features(offset.gather(2, order), FEATURES, MAX_OFFSET)
        clean = fourier_features(level[:, None].expand_as(offset).gather(2, order), FEATURES, TIME_PERIOD)
        present = torch.ones_like(when[..., :1])
        embedding = F.pad(torch.cat([when, clean, present], dim=-1), (0, 0, 0, self.count - used))
        stack = rearrange(chosen, "b n s c h w -> (b n) (s c) h w")
        return stack, self.embed(rearrange(embedding, "b n s d -> (b n) (s d)"))


class Stage(nn.Module):
    """Residual blocks at one resolution, with attention where asked."""

    def __init__(self, channels_in: int, channels: int, blocks: int, dim: int, attend: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            ResBlock(channels_in if i == 0 else channels, channels, dim) for i in range(blocks)
        )
        self.attention = ImageAttention(channels, attention_heads(channels)) if attend else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, embedding)
        return self.attention(x)


class Pyramid(nn.Module):
    """A U-Net's way down and up; gives what it holds at every resolution on the way up, fine to coarse.

    `extra` are the channels of features that join at each resolution on the way down, fine to coarse.
    """

    def __init__(self, widths: list[int], blocks: int, dim: int, extra: list[int]) -> None:
        super().__init__()
        last = len(widths) - 1
        self.down = nn.ModuleList(
            Stage(width + extra[i], width, blocks, dim, attend=i == last and last > 0)
            for i, width in enumerate(widths)
        )
        self.shrink = nn.ModuleList(
            nn.Conv2d(widths[i], widths[i + 1], 3, stride=2, padding=1) for i in range(last)
        )
        self.grow = nn.ModuleList(nn.Conv2d(widths[i + 1], widths[i], 1) for i in range(last))
        self.up = nn.ModuleList(
            Stage(2 * widths[i], widths[i], blocks, dim, attend=False) for i in range(last)
        )

    def forward(
        self, x: Tensor, embedding: Tensor, extra: tuple[Tensor, ...] | None = None
    ) -> tuple[Tensor, ...]:
        skips: list[Tensor] = []
        for i, stage in enumerate(self.down):
            x = stage(x if extra is None else torch.cat([x, extra[i]], dim=1), embedding)
            skips.append(x)
            if i < len(self.shrink):
                x = self.shrink[i](x)
        features = [x]
        for i in reversed(range(len(self.up))):
            # the size is taken from the skip, so that odd heights and widths fit
            x = F.interpolate(self.grow[i](x), size=skips[i].shape[-2:], mode="nearest")
            x = self.up[i](torch.cat([x, skips[i]], dim=1), embedding)
            features.insert(0, x)
        return tuple(features)


class Unet(nn.Module):
    """Denoiser; see the module's docstring and `vdp.diffusion.contract.Denoiser` for the contract."""

    def __init__(self, params: UnetParams, channels: int) -> None:
        super().__init__()
        widths = [params.base_channels * mult for mult in params.channel_mults]
        dim = 4 * params.base_channels
        self.slots = Slots(params.context_frames, dim)
        self.context_in = nn.Conv2d(params.context_frames * channels, widths[0], 3, padding=1)
        self.encoder = Pyramid(widths, params.num_res_blocks, dim, extra=[0] * len(widths))
        self.time = nn.Sequential(nn.Linear(FEATURES, dim), nn.SiLU(), nn.Linear(dim, dim), nn.SiLU())
        self.noisy_in = nn.Conv2d(channels, widths[0], 3, padding=1)
        head = widths[: params.head_levels]
        self.head = Pyramid(head, params.head_blocks, dim, extra=head)
        self.norm = group_norm(widths[0])
        self.out = nn.Conv2d(widths[0], channels, 3, padding=1)
        self.pass_noise = nn.Linear(dim, channels)

    def context(self, frames: Tensor, index: Tensor, level: Tensor, target_index: Tensor) -> UnetContext:
        """Encode the known frames for some targets; see `vdp.diffusion.contract.Denoiser.context`."""
        stack, embedding = self.slots(frames, index, level, target_index)
        return UnetContext(self.encoder(self.context_in(stack), embedding), target_index.shape[1])

    def forward(self, xt: Tensor, t: Tensor, context: UnetContext) -> Tensor:
        """Velocity of noised targets; see `vdp.diffusion.contract.Denoiser.forward`."""
        batch, _, count, _, _ = xt.shape
        draws = count // context.targets
        embedding = self.time(fourier_features(t.flatten(), FEATURES, TIME_PERIOD))
        noisy = rearrange(xt, "b c n h w -> (b n) c h w")
        features = tuple(repeat(f, "m c h w -> (m r) c h w", r=draws) for f in context.features)
        h = self.head(self.noisy_in(noisy), embedding, features[: len(self.head.down)])[0]
        # much of a velocity is the noise itself, which a gated shortcut passes without going through the head
        velocity = self.out(F.silu(self.norm(h))) + self.pass_noise(embedding)[:, :, None, None] * noisy
        return rearrange(velocity.float(), "(b n) c h w -> b c n h w", b=batch)
