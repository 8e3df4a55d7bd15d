"""Convolutions shared by the classifier of crops and UNet++.

Shapes: B frames, H and W pixels.
"""

from torch import nn


class ConvBlock(nn.Sequential):
    """A 3x3 convolution, batch norm and ReLU."""

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(),
        )


class Backbone(nn.Sequential):
    """Five convolutions, two of them with stride 2: (B, 3, H, W) -> (B, 3C, H/4, W/4), C base channels."""

    def __init__(self, base_channels: int) -> None:
        width = base_channels
        super().__init__(
            ConvBlock(3, width),
            ConvBlock(width, width * 3 // 2, stride=2),
            ConvBlock(width * 3 // 2, 2 * width),
            ConvBlock(2 * width, 3 * width, stride=2),
            ConvBlock(3 * width, 3 * width),
        )
