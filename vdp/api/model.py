"""Trained models in Python: predict, generate, interpolate, restore and segment frames of any size.

docs/api.md has an example of each.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from vdp.api.loading import (
    CODEC,
    DENOISER,
    SEGMENTER,
    LatentDiffusion,
    check_task,
    load_latent_diffusion,
)
from vdp.api.motion import MOTION_SAMPLING, ClipObjects, load_motion
from vdp.api.sampling import DEFAULT, GENERATED_FRAMES, MODE, PREDICTED_FRAMES, UNSCALED, Sampling
from vdp.api.tracks import TRACKED_MASKS, TRACKING, load_tracker
from vdp.api.training_record import read_record
from vdp.config.choices import MIN_START_TIME
from vdp.core.device import autocast, pick_device
from vdp.core.errors import UserError
from vdp.core.model_files import kept_steps, weights_file
from vdp.core.tasks import Task
from vdp.data.video.detail import keep_detail, transfer_detail
from vdp.data.video.letterbox import MAX_PIXELS, Letterbox, exceeds
from vdp.models.checkpoint import is_trained
from vdp.models.segmenters.factory import load_segmenter
from vdp.models.segmenters.masks import MaskPredictor, probs_to_masks
from vdp.models.segmenters.params import SegmentParams
from vdp.sampling.generate import generate
from vdp.sampling.hops import HopPlan, plan_frames, plan_hops
from vdp.sampling.interpolate import interpolate, morph_latents
from vdp.sampling.predict import SampleNoise
from vdp.sampling.restore import restore
from vdp.sampling.rollout import Strategy, rollout
from vdp.sampling.samplers import make_sampler, time_grid

Frames = NDArray[np.uint8]  # (T, H, W, 3), RGB
Masks = NDArray[np.uint8]  # (T, H, W), class ids of vdp.core.classes

BATCH_SIZE = 48  # samples, clips or hops processed at once
MAX_FRAMES = 10_000  # of one call: they are held in memory
BAR_DELAY = 2.0  # seconds before a progress bar appears
REACHES_SHOWN = 4  # numbers of predictable frames in a message
MORPH_STRENGTH = 0.5  # diffusion time to which the two ends of a morph are noised
CODEC_VOTE = 0.7  # weight of the codec's mask head beside UNet++, as segment.codec_vote


class Model:
    """Trained networks; `load` opens them.

    Frames are uint8 RGB, (T, H, W, 3), of any size. Every method raises UserError for an invalid argument and
    for a task that the networks were not trained for.

    Attributes:
        height: frame height of the networks in pixels; other sizes are resized and back.
        width: frame width of the networks in pixels.
        tasks: trained tasks, of predict, interpolate, generate and restore.
        context_frames: max frames of a clip that `predict` reads.
        max_span: max trained span of `interpolate`, from the last frame before to the first after.
        segments: whether a segmenter was trained: not where no training clip has masks.
        max_generated: max frames of a clip that `generate` generates; None: any number, as it predicts them.
        every_frame: whether the trained target offsets allow to predict every frame.
    """

    def __init__(self, model: LatentDiffusion, folder: Path, segmenter_checkpoint: int | None = None) -> None:
        config, self._model = model.config, model
        self.height, self.width = config.height, config.width
        self.tasks: tuple[str, ...] = tuple(config.tasks)
        factor = model.codec.temporal_factor
        # the latent frame of a single frame before the groups is coded otherwise than they
        groups = 1 + factor * config.context_frames if factor > 1 else config.context_frames
        self.context_frames, self.max_span = max(groups, config.known), config.max_span
        # generated at once, from the start of a padded clip
        first_hop = model.time(max(config.known, 1)).frames_of(self._targets or 1)
        self.max_generated = None if "predict" in config.tasks else first_hop
        offsets = range(1, 1 + (config.targets if model.network.joint else 1))
        self.every_frame = set(offsets) <= set(config.target_offsets)
        self.segments = is_trained(folder / SEGMENTER)
        self._folder = folder
        self._segmenter_checkpoint = segmenter_checkpoint
        self._mask_predictor: MaskPredictor | None = None
        self._motion = load_motion(folder, model.device) if config.base == "composed" else None
        self._tracker = (
            load_tracker(folder, TRACKED_MASKS, TRACKING, model.device) if self._motion is not None else None
        )

    def predict(
        self,
        clip: Frames,
        frames: int | None = None,
        samples: int = 1,
        sampling: Sampling = DEFAULT,
        at: Sequence[int] | None = None,
    ) -> Frames:
        """Predict frames after a clip: the first ones, or those with the numbers `at`.

        Args:
            clip: (T, H, W, 3), T >= 1; the last `context_frames` are the context.
            frames: F, the first frames after the clip; None: 11, or, of a model that does not predict every
                frame, those at its target offsets.
            samples: S, different predictions.
            sampling: settings of the sampler.
            at: numbers of F frames after the clip, ascending; 1 is the one after its last.

        Returns:
            (S, F, H, W, 3) uint8.
        """
        box = self._letterbox("clip", clip)
        strategy, numbers = self._strategy(sampling, "predict"), self.frame_numbers(frames, at)
        check_integer("samples", samples)
        parts = [
            self._roll_out(clip, box, replace(strategy, hops=plan), reached, samples, sampling)
            for plan, reached in self._plans(numbers, len(clip[-self.context_frames :]))
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def frame_numbers(self, frames: int | None = None, at: Sequence[int] | None = None) -> list[int]:
        """Return the numbers after a clip of the frames that `predict` predicts with these arguments.

        Raises:
            UserError: if no hops over the trained target offsets lead to one of them.
        """
        config = self._model.config
        check_task(config, "predict", self._folder / DENOISER)
        if at is None and (frames is not None or self.every_frame):
            frames = PREDICTED_FRAMES if frames is None else frames
            check_integer("frames", frames)
            numbers, argument = list(range(1, frames + 1)), f"frames={frames}"
        else:
            if frames is not None:
                raise UserError(f"frames={frames}: expected without at={at}; leave one out")
            numbers, argument = list(config.target_offsets if at is None else at), f"at={at}"
            for number in numbers:
                check_integer("at", number)
            if not numbers or (at is not None and numbers != sorted(set(numbers))):
                raise UserError(f"{argument}: expected numbers in ascending order, each once")
            numbers = sorted(set(numbers))
        missed = [] if self.every_frame else sorted(set(numbers) - set(self.predictable(max(numbers))))
        if missed:
            reach = min(REACHES_SHOWN * max(config.target_offsets), MAX_FRAMES)
            usable = self.predictable(reach)[:REACHES_SHOWN]
            others = ", ".join(map(str, usable)) or "none"
            raise UserError(
                f"{argument}: no trained hops (target_offsets={config.target_offsets}) lead to frame "
                f"{missed[0]} after the clip; expected frames such as {others}, by at or --at"
            )
        return numbers

    def predictable(self, limit: int) -> list[int]:
        """Return the numbers up to `limit` of the frames after a clip that trained hops lead to."""
        check_integer("frames", limit)
        if self.every_frame:
            return list(range(1, limit + 1))
        if self._model.codec.temporal_factor > 1:
            return []  # a group is decoded after those before it
        offsets, found = self._model.config.target_offsets, []
        for number in range(1, limit + 1):
            with suppress(ValueError):
                plan_frames([number], offsets, self._hop_frames)
                found.append(number)
        return found

    def _plans(self, numbers: Sequence[int], known: int) -> list[tuple[HopPlan, Sequence[int]]]:
        """Plan rollouts to frames by number after `known` frames: the hops, and those of the frames."""
        offsets, time = self._model.config.target_offsets, self._model.time(known)
        first = list(numbers) == list(range(1, len(numbers) + 1))
        if time.factor > 1 or (first and self.every_frame):
            count = time.count(known + max(numbers)) - time.count(known)
            return [(plan_hops(0.0, count, offsets, self._hop_frames), numbers)]
        plans = plan_frames(numbers, offsets, self._hop_frames)
        if len(plans) == 1:
            return [(plans[0], numbers)]
        return [(plan, [number]) for plan, number in zip(plans, numbers, strict=True)]

    def _roll_out(
        self,
        clip: Frames,
        box: Letterbox,
        strategy: Strategy,
        numbers: Sequence[int],
        samples: int,
        sampling: Sampling,
    ) -> Frames:
        """Predict frames by number after a clip, which the hops of a strategy reach: (S, F, H, W, 3)."""
        model, config = self._model, self._model.config
        fitted = box.fit(clip[-self.context_frames :])
        time = model.time(len(fitted))
        reached = [int(target) for hop in strategy.hops for target in hop]
        # a codec that compresses time gives every frame of the groups
        chosen = [number - 1 if time.factor > 1 else reached.index(number) for number in numbers]
        if time.factor > 1:
            context, given = model.encode_context(fitted), time.count(len(fitted))
        else:
            context, given = model.encode(fitted[-config.context_frames :]), 0
        index = torch.arange(1.0 - context.shape[1], 1.0, device=context.device)
        future = self._compose(fitted, reached, sampling.seed)
        composed = None if future is None else model.encode(future)

        def sample(numbers: Sequence[int]) -> Tensor:
            noise = self._noise(sampling, context, numbers)
            rows, indices = context.expand(len(numbers), *context.shape), index.expand(len(numbers), -1)
            bases = None if composed is None else composed.expand(len(numbers), *composed.shape)
            objective = model.objectives["predict"]
            predicted = rollout(model.network, rows, indices, objective, strategy, noise, bases)
            return torch.cat([rows, predicted], dim=2) if given else predicted

        predicted = self._sample(samples, sample, given)[:, chosen]
        every = np.ones((len(chosen), 1))
        if future is None or composed is None:
            decoded = self._decode(context[None], context.shape[1] - 1)[0, -1]
            return self._add_detail(box.restore(predicted), [(clip[-1], box, decoded)], every)
        # the codec's loss moves with the objects; that of resizing is known of the last frame only
        decoded, own = self._decode(composed[None])[0], np.eye(len(future))[chosen]
        sharp = [transfer_detail(sample, future, decoded, own) for sample in predicted]
        last, resized = clip[-1:], box.restore(fitted[-1:])
        return np.stack([transfer_detail(box.restore(each), last, resized, every) for each in sharp])

    def generate(self, count: int = 1, frames: int | None = None, sampling: Sampling = UNSCALED) -> Frames:
        """Generate clips without context; the frames after the first hop are rolled out.

        Args:
            count: N, clips to generate.
            frames: F, frames of each; None: 22, or `max_generated`.
            sampling: settings of the sampler.

        Returns:
            (N, F, height, width, 3) uint8.
        """
        limit = self.max_generated
        if frames is None:
            frames = limit or GENERATED_FRAMES
        check_integer("count", count)
        check_integer("frames", frames)
        model, strategy = self._model, self._strategy(sampling, "generate")
        config, initial = model.config, self._targets or 1
        if limit is not None and frames > limit:
            raise UserError(
                f"frames={frames}: expected at most {limit}, as the model was not trained to predict later "
                "ones; lower it, or train with train_denoiser.tasks.predict above 0"
            )
        time = model.time(max(config.known, 1))  # training clips start with copies of their first frame
        later = time.count(frames) - initial
        hops = plan_hops(initial - 1.0, later, config.target_offsets, self._hop_frames) if later > 0 else ()
        factor = model.codec.factor
        like = torch.empty(
            config.channels, 1, self.height // factor, self.width // factor, device=model.device
        )

        def sample(numbers: Sequence[int]) -> Tensor:
            shape = (len(numbers), like.shape[0], *like.shape[2:])
            noise = self._noise(sampling, like, numbers)
            first, then = model.objectives["generate"], model.objectives["predict" if hops else "generate"]
            return generate(model.network, first, then, initial, hops, shape, strategy, noise, model.device)

        start = time.position(0)
        return self._sample(count, sample)[:, start : start + frames]

    def interpolate(
        self,
        before: Frames,
        after: Frames,
        frames: int = 10,
        samples: int = 1,
        latent: bool = False,
        sampling: Sampling = DEFAULT,
    ) -> Frames:
        """Predict the frames between two clips or two pictures.

        Args:
            before: (T, H, W, 3); its last frames are context.
            after: (T', H', W', 3); its first frames are context.
            frames: F, frames between them.
            samples: S, different results.
            latent: morph the noised latents of the two end frames instead of predicting motion.
            sampling: settings of the sampler.

        Returns:
            (S, F, H, W, 3) uint8, at the size of `before`.
        """
        box, after_box = self._letterbox("before", before), self._letterbox("after", after)
        check_integer("frames", frames)
        check_integer("samples", samples)
        model, config = self._model, self._model.config
        targets = self._targets if latent else self._hop_frames
        strategy = self._strategy(sampling, "generate" if latent else "interpolate")
        side = config.max_span * config.context_frames  # read by strides over a long span
        grouped = model.codec.temporal_factor > 1
        if grouped and not latent:
            return self._interpolate_groups(
                (box, after_box), before, after, frames, samples, strategy, sampling
            )
        if grouped:
            if targets is not None and targets > 1:
                raise UserError(
                    f"latent=True: expected a network of one target per hop, as the codec joins "
                    f"{model.codec.temporal_factor} frames; leave latent out"
                )
            side = 1  # each morphed frame is a clip of its own
        left, right = model.encode(box.fit(before[-side:])), model.encode(after_box.fit(after[:side]))

        def sample(numbers: Sequence[int]) -> Tensor:
            noise = self._noise(sampling, left, numbers)
            ends = [end.expand(len(numbers), *end.shape) for end in (left, right)]
            if latent:
                objective = model.objectives["generate"]
                first, last = ends[0][:, :, -1:], ends[1][:, :, :1]
                morphed = morph_latents(
                    model.network, first, last, frames, MORPH_STRENGTH, targets, objective, strategy, noise
                )
                return morphed.transpose(1, 2).flatten(0, 1)[:, :, None] if grouped else morphed
            objective, span = model.objectives["interpolate"], config.max_span
            return interpolate(
                model.network, ends[0], ends[1], frames, span, targets, objective, strategy, noise
            )

        result = box.restore(
            self._sample(samples, sample).reshape(samples, frames, self.height, self.width, 3)
        )
        if latent or clip_size(before) != clip_size(after):
            return result
        ends = [self._decode(left[None, :, -1:])[0, 0], self._decode(right[None, :, :1])[0, 0]]
        nearest = [(before[-1], box, ends[0]), (after[0], after_box, ends[1])]
        return self._add_detail(result, nearest, nearness(frames))

    def _interpolate_groups(
        self,
        boxes: tuple[Letterbox, Letterbox],
        before: Frames,
        after: Frames,
        frames: int,
        samples: int,
        strategy: Strategy,
        sampling: Sampling,
    ) -> Frames:
        """`interpolate` with a codec that compresses time, in groups of frames after the last one before.

        The codec is causal: the frames after the gap are encoded behind a blend, which the predicted groups
        replace. The first frames after the gap may complete its last group.
        """
        model, config = self._model, self._model.config
        side = 1 + model.codec.temporal_factor * config.max_span * config.context_frames
        left, right = boxes[0].fit(before[-side:]), boxes[1].fit(after[:side])
        time = model.time(len(left))
        given = time.count(len(left))
        groups = time.count(len(left) + frames) - given
        right = repeat_last(right, groups * time.factor - frames + 1)  # at least a group after the gap
        clip = np.concatenate([left, blended_gap(left[-1], right[0], frames), right])
        latents = model.encode(time.pad(clip))

        def sample(numbers: Sequence[int]) -> Tensor:
            rows = latents.expand(len(numbers), *latents.shape)
            ends = rows[:, :, :given], rows[:, :, given + groups :]
            predicted = interpolate(
                model.network, *ends, groups, config.max_span, self._hop_frames,
                model.objectives["interpolate"], strategy, self._noise(sampling, latents, numbers),
            )  # fmt: skip
            return torch.cat([ends[0], predicted, ends[1]], dim=2)

        result = boxes[0].restore(self._sample(samples, sample, given)[:, :frames])
        if clip_size(before) != clip_size(after):
            return result
        decoded = self._decode(latents[None], given - 1)[0]  # the last frame before is the last of its group
        last = 0 if given == 1 else time.factor - 1
        nearest = [
            (before[-1], boxes[0], decoded[last]),
            (after[0], boxes[1], decoded[last + frames + 1]),
        ]
        return self._add_detail(result, nearest, nearness(frames))

    def restore(
        self,
        clip: Frames,
        sampling: Sampling = MODE,
        full_size: bool = False,
        progress: bool = False,
    ) -> Frames:
        """Remove noise, blur, darkness and compression artefacts from a clip.

        Args:
            clip: (T, H, W, 3).
            sampling: settings of the sampler; the default temperature 0 is nearest to the truth.
            full_size: process a larger clip at its own size, up to 2 million pixels: sharper and slower;
                objects appear larger than in training.
            progress: show a progress bar on stderr.

        Returns:
            The shape of `clip`.
        """
        box = self._letterbox("clip", clip)
        model, strategy = self._model, self._strategy(sampling, "restore")
        full_size = full_size and exceeds(clip_size(clip), (self.height, self.width))
        if full_size and box.rows * box.columns > MAX_PIXELS:
            raise UserError(
                f"clip: frames of {box.columns}x{box.rows}: expected at most {MAX_PIXELS} pixels with "
                "full_size; resize them, or set full_size=False"
            )
        frames = self._padded(clip) if full_size else box.fit(clip)
        hop = repeat_last(frames, 1 + model.codec.temporal_factor * ((self._targets or 1) - 1))
        degraded = model.encode(hop)
        batch = model.batch_frames(*frames.shape[1:3])
        style = {"file": sys.stderr, "delay": BAR_DELAY, "leave": False, "unit": "part"}
        with torch.inference_mode(), autocast(model.device):
            clean = restore(
                model.network,
                degraded,
                self._targets,
                model.objectives["restore"],
                strategy,
                lambda starts: self._noise(sampling, degraded, starts),
                batch,
                lambda parts: tqdm(parts, "restoring", disable=not progress, **style),
            )
        restored, first = np.empty_like(frames), 0
        decoded = zip(self._decode_parts(clean), self._decode_parts(degraded), strict=True)
        for predicted, round_trip in decoded:
            count = min(len(predicted), len(frames) - first)  # the last group may go beyond the clip
            if count > 0:
                part = slice(first, first + count)
                restored[part] = keep_detail(predicted[:count], frames[part], round_trip[:count])
                first += count
        return restored[:, : box.rows, : box.columns] if full_size else box.restore(restored)

    def round_trip(self, clip: Frames) -> Frames:
        """Encode and decode a clip (T, H, W, 3); returns its shape."""
        box = self._letterbox("clip", clip)
        return box.restore(self._decode(self._model.encode(box.fit(clip))[None])[0, : len(clip)])

    def segment(self, clip: Frames) -> Masks:
        """Classify every pixel: (T, H, W, 3) -> (T, H, W) uint8, ids of `vdp.core.classes`; 0 is background.

        Raises:
            FileNotFoundError: if there is no segmenter.
            UserError: if no segmenter was trained, as no training clip has masks.
        """
        box = self._letterbox("clip", clip)
        predictor = self._segmenter()
        small = box.fit(clip)
        masks = []
        for first in range(0, len(small), BATCH_SIZE):
            part = small[first : first + BATCH_SIZE]
            probs = predictor.probs(part, predictor.encode(part), predictor.params.codec_vote)
            masks.append(probs_to_masks(probs, predictor.params.object_threshold, None).cpu().numpy())
        return box.restore_masks(np.concatenate(masks))

    def info(self) -> dict[str, object]:
        """Describe the networks and their training in plain values."""
        config, codec = self._model.config, self._model.codec
        return {
            "folder": str(self._folder),
            "frames": f"{self.height}x{self.width}",
            "tasks": dict(config.tasks),
            "codec": type(codec).__name__.lower().removesuffix("codec"),
            "codec_parameters": count_parameters(codec),
            "latents": f"{config.channels}x{self.height // codec.factor}x{self.width // codec.factor}",
            **({"temporal_factor": codec.temporal_factor} if codec.temporal_factor > 1 else {}),
            "denoiser": config.denoiser.name,
            "base": config.base,
            "denoiser_parameters": count_parameters(self._model.network),
            "context_frames": config.context_frames,
            "target_offsets": list(config.target_offsets),
            "targets": config.targets,
            "max_span": config.max_span,
            "schedule": config.diffusion.schedule,
            "prediction": config.diffusion.prediction,
            "segmenter": self.segments,
            **self._checkpoints(),
            **self._training(),
        }

    def _checkpoints(self) -> dict[str, object]:
        """List the steps whose weights are kept, by network."""
        networks = (DENOISER, SEGMENTER, CODEC)
        kept = {network: kept_steps(self._folder / network) for network in networks}
        return {f"{network}_checkpoints": steps for network, steps in kept.items() if steps}

    def _training(self) -> dict[str, object]:
        """Describe the videos of a training outside the pipeline."""
        record = read_record(self._folder)
        if record is None:
            return {}
        rate = f"every {record.interval}" if record.fps is None else f"{record.fps:g} per second"
        return {
            "trained_on": record.train,
            "validated_on": f"{', '.join(record.val)} ({record.held_out})",
            "selected_frames": rate,
        }

    def _compose(self, clip: Frames, numbers: Sequence[int], seed: int) -> Frames | None:
        """Compose frames by number after a clip of the networks' size; None of another base."""
        if self._model.config.base == "optical_flow":
            return self._model.move_by_flow(clip, numbers)
        if self._motion is None or self._tracker is None:
            return None
        found = self._tracker(clip)
        objects = ClipObjects("", clip, found.labels, found.classes)
        targets = [len(clip) - 1 + number for number in numbers]
        return self._motion.compose([objects], targets, MOTION_SAMPLING, seed)[0]

    @property
    def _targets(self) -> int | None:
        """Frames per hop of a joint network; None for others."""
        return self._model.config.targets if self._model.network.joint else None

    @property
    def _hop_frames(self) -> int | None:
        """Frames per hop with context; None for any number.

        One where the network is not joint: the base of a target would be context of the others.
        """
        return 1 if self._targets is None and self._model.config.base != "nearest" else self._targets

    def _letterbox(self, name: str, clip: Frames) -> Letterbox:
        if not (
            isinstance(clip, np.ndarray) and clip.dtype == np.uint8 and clip.ndim == 4 and clip.shape[-1] == 3
        ):
            what = f"{clip.dtype} {clip.shape}" if isinstance(clip, np.ndarray) else type(clip).__name__
            raise UserError(f"{name}: expected frames (T, H, W, 3) in uint8, RGB, got {what}")
        if min(clip.shape) == 0:
            raise UserError(f"{name}: expected at least one frame and one pixel, got {clip.shape}")
        if len(clip) > MAX_FRAMES:
            raise UserError(f"{name}: {len(clip)} frames: expected at most {MAX_FRAMES}; split the clip")
        return Letterbox(clip.shape[1], clip.shape[2], self.height, self.width)

    def _padded(self, clip: Frames) -> Frames:
        """Repeat the lower and right edges up to a size that the codec accepts."""
        factor = self._model.codec.factor
        below, right = (-size % factor for size in clip_size(clip))
        return np.pad(clip, ((0, 0), (0, below), (0, right), (0, 0)), mode="edge")

    def _strategy(self, sampling: Sampling, task: Task) -> Strategy:
        config = self._model.config
        check_task(config, task, self._folder / DENOISER)
        if sampling.guidance != 1 and config.context_dropout == 0:
            raise UserError(
                f"guidance={sampling.guidance}: expected 1, as the model was trained without context "
                "dropout; set train_denoiser.context_dropout above 0 and train it again"
            )
        return Strategy(
            hops=(),
            sampler=make_sampler(sampling.sampler, sampling.eta),
            times=self._times(sampling.steps),
            temperature=sampling.temperature,
            guidance=sampling.guidance,
            context_noise=0.0,
            context_frames=config.context_frames,
            given_frames=config.given_frames,
            gains=tuple(config.gains or ()),
        )

    def _times(self, steps: int) -> Tensor:
        """Return the sampling times; at pure noise an eps prediction carries no information."""
        diffusion = self._model.config.diffusion
        levels = diffusion.num_timesteps
        if steps > levels:
            raise UserError(f"steps={steps}: expected at most {levels}, the noise levels of this model")
        times = time_grid(steps, "leading" if diffusion.prediction == "eps" else "trailing", levels)
        if times[0] < MIN_START_TIME:
            raise UserError(
                f"steps={steps}: too few for this model, which predicts eps and starts below pure noise; "
                "use more steps"
            )
        return times

    def _noise(self, sampling: Sampling, like: Tensor, numbers: Sequence[int]) -> SampleNoise:
        """Return the noise of samples by number, for latents like (C, T, h, w)."""
        shape = (like.shape[0], *like.shape[2:])
        return SampleNoise(sampling.seed, numbers, 1, shape, self._model.device)

    def _sample(self, count: int, sample: Callable[[Sequence[int]], Tensor], first: int = 0) -> Frames:
        """Sample in batches and decode from latent frame `first` on: (count, T, height, width, 3)."""
        parts = []
        for number in range(0, count, BATCH_SIZE):
            with torch.inference_mode(), autocast(self._model.device):
                latents = sample(range(number, min(number + BATCH_SIZE, count)))
            parts.append(self._decode(latents, first))
        return np.concatenate(parts)

    def _add_detail(
        self, frames: Frames, ends: Sequence[tuple[Frames, Letterbox, Frames]], weight: NDArray[np.float64]
    ) -> Frames:
        """Add to frames (S, F, H, W, 3) the detail of context frames that resizing and the codec lost.

        `ends` are context frames (H, W, 3) and their round trips at the networks' size.
        """
        context = np.stack([frame for frame, _, _ in ends])
        decoded = np.stack([box.restore(round_trip[None])[0] for _, box, round_trip in ends])
        return np.stack([transfer_detail(sample, context, decoded, weight) for sample in frames])

    def _decode(self, latents: Tensor, first: int = 0) -> Frames:
        """Decode normalised latents (B, C, N, h, w) from latent frame `first` on: (B, T, H, W, 3)."""
        return np.stack([np.concatenate(list(self._decode_parts(row, first))) for row in latents])

    def _decode_parts(self, latents: Tensor, first: int = 0) -> Iterator[Frames]:
        """`_decode` of one clip (C, N, h, w), in parts of it."""
        codec = self._model.codec
        height, width = (side * codec.factor for side in latents.shape[-2:])
        size = max(1, self._model.batch_frames(height, width) // codec.temporal_factor)
        for start in range(first, latents.shape[1], size):
            yield self._model.decode(latents[None, :, : start + size], start)[0]

    def _segmenter(self) -> MaskPredictor:
        if self._mask_predictor is None:
            model = self._model
            segmenter = load_segmenter(self._folder / SEGMENTER, self._segmenter_checkpoint).to(model.device)
            params = SegmentParams(
                flip_tta=True,
                motion_vote=0.0,
                codec_vote=CODEC_VOTE if model.codec.has_masks else 0.0,
                object_threshold=0.5,
                vote_threshold=0.5,
                seen_classes_only=False,
                seen_pixels=1,
                batch_frames=BATCH_SIZE,
            )
            self._mask_predictor = MaskPredictor(segmenter, model.codec, params, model.device)
        return self._mask_predictor


def load(
    folder: str | Path = "data/models",
    device: torch.device | str | None = None,
    checkpoint: int | None = None,
    segmenter_checkpoint: int | None = None,
) -> Model:
    """Load trained networks from the folder that the pipeline, or `vdp.train`, wrote.

    Args:
        folder: with `codec`, `denoiser` and, for masks, `segmenter`.
        device: of the networks; None is the accelerator if there is one.
        checkpoint: step of kept weights of the denoiser (`train_denoiser.keep_every`); None for those of its
            training's end.
        segmenter_checkpoint: the same of the segmenter.

    Raises:
        FileNotFoundError: if a model is missing; names the command that trains it.
        UserError: if it is of another version, or the step is not kept.
    """
    folder = Path(folder)
    chosen = pick_device() if device is None else torch.device(device)
    if segmenter_checkpoint is not None:
        weights_file(folder / SEGMENTER, segmenter_checkpoint)
    return Model(load_latent_diffusion(folder, chosen, checkpoint), folder, segmenter_checkpoint)


def nearness(frames: int) -> NDArray[np.float64]:
    """Weights of the frames before and after `frames` evenly spaced ones, (frames, 2)."""
    share = np.arange(1, frames + 1) / (frames + 1)
    return np.stack([1 - share, share], axis=1)


def repeat_last(clip: Frames, count: int) -> Frames:
    """Repeat the last frame of a clip (T, H, W, 3) up to `count` frames; a longer clip stays."""
    missing = max(0, count - len(clip))
    return np.concatenate([clip, np.repeat(clip[-1:], missing, axis=0)]) if missing else clip


def blended_gap(before: Frames, after: Frames, frames: int) -> Frames:
    """Blend linearly from one frame (H, W, 3) to another, (frames, H, W, 3)."""
    weight = nearness(frames)[:, :, None, None, None]
    ends = np.stack([before, after]).astype(np.float64)
    return (weight * ends).sum(axis=1).round().astype(np.uint8)


def check_integer(name: str, value: object) -> None:
    """Check a number of frames, samples or clips."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 1 <= value <= MAX_FRAMES:
        raise UserError(f"{name}={value!r}: expected an integer 1..{MAX_FRAMES}")


def clip_size(clip: Frames) -> tuple[int, int]:
    """Height and width of a clip's frames."""
    return clip.shape[1], clip.shape[2]


def count_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
