"""U-Net whose context is encoded once (Ronneberger et al. 2015, arXiv:1505.04597; FiLM, arXiv:1709.07871).

An encoder U-Net computes features at every resolution from the context frames nearest to each target frame,
stacked as channels. It does not depend on the noise, so one pass serves all sampling steps and noise draws. A
light head at the finest `head_levels` resolutions denoises. The features are concatenated to its channels
(`features`), or modulate its normalisations at every position (`spade`: Park et al. 2019, arXiv:1903.07291;
for video MCVD, Voleti et al. 2022, arXiv:2205.09853). `concat` has no encoder: the context frames are input
channels of one U-Net, beside the noised frame. Any number of context frames at real-valued indices fills a
fixed number of slots; indices and noise levels enter by FiLM.

With `temporal` the denoising network is a 3D U-Net with convolutions and attention along the target frames of
a hop, separate from the spatial ones (Ho et al. 2022, arXiv:2204.03458; Tran et al. 2018, arXiv:1711.11248).

Shapes: B clips, C channels, K context frames, N target frames, R noise draws per target frame, S slots, D
embedding. Each draw of each target frame is a row, (B*N*R, C, H, W).
"""

from dataclasses import dataclass, replace

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F

from vdp.core.context_frames import distance
from vdp.models.denoisers.params import UNetParams
from vdp.models.layers import ImageAttention, ResBlock, Unmoved, fourier_features, group_norm, zero_init

MAX_OFFSET = 64.0  # frames; longest period of the features of a time offset
TIME_PERIOD = 4.0  # longest period of the features of diffusion time and noise level, which lie in [0, 1]
FEATURES = 32  # Fourier features of one number
HEAD_CHANNELS = 32  # min channels of an attention head

StageMaps = tuple[tuple[Tensor, Tensor], ...]  # of the two normalisations of each residual block of a stage


@dataclass(frozen=True)
class UNetContext:
    """Encoded context frames of each target frame: one of features, maps and slots."""

    features: tuple[Tensor, ...]  # features: fine to coarse, each (B*N, C_i, H_i, W_i)
    maps: tuple[StageMaps, ...]  # spade: of each stage of the head, down, then up, fine to coarse
    slots: tuple[Tensor, Tensor] | None  # concat: context frames (B*N, S*C, H, W), embedding (B*N, D)
    offsets: Tensor | None  # temporal: features of pairwise target offsets, (B, N, N, FEATURES)
    targets: int


