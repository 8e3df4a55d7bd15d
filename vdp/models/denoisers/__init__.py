"""Denoisers: each keeps the contract of `vdp.diffusion.contract.Denoiser`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from vdp.models.denoisers.dit import Dit
from vdp.models.denoisers.params import DenoiserConfig, DenoiserParams
from vdp.models.denoisers.unet import Unet
from vdp.models.store import load_config, load_weights


def build_denoiser(params: DenoiserParams, channels: int) -> Unet | Dit:
    """The denoiser that `params.name` names, for latents of `channels` channels."""
    if params.name == "unet":
        return Unet(params.unet, channels)
    return Dit(params.dit, channels)


@dataclass(frozen=True)
class TrainedDenoiser:
    """A denoiser and what it was trained with."""

    network: Unet | Dit
    known: int  # how many known frames it was trained with, at most
    process: Literal["flow", "v"]
    change_scale: Tensor  # standard deviation of a change per channel, (C,)
    latent_mean: tuple[float, ...]  # of the raw latents, per channel
    latent_std: tuple[float, ...]


def load_denoiser(folder: Path, device: torch.device) -> TrainedDenoiser:
    """Rebuild a trained denoiser from its folder alone, in evaluation mode.

    Raises:
        FileNotFoundError: if the folder holds no model.
    """
    config = load_config(folder, DenoiserConfig)
    network = build_denoiser(config.denoiser, config.channels).to(device)
    load_weights(network, folder)
    network.eval()
    scale = torch.tensor(config.change_scale, device=device)
    return TrainedDenoiser(
        network, config.known, config.process, scale, config.latent_mean, config.latent_std
    )
