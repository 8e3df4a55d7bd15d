"""Section `denoiser` of params.yaml."""

from typing import Annotated, Generic, Literal, Self, TypeVar

from pydantic import Field, model_validator

from vdp.config.schema import Params

Mult = Annotated[int, Field(ge=1, le=64)]  # times base_channels
Level = Annotated[int, Field(ge=0, le=5)]  # a resolution of a U-Net; 0 is the finest


class UNetParams(Params):
    """Section `denoiser.unet`."""

    conditioning: Literal["features", "spade", "concat"]  # how the known frames enter
    base_channels: Annotated[int, Field(ge=8, le=1024)]  # channels at the latents' own resolution
    channel_mults: Annotated[list[Mult], Field(min_length=1, max_length=6)]  # one per resolution
    num_res_blocks: Annotated[int, Field(ge=1, le=8)]  # residual blocks per resolution
    attention_levels: list[Level]  # resolutions with attention over the positions of a frame
    temporal: bool  # convolutions and attention over the targets of a hop, which then see each other
    context_slots: Annotated[int, Field(ge=1, le=64)]  # known frames, nearest first, that the network sees
    head_levels: Annotated[int, Field(ge=1, le=6)]  # resolutions of the denoising head, from the finest
    head_blocks: Annotated[int, Field(ge=1, le=8)]  # residual blocks at each resolution of the denoising head

    @model_validator(mode="after")
    def levels_fit(self) -> Self:
        levels = len(self.channel_mults)
        if self.head_levels > levels:
            raise ValueError(
                f"denoiser.unet.head_levels={self.head_levels} is more than the {levels} "
                "resolutions of denoiser.unet.channel_mults"
            )
        strange = [level for level in self.attention_levels if level >= levels]
        if strange:
            raise ValueError(
                f"denoiser.unet.attention_levels={self.attention_levels} names level {strange[0]}: expected "
                f"0..{levels - 1}, as denoiser.unet.channel_mults has {levels}"
            )
        return self


class DiTParams(Params):
    """Section `denoiser.dit`."""

    patch_size: Annotated[int, Field(ge=1, le=16)]  # latent positions a side that make one token
    hidden_dim: Annotated[int, Field(ge=32, le=4096)]  # channels per token
    depth: Annotated[int, Field(ge=1, le=64)]  # number of blocks
    num_heads: Annotated[int, Field(ge=1, le=64)]  # attention heads; hidden_dim / num_heads is divisible by 8
    stem_channels: Annotated[int, Field(ge=0, le=1024)]  # of the convolutions around the blocks; 0: none
    attention: Literal["one_way", "block", "joint"]  # who sees whom; see vdp.models.denoisers.dit
    factorised: bool  # attend within frames, then along time, in place of both at once

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
    unet: UNetParams
    dit: DiTParams


Diffusion = TypeVar("Diffusion", bound=Params)  # the params of the process, which are not this package's


class DenoiserConfig(Params, Generic[Diffusion]):
    """`config.json` of a trained denoiser: how to build it, and what it has to be used with."""

    denoiser: DenoiserParams
    diffusion: Diffusion
    codec: str  # fingerprint of the codec whose latents it was trained on
    channels: int  # of a latent
    height: int  # of the frames that it was trained on, pixels
    width: int
    tasks: dict[str, float]  # share of each task in its training
    context_frames: int  # known frames of its training hops, at most; a rollout gives it no more
    target_offsets: list[int]  # predict: frames from the last known one to a target
    targets: int  # frames of a hop
    max_span: int  # interpolate: frames from the last known one before a gap to the first after it, at most
    context_dropout: float  # share of hops that were learnt without known pictures: above 0, guidance works
    data_scale: dict[str, tuple[float, ...]]  # root mean square of what is diffused, per channel
    latent_mean: tuple[float, ...]  # of the raw latents, per channel
    latent_std: tuple[float, ...]
