"""VAE of frames, each encoded and decoded alone (Rombach et al. 2022, arXiv:2112.10752), with a mask head.

Skip hops are not uniform in time, so there is no temporal downsampling: frames are folded into the batch. The
mask head on the decoder's trunk is trained where masks exist and makes the latents keep the identity of
objects.
Shapes: B clips, T frames, C latent channels, H and W pixels, h = H / factor, w = W / factor.
"""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vdp.models.codecs.params import VaeParams
from vdp.models.factors import NUM_LOGITS, factor_loss
from vdp.models.layers import ResBlock, group_norm

DETAIL_WINDOW = 9  # pixels; about the size of an object at 64x96
DETAIL_RANGE = 0.25  # difference from the neighbourhood, in [-1, 1] units, that earns the full weight
STEM = 2  # space-to-depth at the ends: full resolution is where convolutions cost most and say least


class Encoder(nn.Module):
    """Frames to the mean and log-variance of their latents."""

    def __init__(self, params: VaeParams) -> None:
        super().__init__()
        width = params.base_channels
        layers: list[nn.Module] = [nn.PixelUnshuffle(STEM), nn.Conv2d(3 * STEM**2, width, 3, padding=1)]
        factor = STEM
        while factor < params.spatial_factor:
            layers += [ResBlock(width, width), nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)]
            width, factor = 2 * width, 2 * factor
        layers += [ResBlock(width, width) for _ in range(params.num_res_blocks)]
        layers += [group_norm(width), nn.SiLU(), nn.Conv2d(width, 2 * params.latent_channels, 3, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:  # (B, 3, H, W) -> (B, 2C, h, w)
        return self.layers(x)


class Decoder(nn.Module):
    """Latents to pixels and, by a second head on the same trunk, to the factor logits of masks."""

    def __init__(self, params: VaeParams) -> None:
        super().__init__()
        factor: int = params.spatial_factor
        width = params.base_channels * factor // STEM
        trunk: list[nn.Module] = [nn.Conv2d(params.latent_channels, width, 3, padding=1)]
        trunk += [ResBlock(width, width) for _ in range(params.num_res_blocks)]
        while factor > STEM:
            trunk += [nn.Conv2d(width, 2 * width, 3, padding=1), nn.PixelShuffle(2)]  # 2C is (C/2) * 2 * 2
            width, factor = width // 2, factor // 2
            trunk += [ResBlock(width, width)]
        trunk += [group_norm(width), nn.SiLU()]
        self.trunk = nn.Sequential(*trunk)
        self.pixels = nn.Sequential(nn.Conv2d(width, 3 * STEM**2, 3, padding=1), nn.PixelShuffle(STEM))
        self.mask = nn.Sequential(nn.Conv2d(width, NUM_LOGITS * STEM**2, 3, padding=1), nn.PixelShuffle(STEM))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:  # (B, C, h, w) -> (B, 3, H, W), (B, 14, H, W)
        trunk = self.trunk(z)
        return self.pixels(trunk), self.mask(trunk)


class Vae(nn.Module):
    """Variational autoencoder of frames; see the module's docstring."""

    def __init__(self, params: VaeParams, has_masks: bool) -> None:
        super().__init__()
        self.has_masks = has_masks
        self.factor: int = params.spatial_factor
        self.channels = params.latent_channels
        self.encoder = Encoder(params)
        self.decoder = Decoder(params)

    def posterior(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latents of frames, (B, 3, H, W) -> two of (B, C, h, w) in fp32."""
        mean, log_variance = self.encoder(frames).float().chunk(2, dim=1)
        return mean, log_variance.clamp(-20, 10)

    def encode(self, clip: Tensor) -> Tensor:
        """Mean latents of a clip, (B, 3, T, H, W) in [-1, 1] -> (B, C, T, h, w) in fp32.

        Raises:
            ValueError: if H or W is not a multiple of the spatial factor.
        """
        batch, _, _, height, width = clip.shape
        if height % self.factor or width % self.factor:
            raise ValueError(
                f"frames: expected height and width divisible by vae.spatial_factor={self.factor}, "
                f"got {height}x{width}; resize them or choose another factor"
            )
        mean, _ = self.posterior(rearrange(clip, "b c t h w -> (b t) c h w"))
        return rearrange(mean, "(b t) c h w -> b c t h w", b=batch)

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels of latents, (B, C, T, h, w) -> (B, 3, T, H, W) in [-1, 1] and fp32."""
        pixels, _ = self.decoder(rearrange(latents, "b c t h w -> (b t) c h w"))
        return rearrange(pixels.float().clamp(-1, 1), "(b t) c h w -> b c t h w", b=latents.shape[0])

    def mask_logits(self, latents: Tensor) -> Tensor:
        """Factor logits that the mask head reads from latents, (B, C, T, h, w) -> (B, 14, T, H, W) in fp32.

        Raises:
            ValueError: if the head was not trained.
        """
        if not self.has_masks:
            raise ValueError(
                "the codec's mask head was not trained: set pretrain_vae.mask_weight above 0, "
                "or segment.codec_vote to 0"
            )
        _, logits = self.decoder(rearrange(latents, "b c t h w -> (b t) c h w"))
        return rearrange(logits.float(), "(b t) c h w -> b c t h w", b=latents.shape[0])


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
    network: Vae,
    frames: Tensor,
    masks: Tensor,
    labelled: Tensor,
    noise: Tensor,
    kl_weight: float,
    detail: float,
    mask_weight: float,
) -> dict[str, Tensor]:
    """Loss of the VAE on single frames: weighted L1, KL, and the mask head's loss on frames that have masks.

    Args:
        network: the codec.
        frames: (B, 3, H, W) in [-1, 1].
        masks: class ids, (B, H, W).
        labelled: (B,) bool, which of them are real.
        noise: standard normal, the shape of the latents, (B, C, h, w).
        kl_weight: weight of the KL term.
        detail: largest weight of a pixel, for `detail_weight`.
        mask_weight: weight of the mask head; 0 leaves it untrained.

    Returns:
        'loss' and its parts 'l1', 'kl' and 'mask', scalars.
    """
    mean, log_variance = network.posterior(frames)
    pixels, logits = network.decoder(reparametrise(mean, log_variance, noise))
    error = (pixels.float() - frames).abs()
    losses = {"l1": (error * detail_weight(frames, detail)).mean(), "kl": kl_divergence(mean, log_variance)}
    loss = losses["l1"] + kl_weight * losses["kl"]
    if mask_weight and bool(labelled.any()):
        losses["mask"] = factor_loss(logits[labelled], masks[labelled])
        loss = loss + mask_weight * losses["mask"]
    return {"loss": loss, **losses}
