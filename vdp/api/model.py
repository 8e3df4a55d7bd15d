"""Trained models from Python: predict, generate, interpolate, restore and segment frames of any size.

docs/api.md has an example of each.
"""

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from vdp.api.loading import DENOISER, SEGMENTER, Trained, load_trained
from vdp.config.choices import MIN_START_TIME
from vdp.core.device import autocast, pick_device
from vdp.core.errors import UserError
from vdp.data.video.detail import with_detail, with_own_detail
from vdp.data.video.letterbox import MOST_PIXELS, Letterbox, exceeds
from vdp.models.segmenters.factory import load_segmenter
from vdp.models.segmenters.masks import MaskMaker, decide
from vdp.models.segmenters.params import SegmentParams
from vdp.sampling.generate import generate
from vdp.sampling.hops import future_hops
from vdp.sampling.interpolate import between, blended
from vdp.sampling.predict import FutureNoise
from vdp.sampling.restore import restore
from vdp.sampling.rollout import Strategy, rollout
from vdp.sampling.samplers import make_sampler, time_grid

Frames = NDArray[np.uint8]  # (T, H, W, 3), RGB
Masks = NDArray[np.uint8]  # (T, H, W), class ids of vdp.core.classes
SamplerName = Literal["ddpm", "ddim", "dpmpp", "euler", "heun"]

ROWS = 48  # futures, clips or hops that are made at once
MOST_FRAMES = 10_000  # of one call: they are held in memory
BAR_AFTER = 2.0  # seconds
STRENGTH = 0.5  # diffusion time up to which the ends of a morph are noised
VOTE = 0.7  # weight of the codec's mask head beside UNet++, as segment.codec_vote