def attention_heads(channels: int) -> int:
    """Choose the max number of heads that divides the channels, with at least `HEAD_CHANNELS` each."""
    limit = max(1, channels // HEAD_CHANNELS)
    return next(heads for heads in range(limit, 0, -1) if channels % heads == 0)


class Slots(nn.Module):
    """Stack the S context frames nearest to each target frame as channels, and embed their offsets."""

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        self.count = count
        self.embed = nn.Sequential(
            nn.Linear(count * (2 * FEATURES + 1), dim), nn.SiLU(), nn.Linear(dim, dim), nn.SiLU()
        )

    def forward(
        self, frames: Tensor, index: Tensor, level: Tensor, dropped: Tensor, target_index: Tensor
    ) -> tuple[Tensor, Tensor]:
        batch, channels, known, height, width = frames.shape
        offset = index[:, None, :] - target_index[:, :, None]  # (B, N, K)
        used = min(known, self.count)
        order = distance(index, target_index).argsort(dim=2, stable=True)[:, :, :used]
        rows = torch.arange(batch, device=frames.device)[:, None, None]
        chosen = frames[rows, :, order]  # (B, N, used, C, H, W)
        first = chosen[:, :, :1]
        chosen = torch.cat([first, chosen[:, :, 1:] - first], dim=2)  # residuals, zero where static
        chosen = chosen.masked_fill(dropped[:, None, None, None, None, None], 0)
        chosen = F.pad(chosen, (0, 0, 0, 0, 0, 0, 0, self.count - used))
        offsets = fourier_features(offset.gather(2, order), FEATURES, MAX_OFFSET)
        level = level.masked_fill(dropped[:, None], 0)
        levels = fourier_features(level[:, None].expand_as(offset).gather(2, order), FEATURES, TIME_PERIOD)
        # distinguishes a masked frame from a black one
        present = torch.ones_like(offsets[..., :1]).masked_fill(dropped[:, None, None, None], 0)
        embedding = F.pad(torch.cat([offsets, levels, present], dim=-1), (0, 0, 0, self.count - used))
        stack = rearrange(chosen, "b n s c h w -> (b n) (s c) h w")
        return stack, self.embed(rearrange(embedding, "b n s d -> (b n) (s d)"))


class TimeConv(nn.Module):
    """Convolution of size 3 along the target frames of a draw; a zero-initialised residual branch.

    The temporal half of a (2+1)D convolution (Tran et al. 2018, arXiv:1711.11248, section 3.5), zero-padded.
    Target frames are neighbours in their given order, at any offset.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.conv = zero_init(nn.Conv2d(channels, channels, (3, 1), padding=(1, 0)))

    def forward(self, x: Tensor, offsets: Tensor) -> Tensor:
        batch, targets, *_ = offsets.shape
        height, width = x.shape[-2:]
        # draws and positions share an axis with kernel size 1, so draws stay independent
        h = rearrange(F.silu(self.norm(x)), "(b n r) c h w -> b c n (r h w)", b=batch, n=targets)
        return x + rearrange(self.conv(h), "b c n (r h w) -> (b n r) c h w", h=height, w=width)


class TimeAttention(nn.Module):
    """Self-attention over the target frames of a draw at each position; a zero-initialised residual branch.

    A learned function of the real-valued offset between two target frames is added to their logit (Ho et al.
    2022, arXiv:2204.03458, section 3, with relative positions).
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = group_norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.bias = nn.Linear(FEATURES, heads, bias=False)  # softmax cancels a constant
        self.proj = zero_init(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor, offsets: Tensor) -> Tensor:
        batch, targets, *_ = offsets.shape
        height, width = x.shape[-2:]
        q, k, v = rearrange(
            self.qkv(self.norm(x)),
            "(b n r) (three heads d) h w -> three b heads (r h w) n d",
            b=batch, n=targets, three=3, heads=self.heads,
        )  # fmt: skip
        # explicit: these are more short sequences than the grids of fused kernels allow
        logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)  # (B, heads, R*H*W, N, N)
        logits = logits + rearrange(self.bias(offsets), "b n m heads -> b heads 1 n m")
        y = logits.softmax(dim=-1) @ v
        return x + self.proj(rearrange(y, "b heads (r h w) n d -> (b n r) (heads d) h w", h=height, w=width))


class Spade(nn.Module):
    """Maps that modulate a stage's normalisations, initialised to zero.

    Park et al. 2019 (arXiv:1903.07291), equation 1, with one convolution, as the features are a U-Net's; the
    normalisations keep their own affine weights.
    """

    def __init__(self, features: int, normalised: list[int]) -> None:
        super().__init__()
        self.widths = [2 * channels for channels in normalised]
        # features are sums over residual blocks; without the norm the scale could explode
        self.norm = group_norm(features)
        self.conv = zero_init(nn.Conv2d(features, sum(self.widths), 3, padding=1))

    def forward(self, features: Tensor) -> StageMaps:
        maps = self.conv(F.silu(self.norm(features))).split(self.widths, dim=1)
        return tuple(zip(maps[::2], maps[1::2], strict=True))  # two normalisations per block


@dataclass(frozen=True)
class UNetBodySpec:
    """Configuration of a `UNetBody`."""

    widths: list[int]  # channels at each resolution, fine to coarse
    blocks: int  # residual blocks per stage
    dim: int  # of the embedding
    attention_levels: list[int]  # resolutions with spatial attention
    extra: list[int]  # channels concatenated at each resolution of the down path
    spade: list[int] | None  # channels of the features that modulate each resolution
    temporal: bool  # convolutions and attention along the target frames
    temporal_heads: int | None = None  # of that attention; None: by the channels


