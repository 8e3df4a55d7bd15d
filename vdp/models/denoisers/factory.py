"""Build and load denoisers; each implements `vdp.diffusion.protocols.Denoiser`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Generic

import torch
from torch import Tensor, nn

from vdp.core.errors import UserError
from vdp.core.model_files import CONFIG
from vdp.models.checkpoint import fingerprint, load_config, load_weights
from vdp.models.denoisers.dit import DiT
from vdp.models.denoisers.moved import MovedDenoiser, Mover
from vdp.models.denoisers.params import DenoiserConfig, DenoiserParams, Diffusion
from vdp.models.denoisers.unet import UNet


def build_denoiser(params: DenoiserParams, channels: int, moved: bool) -> UNet | DiT | MovedDenoiser:
    """Build the denoiser that `params.name` names, for latents of `channels` channels.

    Args:
        moved: whether it moves its context frames to the targets.
    """
    network = UNet(params.unet, channels) if params.name == "unet" else DiT(params.dit, channels)
    return MovedDenoiser(network, Mover(params.mover, channels)) if moved else network


@dataclass(frozen=True)
class TrainedDenoiser(Generic[Diffusion]):
    """A denoiser and its training configuration."""

    network: UNet | DiT | MovedDenoiser
    config: DenoiserConfig[Diffusion]

    def data_scale(self, task: str) -> Tensor:
        """Root mean square of a task's diffused data per channel, (C,), on the network's device."""
        return torch.tensor(self.config.data_scale[task], device=next(self.network.parameters()).device)


def load_denoiser(
    folder: Path, device: torch.device, diffusion: type[Diffusion], checkpoint: int | None = None
) -> TrainedDenoiser[Diffusion]:
    """Load a denoiser in evaluation mode from its folder; `checkpoint` and errors as of `load_weights`.

    Its config has no gains where they were measured for other weights than those loaded.
    """
    config = load_config(folder, DenoiserConfig[diffusion])  # type: ignore[valid-type]
    if config.denoiser is None:
        raise UserError(f"{folder / CONFIG}: denoiser=null: expected params of a network; train one of vdp")
    network = build_denoiser(config.denoiser, config.channels, config.base == "moved").to(device)
    load_weights(network, folder, checkpoint)
    network.eval()
    if config.gains is not None and not _has_own_gains(config, network, checkpoint):
        config = config.model_copy(update={"gains": None, "gains_of": None})
    return TrainedDenoiser(network, config)


def _has_own_gains(config: DenoiserConfig[Diffusion], network: nn.Module, checkpoint: int | None) -> bool:
    if config.gains_of is None:  # of an earlier version
        return checkpoint is None
    return config.gains_of == fingerprint(network)
