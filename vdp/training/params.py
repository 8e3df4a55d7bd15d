"""Sections `engine`, `pretrain_vae`, `train_denoiser` and `train_segmenter` of params.yaml."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from vdp.config.schema import Params

Share = Annotated[float, Field(ge=0, le=1)]
Gap = Annotated[int, Field(ge=1)]  # frames from the last known one to the target


class EngineParams(Params):
    """Section `engine`: what trains, the same for all three trainings."""

    precision: Literal["auto", 32, "bf16", 16]  # of the networks' arithmetic; weights and losses stay in fp32
    devices: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)]  # processes on each node, a GPU each
    num_nodes: Annotated[int, Field(ge=1, le=65536)]  # machines
    strategy: Literal["auto", "ddp", "fsdp"]  # what processes share: the work, or the weights as well
    compile: bool  # the networks' blocks, by torch.compile
    checkpointing: bool  # compute activations again in the backward pass instead of keeping them
    save_minutes: Annotated[float, Field(gt=0)]  # between states to resume from
    save_steps: None | Annotated[int, Field(ge=1)]  # optimiser steps between them, besides
    max_skipped: Annotated[int, Field(ge=1)]  # steps in a row whose gradient is not finite, before the end


class FitParams(Params):
    """What every training has: keys of all three sections."""

    steps: Annotated[int, Field(ge=1)]  # optimiser steps
    batch_size: Annotated[int, Field(ge=1)]  # samples per step, over all processes and accumulated parts
    accumulate: Annotated[int, Field(ge=1)]  # parts of a process's batch, computed one by one
    learning_rate: Annotated[float, Field(gt=0, le=1)]  # peak
    lr_schedule: Literal["cosine", "constant"]  # of the learning rate after the warm-up
    warmup_steps: Annotated[int, Field(ge=0)]  # steps of linear warm-up
    weight_decay: Annotated[float, Field(ge=0, le=1)]  # of AdamW, on weight matrices alone
    grad_clip: Annotated[float, Field(gt=0)]  # largest norm of the gradient
    ema_decay: Annotated[float, Field(ge=0, lt=1)]  # of the averaged weights, after their warm-up
    log_every: Annotated[int, Field(ge=1)]  # steps between points of the loss curve
    validate_every: Annotated[int, Field(ge=1)]  # steps between validations of the averaged weights
    num_workers: Annotated[
        int, Field(ge=0, le=64)
    ]  # processes that read batches ahead; 0: none but the training
    keep: Literal["last", "best"]  # averaged weights that later stages use

    @model_validator(mode="after")
    def parts_are_whole(self) -> Self:
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"accumulate={self.accumulate} does not divide batch_size={self.batch_size}: "
                "expected a divisor of it"
            )
        return self


class PretrainVAEParams(FitParams):
    """Section `pretrain_vae`; a sample is a frame, or a short clip where the codec joins frames."""

    kl_weight: Annotated[float, Field(ge=0)]  # weight of the KL term, per element
    detail_weight: Annotated[float, Field(ge=1, le=100)]  # largest weight of a pixel that stands out; 1: off
    mask_weight: Annotated[float, Field(ge=0)]  # weight of the mask head's loss; 0 without labels


class TaskShares(Params):
    """Section `train_denoiser.tasks`: share of the steps that learn each task, relative to their sum."""

    predict: Annotated[float, Field(gt=0)]  # frames after those that are known; the pipeline needs it
    interpolate: Annotated[float, Field(ge=0)]  # frames between those that are known
    generate: Annotated[float, Field(ge=0)]  # frames of which nothing is known
    restore: Annotated[float, Field(ge=0)]  # frames that are known degraded


class TrainDenoiserParams(FitParams):
    """Section `train_denoiser`; a sample is a hop: some known frames and one target."""

    tasks: TaskShares
    target_offsets: Annotated[list[Gap], Field(min_length=1)]  # a hop draws one of them
    context_frames: Annotated[int, Field(ge=1)]  # known frames of a training hop, at most
    max_hops: Annotated[int, Field(ge=0)]  # earlier hops of the rollout that a training hop may stand behind
    max_span: Annotated[
        int, Field(ge=2)
    ]  # interpolate: frames from the known one before a gap to that after it
    targets: Annotated[int, Field(ge=1)]  # frames to predict from one context, at different gaps
    draws: Annotated[int, Field(ge=1)]  # noise draws of each target per step, from one pass over its context
    reverse: bool  # play half of the training hops backwards
    context_noise: Share  # largest standard deviation of noise on known frames; half of the hops have none
    context_dropout: Annotated[float, Field(ge=0, lt=1)]  # share of hops without pictures of known frames
    scheduled_sampling: Share  # share of the steps whose newest known frames the network has made itself
    scheduled_sampling_frames: Annotated[int, Field(ge=1)]  # how many of them, at most
    scheduled_sampling_steps: Annotated[int, Field(ge=1, le=1000)]  # sampling steps of each
    scheduled_sampling_temperature: Annotated[float, Field(ge=0, le=2)]  # scale of their starting noise


class TrainSegmenterParams(FitParams):
    """Section `train_segmenter`; a sample is a labelled frame."""

    round_trip: Share  # share of frames that pass through the codec first
    latent_noise: Annotated[float, Field(ge=0, le=2)]  # largest standard deviation of noise on those latents
