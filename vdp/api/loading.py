"""The trained codec and denoiser, joined to a latent diffusion model.

Shapes: B clips, S samples per clip, T frames of H x W pixels, N latent frames, C x h x w latents.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from vdp.core.device import autocast
from vdp.core.errors import UserError
from vdp.core.latent_time import LatentTime
from vdp.core.optical_flow import flow_extrapolation
from vdp.core.tasks import TASKS, Task
from vdp.data.encode import decode_frames, encode_frames
from vdp.data.stores.latents import Normalisation
from vdp.data.video.detail import transfer_detail
from vdp.diffusion.objective import Objective
from vdp.diffusion.params import DiffusionParams
from vdp.diffusion.schedules import make_process
from vdp.models.checkpoint import fingerprint
from vdp.models.codecs.factory import load_codec
from vdp.models.codecs.pixel import PixelCodec
from vdp.models.codecs.vae import VAE
from vdp.models.denoisers.dit import DiT
from vdp.models.denoisers.factory import load_denoiser
from vdp.models.denoisers.moved import MovedDenoiser
from vdp.models.denoisers.params import DenoiserConfig
from vdp.models.denoisers.unet import UNet
from vdp.sampling.hops import used_context
from vdp.sampling.params import PredictParams
from vdp.sampling.predict import make_strategy, predict
from vdp.sampling.rollout import Strategy

BATCH_FRAMES = 48  # frames of the networks' size processed at once
CODEC, DENOISER, SEGMENTER = "codec", "denoiser", "segmenter"  # subfolders of a models folder


@dataclass(frozen=True)
class LatentDiffusion:
    """A codec and the denoiser trained on its latents; `load_latent_diffusion` opens one."""

    codec: VAE | PixelCodec
    network: UNet | DiT | MovedDenoiser
    config: DenoiserConfig[DiffusionParams]
    normalisation: Normalisation
    objectives: Mapping[Task, Objective]  # of each trained task
    device: torch.device

    def batch_frames(self, height: int, width: int) -> int:
        """Number of frames of a size to process at once: constant in pixels."""
        return max(1, BATCH_FRAMES * self.config.height * self.config.width // (height * width))

    def time(self, known: int) -> LatentTime:
        """Return which latent frame codes a frame of a clip with `known` context frames."""
        return LatentTime(self.codec.temporal_factor, known)

    def encode(self, frames: np.ndarray) -> Tensor:
        """Encode frames (T, H, W, 3) uint8 to normalised latents (C, N, h, w), fp32."""
        size, factor = self.batch_frames(*frames.shape[1:3]), self.codec.temporal_factor
        if factor > 1:
            groups = encode_frames(self.codec.encode, frames, size, self.device, factor)
            return self.normalisation.apply(groups[None])[0]
        parts = (frames[first : first + size] for first in range(0, len(frames), size))
        raw = [encode_frames(self.codec.encode, part, size, self.device) for part in parts]
        return self.normalisation.apply(torch.cat(raw, dim=1)[None])[0]

    def encode_context(self, frames: np.ndarray) -> Tensor:
        """`encode` of context frames, padded at their start so that the last one ends a group."""
        return self.encode(self.time(len(frames)).pad(frames))

    def decode(self, latents: Tensor, first: int = 0) -> np.ndarray:
        """Decode normalised latents (B, C, N, h, w) from latent frame `first` on: uint8 (B, T, H, W, 3)."""
        raw = self.normalisation.invert(latents)
        return decode_frames(self.codec.decode, raw, self.device, self.codec.temporal_factor, first)

    def strategy(self, params: PredictParams, known: int) -> Strategy:
        """Return the rollout that section `predict` describes, in latent frames after `known` frames."""
        config = self.config
        strategy = make_strategy(
            params,
            config.diffusion.num_timesteps,
            config.context_frames,
            config.given_frames,
            config.gains or (),
        )
        hops = self.time(known).hops(params.frame_groups)
        return replace(strategy, hops=tuple(tuple(number - 1.0 for number in hop) for hop in hops))

    def sample_clips(
        self,
        names: Sequence[str],
        context: Sequence[np.ndarray],
        params: PredictParams,
        seed: int,
        composed: Sequence[np.ndarray] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Roll out S samples of each of B clips.

        Args:
            names: of the clips; the noise of a clip depends on its name and the seed only.
            context: first K frames of each clip, (K, H, W, 3) uint8.
            params: section `predict`: hops to N frames, the sampler, S.
            seed: of the run.
            composed: frames of the hops of each clip as a motion model composes them, (N, H, W, 3) uint8;
                of a denoiser whose base they are. Frames moved by optical flow are made here.

        Returns:
            Frames (B, S, N, H, W, 3) uint8, with the detail of the composed frames, else of the last known
            one, that the codec loses, and the raw latents of the last one, (B, S, C, h, w) float16. With a
            codec that compresses time, these are those of the decoded frame alone.
        """
        strategy, samples = self.strategy(params, len(context[0])), params.samples
        if self.codec.temporal_factor > 1:
            return self._sample_groups(names, context, params, strategy, seed)
        used = used_context(
            range(len(context[0])), strategy.hops, strategy.context_frames, strategy.given_frames
        )
        known = self._encode_clips([frames[used] for frames in context])
        if composed is None and self.config.base == "optical_flow":
            targets = [int(target) for hop in strategy.hops for target in hop]
            composed = [self.move_by_flow(clip, [t + 1 - len(clip) for t in targets]) for clip in context]
        bases = None if composed is None else self._encode_clips(composed)
        numbers = [crc32(name.encode()) for name in names]
        with autocast(self.device):
            latents = predict(
                self.network, known, used, numbers, self.objectives["predict"], strategy, samples, seed, bases
            )
        raw_latents = self.normalisation.invert(latents.flatten(0, 1))
        frames = decode_frames(self.codec.decode, raw_latents, self.device)
        shape = (len(names), samples)
        last = raw_latents[:, :, -1].unflatten(0, shape).cpu().numpy()
        frames = frames.reshape(*shape, *frames.shape[1:])
        if composed is None or bases is None:
            composed, bases = [clip[-1:] for clip in context], known[:, :, -1:]
        return self._add_detail(frames, composed, self.decode(bases)), last.astype(np.float16)

    def move_by_flow(self, context: np.ndarray, steps: Sequence[int]) -> np.ndarray:
        """Move the last of frames (T, H, W, 3) on by optical flow, as in training: (len(steps), H, W, 3)."""
        assert self.config.flow_decay is not None  # measured where the base is optical_flow
        return flow_extrapolation(context, steps, self.config.flow_decay)

    def _sample_groups(
        self,
        names: Sequence[str],
        context: Sequence[np.ndarray],
        params: PredictParams,
        strategy: Strategy,
        seed: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """`sample_clips` with a codec that compresses time: the frames are decoded after the known ones."""
        samples, time = params.samples, self.time(len(context[0]))
        known = torch.stack([self.encode_context(frames) for frames in context])
        count = known.shape[2]
        numbers, index = [crc32(name.encode()) for name in names], range(count)
        with autocast(self.device):
            latents = predict(
                self.network, known, index, numbers, self.objectives["predict"], strategy, samples, seed
            )
        order = [int(index) - count for hop in strategy.hops for index in hop]
        latents = latents[:, :, :, np.argsort(order).tolist()]
        start = time.position(len(context[0]))
        chosen = [time.position(number - 1) - start for number in params.frames]
        frames, last = [], []
        for clip, given, futures in zip(context, known, latents, strict=True):
            whole = torch.cat([given.expand(samples, *given.shape), futures], dim=2)
            # a sample at a time: all of its frames are decoded, not only those of the hops
            predicted = np.stack([self.decode(row[None], count)[0][chosen] for row in whole])
            detailed = self._add_detail(predicted[None], [clip[-1:]], self.decode(given[None])[:, -1:])[0]
            frames.append(detailed)
            last.append(encode_frames(self.codec.encode, predicted[:, -1], 1, self.device))
        return np.stack(frames), torch.stack(last).transpose(1, 2).cpu().numpy().astype(np.float16)

    def _add_detail(
        self, frames: np.ndarray, sources: Sequence[np.ndarray], decoded: np.ndarray
    ) -> np.ndarray:
        """Add to predicted frames (B, S, T, H, W, 3) the detail that the codec loses of what they start from.

        Args:
            frames: decoded.
            sources: composed frames, one per predicted one, or the last known frame, (T or 1, H, W, 3) each.
            decoded: round trips of the sources, (B, T or 1, H, W, 3).
        """
        targets = frames.shape[2]
        own = np.eye(targets) if decoded.shape[1] == targets else np.ones((targets, 1))
        return np.stack(
            [
                np.stack([transfer_detail(sample, source, reconstructed, own) for sample in clip])
                for clip, source, reconstructed in zip(frames, sources, decoded, strict=True)
            ]
        )

    def _encode_clips(self, clips: Sequence[np.ndarray]) -> Tensor:
        """Encode clips of equal length, (T, H, W, 3) each, to normalised latents (B, C, T, h, w)."""
        raw = [encode_frames(self.codec.encode, frames, len(frames), self.device) for frames in clips]
        return self.normalisation.apply(torch.stack(raw))


def check_task(config: DenoiserConfig[DiffusionParams], task: Task, folder: Path) -> None:
    """Raise a UserError if the denoiser in a folder was not trained for a task."""
    if task not in config.tasks:
        raise UserError(
            f"{folder}: was trained for {', '.join(config.tasks)}, not {task}; train "
            f"with train_denoiser.tasks.{task} above 0, as recipe tasks has it"
        )


def clips_per_batch(params: PredictParams) -> int:
    """Clips whose samples make one batch of `predict.batch_size`."""
    return max(1, params.batch_size // params.samples)


def load_latent_diffusion(
    models: Path, device: torch.device, checkpoint: int | None = None
) -> LatentDiffusion:
    """Load codec and denoiser from the folders that the pipeline wrote.

    Args:
        models: folder with `codec` and `denoiser`.
        device: of the networks.
        checkpoint: step of kept weights of the denoiser; None for those of its training's end.

    Raises:
        FileNotFoundError: if a model is missing; names the command that trains it.
        UserError: if one is of another version, they are of different runs, or the step is not kept.
    """
    codec = load_codec(models / CODEC).to(device)
    denoiser = load_denoiser(models / DENOISER, device, DiffusionParams, checkpoint)
    config = denoiser.config
    if config.codec != fingerprint(codec):
        raise UserError(
            f"{models / DENOISER}: was trained on the latents of another codec than {models / CODEC}: "
            "train it again with `dvc repro`, or copy both from one run"
        )
    process = make_process(config.diffusion)
    objectives = {
        task: Objective(process, denoiser.data_scale(task), config.diffusion.residual, task)
        for task in TASKS
        if task in config.tasks
    }
    normalisation = Normalisation(config.latent_mean, config.latent_std)
    return LatentDiffusion(codec, denoiser.network, config, normalisation, objectives, device)
