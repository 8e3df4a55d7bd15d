"""VAE of frames or of short clips (Rombach et al. 2022, arXiv:2112.10752), with a mask head.

Frames are folded into the batch, so each is coded independently. A temporal factor f above 1 adds causal
layers around the bottleneck that downsample time, as in CogVideoX (Yang et al. 2024, arXiv:2408.06072): the
first frame is the first latent frame, each further group of f frames is another. The mask head on the
decoder's trunk, trained where masks exist, keeps the identity of objects in the latents.
Shapes: B clips, T = 1 + f n frames, N = 1 + n latent frames, C latent channels, H and W pixels,
h = H / factor, w = W / factor.
"""

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vdp.models.codecs.params import VAEParams
from vdp.models.factored_classes import NUM_LOGITS, factor_loss
from vdp.models.layers import ResBlock, group_norm, zero_init

DETAIL_WINDOW = 9  # pixels; about the size of an object at 64x96
DETAIL_RANGE = 0.25  # difference from the neighbourhood, in [-1, 1] units, at full weight
STEM = 2  # factor of space-to-depth at the ends: convolutions at full resolution are expensive
PAST = 2  # earlier frames in the receptive field of a temporal convolution


def per_frame(layer: Callable[[Tensor], Tensor], clip: Tensor) -> Tensor:
    """Apply a layer of frames (B, C, H, W) to each frame of a clip (B, C, T, H, W)."""
    return unfold(layer(fold(clip)), len(clip))


def fold(clip: Tensor) -> Tensor:
    """Fold time into the batch, (B, C, T, H, W) -> (B T, C, H, W)."""
    return rearrange(clip, "b c t h w -> (b t) c h w")


def unfold(frames: Tensor, batch: int) -> Tensor:
    """Invert `fold`."""
    return rearrange(frames, "(b t) c h w -> b c t h w", b=batch)


