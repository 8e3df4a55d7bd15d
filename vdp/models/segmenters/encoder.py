"""The backbone of the classifier as an encoder of segmentation_models_pytorch, `conv<base channels>`.

Shapes: B frames, H and W pixels.
"""

from segmentation_models_pytorch.encoders import encoders
from segmentation_models_pytorch.encoders._base import EncoderMixin
from torch import Tensor

from vdp.models.backbone import Backbone

OUTPUTS = (2, 4)  # its last convolution at each resolution below the frame's


class BackboneEncoder(Backbone, EncoderMixin):
    """The backbone; returns the frames and the features at a half and a quarter of their resolution."""

    def __init__(self, base_channels: int, depth: int, output_stride: int) -> None:
        super().__init__(base_channels)
        self._depth, self._in_channels, self._output_stride = depth, 3, output_stride
        self._out_channels = [3, 2 * base_channels, 3 * base_channels]

    def forward(self, frames: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> (B, 3, H, W), (B, 2C, H/2, W/2) and (B, 3C, H/4, W/4)."""
        features, x = [frames], frames
        for number, layer in enumerate(self):
            x = layer(x)
            if number in OUTPUTS:
                features.append(x)
        return features


def register_backbone(base_channels: int, name: str) -> None:
    """Add a backbone to the encoders of the library."""
    encoders[name] = {
        "encoder": BackboneEncoder,
        "params": {"base_channels": base_channels},
        "pretrained_settings": {},
    }
