"""Load codecs; each implements `vdp.models.codecs.protocols.Codec`."""

from pathlib import Path

from vdp.models.checkpoint import load_config, load_weights
from vdp.models.codecs.params import CodecConfig
from vdp.models.codecs.pixel import PixelCodec
from vdp.models.codecs.vae import VAE


def load_codec(folder: Path) -> VAE | PixelCodec:
    """Load a codec in evaluation mode from its folder; errors as of `load_config` and `load_weights`."""
    config = load_config(folder, CodecConfig)
    if config.vae is None:
        return PixelCodec()
    codec = VAE(config.vae, config.has_masks)
    load_weights(codec, folder)
    codec.eval()
    return codec
