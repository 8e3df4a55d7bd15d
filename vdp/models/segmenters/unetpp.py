"""UNet++ (Zhou et al. 2018, arXiv:1807.10165) of segmentation_models_pytorch, with a factored head.

Shapes: B frames, H and W pixels.
"""

import difflib

import segmentation_models_pytorch as smp
import timm
from torch import Tensor, nn
from torch.nn import functional as F

from vdp.models.backbone import Backbone
from vdp.models.factored_classes import NUM_LOGITS
from vdp.models.segmenters.encoder import BackboneEncoder, register_backbone
from vdp.models.segmenters.module_usage import find_blocks, remove_unused, trace_usage
from vdp.models.segmenters.params import SegmenterParams

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, in RGB from 0 to 1


def check_encoder(name: str) -> None:
    """Raise ValueError if segmentation_models_pytorch has no encoder `name` (`tu-` prefixes timm's)."""
    known = smp.encoders.get_encoder_names()
    if name in known or (name.startswith("tu-") and timm.list_models(name.removeprefix("tu-"))):
        return
    similar = difflib.get_close_matches(name, known, n=3) or known[:3]
    raise ValueError(
        f"segmenter.encoder={name}: expected conv with a number of channels, such as conv32, or an encoder "
        f"of segmentation_models_pytorch, such as {', '.join(similar)}; names of timm take the prefix tu-"
    )


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize the last two axes, smoothed where they shrink; fp32, as CPUs do not smooth bf16."""
    return F.interpolate(x.float(), size=size, mode="bilinear", align_corners=False, antialias=True)


class UNetPlusPlus(nn.Module):
    """Frames of any H and W to mask logits by factor."""

    def __init__(self, params: SegmenterParams) -> None:
        super().__init__()
        if params.backbone_channels is not None:
            register_backbone(params.backbone_channels, params.encoder)
        check_encoder(params.encoder)
        self.upsample, self.size = params.upsample, params.size
        self.normalises = params.weights is not None  # the input, as that of ImageNet's weights
        self.multiple = 2**params.encoder_depth
        self.network = smp.UnetPlusPlus(
            encoder_name=params.encoder,
            encoder_depth=params.encoder_depth,
            encoder_weights=None,
            decoder_channels=params.decoder_channels,
            classes=NUM_LOGITS,
        )
        usage = trace_usage(self.network)
        remove_unused(self.network, usage)
        self.block_names = find_blocks(self.network, usage)

    def blocks(self) -> list[nn.Module]:
        """Repeated modules that are called through `forward` only."""
        return [self.network.get_submodule(name) for name in self.block_names]

    def load_backbone(self, backbone: Backbone) -> None:
        """Copy the weights of a backbone of the same width to the encoder, which must be one."""
        assert isinstance(self.network.encoder, BackboneEncoder)
        self.network.encoder.load_state_dict(backbone.state_dict())

    def forward(self, frames: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, 14, H, W) in fp32."""
        height, width = frames.shape[-2:]
        x = frames
        if self.normalises:
            mean, std = (frames.new_tensor(values)[:, None, None] for values in (MEAN, STD))
            x = (0.5 * (frames + 1) - mean) / std
        if self.upsample > 1:
            x = F.interpolate(x, scale_factor=self.upsample, mode="bilinear", align_corners=False)
        if self.size is not None:
            x = resize(x, self.size)
        pad = (0, -x.shape[-1] % self.multiple, 0, -x.shape[-2] % self.multiple)
        logits = self.network(F.pad(x, pad, mode="replicate"))[..., : x.shape[-2], : x.shape[-1]]
        if self.upsample > 1:
            logits = F.avg_pool2d(logits, self.upsample)
        if self.size is not None:
            logits = resize(logits, (height, width))
        return logits.float()[..., :height, :width]