class Stage(nn.Module):
    """Residual blocks at one resolution, with optional spatial attention and temporal layers."""

    def __init__(self, spec: UNetBodySpec, level: int, channels_in: int) -> None:
        super().__init__()
        channels = spec.widths[level]
        self.blocks = nn.ModuleList(
            ResBlock(channels_in if i == 0 else channels, channels, spec.dim) for i in range(spec.blocks)
        )
        attend = level in spec.attention_levels
        self.attention = ImageAttention(channels, attention_heads(channels)) if attend else nn.Identity()
        self.time_convs = nn.ModuleList(TimeConv(channels) for _ in self.blocks if spec.temporal)
        heads = spec.temporal_heads or attention_heads(channels)
        self.time_attention = TimeAttention(channels, heads) if spec.temporal else None

    def forward(self, x: Tensor, embedding: Tensor, maps: StageMaps, offsets: Tensor | None) -> Tensor:
        for i, block in enumerate(self.blocks):
            x = block(x, embedding, maps[i] if maps else None)
            if offsets is not None:
                x = self.time_convs[i](x, offsets)
        x = self.attention(x)
        if self.time_attention is not None:
            x = self.time_attention(x, offsets)
        return x


class UNetBody(nn.Module):
    """Down and up path of a U-Net; returns the up path's features at every resolution, fine to coarse."""

    def __init__(self, spec: UNetBodySpec) -> None:
        super().__init__()
        widths = spec.widths
        last = len(widths) - 1
        self.down = nn.ModuleList(Stage(spec, i, width + spec.extra[i]) for i, width in enumerate(widths))
        self.shrink = nn.ModuleList(
            nn.Conv2d(widths[i], widths[i + 1], 3, stride=2, padding=1) for i in range(last)
        )
        self.grow = nn.ModuleList(nn.Conv2d(widths[i + 1], widths[i], 1) for i in range(last))
        self.up = nn.ModuleList(Stage(spec, i, 2 * widths[i]) for i in range(last))
        self.spade = nn.ModuleList()
        if spec.spade is not None:
            for side, joined in ((self.down, spec.extra), (self.up, widths)):
                for i in range(len(side)):
                    normalised = [widths[i] + joined[i]] + [widths[i]] * (2 * spec.blocks - 1)
                    self.spade.append(Spade(spec.spade[i], normalised))

    def maps(self, features: tuple[Tensor, ...]) -> tuple[StageMaps, ...]:
        """Compute the maps of each stage, down, then up, from features, fine to coarse."""
        levels = [*range(len(self.down)), *range(len(self.up))]
        return tuple(spade(features[i]) for spade, i in zip(self.spade, levels, strict=True))

    def forward(
        self,
        x: Tensor,
        embedding: Tensor,
        extra: tuple[Tensor, ...],
        maps: tuple[StageMaps, ...],
        offsets: Tensor | None,
    ) -> tuple[Tensor, ...]:
        levels = len(self.down)
        maps = maps or ((),) * (2 * levels - 1)
        skips: list[Tensor] = []
        for i, stage in enumerate(self.down):
            x = stage(torch.cat([x, extra[i]], dim=1) if extra else x, embedding, maps[i], offsets)
            skips.append(x)
            if i < len(self.shrink):
                x = self.shrink[i](x)
        features = [x]
        for i in reversed(range(len(self.up))):
            # resize to the skip, as odd sizes do not double exactly
            x = F.interpolate(self.grow[i](x), size=skips[i].shape[-2:], mode="nearest")
            x = self.up[i](torch.cat([x, skips[i]], dim=1), embedding, maps[levels + i], offsets)
            features.insert(0, x)
        return tuple(features)


