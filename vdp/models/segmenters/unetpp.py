"""UNet++ (Zhou et al. 2018, arXiv:1807.10165) of segmentation_models_pytorch, with a factorised head.

Shapes: B frames, H and W pixels.
"""

import difflib

import segmentation_models_pytorch as smp
import timm
from torch import Tensor, nn
from torch.nn import functional as F

from vdp.models.factored_classes import NUM_LOGITS
from vdp.models.segmenters.params import SegmenterParams
from vdp.models.segmenters.pruning import drop_unused, repeated, try_out


def check_encoder(name: str) -> None:
    """Refuse an encoder that the library does not have, naming some that it has.

    Raises:
        ValueError: if `name` is neither one of smp's own nor `tu-` and one of timm's.
    """
    own = smp.encoders.get_encoder_names()
    timm_name = name.removeprefix("tu-")
    if name in own or (name.startswith("tu-") and timm.list_models(timm_name)):
        return
    near = difflib.get_close_matches(name, own, n=3) or own[:3]
    raise ValueError(
        f"segmenter.encoder={name} is not an encoder of segmentation_models_pytorch; near it: "
        f"{', '.join(near)}; names of timm take the prefix tu-"
    )


class UNetPlusPlus(nn.Module):
    """Frames to factor logits of masks; any H and W."""

    def __init__(self, params: SegmenterParams) -> None:
        super().__init__()
        check_encoder(params.encoder)
        self.upsample = params.upsample
        self.multiple = 2**params.encoder_depth
        self.network = smp.UnetPlusPlus(
            encoder_name=params.encoder,
            encoder_depth=params.encoder_depth,
            encoder_weights=None,
            decoder_channels=params.decoder_channels,
            classes=NUM_LOGITS,
        )
        trial = try_out(self.network)
        drop_unused(self.network, trial)
        self.block_names = repeated(self.network, trial)

    def blocks(self) -> list[nn.Module]:
        """The repeated parts, which are called through `forward` alone."""
        return [self.network.get_submodule(name) for name in self.block_names]

    def forward(self, frames: Tensor) -> Tensor:
        """Factor logits, (B, 3, H, W) in [-1, 1] -> (B, 14, H, W) in fp32."""
        height, width = frames.shape[-2:]
        x = frames
        if self.upsample > 1:
            x = F.interpolate(x, scale_factor=self.upsample, mode="bilinear", align_corners=False)
        pad = (0, -x.shape[-1] % self.multiple, 0, -x.shape[-2] % self.multiple)
        logits = self.network(F.pad(x, pad, mode="replicate"))[..., : x.shape[-2], : x.shape[-1]]
        if self.upsample > 1:
            logits = F.avg_pool2d(logits, self.upsample)
        return logits.float()[..., :height, :width]