class CausalTimeConv(nn.Module):
    """Causal convolution along time, padded with copies of the first frame.

    `full` convolves in space too, 3x3x3, as in CogVideoX.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int, full: bool) -> None:
        super().__init__()
        side = 3 if full else 1
        kernel, padding = (PAST + 1, side, side), (0, side // 2, side // 2)
        self.conv = nn.Conv3d(channels_in, channels_out, kernel, stride=(stride, 1, 1), padding=padding)

    def forward(self, x: Tensor) -> Tensor:  # (B, C_in, T, h, w) -> (B, C_out, 1 + (T - 1) / stride, h, w)
        return self.conv(torch.cat([x[:, :, :1].expand(-1, -1, PAST, -1, -1), x], dim=2))


class TimeResBlock(nn.Module):
    """Two causal temporal convolutions with per-frame normalisation; initialised to the identity."""

    def __init__(self, channels: int, full: bool) -> None:
        super().__init__()
        self.norm1 = group_norm(channels)
        self.conv1 = CausalTimeConv(channels, channels, stride=1, full=full)
        self.norm2 = group_norm(channels)
        self.conv2 = zero_init(CausalTimeConv(channels, channels, stride=1, full=full))

    def forward(self, x: Tensor) -> Tensor:  # (B, C, T, h, w)
        h = self.conv1(F.silu(per_frame(self.norm1, x)))
        return x + self.conv2(F.silu(per_frame(self.norm2, h)))


class TimeDownsample(nn.Module):
    """1 + 2n frames to 1 + n: the first and the later one of each pair, plus a causal convolution."""

    def __init__(self, channels: int, full: bool) -> None:
        super().__init__()
        self.change = CausalTimeConv(channels, channels, stride=2, full=full)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, 1 + 2n, h, w) -> (B, C, 1 + n, h, w)
        return x[:, :, ::2] + self.change(x)


class TimeUpsample(nn.Module):
    """1 + n frames to 1 + 2n: the first once and the others twice, plus a causal convolution."""

    def __init__(self, channels: int, full: bool) -> None:
        super().__init__()
        self.change = CausalTimeConv(channels, 2 * channels, stride=1, full=full)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, 1 + n, h, w) -> (B, C, 1 + 2n, h, w)
        change = rearrange(self.change(x), "b (c two) t h w -> b c (t two) h w", two=2)
        return (x.repeat_interleave(2, dim=2) + change)[:, :, 1:]  # the first frame is not doubled


class Encoder(nn.Module):
    """Clips to the mean and log-variance of their latents."""

    def __init__(self, params: VAEParams) -> None:
        super().__init__()
        width = params.base_channels
        layers: list[nn.Module] = [nn.PixelUnshuffle(STEM), nn.Conv2d(3 * STEM**2, width, 3, padding=1)]
        factor = STEM
        while factor < params.spatial_factor:
            layers += [ResBlock(width, width), nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)]
            width, factor = 2 * width, 2 * factor
        layers += [ResBlock(width, width) for _ in range(params.num_res_blocks)]
        self.body = nn.Sequential(*layers)
        last = nn.Conv2d(width, 2 * params.latent_channels, 3, padding=1)
        self.head = nn.Sequential(group_norm(width), nn.SiLU(), last)
        full = params.convolutions == "full"
        time: list[nn.Module] = []
        for _ in range(_log2(params.temporal_factor)):
            time += [TimeResBlock(width, full), TimeDownsample(width, full)]
        self.time = nn.Sequential(*time)  # the identity for a temporal factor of 1

    def forward(self, x: Tensor) -> Tensor:  # (B, 3, T, H, W) -> (B, 2C, N, h, w)
        return per_frame(self.head, self.time(per_frame(self.body, x)))


class Decoder(nn.Module):
    """Latents to pixels and, by a second head on the same trunk, to mask logits by factor."""

    def __init__(self, params: VAEParams) -> None:
        super().__init__()
        factor: int = params.spatial_factor
        width = params.base_channels * factor // STEM
        self.entry = nn.Conv2d(params.latent_channels, width, 3, padding=1)
        trunk: list[nn.Module] = [ResBlock(width, width) for _ in range(params.num_res_blocks)]
        while factor > STEM:
            trunk += [nn.Conv2d(width, 2 * width, 3, padding=1), nn.PixelShuffle(2)]  # 2C is (C/2) * 2 * 2
            width, factor = width // 2, factor // 2
            trunk += [ResBlock(width, width)]
        trunk += [group_norm(width), nn.SiLU()]
        self.trunk = nn.Sequential(*trunk)
        self.pixels = nn.Sequential(nn.Conv2d(width, 3 * STEM**2, 3, padding=1), nn.PixelShuffle(STEM))
        # 1x1: its outputs are many, and the trunk has seen the neighbourhood
        self.mask = nn.Sequential(nn.Conv2d(width, NUM_LOGITS * STEM**2, 1), nn.PixelShuffle(STEM))
        deep = params.base_channels * params.spatial_factor // STEM
        full = params.convolutions == "full"
        time: list[nn.Module] = []
        for _ in range(_log2(params.temporal_factor)):
            time += [TimeUpsample(deep, full), TimeResBlock(deep, full)]
        self.time = nn.Sequential(*time)

    # (B, C, N, h, w) -> (B, 3, T, H, W), (B, 14, T, H, W)
    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(z)
        return unfold(self.pixels(features), len(z)), unfold(self.mask(features), len(z))

    def features(self, z: Tensor) -> Tensor:
        """Compute what both heads share, one frame after the other, (B, C, N, h, w) -> (B*T, D, H/2, W/2)."""
        features: Tensor = self.trunk(fold(self.time(per_frame(self.entry, z))))
        return features


def _log2(power_of_two: int) -> int:
    return power_of_two.bit_length() - 1


class VAE(nn.Module):
    """Variational autoencoder of clips; implements `vdp.models.codecs.protocols.Codec`."""

    def __init__(self, params: VAEParams, has_masks: bool) -> None:
        super().__init__()
        self.params = params  # of its config
        self.has_masks = has_masks
        self.factor: int = params.spatial_factor
        self.temporal_factor: int = params.temporal_factor
        self.channels = params.latent_channels
        self.encoder = Encoder(params)
        self.decoder = Decoder(params)
        self.decoder.mask.requires_grad_(has_masks)  # unused without masks

    def blocks(self) -> list[nn.Module]:
        """Repeated modules that are called through `forward` only."""
        kinds = (ResBlock, TimeResBlock, TimeDownsample, TimeUpsample)
        return [module for module in self.modules() if isinstance(module, kinds)]

    def posterior(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Compute mean and log-variance of latents, (B, 3, T, H, W) -> two of (B, C, N, h, w) in fp32."""
        mean, log_variance = self.encoder(clips).float().chunk(2, dim=1)
        return mean, log_variance.clamp(-20, 10)

    def encode(self, clip: Tensor) -> Tensor:
        """Encode a clip to mean latents, (B, 3, T, H, W) in [-1, 1] -> (B, C, N, h, w) in fp32.

        A clip is padded with copies of its last frame to whole groups of the temporal factor.

        Raises:
            ValueError: if H or W is not a multiple of the spatial factor.
        """
        frames, height, width = clip.shape[2:]
        if height % self.factor or width % self.factor:
            raise ValueError(
                f"frames: expected height and width divisible by vae.spatial_factor={self.factor}, "
                f"got {height}x{width}; resize them or choose another factor"
            )
        missing = -(frames - 1) % self.temporal_factor
        if missing:
            clip = torch.cat([clip, clip[:, :, -1:].expand(-1, -1, missing, -1, -1)], dim=2)
        mean, _ = self.posterior(clip)
        return mean

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents, (B, C, N, h, w) -> (B, 3, T, H, W) in [-1, 1], in fp32."""
        pixels = unfold(self.decoder.pixels(self.decoder.features(latents)), len(latents))
        return pixels.float().clamp(-1, 1)

    def mask_logits(self, latents: Tensor) -> Tensor:
        """Predict mask logits by factor, (B, C, N, h, w) -> (B, 14, T, H, W); ValueError if untrained."""
        self._check_masks()
        return unfold(self.decoder.mask(self.decoder.features(latents)), len(latents)).float()

    def decode_with_masks(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Compute `decode` and `mask_logits` in one pass; ValueError if untrained."""
        self._check_masks()
        pixels, logits = self.decoder(latents)
        return pixels.float().clamp(-1, 1), logits.float()

    def _check_masks(self) -> None:
        if not self.has_masks:
            raise ValueError(
                "the codec's mask head was not trained: set pretrain_vae.mask_weight above 0, "
                "or segment.codec_vote to 0"
            )


