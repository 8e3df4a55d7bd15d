"""Section `denoiser` of params.yaml."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from vdp.params import Params


class UnetParams(Params):
    """Section `denoiser.unet`."""

    base_channels: Annotated[int, Field(ge=8, le=1024)]  # channels at the latents' own resolution
    channel_mults: Annotated[list[int], Field(min_length=1, max_length=6)]  # times base_channels, per halving
    num_res_blocks: Annotated[int, Field(ge=1, le=8)]  # residual blocks per resolution of the context encoder
    context_frames: Annotated[int, Field(ge=1, le=64)]  # known frames, nearest first, that the network sees
    head_levels: Annotated[int, Field(ge=1, le=6)]  # resolutions of the denoising head, from the finest
    head_blocks: Annotated[int, Field(ge=1, le=8)]  # residual blocks at each resolution of the denoising head

    @model_validator(mode="after")
    def head_fits(self) -> Self:
        if self.head_levels > len(self.channel_mults):
            raise ValueError(
                f"denoiser.unet.head_levels={self.head_levels} is more than the {len(self.channel_mults)} "
                "resolutions of denoiser.unet.channel_mults"
            )
        return self


class DitParams(Params):
    """Section `denoiser.dit`."""

    patch_size: Annotated[int, Field(ge=1, le=16)]  # latent positions a side that make one token
    hidden_dim: Annotated[int, Field(ge=32, le=4096)]  # channels per token
    depth: Annotated[int, Field(ge=1, le=64)]  # number of blocks
    num_heads: Annotated[int, Field(ge=1, le=64)]  # attention heads; hidden_dim / num_heads is divisible by 8

    @model_validator(mode="after")
    def heads_divide_dim(self) -> Self:
        if self.hidden_dim % (8 * self.num_heads):
            raise ValueError(
                f"denoiser.dit.hidden_dim={self.hidden_dim} is not divisible by 8 x denoiser.dit.num_heads="
                f"{self.num_heads}: each head's channels are shared by rotations over time, height and width"
            )
        return self


class DenoiserParams(Params):
    """Section `denoiser`: which network predicts the unknown frames."""

    name: Literal["unet", "dit"]
    unet: UnetParams
    dit: DitParams


class DenoiserConfig(Params):
    """`config.json` of a trained denoiser: how to build it, and what it has to be used with."""

    denoiser: DenoiserParams
    channels: int  # of a latent
    known: int  # known frames of its training hops, at most; a rollout gives it no more
    process: Literal["flow", "v"]
    change_scale: tuple[float, ...]  # standard deviation of a change that the network makes, per channel
    latent_mean: tuple[float, ...]  # of the raw latents, per channel
    latent_std: tuple[float, ...]