class UNet(Unmoved, nn.Module):
    """U-Net denoiser; implements `vdp.diffusion.protocols.Denoiser`."""

    def __init__(self, params: UNetParams, channels: int) -> None:
        super().__init__()
        self.params = params  # of its config
        widths = [params.base_channels * mult for mult in params.channel_mults]
        dim = params.time_embedding_dim or 4 * params.base_channels
        stacked = params.context_slots * channels
        no_extra = [0] * len(widths)
        full = UNetBodySpec(
            widths, params.num_res_blocks, dim, params.attention_levels, no_extra, spade=None, temporal=False
        )
        self.conditioning = params.conditioning
        self.joint = params.temporal
        self.slots = Slots(params.context_slots, dim)
        if params.conditioning == "concat":
            self.encoder = None
            spec, noisy = full, channels + stacked
        else:
            self.context_in = nn.Conv2d(stacked, widths[0], 3, padding=1)
            self.encoder = UNetBody(full)
            head = widths[: params.head_levels]
            spec, noisy = replace(full, widths=head, blocks=params.head_blocks), channels
            spec = replace(spec, spade=head) if params.conditioning == "spade" else replace(spec, extra=head)
        self.time = nn.Sequential(nn.Linear(FEATURES, dim), nn.SiLU(), nn.Linear(dim, dim), nn.SiLU())
        self.noisy_in = nn.Conv2d(noisy, widths[0], 3, padding=1)
        self.head = UNetBody(replace(spec, temporal=params.temporal, temporal_heads=params.temporal_heads))
        self.norm = group_norm(widths[0])
        self.out = nn.Conv2d(widths[0], channels, 3, padding=1)
        self.pass_noise = nn.Linear(dim, channels)

    def blocks(self) -> list[nn.Module]:
        """Repeated modules that are called through `forward` only."""
        kinds = (ResBlock, ImageAttention, TimeConv, TimeAttention, Spade)
        return [module for module in self.modules() if isinstance(module, kinds)]

    def context(
        self, frames: Tensor, index: Tensor, level: Tensor, dropped: Tensor, target_index: Tensor
    ) -> UNetContext:
        """Encode the context frames; see `vdp.diffusion.protocols.Denoiser.context`."""
        offsets = None
        if self.joint:
            pairwise = target_index[:, None, :] - target_index[:, :, None]
            offsets = fourier_features(pairwise, FEATURES, MAX_OFFSET)
        stack, embedding = self.slots(frames, index, level, dropped, target_index)
        context = UNetContext((), (), None, offsets, target_index.shape[1])
        if self.encoder is None:
            return replace(context, slots=(stack, embedding))
        features = self.encoder(self.context_in(stack), embedding, extra=(), maps=(), offsets=None)
        features = features[: len(self.head.down)]
        if self.conditioning == "spade":
            return replace(context, maps=self.head.maps(features))
        return replace(context, features=features)

    def forward(self, xt: Tensor, t: Tensor, context: UNetContext) -> Tensor:
        """Denoise target frames; see `vdp.diffusion.protocols.Denoiser.__call__`."""
        batch, _, count, _, _ = xt.shape
        draws = count // context.targets
        embedding = self.time(fourier_features(t.flatten(), FEATURES, TIME_PERIOD))
        noisy = x = rearrange(xt, "b c n h w -> (b n) c h w")
        if context.slots is not None:
            stack, offsets = (repeat(slot, "m ... -> (m r) ...", r=draws) for slot in context.slots)
            x, embedding = torch.cat([noisy, stack], dim=1), embedding + offsets
        features = tuple(repeat(f, "m c h w -> (m r) c h w", r=draws) for f in context.features)
        h = self.head(self.noisy_in(x), embedding, features, context.maps, context.offsets)[0]
        # much of a velocity is the noise, which a gated shortcut passes around the head
        output = self.out(F.silu(self.norm(h))) + self.pass_noise(embedding)[:, :, None, None] * noisy
        return rearrange(output.float(), "(b n) c h w -> b c n h w", b=batch)