def detail_weight(frames: Tensor, strength: float) -> Tensor:
    """Weight pixels by their difference from the local mean, from 1 (none) to `strength`.

    Raises the weight of small objects without labels. Frames (B, 3, H, W) in [-1, 1] -> (B, 1, H, W).
    """
    mean = frames
    # separable: a fifth of the time of a square window
    for window in ((DETAIL_WINDOW, 1), (1, DETAIL_WINDOW)):
        padding = (window[0] // 2, window[1] // 2)
        mean = F.avg_pool2d(mean, window, stride=1, padding=padding, count_include_pad=False)
    difference = (frames - mean).abs().amax(dim=1, keepdim=True)
    return 1 + (strength - 1) * (difference / DETAIL_RANGE).clamp(max=1)


def reparametrise(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """Sample N(mean, exp(log_variance)) from standard normal noise (arXiv:1312.6114, section 2.4)."""
    return mean + torch.exp(0.5 * log_variance) * noise


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Compute the mean KL divergence of N(mean, exp(log_variance)) from N(0, 1), a scalar in nats."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()


def vae_loss(
    network: VAE,
    clips: Tensor,
    masks: Tensor,
    weight: Tensor,
    noise: Tensor,
    kl_weight: float,
    detail: float,
    mask_weight: float,
) -> dict[str, Tensor]:
    """Compute the loss of the VAE: weighted L1, KL, and mask loss, each a mean over clips.

    Args:
        clips: (B, 3, T, H, W) in [-1, 1].
        masks: class ids, (B, T, H, W).
        weight: of each clip's mask loss, (B,); 0 where it has no masks.
        noise: standard normal, the shape of the latents, (B, C, N, h, w).
        kl_weight: weight of the KL term.
        detail: max weight of a pixel, for `detail_weight`.
        mask_weight: weight of the mask loss; 0 leaves the mask head untrained.

    Returns:
        'loss' and its terms 'l1', 'kl' and 'mask', scalars.
    """
    mean, log_variance = network.posterior(clips)
    pixels, logits = network.decoder(reparametrise(mean, log_variance, noise))
    frames = fold(clips)
    error = (fold(pixels).float() - frames).abs()  # in fp32 under autocast too
    losses = {"l1": (error * detail_weight(frames, detail)).mean(), "kl": kl_divergence(mean, log_variance)}
    loss = losses["l1"] + kl_weight * losses["kl"]
    if mask_weight:
        per_frame_loss = factor_loss(fold(logits), masks.flatten(0, 1))
        losses["mask"] = (weight * per_frame_loss.unflatten(0, masks.shape[:2]).mean(dim=1)).mean()
        loss = loss + mask_weight * losses["mask"]
    return {"loss": loss, **losses}
