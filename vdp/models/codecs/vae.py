"""VAE of frames or of short clips (Rombach et al. 2022, arXiv:2112.10752), with a mask head.

Frames are folded into the batch, so each is encoded and decoded alone: skip hops are not uniform in time.
With a temporal factor f above 1 causal layers around the bottleneck shorten time as well, as in CogVideoX
(Yang et al. 2024, arXiv:2408.06072): the first frame alone is the first latent frame, each further group of f
frames is one more, and nothing sees what comes after it. The mask head on the decoder's trunk is trained
where masks exist and makes the latents keep the identity of objects.
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
from vdp.models.layers import ResBlock, group_norm, zeroed

DETAIL_WINDOW = 9  # pixels; about the size of an object at 64x96
DETAIL_RANGE = 0.25  # difference from the neighbourhood, in [-1, 1] units, that earns the full weight
STEM = 2  # space-to-depth at the ends: full resolution is where convolutions cost most and say least
PAST = 2  # frames before its own that a convolution along time sees


def per_frame(layer: Callable[[Tensor], Tensor], clip: Tensor) -> Tensor:
    """A layer of frames (B, C, H, W), applied to each frame of a clip (B, C, T, H, W) alone."""
    return unfold(layer(fold(clip)), len(clip))


def fold(clip: Tensor) -> Tensor:
    """Clips as frames, (B, C, T, H, W) -> (B T, C, H, W)."""
    return rearrange(clip, "b c t h w -> (b t) c h w")


def unfold(frames: Tensor, batch: int) -> Tensor:
    """Inverse of `fold`."""
    return rearrange(frames, "(b t) c h w -> b c t h w", b=batch)


class TimeConv(nn.Module):
    """Convolution along time that sees a frame and the two before it; before the first one stands itself."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels_in, channels_out, (PAST + 1, 1, 1), stride=(stride, 1, 1))

    def forward(self, x: Tensor) -> Tensor:  # (B, C_in, T, h, w) -> (B, C_out, 1 + (T - 1) / stride, h, w)
        return self.conv(torch.cat([x[:, :, :1].expand(-1, -1, PAST, -1, -1), x], dim=2))


class TimeBlock(nn.Module):
    """Residual block of two convolutions along time, at first the identity; its norms see one frame each."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = group_norm(channels)
        self.conv1 = TimeConv(channels, channels, stride=1)
        self.norm2 = group_norm(channels)
        self.conv2 = zeroed(TimeConv(channels, channels, stride=1))

    def forward(self, x: Tensor) -> Tensor:  # (B, C, T, h, w)
        h = self.conv1(F.silu(per_frame(self.norm1, x)))
        return x + self.conv2(F.silu(per_frame(self.norm2, h)))


class HalveTime(nn.Module):
    """1 + 2n frames to 1 + n: the first, and the later one of each pair with what those before it add."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.change = TimeConv(channels, channels, stride=2)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, 1 + 2n, h, w) -> (B, C, 1 + n, h, w)
        return x[:, :, ::2] + self.change(x)


