"""Sections of the trainings of params.yaml."""

import math
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from vdp.config.schema import Params

Share = Annotated[float, Field(ge=0, le=1)]
Offset = Annotated[int, Field(ge=1)]  # frames from the last context frame to the target
Workers = Annotated[int, Field(ge=0, le=64)]
Span = Annotated[int, Field(ge=2)]  # frames from the last context frame before the targets to the next one


class FitParams(Params):
    """Keys of every training."""

    steps: None | Annotated[int, Field(ge=1)]  # optimiser steps; None: by epochs
    epochs: None | Annotated[float, Field(gt=0)]  # passes over the training clips; None: by steps
    batch_size: Annotated[int, Field(ge=1)]  # samples per step, over all processes and accumulated parts
    accumulate: Annotated[int, Field(ge=1)]  # parts of the batch of a process, computed in sequence
    optimizer: Literal["adamw", "muon"]  # muon orthogonalises the updates of matrices and kernels
    learning_rate: Annotated[float, Field(gt=0, le=1)]  # peak
    lr_schedule: Literal["cosine", "constant"]  # after the warm-up
    warmup_steps: Annotated[int, Field(ge=0)]  # steps of linear warm-up
    weight_decay: Annotated[float, Field(ge=0, le=1)]  # on weight matrices only
    grad_clip: Annotated[float, Field(gt=0)]  # max norm of the gradient
    ema_decay: Annotated[float, Field(ge=0, lt=1)]  # of the averaged weights, after their warm-up
    log_every: Annotated[int, Field(ge=1)]  # steps between points of the loss curve
    validate_every: Annotated[int, Field(ge=1)]  # steps between validations of the averaged weights
    num_workers: Workers  # data loading processes; 0: load in the main process
    keep: Literal["last", "best"]  # averaged weights that later stages use
    keep_every: None | Annotated[int, Field(ge=1)]  # steps between averaged weights to keep, in addition
    init_from: Path | None  # model folder, or a file of weights in it, to start from

    @property
    def total_steps(self) -> int:
        """Optimiser steps; a ValueError where only `in_steps` tells their number."""
        if self.steps is None:
            raise ValueError(f"epochs={self.epochs}: expected a number of steps; call in_steps first")
        return self.steps

    def in_steps(self, clips: int) -> Self:
        """Return params with the steps of their epochs of so many clips, the last batch filled up."""
        if self.epochs is None:
            return self
        steps = max(1, math.ceil(self.epochs * clips / self.batch_size))
        return self.model_copy(update={"steps": steps, "epochs": None})

    @model_validator(mode="after")
    def steps_or_epochs(self) -> Self:
        if self.steps is None and self.epochs is None:
            raise ValueError("steps=null: expected a number of steps, or of epochs; set one of them")
        if self.steps is not None and self.epochs is not None:
            raise ValueError(f"epochs={self.epochs}: expected null with steps={self.steps}; set one to null")
        return self

    @model_validator(mode="after")
    def parts_are_equal(self) -> Self:
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"accumulate={self.accumulate}: expected a divisor of batch_size={self.batch_size}"
            )
        return self


class PretrainVAEParams(FitParams):
    """Section `pretrain_vae`; a sample is a frame, or a short clip if vae.temporal_factor > 1."""

    kl_weight: Annotated[float, Field(ge=0)]  # of the KL term, per element
    detail_weight: Annotated[float, Field(ge=1, le=100)]  # max weight of a pixel by local contrast; 1: off
    mask_weight: Annotated[float, Field(ge=0)]  # of the loss of the mask head; 0 without masks


class TaskShares(Params):
    """Section `train_denoiser.tasks`: relative shares of the training steps."""

    predict: Annotated[float, Field(ge=0)]
    interpolate: Annotated[float, Field(ge=0)]
    generate: Annotated[float, Field(ge=0)]
    restore: Annotated[float, Field(ge=0)]

    @model_validator(mode="after")
    def some_task_is_trained(self) -> Self:
        if self.predict + self.interpolate + self.generate + self.restore == 0:
            raise ValueError("predict=0: expected a task above 0; raise predict or another one")
        return self


class TrainDenoiserParams(FitParams):
    """Section `train_denoiser`; a sample is a hop: context frames and their targets."""

    tasks: TaskShares
    target_offsets: Annotated[list[Offset], Field(min_length=1)]  # predict: a hop draws among them
    context_frames: Annotated[int, Field(ge=1)]  # max context frames of a hop
    given_frames: Annotated[int, Field(ge=0)]  # of them, min number that is given, not predicted
    max_hops: Annotated[int, Field(ge=0)]  # max earlier hops of the rollout
    max_span: Span  # interpolate
    targets: Annotated[int, Field(ge=1)]  # target frames per context
    draws: Annotated[int, Field(ge=1)]  # noise draws per target; the context is encoded once
    reverse: bool  # play half of the hops backwards
    context_noise: Share  # max standard deviation of noise on context frames; half of the hops have none
    context_dropout: Annotated[float, Field(ge=0, lt=1)]  # share of hops with blank context frames
    scheduled_sampling: Share  # share of the steps whose newest context frames are sampled by the network
    scheduled_sampling_frames: Annotated[int, Field(ge=1)]  # max number of them
    scheduled_sampling_steps: Annotated[int, Field(ge=1, le=1000)]  # sampling steps of each
    scheduled_sampling_temperature: Annotated[float, Field(ge=0, le=2)]  # scale of their starting noise


class TrainSegmenterParams(FitParams):
    """Section `train_segmenter`; a sample is a crop around an object, or a frame, with its mask."""

    pretrained: bool  # start the encoder with the weights of the classifier
    crop_scale: None | Annotated[float, Field(gt=0, le=1)]  # side of a crop; fraction of the frame's height
    jitter: Share  # max shift of a crop from its object; fraction of its side
    background: Share  # share of the crops that are anywhere in a frame
    object_weight: Annotated[float, Field(ge=0)]  # of the loss of each object's mean logits
    dice_weight: Annotated[float, Field(ge=0)]  # of the soft Dice of each class
    round_trip: Share  # share of frames that pass through the codec
    latent_noise: Annotated[float, Field(ge=0, le=2)]  # max standard deviation of noise on their latents


class TrainClassifierParams(FitParams):
    """Section `train_classifier`; a sample is a crop around an object."""

    jitter: Share  # max shift of a crop; fraction of its side


class TrainMotionParams(FitParams):
    """Section `train_motion`; a sample is a clip of objects."""

    draws: Annotated[int, Field(ge=1)]  # noise draws per clip; the context is encoded once
    time_shift: Annotated[float, Field(gt=0, le=10)]  # above 1: more training at high noise
    unroll: Annotated[int, Field(ge=0, le=1000)]  # max context frames that the network predicts itself
    seen_weight: Annotated[float, Field(ge=0)]  # of visibility beside each coordinate
    jitter: Annotated[
        float, Field(ge=0, le=0.1)
    ]  # standard deviation of noise on known places; frame heights
