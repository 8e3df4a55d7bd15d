"""Move context frames to the target frames, so that a denoiser diffuses only what motion does not explain.

Each latent position of a target is a weighted mean of positions around it in the context frames nearest to it
(dynamic kernels, Finn et al. 2016, arXiv:1605.07157; softmax over positions and frames). The moved frames are
context frames at the indices of their targets; no masks are needed, and targets between context frames read
both sides.
Shapes: B clips, C channels, K context frames, N target frames, S slots, P = S x size^2 sources.
"""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vdp.core.context_frames import distance
from vdp.models.denoisers.dit import DiT, DiTContext
from vdp.models.denoisers.params import MoverParams
from vdp.models.denoisers.unet import FEATURES, MAX_OFFSET, UNet, UNetBody, UNetBodySpec, UNetContext
from vdp.models.layers import fourier_features, group_norm

NEAREST = 4.0  # initial logit of the same position in the nearest frame: training starts from a copy of it


class Mover(nn.Module):
    """Predicts the kernels of each target frame from its nearest context frames, and applies them."""

    def __init__(self, params: MoverParams, channels: int) -> None:
        super().__init__()
        self.params = params  # of its config
        width, self.slots, self.size = params.base_channels, params.slots, params.kernel_size
        dim = 4 * width
        self.embed = nn.Sequential(
            nn.Linear(self.slots * (FEATURES + 1), dim), nn.SiLU(), nn.Linear(dim, dim), nn.SiLU()
        )
        self.stack = nn.Conv2d(self.slots * channels, width, 3, padding=1)
        widths = [width, 2 * width]
        no_extra = [0] * len(widths)
        self.body = UNetBody(UNetBodySpec(widths, 1, dim, [], no_extra, spade=None, temporal=False))
        self.norm = group_norm(width)
        self.logits = nn.Conv2d(width, self.slots * self.size**2, 1)
        nn.init.zeros_(self.logits.weight)
        copy = torch.zeros(self.slots * self.size**2)
        copy[self.size**2 // 2] = NEAREST
        self.logits.bias = nn.Parameter(copy)

    def forward(self, frames: Tensor, index: Tensor, target_index: Tensor) -> Tensor:
        """Move frames (B, C, K, h, w) at indices (B, K), K >= 1, to targets (B, N) -> (B, C, N, h, w)."""
        batch, channels, known, height, width = frames.shape
        used = min(known, self.slots)
        order = distance(index, target_index).argsort(dim=2, stable=True)[:, :, :used]
        rows = torch.arange(batch, device=frames.device)[:, None, None]
        chosen = rearrange(frames[rows, :, order], "b n s c h w -> (b n) s c h w")
        chosen = F.pad(chosen, (0, 0, 0, 0, 0, 0, 0, self.slots - used))
        offset = (index[:, None, :] - target_index[:, :, None]).gather(2, order)
        present = torch.ones_like(offset)[..., None]
        embedding = torch.cat([fourier_features(offset, FEATURES, MAX_OFFSET), present], dim=-1)
        embedding = rearrange(F.pad(embedding, (0, 0, 0, self.slots - used)), "b n s d -> (b n) (s d)")
        x = self.stack(rearrange(chosen, "m s c h w -> m (s c) h w"))
        x = self.body(x, self.embed(embedding), extra=(), maps=(), offsets=None)[0]
        logits = self.logits(F.silu(self.norm(x))).float()
        logits = logits.unflatten(1, (self.slots, -1))
        logits[:, used:] = -torch.inf
        weights = logits.flatten(1, 2).softmax(dim=1)  # (B*N, P, h, w)
        margin = self.size // 2
        padded = F.pad(chosen.flatten(1, 2), (margin, margin, margin, margin), mode="replicate")
        sources = F.unfold(padded, self.size).unflatten(1, (self.slots, channels, -1))
        sources = rearrange(sources, "m s c k (h w) -> m c (s k) h w", h=height)
        moved = (sources * weights[:, None]).sum(dim=2)
        return rearrange(moved, "(b n) c h w -> b c n h w", b=batch)


class MovedDenoiser(nn.Module):
    """A denoiser and the mover of its base; implements `vdp.diffusion.protocols.Denoiser`."""

    def __init__(self, network: UNet | DiT, mover: Mover) -> None:
        super().__init__()
        self.network = network
        self.mover = mover

    @property
    def joint(self) -> bool:
        """That of the denoiser."""
        return self.network.joint

    def blocks(self) -> list[nn.Module]:
        """Repeated modules that are called through `forward` only."""
        return self.network.blocks()

    def move(self, frames: Tensor, index: Tensor, target_index: Tensor) -> Tensor | None:
        """Move the context frames; see `vdp.diffusion.protocols.Denoiser.move`."""
        return self.mover(frames, index, target_index) if frames.shape[2] else None

    def context(
        self, frames: Tensor, index: Tensor, level: Tensor, dropped: Tensor, target_index: Tensor
    ) -> UNetContext | DiTContext:
        """Encode the context frames; see `vdp.diffusion.protocols.Denoiser.context`."""
        return self.network.context(frames, index, level, dropped, target_index)

    def forward(self, xt: Tensor, t: Tensor, context: UNetContext | DiTContext) -> Tensor:
        """Denoise target frames; see `vdp.diffusion.protocols.Denoiser.__call__`."""
        return self.network(xt, t, context)
