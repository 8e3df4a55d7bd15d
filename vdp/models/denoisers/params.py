"""Section `denoiser` of params.yaml."""

from typing import Annotated, Generic, Literal, Self, TypeVar

from pydantic import Field, model_validator

from vdp.config.choices import BaseName, DenoiserName
from vdp.config.schema import LATER, Params

Mult = Annotated[int, Field(ge=1, le=64)]  # times base_channels
Side = Annotated[int, Field(ge=1, le=16)]  # of a patch, latent positions
Level = Annotated[int, Field(ge=0, le=5)]  # a resolution of a U-Net; 0 is the finest


EmbeddingDim = Annotated[int | None, Field(ge=8, le=8192), LATER]  # of noise levels and roles or offsets


class UNetParams(Params):
    """Section `denoiser.unet`."""

    conditioning: Literal["features", "spade", "concat"]  # how the context frames enter
    base_channels: Annotated[int, Field(ge=8, le=1024)]  # at the resolution of the latents
    channel_mults: Annotated[list[Mult], Field(min_length=1, max_length=6)]  # one per resolution
    num_res_blocks: Annotated[int, Field(ge=1, le=8)]  # per resolution
    attention_levels: list[Level]  # resolutions with spatial attention
    temporal: bool  # convolutions and attention over the targets of a hop
    # heads of the attention over them; None: by the channels, as spatial attention
    temporal_heads: Annotated[int | None, Field(ge=1, le=64), LATER]
    context_slots: Annotated[int, Field(ge=1, le=64)]  # context frames in the input, nearest first
    head_levels: Annotated[int, Field(ge=1, le=6)]  # resolutions of the denoising head, from the finest
    head_blocks: Annotated[int, Field(ge=1, le=8)]  # residual blocks per resolution of the denoising head
    time_embedding_dim: EmbeddingDim  # None: 4 x base_channels

    @model_validator(mode="after")
    def levels_exist(self) -> Self:
        levels = len(self.channel_mults)
        if self.head_levels > levels:
            raise ValueError(
                f"denoiser.unet.head_levels={self.head_levels}: expected <= {levels}, the resolutions of "
                "denoiser.unet.channel_mults"
            )
        if any(level >= levels for level in self.attention_levels):
            raise ValueError(
                f"denoiser.unet.attention_levels={self.attention_levels}: expected 0..{levels - 1}, the "
                "resolutions of denoiser.unet.channel_mults"
            )
        return self

    @model_validator(mode="after")
    def temporal_heads_divide_channels(self) -> Self:
        heads, where = self.temporal_heads, f"denoiser.unet.temporal_heads={self.temporal_heads}: expected"
        if heads is None:
            return self
        if not self.temporal:
            raise ValueError(f"{where} null with denoiser.unet.temporal=false; set temporal to true")
        levels = len(self.channel_mults) if self.conditioning == "concat" else self.head_levels
        widths = [self.base_channels * mult for mult in self.channel_mults[:levels]]
        if any(width % heads for width in widths):
            raise ValueError(
                f"{where} a divisor of the channels {widths} of the denoising resolutions (base_channels x "
                "channel_mults); change one"
            )
        return self


class DiTParams(Params):
    """Section `denoiser.dit`."""

    patch_size: Side | tuple[Side, Side]  # latent positions of a token: of both sides, or rows and columns
    hidden_dim: Annotated[int, Field(ge=32, le=4096)]  # channels per token
    depth: Annotated[int, Field(ge=1, le=64)]  # number of blocks
    num_heads: Annotated[int, Field(ge=1, le=64)]  # attention heads
    stem_channels: Annotated[int, Field(ge=0, le=1024)]  # of the convolutions around the blocks; 0: none
    attention: Literal["one_way", "block", "joint"]  # see vdp.models.denoisers.dit
    factorised: bool  # attend within frames, then along time
    time_embedding_dim: EmbeddingDim  # None: hidden_dim

    @property
    def patch_sides(self) -> tuple[int, int]:
        """Rows and columns of a patch."""
        return (self.patch_size,) * 2 if isinstance(self.patch_size, int) else self.patch_size

    @model_validator(mode="after")
    def heads_divide_dim(self) -> Self:
        if self.hidden_dim % (8 * self.num_heads):
            raise ValueError(
                f"denoiser.dit.hidden_dim={self.hidden_dim}: expected a multiple of 8 x "
                f"denoiser.dit.num_heads={self.num_heads}, as RoPE splits the channels of a head over time, "
                "height and width"
            )
        return self


class MoverParams(Params):
    """Section `denoiser.mover`: the network of the moved base (`diffusion.base`)."""

    base_channels: Annotated[int, Field(ge=8, le=256)]  # at the resolution of the latents
    kernel_size: Annotated[int, Field(ge=3, le=31)]  # side of the kernels; latent positions
    slots: Annotated[int, Field(ge=1, le=16)]  # context frames to read, nearest first

    @model_validator(mode="after")
    def kernels_have_a_centre(self) -> Self:
        if self.kernel_size % 2 == 0:
            raise ValueError(f"denoiser.mover.kernel_size={self.kernel_size}: expected an odd number")
        return self


class DenoiserParams(Params):
    """Section `denoiser`."""

    name: DenoiserName
    mover: MoverParams
    unet: UNetParams
    dit: DiTParams

    @property
    def is_joint(self) -> bool:
        """Whether the targets of a hop are predicted jointly."""
        return self.unet.temporal if self.name == "unet" else self.dit.attention != "one_way"


Diffusion = TypeVar("Diffusion", bound=Params)  # params of the process, which belong to another package


class DenoiserConfig(Params, Generic[Diffusion]):
    """`config.json` of a trained denoiser: how to build and use it. Per-channel values have C entries."""

    denoiser: DenoiserParams | None  # None: a network of another project, which no model folder holds
    diffusion: Diffusion
    base: BaseName  # that of the diffused change; not auto
    codec: str  # fingerprint of the codec of its latents
    channels: int  # C, of a latent
    height: int  # of the training frames, pixels
    width: int
    tasks: dict[str, float]  # share of each task in the training
    context_frames: int  # max context frames of a training hop, and so of a rollout
    given_frames: int  # of them, min number of the frames that the rollout starts from
    known: int  # context frames of a clip: composed base: that the others are composed of; codec that
    # compresses time: that end a group of frames; 0 for others
    # base optical_flow: decay of the velocity; not in the files of others
    flow_decay: float | None = Field(default=None, exclude_if=lambda decay: decay is None)
    # base optical_flow: factors of the predicted changes (vdp.diffusion.gain); not in the files of others
    gains: list[float] | None = Field(default=None, exclude_if=lambda gains: gains is None)
    # fingerprint of the weights that the gains were measured for
    gains_of: str | None = Field(default=None, exclude_if=lambda weights: weights is None)
    target_offsets: list[int]  # predict: frames from the last context frame to a target
    targets: int  # target frames of a hop
    max_span: int  # interpolate: max frames between the context frames around the targets
    context_dropout: float  # share of hops with blank context; above 0, guidance is available
    data_scale: dict[str, tuple[float, ...]]  # root mean square of the diffused data, per task and channel
    latent_mean: tuple[float, ...]  # of the raw latents, per channel
    latent_std: tuple[float, ...]
