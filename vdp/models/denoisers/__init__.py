"""Denoisers: each keeps the contract of `vdp.diffusion.contract.Denoiser`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Generic

import torch
from torch import Tensor

from vdp.models.denoisers.dit import Dit
from vdp.models.denoisers.params import DenoiserConfig, DenoiserParams, Diffusion
from vdp.models.denoisers.unet import Unet
from vdp.models.store import load_config, load_weights


def build_denoiser(params: DenoiserParams, channels: int) -> Unet | Dit:
    """The denoiser that `params.name` names, for latents of `channels` channels."""
    if params.name == "unet":
        return Unet(params.unet, channels)
    return Dit(params.dit, channels)


@dataclass(frozen=True)
class TrainedDenoiser(Generic[Diffusion]):
    """A denoiser and what it was trained with."""

    network: Unet | Dit
    diffusion: Diffusion
    known: int  # how many known frames it was trained with, at most
    data_scale: Tensor  # root mean square of what is diffused, per channel, (C,)
    latent_mean: tuple[float, ...]  # of the raw latents, per channel
    latent_std: tuple[float, ...]


def load_denoiser(
    folder: Path, device: torch.device, diffusion: type[Diffusion]
) -> TrainedDenoiser[Diffusion]:
    """Rebuild a trained denoiser from its folder alone, in evaluation mode.

    Args:
        folder: that `train_denoiser` wrote.
        device: where the network is wanted.
        diffusion: the schema of the process's params.

    Raises:
        FileNotFoundError: if the folder holds no model.
        UserError: if it is one of another version.
    """
    config = load_config(folder, DenoiserConfig[diffusion])  # type: ignore[valid-type]
    network = build_denoiser(config.denoiser, config.channels).to(device)
    load_weights(network, folder)
    network.eval()
    scale = torch.tensor(config.data_scale, device=device)
    return TrainedDenoiser(
        network, config.diffusion, config.known, scale, config.latent_mean, config.latent_std
    )