def _whole(name: str, value: object, least: int, most: int) -> None:
    """Refuse what is no integer of a range."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not least <= value <= most:
        raise UserError(f"{name}={value!r}: expected a whole number from {least} to {most}")


@dataclass(frozen=True)
class Sampling:
    """How frames are sampled; the same seed gives the same frames.

    Raises:
        UserError: for a value that is out of its range.
    """

    sampler: SamplerName = "ddim"
    steps: int = 10  # of each hop, 1..1000
    temperature: float = 0.7  # scale of the noise, 0 (the likeliest) .. 2
    guidance: float = 1.0  # weight of the known frames; 1 as trained .. 20
    eta: float = 0.0  # ddim: share of fresh noise in a step, 0..1
    seed: int = 0  # 0 .. 2^31 - 1

    def __post_init__(self) -> None:
        if self.sampler not in get_args(SamplerName):
            raise UserError(f"sampler={self.sampler!r}: expected one of {', '.join(get_args(SamplerName))}")
        _whole("steps", self.steps, 1, 1000)
        _whole("seed", self.seed, 0, 2**31 - 1)
        for name, most in (("temperature", 2.0), ("guidance", 20.0), ("eta", 1.0)):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and math.isfinite(value) and 0 <= value <= most):
                raise UserError(f"{name}={value!r}: expected a number from 0 to {most:g}")
        if self.eta > 0 and self.sampler != "ddim":
            raise UserError(f"eta={self.eta} is of sampler ddim alone: set it to 0, or the sampler to ddim")


LIKELIEST = Sampling(temperature=0.0)
VARIED = Sampling(temperature=1.0)  # cooler clips from nothing are empty ones


class Model:
    """Trained networks, ready for frames; `load` makes one.

    Attributes:
        height: of the frames that the networks work at, in pixels; others are resized to them and back.
        width: of these frames.
        tasks: what was learnt, of predict, interpolate, generate and restore.
        every_frame: whether futures can be predicted without leaving frames out, as `predict` does.
    """

    def __init__(self, trained: Trained, folder: Path) -> None:
        config = trained.config
        self.height, self.width = config.height, config.width
        self.tasks: tuple[str, ...] = tuple(config.tasks)
        self.every_frame = set(range(1, 1 + (config.targets if trained.network.joint else 1))) <= set(
            config.target_offsets
        )
        self._trained = trained
        self._folder = folder
        self._masks: MaskMaker | None = None

    def predict(
        self, clip: Frames, frames: int = 11, samples: int = 1, sampling: Sampling = Sampling()
    ) -> Frames:
        """What comes after a clip.

        Args:
            clip: (T, H, W, 3) uint8 RGB of any size, one frame or more; the last ones count.
            frames: how many follow, 1 or more.
            samples: futures, each another one.
            sampling: how they are sampled.

        Returns:
            (samples, frames, H, W, 3) uint8.

        Raises:
            UserError: if the clip or a number is not such.
        """
        box = self._box("clip", clip)
        _whole("frames", frames, 1, MOST_FRAMES)
        _whole("samples", samples, 1, MOST_FRAMES)
        trained, config = self._trained, self._trained.config
        strategy = self._strategy(sampling, "predict")
        strategy = replace(strategy, hops=future_hops(0.0, frames, config.target_offsets, self._targets))
        known = trained.encode(box.put(clip[-config.context_frames :]))
        index = torch.arange(1.0 - known.shape[1], 1.0, device=known.device)

        def made(numbers: Sequence[int]) -> Tensor:
            noise = self._noise(sampling, known, numbers)
            rows, times = known.expand(len(numbers), *known.shape), index.expand(len(numbers), -1)
            return rollout(trained.network, rows, times, trained.objectives["predict"], strategy, noise)

        futures = box.take(self._made(samples, made)[:, :frames])
        return self._with_detail(futures, [(clip[-1], box, known[:, -1:])], np.ones((frames, 1)))

    def generate(self, count: int = 1, frames: int = 22, sampling: Sampling = VARIED) -> Frames:
        """Clips from nothing; longer ones than those of the training are rolled out.

        Args:
            count: clips, 1 or more.
            frames: of each, 1 or more.
            sampling: how they are sampled.

        Returns:
            (count, frames, height, width, 3) uint8, at the size of the networks.

        Raises:
            UserError: if a number is not such, or the model has not learnt it.
        """
        _whole("count", count, 1, MOST_FRAMES)
        _whole("frames", frames, 1, MOST_FRAMES)
        trained, strategy = self._trained, self._strategy(sampling, "generate")
        config, opening = trained.config, self._targets or 1
        later = frames - opening
        hops = future_hops(opening - 1.0, later, config.target_offsets, self._targets) if later > 0 else ()
        factor = trained.codec.factor
        like = torch.empty(
            config.channels, 1, self.height // factor, self.width // factor, device=trained.device
        )

        def made(numbers: Sequence[int]) -> Tensor:
            shape = (len(numbers), like.shape[0], *like.shape[2:])
            noise = self._noise(sampling, like, numbers)
            first, then = trained.objectives["generate"], trained.objectives["predict"]
            return generate(
                trained.network, first, then, opening, hops, shape, strategy, noise, trained.device
            )

        return self._made(count, made)[:, :frames]

    def interpolate(
        self,
        before: Frames,
        after: Frames,
        frames: int = 10,
        samples: int = 1,
        latent: bool = False,
        sampling: Sampling = Sampling(),
    ) -> Frames:
        """What comes between two clips, or between two pictures.

        Args:
            before: (T, H, W, 3) uint8 RGB; its last frames count.
            after: (T', H', W', 3), of any size; its first frames count.
            frames: how many come between, 1 or more.
            samples: ways from one to the other.
            latent: a morph by the noised latents of the two frames at the ends, in place of motion.
            sampling: how they are sampled.

        Returns:
            (samples, frames, H, W, 3) uint8, at the size of `before`.

        Raises:
            UserError: if a clip or a number is not such, or the model has not learnt it.
        """
        box, other = self._box("before", before), self._box("after", after)
        _whole("frames", frames, 1, MOST_FRAMES)
        _whole("samples", samples, 1, MOST_FRAMES)
        trained, config = self._trained, self._trained.config
        strategy = self._strategy(sampling, "generate" if latent else "interpolate")
        side = config.max_span * config.context_frames  # as many as strides over a long gap may ask for
        left, right = trained.encode(box.put(before[-side:])), trained.encode(other.put(after[:side]))

        def made(numbers: Sequence[int]) -> Tensor:
            noise = self._noise(sampling, left, numbers)
            ends = [end.expand(len(numbers), *end.shape) for end in (left, right)]
            if latent:
                objective = trained.objectives["generate"]
                one, two = ends[0][:, :, -1:], ends[1][:, :, :1]
                return blended(
                    trained.network, one, two, frames, STRENGTH, self._targets, objective, strategy, noise
                )
            objective, span = trained.objectives["interpolate"], config.max_span
            return between(
                trained.network, ends[0], ends[1], frames, span, self._targets, objective, strategy, noise
            )

        found = box.take(self._made(samples, made))
        if latent or clip_size(before) != clip_size(after):
            return found
        share = np.arange(1, frames + 1) / (frames + 1)
        ends = [(before[-1], box, left[:, -1:]), (after[0], other, right[:, :1])]
        return self._with_detail(found, ends, np.stack([1 - share, share], axis=1))

    def restore(
        self,
        clip: Frames,
        sampling: Sampling = LIKELIEST,
        full_size: bool = False,
        progress: bool = False,
    ) -> Frames:
        """A clip without its noise, blur, darkness or blocks, as far as the model has learnt them.

        Args:
            clip: (T, H, W, 3) uint8 RGB of any size.
            sampling: how it is sampled; without noise by default, which comes nearest to the truth.
            full_size: work at the clip's own size where it is larger than the networks', up to 2 million
                pixels: sharper, and slower as there are more of them. The networks see everything larger than
                in their training.
            progress: show a bar on stderr where it takes long.

        Returns:
            The shape of `clip`.

        Raises:
            UserError: if the clip is not such, or the model has not learnt it.
        """
        box = self._box("clip", clip)
        trained, strategy = self._trained, self._strategy(sampling, "restore")
        full_size = full_size and exceeds(clip_size(clip), (self.height, self.width))
        if full_size and box.rows * box.columns > MOST_PIXELS:
            raise UserError(
                f"clip: frames of {box.columns}x{box.rows} pixels are too large for full_size, at most "
                f"{MOST_PIXELS}: make them smaller, or leave it out"
            )
        frames = self._padded(clip) if full_size else box.put(clip)
        degraded = trained.encode(frames)

        def watched(parts: Sequence[Sequence[int]]) -> Iterable[Sequence[int]]:
            label = "restoring"
            return tqdm(
                parts, label, file=sys.stderr, delay=BAR_AFTER, leave=False, unit="part", disable=not progress
            )

        with torch.inference_mode(), autocast(trained.device):
            made = restore(
                trained.network,
                degraded,
                self._targets,
                trained.objectives["restore"],
                strategy,
                lambda starts: self._noise(sampling, degraded, starts),
                trained.at_once(*frames.shape[1:3]),
                watched,
            )
        restored, at_once = np.empty_like(frames), trained.at_once(*frames.shape[1:3])
        for part in (slice(first, first + at_once) for first in range(0, len(frames), at_once)):
            shown, seen = (trained.decode(latents[None, :, part])[0] for latents in (made, degraded))
            restored[part] = with_own_detail(shown, frames[part], seen)
        return restored[:, : box.rows, : box.columns] if full_size else box.take(restored)

    def round_trip(self, clip: Frames) -> Frames:
        """A clip as the codec gives it back: what any frame that is made by way of latents loses.

        Args:
            clip: (T, H, W, 3) uint8 RGB of any size.

        Returns:
            The shape of `clip`.

        Raises:
            UserError: if the clip is not such.
        """
        box = self._box("clip", clip)
        return box.take(self._decoded(self._trained.encode(box.put(clip))[None])[0])

    def segment(self, clip: Frames) -> Masks:
        """The class of every pixel of a clip's frames, each frame for itself.

        Args:
            clip: (T, H, W, 3) uint8 RGB of any size.

        Returns:
            (T, H, W) uint8, ids of `vdp.core.classes`; 0 is background.

        Raises:
            UserError: if the clip is not such.
            FileNotFoundError: if no segmenter was trained.
        """
        box = self._box("clip", clip)
        maker = self._mask_maker()
        small = box.put(clip)
        masks = []
        for first in range(0, len(small), ROWS):
            part = small[first : first + ROWS]
            probs = maker.probs(part, maker.encode(part), maker.params.codec_vote)
            masks.append(decide(probs, maker.params.object_threshold, None).cpu().numpy())
        return box.take_masks(np.concatenate(masks))

    def info(self) -> dict[str, object]:
        """What the model is and what it was trained with, in plain values."""
        config, codec = self._trained.config, self._trained.codec
        return {
            "folder": str(self._folder),
            "frames": f"{self.height}x{self.width}",
            "tasks": {task: share for task, share in config.tasks.items()},
            "codec": type(codec).__name__.lower(),
            "codec_parameters": _parameters(codec),
            "latents": f"{config.channels}x{self.height // codec.factor}x{self.width // codec.factor}",
            "denoiser": config.denoiser.name,
            "denoiser_parameters": _parameters(self._trained.network),
            "known_frames": config.context_frames,
            "gaps": list(config.target_offsets),
            "frames_at_once": config.targets,
            "longest_gap": config.max_span,
            "schedule": config.diffusion.schedule,
            "prediction": config.diffusion.prediction,
            "segmenter": (self._folder / SEGMENTER).is_dir(),
        }

    @property
    def _targets(self) -> int | None:
        """Frames that the network makes at once, where they see each other."""
        return self._trained.config.targets if self._trained.network.joint else None

    def _box(self, name: str, clip: Frames) -> Letterbox:
        """How a clip's frames fit into the networks'."""
        if not (
            isinstance(clip, np.ndarray) and clip.dtype == np.uint8 and clip.ndim == 4 and clip.shape[-1] == 3
        ):
            what = f"{clip.dtype} {clip.shape}" if isinstance(clip, np.ndarray) else type(clip).__name__
            raise UserError(f"{name}: expected frames (T, H, W, 3) in uint8, RGB, got {what}")
        if min(clip.shape) == 0:
            raise UserError(f"{name}: expected one frame or more, of a pixel or more, got {clip.shape}")
        if len(clip) > MOST_FRAMES:
            raise UserError(f"{name}: {len(clip)} frames are more than {MOST_FRAMES}: cut it into parts")
        return Letterbox(clip.shape[1], clip.shape[2], self.height, self.width)

    def _padded(self, clip: Frames) -> Frames:
        """A clip with edges repeated below and to the right, to a size that the codec takes."""
        factor = self._trained.codec.factor
        below, right = (-size % factor for size in clip_size(clip))
        return np.pad(clip, ((0, 0), (0, below), (0, right), (0, 0)), mode="edge")

    def _strategy(self, sampling: Sampling, task: str) -> Strategy:
        """How a task is sampled, its hops left open."""
        config = self._trained.config
        if task not in self.tasks:
            raise UserError(
                f"{self._folder / DENOISER}: this model has learnt {', '.join(self.tasks)}, not {task}: set "
                f"train_denoiser.tasks.{task} above 0 in params.yaml and run `dvc repro`"
            )
        if sampling.guidance != 1 and config.context_dropout == 0:
            raise UserError(
                f"guidance={sampling.guidance} needs a network that was trained without known pictures at "
                "times: set train_denoiser.context_dropout above 0 and train it, or guidance to 1"
            )
        return Strategy(
            hops=(),
            sampler=make_sampler(sampling.sampler, sampling.eta),
            times=self._times(sampling.steps),
            temperature=sampling.temperature,
            guidance=sampling.guidance,
            context_noise=0.0,
            context_frames=config.context_frames,
        )

    def _times(self, steps: int) -> Tensor:
        """Sampling times; from just below pure noise where the network gives eps, which is blind there."""
        diffusion = self._trained.config.diffusion
        levels = diffusion.num_timesteps
        if steps > levels:
            raise UserError(f"steps={steps}: this model has {levels} noise levels; take fewer steps")
        times = time_grid(steps, "leading" if diffusion.prediction == "eps" else "trailing", levels)
        if times[0] < MIN_START_TIME:
            raise UserError(
                f"steps={steps}: too few for a model that gives eps, which starts below pure noise"
            )
        return times

    def _noise(self, sampling: Sampling, like: Tensor, numbers: Sequence[int]) -> FutureNoise:
        """Noise for rows by their numbers, of the channels and positions of latents (C, T, h, w)."""
        shape = (like.shape[0], *like.shape[2:])
        return FutureNoise(sampling.seed, numbers, 1, shape, self._trained.device)

    def _made(self, count: int, made: Callable[[Sequence[int]], Tensor]) -> Frames:
        """Frames of some rows, (count, T, height, width, 3), `ROWS` of them at a time."""
        parts = []
        for first in range(0, count, ROWS):
            with torch.inference_mode(), autocast(self._trained.device):
                latents = made(range(first, min(first + ROWS, count)))
            parts.append(self._decoded(latents))
        return np.concatenate(parts)

    def _with_detail(
        self, made: Frames, ends: Sequence[tuple[Frames, Letterbox, Tensor]], weight: NDArray[np.float64]
    ) -> Frames:
        """Made frames (S, F, H, W, 3) with what resizing and codec lost of the known frames beside them."""
        known = np.stack([frame for frame, _, _ in ends])
        seen = np.stack([box.take(self._decoded(latents[None])[0])[0] for _, box, latents in ends])
        return np.stack([with_detail(frames, known, seen, weight) for frames in made])

    def _decoded(self, latents: Tensor) -> Frames:
        """Frames of normalised latents, (B, C, T, h, w) -> (B, T, height, width, 3)."""
        factor = self._trained.codec.factor
        at_once = self._trained.at_once(latents.shape[-2] * factor, latents.shape[-1] * factor)
        rows = [
            np.concatenate([self._trained.decode(part[None])[0] for part in row.split(at_once, dim=1)])
            for row in latents
        ]
        return np.stack(rows)

    def _mask_maker(self) -> MaskMaker:
        """The segmenter, loaded at the first need."""
        if self._masks is None:
            trained = self._trained
            segmenter = load_segmenter(self._folder / SEGMENTER).to(trained.device)
            params = SegmentParams(
                flip_tta=True,
                codec_vote=VOTE if trained.codec.has_masks else 0.0,
                object_threshold=0.5,
                seen_classes_only=False,
                seen_pixels=1,
                batch_frames=ROWS,
            )
            self._masks = MaskMaker(segmenter, trained.codec, params, trained.device)
        return self._masks


def load(folder: str | Path = "data/models", device: torch.device | str | None = None) -> Model:
    """Trained networks from the folder that the pipeline, or `vdp.train`, wrote.

    Args:
        folder: with `codec`, `denoiser` and, for masks, `segmenter`.
        device: where they run; None takes the accelerator where there is one.

    Raises:
        FileNotFoundError: if there is no model, naming the command that makes one.
        UserError: if it is one of another version.
    """
    folder = Path(folder)
    return Model(load_trained(folder, pick_device() if device is None else torch.device(device)), folder)


def clip_size(clip: Frames) -> tuple[int, int]:
    """Rows and columns of a clip's frames."""
    return clip.shape[1], clip.shape[2]


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
