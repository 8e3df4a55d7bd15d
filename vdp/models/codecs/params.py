"""Sections `codec`, `vae` and `encode_latents` of params.yaml."""

from typing import Annotated, Literal

from pydantic import Field

from vdp.config.choices import CodecName
from vdp.config.schema import Params


class CodecParams(Params):
    """Section `codec`."""

    name: CodecName


class VAEParams(Params):
    """Section `vae`: the network of the VAE."""

    spatial_factor: Literal[2, 4, 8]  # pixels per latent position along height and width
    temporal_factor: Literal[1, 2, 4]  # frames per latent frame, after the first; 1: no compression in time
    latent_channels: Annotated[int, Field(ge=1, le=64)]
    base_channels: Annotated[int, Field(ge=8, le=512)]  # at half resolution; doubled at each downsampling
    num_res_blocks: Annotated[int, Field(ge=1, le=8)]  # residual blocks at the lowest resolution


class CodecConfig(Params):
    """`config.json` of a trained codec."""

    name: CodecName
    vae: VAEParams | None  # null for the pixel codec
    has_masks: bool  # whether the mask head was trained


class EncodeParams(Params):
    """Section `encode_latents`."""

    batch_frames: Annotated[int, Field(ge=1, le=4096)]
    shard_mb: Annotated[int, Field(ge=1, le=65536)]  # size of a latent shard on disk
    degraded: Annotated[int, Field(ge=0, le=64)]  # degraded encodings of each clip, for restore
