"""Networks of the diffusion rivals: predict one noised frame given K known ones, in latents.

`x` is the noised change of the target frame from the last known one, in units of `scale`; known frames enter
clean, as their own changes in these units beside the last known frame itself.
Shapes: B clips, C channels, K known frames, h x w latent positions.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from bench.rivals.unet_blocks import DiffusionUNet


class FrameDenoiser(nn.Module, ABC):
    """Base of the networks."""

    def __init__(self, unet: DiffusionUNet) -> None:
        super().__init__()
        self.unet = unet

    @abstractmethod
    def forward(self, x: Tensor, t: Tensor, known: Tensor, scale: Tensor) -> Tensor:
        """Map x (B, C, h, w) at times t (B,) given known (B, C, K, h, w) to the shape of x; scale is (C,)."""


class MCVD(FrameDenoiser):
    """Frames in channels (Voleti et al. 2022, arXiv:2205.09853), known frames by concatenation.

    The authors recommend concatenation unless SPADE is very wide.
    """

    def __init__(self, known: int, channels: int, width: int, mults: tuple[int, ...]) -> None:
        super().__init__(DiffusionUNet((known + 1) * channels, channels, width, mults, frames=1))

    def forward(self, x: Tensor, t: Tensor, known: Tensor, scale: Tensor) -> Tensor:
        changes, last = split_known(known, scale)
        stacked = torch.cat([x, last, changes[:, :, :-1].flatten(1, 2)], dim=1)
        return self.unet(stacked[:, :, None], t)[:, :, 0]


class Unet3D(FrameDenoiser):
    """Factorised space-time U-Net (Ho et al. 2022, arXiv:2204.03458), the design of lucidrains' Unet3D.

    Convolutions and attention within frames, attention over time with relative positions. Known frames are
    clean frames of the clip that is denoised.
    """

    def __init__(self, known: int, channels: int, width: int, mults: tuple[int, ...]) -> None:
        super().__init__(DiffusionUNet(2 * channels + 1, channels, width, mults, frames=known + 1))

    def forward(self, x: Tensor, t: Tensor, known: Tensor, scale: Tensor) -> Tensor:
        changes, last = split_known(known, scale)
        clip = torch.cat([changes, x[:, :, None]], dim=2)  # (B, C, K+1, h, w)
        is_target = torch.zeros_like(clip[:, :1])
        is_target[:, :, -1] = 1
        background = last[:, :, None].expand_as(clip)
        return self.unet(torch.cat([clip, background, is_target], dim=1), t)[:, :, -1]


def split_known(known: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Changes from the last known frame, (B, C, K, h, w), and that frame, (B, C, h, w)."""
    last = known[:, :, -1]
    return (known - last[:, :, None]) / scale[:, None, None, None], last
