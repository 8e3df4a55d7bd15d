"""The trained motion model: sampled futures of a clip's objects, and the frames and masks composed of them.

Shapes: B clips, R samples, K context frames, N objects, T target frames, F = len(vdp.core.objects.FEATURES).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray

from vdp.config.choices import BaseName
from vdp.core.borders import whole_places
from vdp.core.device import autocast
from vdp.core.errors import UserError
from vdp.core.objects import SEEN, X, Y
from vdp.data.batches.motion import object_latents
from vdp.data.object_states import class_labels, object_states
from vdp.diffusion.motion import NUM_TIMESTEPS, MotionObjective, motion_process
from vdp.models.checkpoint import is_trained
from vdp.models.motion.config import MotionConfig
from vdp.models.motion.factory import MotionModel, load_motion_model
from vdp.sampling.compose import Composer
from vdp.sampling.hops import plan_hops
from vdp.sampling.params import SampleMotionParams
from vdp.sampling.predict import predict
from vdp.sampling.rollout import Strategy
from vdp.sampling.samplers import make_sampler, time_grid

MOTION = "motion"  # subfolder of a models folder
# of clips outside the pipeline, as section sample_motion of params.yaml
MOTION_SAMPLING = SampleMotionParams(sampler="ddim", steps=12, temperature=1.0, samples=1)
PADDED_OBJECTS = 16  # objects of a batch are padded to a multiple of this

Float = NDArray[np.float32]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class ClipObjects:
    """The objects in the context frames of a clip."""

    name: str
    frames: Pixels  # (K, H, W, 3)
    labels: Pixels  # object numbers of their pixels, (K, H, W), 1..N; 0 is the background
    classes: Pixels  # class ids, (N,)

    @cached_property
    def states(self) -> Float:
        """As measured in the frames, (N, K, F)."""
        return object_states(self.labels, len(self.classes))


@dataclass(frozen=True)
class ObjectMotion:
    """A motion model; `load_motion` opens one."""

    network: MotionModel
    config: MotionConfig
    objective: MotionObjective
    device: torch.device

    def sample(
        self,
        names: Sequence[str],
        states: Float,
        classes: Pixels,
        frames: Sequence[int],
        params: SampleMotionParams,
        samples: int,
        temperature: float,
        seed: int,
    ) -> Float:
        """Sample futures of the objects of B clips, all target frames at once.

        Args:
            names: of the clips; the noise of a clip depends on its name and the seed only.
            states: of the context frames 0..K-1, (B, N, K, F).
            classes: class ids, (B, N); 0 is absent.
            frames: 0-based indices of the target frames.
            params: section `sample_motion`.
            samples: R.
            temperature: scale of the noise; 0 gives the one most likely future.
            seed: of the run.

        Returns:
            x, y and visibility, (B, R, N, T, 3). Lengths are in frame heights from the frame's centre; the
            place of an object that the border cuts is that of the whole object.
        """
        first, count = states.shape[2], classes.shape[1]
        # the noise of an object must not depend on the number of others in the batch
        padded = max(1, -(-count // PADDED_OBJECTS)) * PADDED_OBJECTS
        padding = [(0, 0), (0, padded - count)]
        latents = object_latents(np.pad(states, [*padding, (0, 0), (0, 0)]), np.pad(classes, padding))
        known = whole_places(latents, self.objective.ground)
        strategy = Strategy(
            # all frames up to the last, as in training: those of a hop depend on each other
            hops=plan_hops(
                first - 1, max(frames) + 1 - first, range(1, self.config.motion.target_slots + 1), None
            ),
            sampler=make_sampler(params.sampler, 0.0),
            times=time_grid(params.steps, "trailing", NUM_TIMESTEPS),
            temperature=temperature,
            guidance=1.0,
            context_noise=0.0,
            context_frames=self.config.motion.context_slots,
        )
        numbers = [crc32(name.encode()) for name in names]
        with autocast(self.device):
            predicted = predict(
                self.network, known.to(self.device), range(first), numbers,
                self.objective, strategy, samples, seed,
            )  # fmt: skip
        places = predicted[:, :, [X, Y, SEEN]][:, :, :, [frame - first for frame in frames], 0, :count]
        return places.permute(0, 1, 4, 3, 2).float().cpu().numpy()

    def compose(
        self, clips: Sequence[ClipObjects], frames: Sequence[int], params: SampleMotionParams, seed: int
    ) -> list[Pixels]:
        """Compose the frames of the most likely future of clips with equally many context frames.

        Args:
            clips: B clips.
            frames: 0-based indices of the T target frames.
            params: section `sample_motion`; samples and temperature do not matter.
            seed: of the run.

        Returns:
            (T, H, W, 3) uint8 of each clip.
        """
        if not clips:
            return []
        count = max(len(clip.classes) for clip in clips)
        spare = [count - len(clip.classes) for clip in clips]
        states = [np.pad(clip.states, [(0, n), (0, 0), (0, 0)]) for clip, n in zip(clips, spare, strict=True)]
        classes = [np.pad(clip.classes, (0, n)) for clip, n in zip(clips, spare, strict=True)]
        names = [clip.name for clip in clips]
        likely = self.sample(names, np.stack(states), np.stack(classes), frames, params, 1, 0.0, seed)[:, 0]
        return [
            np.stack([composer(places[: len(clip.classes), step])[0] for step in range(len(frames))])
            for clip, places in zip(clips, likely, strict=True)
            for composer in [self.composer(clip.frames, clip.labels, clip.states, clip.classes)]
        ]

    def composer(self, frames: Pixels, labels: Pixels, states: Float, classes: Pixels) -> Composer:
        """Return the composer of a clip from its context; arguments as of `Composer`, states as measured."""
        return Composer(frames, labels, self.whole_states(states, classes), classes, self.objective.ground)

    def whole_states(self, states: Float, classes: Pixels) -> Float:
        """States (N, K, F) with the places of whole objects where the border cuts them."""
        whole = whole_places(object_latents(states[None], classes[None]), self.objective.ground)
        return whole[0, : states.shape[-1], :, 0].permute(2, 1, 0).numpy()


def labelled_objects(name: str, frames: Pixels, masks: Pixels) -> ClipObjects:
    """The objects of context frames (K, H, W, 3) with true masks (K, H, W)."""
    labels, classes = class_labels(np.asarray(masks))
    return ClipObjects(name, np.asarray(frames), labels, classes)


def has_motion(models: Path) -> bool:
    """Whether the pipeline has trained a motion model: not where no clip has masks."""
    return is_trained(models / MOTION)


def resolve_base(base: BaseName, models: Path, single_frames: bool) -> BaseName:
    """Return the base of `diffusion.base`: auto is composed with a motion model, else optical_flow.

    Args:
        single_frames: whether a latent is a frame: groups of frames are neither composed nor moved by flow,
            and auto is moved.

    Raises:
        UserError: if `diffusion.base` is composed and there is no motion model.
    """
    if base == "composed" and not has_motion(models):
        raise UserError(
            "diffusion.base=composed: expected clips with masks, from which the motion of objects is "
            "learned; set it to auto or optical_flow"
        )
    if base != "auto":
        return base
    if not single_frames:
        return "moved"
    return "composed" if has_motion(models) else "optical_flow"


def load_motion(models: Path, device: torch.device) -> ObjectMotion:
    """Load the motion model of a models folder; errors as of `vdp.models.checkpoint`."""
    trained = load_motion_model(models / MOTION, device)
    scale = torch.tensor(trained.config.data_scale, device=device)
    motion = trained.config.motion
    objective = MotionObjective(
        motion_process(motion.schedule, motion.prediction), trained.config.ground.floor(), scale
    )
    return ObjectMotion(trained.network, trained.config, objective, device)