class DoubleTime(nn.Module):
    """1 + n frames to 1 + 2n: the first one, and each further one twice, with what tells the two apart."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.change = TimeConv(channels, 2 * channels, stride=1)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, 1 + n, h, w) -> (B, C, 1 + 2n, h, w)
        change = rearrange(self.change(x), "b (c two) t h w -> b c (t two) h w", two=2)
        return (x.repeat_interleave(2, dim=2) + change)[:, :, 1:]  # the first frame stays one


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
        time: list[nn.Module] = []
        for _ in range(halvings(params.temporal_factor)):
            time += [TimeBlock(width), HalveTime(width)]
        self.time = nn.Sequential(*time)  # empty, the identity, where each frame stands alone

    def forward(self, x: Tensor) -> Tensor:  # (B, 3, T, H, W) -> (B, 2C, N, h, w)
        return per_frame(self.head, self.time(per_frame(self.body, x)))


class Decoder(nn.Module):
    """Latents to pixels and, by a second head on the same trunk, to the factor logits of masks."""

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
        self.mask = nn.Sequential(nn.Conv2d(width, NUM_LOGITS * STEM**2, 3, padding=1), nn.PixelShuffle(STEM))
        deep = params.base_channels * params.spatial_factor // STEM
        time: list[nn.Module] = []
        for _ in range(halvings(params.temporal_factor)):
            time += [DoubleTime(deep), TimeBlock(deep)]
        self.time = nn.Sequential(*time)

    # (B, C, N, h, w) -> (B, 3, T, H, W), (B, 14, T, H, W)
    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        trunk = self.trunk(fold(self.time(per_frame(self.entry, z))))
        return unfold(self.pixels(trunk), len(z)), unfold(self.mask(trunk), len(z))


def halvings(temporal_factor: int) -> int:
    """How often 2 divides the temporal factor, 1, 2 or 4."""
    return temporal_factor.bit_length() - 1


class VAE(nn.Module):
    """Variational autoencoder of clips; see the module's docstring."""

    def __init__(self, params: VAEParams, has_masks: bool) -> None:
        super().__init__()
        self.has_masks = has_masks
        self.factor: int = params.spatial_factor
        self.temporal_factor: int = params.temporal_factor
        self.channels = params.latent_channels
        self.encoder = Encoder(params)
        self.decoder = Decoder(params)
        self.decoder.mask.requires_grad_(has_masks)  # without masks no loss would reach it

    def blocks(self) -> list[nn.Module]:
        """The repeated parts, which are called through `forward` alone."""
        kinds = (ResBlock, TimeBlock, HalveTime, DoubleTime)
        return [module for module in self.modules() if isinstance(module, kinds)]

    def posterior(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of latents, (B, 3, T, H, W) in [-1, 1] -> two of (B, C, N, h, w) in fp32."""
        mean, log_variance = self.encoder(clips).float().chunk(2, dim=1)
        return mean, log_variance.clamp(-20, 10)

    def encode(self, clip: Tensor) -> Tensor:
        """Mean latents of a clip, (B, 3, T, H, W) in [-1, 1] -> (B, C, N, h, w) in fp32; N = 1 + (T - 1) / f.

        Raises:
            ValueError: if H or W is not a multiple of the spatial factor, or T - 1 of the temporal one.
        """
        frames, height, width = clip.shape[2:]
        if height % self.factor or width % self.factor:
            raise ValueError(
                f"frames: expected height and width divisible by vae.spatial_factor={self.factor}, "
                f"got {height}x{width}; resize them or choose another factor"
            )
        left_over = (frames - 1) % self.temporal_factor
        if left_over:
            fits = frames - left_over
            raise ValueError(
                f"frames: expected 1 + a multiple of vae.temporal_factor={self.temporal_factor} of them, "
                f"got {frames}; give {fits} or {fits + self.temporal_factor}, or set vae.temporal_factor to 1"
            )
        mean, _ = self.posterior(clip)
        return mean

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels of latents, (B, C, N, h, w) -> (B, 3, T, H, W) in [-1, 1] and fp32; T = 1 + f (N - 1)."""
        pixels, _ = self.decoder(latents)
        return pixels.float().clamp(-1, 1)

    def mask_logits(self, latents: Tensor) -> Tensor:
        """Factor logits that the mask head reads from latents, (B, C, N, h, w) -> (B, 14, T, H, W) in fp32.

        Raises:
            ValueError: if the head was not trained.
        """
        if not self.has_masks:
            raise ValueError(
                "the codec's mask head was not trained: set pretrain_vae.mask_weight above 0, "
                "or segment.codec_vote to 0"
            )
        _, logits = self.decoder(latents)
        return logits.float()


def detail_weight(frames: Tensor, strength: float) -> Tensor:
    """Weight of each pixel's error: 1 where it equals its neighbourhood's mean, up to `strength` elsewhere.

    Small objects cover a few percent of a frame and stand out from their surroundings; without labels this
    gives them the loss they would lack. Frames (B, 3, H, W) in [-1, 1] -> (B, 1, H, W).
    """
    mean = frames
    # one axis after the other: a fifth of the time of a square window
    for window in ((DETAIL_WINDOW, 1), (1, DETAIL_WINDOW)):
        padding = (window[0] // 2, window[1] // 2)
        mean = F.avg_pool2d(mean, window, stride=1, padding=padding, count_include_pad=False)
    difference = (frames - mean).abs().amax(dim=1, keepdim=True)
    return 1 + (strength - 1) * (difference / DETAIL_RANGE).clamp(max=1)


def reparametrise(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """A sample of N(mean, exp(log_variance)) from standard normal noise (arXiv:1312.6114, section 2.4)."""
    return mean + torch.exp(0.5 * log_variance) * noise


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL of N(mean, exp(log_variance)) from N(0, 1), averaged over elements; a scalar in nats."""
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
    """Loss of the VAE: weighted L1, KL, and the mask head's loss on clips that have masks.

    All of them are means over the clips, of what each has of its own.

    Args:
        network: the codec.
        clips: (B, 3, T, H, W) in [-1, 1]; single frames have T = 1.
        masks: class ids, (B, T, H, W).
        weight: of each clip's mask loss, (B,); 0 where the masks are not real.
        noise: standard normal, the shape of the latents, (B, C, N, h, w).
        kl_weight: weight of the KL term.
        detail: largest weight of a pixel, for `detail_weight`.
        mask_weight: weight of the mask head; 0 leaves it untrained.

    Returns:
        'loss' and its parts 'l1', 'kl' and 'mask', scalars.
    """
    mean, log_variance = network.posterior(clips)
    pixels, logits = network.decoder(reparametrise(mean, log_variance, noise))
    frames = fold(clips)
    error = (fold(pixels).float() - frames).abs()  # in fp32 whatever the network computed in
    losses = {"l1": (error * detail_weight(frames, detail)).mean(), "kl": kl_divergence(mean, log_variance)}
    loss = losses["l1"] + kl_weight * losses["kl"]
    if mask_weight:
        of_frames = factor_loss(fold(logits), masks.flatten(0, 1))
        losses["mask"] = (weight * of_frames.unflatten(0, masks.shape[:2]).mean(dim=1)).mean()
        loss = loss + mask_weight * losses["mask"]
    return {"loss": loss, **losses}
