"""SimVP (Gao et al. 2022, arXiv:2206.05099): known frames to one later frame by convolutions.

An encoder of each frame, a translator of Inception blocks over the stacked features of all frames, a decoder.
Departures from the paper: the translator's output is one frame, not a sequence, and the skip connections come
from the last known frame. Shapes: B clips, K known frames, C channels, D features of a frame.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

KERNELS = (3, 5, 7, 11)  # of the branches of an Inception block
GROUPS = 8  # of its convolutions and norms
SLOPE = 0.2  # of the leaky ReLU


class ConvNorm(nn.Sequential):
    """3x3 convolution, group norm, leaky ReLU."""

    def __init__(self, channels: int, features: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(channels, features, 3, stride, padding=1),
            nn.GroupNorm(2, features),
            nn.LeakyReLU(SLOPE),
        )


class Inception(nn.Module):
    """A 1x1 convolution to half of the features, then the sum of branches of grouped convolutions."""

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, features // 2, 1)
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(features // 2, features, kernel, padding=kernel // 2, groups=GROUPS),
                nn.GroupNorm(GROUPS, features),
                nn.LeakyReLU(SLOPE),
            )
            for kernel in KERNELS
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduce(x)
        return torch.stack([branch(x) for branch in self.branches]).sum(dim=0)


class Translator(nn.Module):
    """2 x `depth` Inception blocks; each of the second half also reads the output of its mirror block."""

    def __init__(self, channels: int, hidden: int, features: int, depth: int) -> None:
        super().__init__()
        self.first = nn.ModuleList(Inception(hidden if n else channels, hidden) for n in range(depth))
        self.second = nn.ModuleList(Inception(2 * hidden if n else hidden, hidden) for n in range(depth))
        self.out = nn.Conv2d(hidden, features, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for block in self.first:
            x = block(x)
            skips.append(x)
        for number, block in enumerate(self.second):
            x = block(torch.cat([x, skips[-1 - number]], dim=1) if number else x)
        return self.out(x)


class SimVP(nn.Module):
    """Predict `out` channels of one frame from K frames of `channels` channels, at their resolution.

    Args:
        known: K.
        width: features of a frame.
        hidden: features of the translator, a multiple of 2 x GROUPS.
        depth: half of the translator's blocks.
    """

    def __init__(self, known: int, channels: int, out: int, width: int, hidden: int, depth: int) -> None:
        super().__init__()
        self.stem = ConvNorm(channels, width, stride=2)
        self.encoder = nn.Sequential(
            ConvNorm(width, width), ConvNorm(width, width, stride=2), ConvNorm(width, width)
        )
        self.translator = Translator(known * width, hidden, width, depth)
        self.decoder = ConvNorm(width, width)
        self.merge = ConvNorm(2 * width, width)
        self.readout = nn.Conv2d(width + channels, out, 3, padding=1)
        nn.init.zeros_(
            self.readout.weight
        )  # its output is added to the last known frame: it begins as a copy
        assert self.readout.bias is not None
        nn.init.zeros_(self.readout.bias)

    def forward(self, frames: Tensor) -> Tensor:  # (B, C, K, H, W) -> (B, out, H, W)
        batch, _, known = frames.shape[:3]
        stem = self.stem(frames.transpose(1, 2).flatten(0, 1))  # (B*K, D, H/2, W/2)
        features = self.encoder(stem).unflatten(0, (batch, known)).flatten(1, 2)  # (B, K*D, H/4, W/4)
        x = self.decoder(self.translator(features))
        skip = stem.unflatten(0, (batch, known))[:, -1]
        x = self.merge(torch.cat([F.interpolate(x, skip.shape[-2:]), skip], dim=1))
        last = frames[:, :, -1]
        return self.readout(torch.cat([F.interpolate(x, last.shape[-2:]), last], dim=1))
