"""The trained codec and denoiser, joined: frames in, normalised latents, frames out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vdp.core.device import autocast
from vdp.core.errors import UserError
from vdp.core.tasks import TASKS, Task
from vdp.data.encode import decode_frames, encode_frames
from vdp.data.stores.latents import Normalisation
from vdp.diffusion.objective import Objective
from vdp.diffusion.params import DiffusionParams
from vdp.diffusion.schedules import make_process
from vdp.models.checkpoint import fingerprint
from vdp.models.codecs.factory import load_frame_codec
from vdp.models.codecs.pixel import Pixel
from vdp.models.codecs.vae import VAE
from vdp.models.denoisers.dit import DiT
from vdp.models.denoisers.factory import load_denoiser
from vdp.models.denoisers.params import DenoiserConfig
from vdp.models.denoisers.unet import UNet
from vdp.sampling.predict import predict
from vdp.sampling.rollout import Strategy

AT_ONCE = 48  # frames of the networks' size that are worked on together
CODEC, DENOISER, SEGMENTER = "codec", "denoiser", "segmenter"  # folders of a models' folder


@dataclass(frozen=True)
class Trained:
    """What rope frames into other frames; B clips, T frames, H x W pixels, C x h x w latents."""

    codec: VAE | Pixel
    network: UNet | DiT
    config: DenoiserConfig[DiffusionParams]
    normalisation: Normalisation
    objectives: Mapping[Task, Objective]  # of each task that was learnt
    device: torch.device

    def at_once(self, height: int, width: int) -> int:
        """How many frames of a size are worked on together: as many pixels as of the networks' size."""
        return max(1, AT_ONCE * self.config.height * self.config.width // (height * width))

    def encode(self, frames: np.ndarray) -> Tensor:
        """Normalised latents of frames (T, H, W, 3) uint8: (C, T, h, w) in fp32, on the device."""
        at_once = self.at_once(*frames.shape[1:3])
        parts = (frames[first : first + at_once] for first in range(0, len(frames), at_once))
        raw = [encode_frames(self.codec.encode, part, at_once, self.device) for part in parts]
        return self.normalisation.apply(torch.cat(raw, dim=1)[None])[0]

    def decode(self, latents: Tensor) -> np.ndarray:
        """uint8 frames of normalised latents, (B, C, T, h, w) -> (B, T, H, W, 3)."""
        return decode_frames(self.codec.decode, self.normalisation.invert(latents), self.device)

    def futures(
        self, known: Tensor, clips: Sequence[int], strategy: Strategy, samples: int, seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Roll out S futures of each clip from its first K frames.

        Args:
            known: their raw latents, (B, C, K, h, w).
            clips: a number for each clip, for its noise.
            strategy: N frames in some hops, sampler and its times.
            samples: futures of each clip.
            seed: of the run.

        Returns:
            Frames, (B, S, N, H, W, 3) uint8, and raw latents of the last one, (B, S, C, h, w).
        """
        given, objective = self.normalisation.apply(known), self.objectives["predict"]
        with autocast(self.device):
            made = predict(self.network, given, clips, objective, strategy, samples, seed)
        raw = self.normalisation.invert(made.flatten(0, 1))
        frames = decode_frames(self.codec.decode, raw, self.device)
        split = (len(known), samples)
        return frames.reshape(*split, *frames.shape[1:]), raw[:, :, -1].unflatten(0, split).cpu().numpy()


def load_trained(models: Path, device: torch.device) -> Trained:
    """Rebuild codec and denoiser from the folders that the pipeline wrote.

    Args:
        models: folder with `codec` and `denoiser`.
        device: where the networks are wanted.

    Raises:
        FileNotFoundError: if a model is not there, naming the command that makes it.
        UserError: if one is of another version, or they do not belong together.
    """
    codec = load_frame_codec(models / CODEC).to(device)
    denoiser = load_denoiser(models / DENOISER, device, DiffusionParams)
    config = denoiser.config
    if config.codec != fingerprint(codec):
        raise UserError(
            f"{models / DENOISER}: was trained on the latents of another codec than {models / CODEC}: make "
            "them anew by `dvc repro`, or take both from one run"
        )
    process = make_process(config.diffusion)
    objectives = {
        task: Objective(process, denoiser.data_scale(task), config.diffusion.residual, task)
        for task in TASKS
        if task in config.tasks
    }
    normalisation = Normalisation(config.latent_mean, config.latent_std)
    return Trained(codec, denoiser.network, config, normalisation, objectives, device)
