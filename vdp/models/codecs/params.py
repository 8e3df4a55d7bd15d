"""Sections `codec`, `vae` and `encode_latents` of params.yaml."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from vdp.config.choices import CodecName
from vdp.config.schema import Params

FACTORISED = "factorised"


class CodecParams(Params):
    """Section `codec`."""

    name: CodecName


class VAEParams(Params):
    """Section `vae`: the network of the VAE."""

    spatial_factor: Literal[2, 4, 8]  # pixels per latent position along height and width
    temporal_factor: Literal[1, 2, 4]  # frames per latent frame, after the first; 1: no compression in time
    # kernels of the temporal layers: along time, or in space and time; a config without it is factorised
    convolutions: Annotated[Literal["factorised", "full"], Field(exclude_if=lambda kind: kind == FACTORISED)]
    latent_channels: Annotated[int, Field(ge=1, le=64)]
    base_channels: Annotated[int, Field(ge=8, le=512)]  # at half resolution; doubled at each downsampling
    num_res_blocks: Annotated[int, Field(ge=1, le=8)]  # residual blocks at the lowest resolution

    @model_validator(mode="after")
    def full_convolutions_have_time(self) -> Self:
        if self.convolutions == "full" and self.temporal_factor == 1:
            raise ValueError(
                "vae.convolutions=full: expected factorised with vae.temporal_factor=1, as there are no "
                "temporal layers; set it to factorised, or raise temporal_factor"
            )
        return self


class CodecConfig(Params):
    """`config.json` of a trained codec."""

    name: CodecName
    vae: VAEParams | None  # null for the pixel codec
    has_masks: bool  # whether the mask head was trained

    @model_validator(mode="before")
    @classmethod
    def factorised_where_unnamed(cls, data: object) -> object:
        vae = data.get("vae") if isinstance(data, dict) else None
        if isinstance(data, dict) and isinstance(vae, dict):
            return data | {"vae": {"convolutions": FACTORISED} | vae}
        return data


class EncodeParams(Params):
    """Section `encode_latents`."""

    batch_frames: Annotated[int, Field(ge=1, le=4096)]
    shard_mb: Annotated[int, Field(ge=1, le=65536)]  # size of a latent shard on disk
    degraded: Annotated[int, Field(ge=0, le=64)]  # degraded encodings of each clip, for restore
