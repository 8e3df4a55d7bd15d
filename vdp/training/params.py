"""Sections `pretrain_vae`, `train_denoiser` and `train_segmenter` of params.yaml."""

from typing import Annotated

from pydantic import Field

from vdp.params import Params

Share = Annotated[float, Field(ge=0, le=1)]
Gap = Annotated[int, Field(ge=1)]  # frames from the last known one to the target


class FitParams(Params):
    """What every training has: keys of all three sections."""

    steps: Annotated[int, Field(ge=1)]  # optimiser steps
    batch_size: Annotated[int, Field(ge=1)]  # samples per step
    learning_rate: Annotated[float, Field(gt=0, le=1)]  # peak; cosine down to zero after the warm-up
    warmup_steps: Annotated[int, Field(ge=0)]  # steps of linear warm-up
    weight_decay: Annotated[float, Field(ge=0, le=1)]  # of AdamW, on weight matrices alone
    grad_clip: Annotated[float, Field(gt=0)]  # largest norm of the gradient
    ema_decay: Annotated[float, Field(ge=0, lt=1)]  # of the averaged weights, after their warm-up
    log_every: Annotated[int, Field(ge=1)]  # steps between points of the loss curve
    validate_every: Annotated[int, Field(ge=1)]  # steps between validations of the averaged weights
    num_workers: Annotated[
        int, Field(ge=0, le=64)
    ]  # processes that read batches ahead; 0: none but the training


class PretrainVaeParams(FitParams):
    """Section `pretrain_vae`; a sample is a frame, or a short clip where the codec joins frames."""

    kl_weight: Annotated[float, Field(ge=0)]  # weight of the KL term, per element
    detail_weight: Annotated[float, Field(ge=1, le=100)]  # largest weight of a pixel that stands out; 1: off
    mask_weight: Annotated[float, Field(ge=0)]  # weight of the mask head's loss; 0 without labels


class TrainDenoiserParams(FitParams):
    """Section `train_denoiser`; a sample is a hop: some known frames and one target."""

    gaps: Annotated[list[Gap], Field(min_length=1)]  # a hop draws one of them
    known: Annotated[int, Field(ge=1)]  # known frames of a training hop, at most
    max_hops: Annotated[int, Field(ge=0)]  # earlier hops of the rollout that a training hop may stand behind
    targets: Annotated[int, Field(ge=1)]  # frames to predict from one context, at different gaps
    draws: Annotated[int, Field(ge=1)]  # noise draws of each target per step, from one pass over its context
    reverse: bool  # play half of the training hops backwards
    context_noise: Share  # largest standard deviation of noise on known frames; half of the hops have none
    drop_context: Annotated[float, Field(ge=0, lt=1)]  # share of hops without pictures of known frames
    own_context: Share  # share of the steps whose newest known frames the network has made itself
    own_frames: Annotated[int, Field(ge=1)]  # how many of them, at most
    own_steps: Annotated[int, Field(ge=1, le=1000)]  # sampling steps of each
    own_temperature: Annotated[float, Field(ge=0, le=2)]  # scale of their starting noise


class TrainSegmenterParams(FitParams):
    """Section `train_segmenter`; a sample is a labelled frame."""

    round_trip: Share  # share of frames that pass through the codec first
    latent_noise: Annotated[float, Field(ge=0, le=2)]  # largest standard deviation of noise on those latents
