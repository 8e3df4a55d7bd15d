"""Estimate the arithmetic of a run of the pipeline before it, from params.yaml and the number of clips.

The networks are built with their params and counted on a row or two of a batch: the arithmetic is linear in
the rows, the steps and the sampling steps. All but the small motion model are counted on torch's device
'meta', which computes shapes only.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial

import numpy as np
import torch
from pydantic import JsonValue
from torch import Tensor, nn

from vdp.api.motion import ObjectMotion
from vdp.cli.data_size import DataSize, SplitSize, data_size, max_objects, uses_simulated
from vdp.config.choices import BaseName
from vdp.config.messages import validate
from vdp.config.schema import ClipParams, schema
from vdp.config.yaml_file import read_file
from vdp.core.context_frames import Hops
from vdp.core.device import computes_in_bf16, pick_device
from vdp.core.flops import TERA, flop_counter, format_tflop
from vdp.core.ground import Ground
from vdp.core.latent_time import TRAINED_GROUPS, LatentTime
from vdp.core.objects import AREA, FEATURES, HEIGHT, SEEN, WIDTH, X
from vdp.core.rng import BatchRng
from vdp.core.tasks import TASKS, Task
from vdp.data.batches.hops import COMPOSED_SHARE, FULL_CONTEXT, HopRule
from vdp.data.batches.motion import object_latents
from vdp.data.crops import crop_side
from vdp.data.encode import PAST
from vdp.data.params import AugmentParams, ClipChanges, ExtractParams
from vdp.data.simulator.params import SimulateParams
from vdp.diffusion.loss import HopLoss
from vdp.diffusion.motion import MotionLoss, MotionObjective, motion_process
from vdp.diffusion.objective import Objective
from vdp.diffusion.params import DiffusionParams
from vdp.diffusion.scheduled_sampling import ScheduledSampling
from vdp.diffusion.schedules import make_process
from vdp.launch.params import EngineParams
from vdp.models.classifiers.crops import CropClassifier, crop_loss
from vdp.models.classifiers.params import ClassifierParams
from vdp.models.codecs.params import CodecParams, EncodeParams, VAEParams
from vdp.models.codecs.pixel import PixelCodec
from vdp.models.codecs.vae import VAE, vae_loss
from vdp.models.denoisers.factory import build_denoiser
from vdp.models.denoisers.params import DenoiserParams
from vdp.models.factored_classes import factor_loss, object_loss
from vdp.models.motion.config import GroundConfig, MotionConfig
from vdp.models.motion.factory import build_motion
from vdp.models.motion.params import MotionParams
from vdp.models.segmenters.params import SegmenterParams, SegmentParams, TrackParams
from vdp.models.segmenters.unetpp import UNetPlusPlus
from vdp.sampling.hops import used_context
from vdp.sampling.params import PredictParams, SampleMotionParams
from vdp.sampling.predict import make_strategy, predict
from vdp.training.cost import matmul_rate
from vdp.training.params import (
    FitParams,
    PretrainVAEParams,
    TrainClassifierParams,
    TrainDenoiserParams,
    TrainMotionParams,
    TrainSegmenterParams,
)

META = torch.device("meta")
ROWS = 2  # of a counted batch: batch norm needs two
RECOMPUTED = 4 / 3  # a training computes forward once and backward twice; with checkpointing forward twice
PARTS = 5  # parts of the foreground of a frame, which the classifier sees one by one
UTILISATION = {"cpu": 0.5, "cuda": 0.1}  # share of the matmul rate; small convolutions leave a GPU waiting
GROUND = Ground(0.2, 0.1, 2.0, (0.03, 0.02, 0.03), diameter=1.0, restitution=0.7)  # any: shapes do not depend
LEFT_OUT = "without simulate, extract_frames, score and evaluate_tasks"
TRAINING_LEFT_OUT = "without reading and encoding the videos, and without the report"
NO_CLIPS = (
    "encode_latents, track_objects, predict_motion, predict and segment are left out: their number of clips "
    "is known once data/clips exists; run dvc repro extract_frames"
)

LENGTH_UNKNOWN = "{stages}: left out: the steps of their epochs are known once the clips exist"


@dataclass(frozen=True)
class RunParams:
    """Sections of params.yaml."""

    clip: ClipParams
    simulate: SimulateParams
    extract_frames: ExtractParams
    augment: AugmentParams
    codec: CodecParams
    vae: VAEParams
    engine: EngineParams
    pretrain_vae: PretrainVAEParams
    encode_latents: EncodeParams
    denoiser: DenoiserParams
    diffusion: DiffusionParams
    train_denoiser: TrainDenoiserParams
    segmenter: SegmenterParams
    train_segmenter: TrainSegmenterParams
    classifier: ClassifierParams
    train_classifier: TrainClassifierParams
    track_objects: TrackParams
    motion: MotionParams
    train_motion: TrainMotionParams
    predict: PredictParams
    sample_motion: SampleMotionParams
    segment: SegmentParams

    @classmethod
    def read(cls) -> "RunParams":
        """Read ./params.yaml; a UserError for the first mistake."""
        return cls.of(read_file())

    @classmethod
    def of(cls, data: Mapping[str, JsonValue]) -> "RunParams":
        """Take the sections of a params.yaml; a UserError for the first mistake."""
        names = [item.name for item in fields(cls)]
        return cls(**{name: validate(schema(name), data.get(name), name) for name in names})  # type: ignore[arg-type]


def cost_table(labelled: bool = True) -> str:
    """Return the estimate of a run of ./params.yaml: TFLOP by stage and in all, and about how many minutes.

    Args:
        labelled: whether training clips have masks, where there are no clips yet.

    Raises:
        UserError, ValueError: if params.yaml is not valid or does not fit the clips.
    """
    params = RunParams.read()
    size = data_size(params.clip, params.extract_frames, params.simulate)
    flops = estimate(params, size, labelled)
    lines = _rows(flops)
    lines += _length_notes(params, size, labelled if size is None else size.labelled)
    if size is None:
        lines.append(NO_CLIPS)
    return "\n".join([*lines, f"{_minutes(sum(flops.values()))}; {LEFT_OUT}"])


def training_table(params: RunParams) -> str:
    """Return the estimate of the trainings on clips without masks, as `cost_table`."""
    size = DataSize({}, 0, 0)
    flops = estimate(params, size)
    notes = _length_notes(params, size, labelled=False)
    return "\n".join([*_rows(flops), *notes, f"{_minutes(sum(flops.values()))}; {TRAINING_LEFT_OUT}"])


def _rows(flops: Mapping[str, float]) -> list[str]:
    rows = [*flops.items(), ("all", sum(flops.values()))]
    return ["estimate, TFLOP", *(f"{stage:<16} {format_tflop(value / TERA):>9}" for stage, value in rows)]


def _minutes(flops: float) -> str:
    device = pick_device()
    dtype = torch.bfloat16 if computes_in_bf16(device.type) else torch.float32
    rate, share = matmul_rate(device, dtype), UTILISATION[device.type]
    minutes = flops / (rate * share) / 60
    shown = f"{minutes:.1g} minutes" if minutes < 1 else f"{minutes:.0f} minutes"
    if minutes >= 120:
        shown = f"{minutes / 60:.0f} hours"
    return f"about {shown} at {share:.0%} of this machine's matmul rate, {format_tflop(rate / TERA)} TFLOP/s"


def estimate(params: RunParams, size: DataSize | None, labelled: bool = True) -> dict[str, float]:
    """Estimate the FLOPs of each stage with networks, in the order of dvc.yaml.

    Args:
        size: clips of the run; None leaves out the stages whose cost depends on them.
        labelled: whether training clips have masks, without `size`.
    """
    labelled = labelled if size is None else size.labelled
    params = in_steps(params, size, labelled)
    codec, denoiser = CodecCost(params, labelled), DenoiserCost(params, labelled)
    predicts, segmenter = params.clip.predicts, SegmenterCost(params)
    motion = MotionCost(params) if labelled and predicts else None
    trainings: dict[str, Callable[[], float]] = {
        "pretrain_vae": codec.training, "train_denoiser": denoiser.training
    }  # fmt: skip
    if labelled:
        trainings |= {
            "train_segmenter": partial(segmenter.training, codec),
            "train_classifier": segmenter.classifier_training,
        }
    if motion is not None:
        trainings["train_motion"] = motion.training
    unknown = unknown_lengths(params)
    flops = {stage: training() for stage, training in trainings.items() if stage not in unknown}
    if size is not None:
        flops["encode_latents"] = _encode_latents(params, size, codec, motion, denoiser.base)
        flops["predict"] = size.test_clips * denoiser.clip(codec) if predicts else 0.0
    if size is not None and motion is not None:
        flops["track_objects"] = _track_objects(params, size, codec, segmenter)
        flops["predict_motion"] = size.test_clips * motion.clip()
        flops["segment"] = _segment(params, size, codec, segmenter)
    return {stage: flops[stage] for stage in STAGES if flops.get(stage)}


def in_steps(params: RunParams, size: DataSize | None, labelled: bool) -> RunParams:
    """Return params whose trainings have steps in place of epochs where the number of clips is known."""
    if size is None or not size.splits:
        return params
    train, unlabeled = (size.splits.get(name, SplitSize()) for name in ("train", "unlabeled"))
    all_clips = train.clips + unlabeled.clips
    tracked = min(params.track_objects.unlabeled, unlabeled.clips)
    single_frames = latent_time(params).factor == 1
    base = chosen_base(params.diffusion.base, labelled, single_frames, params.clip.predicts)
    composes = base == "composed"
    return replace(
        params,
        pretrain_vae=params.pretrain_vae.in_steps(all_clips),
        train_classifier=params.train_classifier.in_steps(train.labelled),
        train_segmenter=params.train_segmenter.in_steps(train.labelled),
        train_motion=params.train_motion.in_steps(params.simulate.tracks + train.labelled + tracked),
        train_denoiser=params.train_denoiser.in_steps(
            train.composed + unlabeled.composed if composes else all_clips
        ),
    )


def unknown_lengths(params: RunParams) -> list[str]:
    """Trainings whose number of steps is not known, as it follows from their epochs."""
    return [
        name for name in STAGES if isinstance(p := getattr(params, name, None), FitParams) and p.steps is None
    ]


def _length_notes(params: RunParams, size: DataSize | None, labelled: bool) -> list[str]:
    unknown = [
        name
        for name in unknown_lengths(in_steps(params, size, labelled))
        if labelled or name in ("pretrain_vae", "train_denoiser")
    ]
    return [LENGTH_UNKNOWN.format(stages=", ".join(unknown))] if unknown else []


STAGES = (  # with networks, in the order of dvc.yaml
    "pretrain_vae", "train_classifier", "train_segmenter", "track_objects", "train_motion",
    "encode_latents", "train_denoiser", "predict_motion", "predict", "segment",
)  # fmt: skip


# --- Counting --------------------------------------------------------------------------------------------


def count(function: Callable[[], object]) -> float:
    """Count the FLOPs of a call."""
    with flop_counter() as counter:
        function()
    return float(counter.get_total_flops())


def count_step(loss: Callable[[], dict[str, Tensor]]) -> float:
    """Count the FLOPs of a loss and its gradients."""
    return count(lambda: loss()["loss"].backward())


def count_sampling(run: Callable[[int], object], steps: int) -> float:
    """Count the FLOPs of a rollout of `steps` sampling steps from those of one and of two."""
    one, two = count(partial(run, 1)), count(partial(run, 2))
    return one + (steps - 1) * (two - one)


def training_flops(network: nn.Module, step: float, params: FitParams, engine: EngineParams) -> float:
    """FLOPs of a training from those of a step of `ROWS` rows."""
    batch = step / ROWS * params.batch_size * (RECOMPUTED if engine.checkpointing else 1)
    if params.optimizer == "muon":
        from vdp.training.muon import Muon  # imports lightning_fabric, which takes seconds
        from vdp.training.optim import make_optimizer

        optimizer = make_optimizer(network, params, fused=False)
        assert isinstance(optimizer, Muon)
        batch += optimizer.flops()
    return batch * params.total_steps


def interpolated(function: Callable[[int], float], low: int, high: int, at: float) -> float:
    """Interpolate between the values of a function at two whole numbers."""
    end = function(high)
    return end if low == high else end + (function(low) - end) * (high - at) / (high - low)


def empty(*shape: int) -> Tensor:
    """A tensor without values."""
    return torch.empty(shape, device=META)


@dataclass(frozen=True)
class ConstantRng(BatchRng):
    """Constants in place of the random numbers of a step, on any device."""

    device: torch.device = META
    fixed: float = 0.5  # the number that all parts share

    def uniform(self, *shape: int) -> Tensor:
        return torch.full(shape, 0.5, device=self.device)

    def normal(self, *shape: int) -> Tensor:
        return torch.full(shape, 0.5, device=self.device)

    def shared(self) -> float:
        return self.fixed


def constant_rng(device: torch.device = META, fixed: float = 0.5) -> ConstantRng:
    return ConstantRng(torch.Generator(), range(ROWS), ROWS, device, fixed)


def middles(count: int) -> list[float]:
    """Middles of `count` equal parts of [0, 1]."""
    return [(part + 0.5) / count for part in range(count)]


# --- Codec -----------------------------------------------------------------------------------------------


class CodecCost:
    """FLOPs of the codec; those of a frame are of the clips' size unless another is given."""

    def __init__(self, params: RunParams, labelled: bool = True) -> None:
        self.params = params
        self.mask_weight = params.pretrain_vae.mask_weight if labelled else 0.0
        with META:
            is_vae = params.codec.name == "vae"
            self.network = VAE(params.vae, self.mask_weight > 0) if is_vae else PixelCodec()
        clip = params.clip
        self.frame = (1, 3, 1, clip.height, clip.width)
        self.latent = (1, self.network.channels, 1, *latent_size(params))

    def training(self) -> float:
        network, params = self.network, self.params.pretrain_vae
        if not isinstance(network, VAE):
            return 0.0
        factor = network.temporal_factor
        length = 1 if factor == 1 else 1 + TRAINED_GROUPS * factor
        clips = empty(ROWS, 3, length, *self.frame[3:])
        masks = empty(ROWS, length, *self.frame[3:]).byte()
        noise = empty(ROWS, network.channels, 1 + (length - 1) // factor, *self.latent[3:])
        weights = (params.kl_weight, params.detail_weight, self.mask_weight)
        step = count_step(lambda: vae_loss(network, clips, masks, empty(ROWS), noise, *weights))
        return training_flops(network, step, params, self.params.engine)

    def encode(self) -> float:
        return self._count(lambda: self.network.encode(empty(*self.frame)))

    def decode(self) -> float:
        return self._count(lambda: self.network.decode(empty(*self.latent)))

    def encode_clip(self, frames: int) -> float:
        """FLOPs of encoding a clip, whose latent frames may depend on each other."""
        if self.network.temporal_factor == 1:
            return frames * self.encode()
        padded = latent_time(self.params).position(frames)
        return self._count(lambda: self.network.encode(empty(1, 3, padded, *self.frame[3:])))

    def decode_after(self, known: int, predicted: int) -> float:
        """FLOPs of decoding predicted latent frames after known ones."""
        if self.network.temporal_factor == 1:
            return predicted * self.decode()
        frames = min(known, PAST) + predicted
        return self._count(lambda: self.network.decode(empty(*self.latent[:2], frames, *self.latent[3:])))

    def target_round_trip(self, masks: bool) -> float:
        """FLOPs of the round trip of the target frame of a clip, with its masks or without."""
        if self.network.temporal_factor == 1:
            return self.encode() + (self.decode_with_masks() if masks else self.decode())
        frames = self.params.clip.frames
        clip = empty(*self.latent[:2], latent_time(self.params).count(frames), *self.latent[3:])
        decode = self.network.decode_with_masks if masks else self.network.decode
        return self.encode_clip(frames) + self._count(lambda: decode(clip))

    def masks(self) -> float:
        return self._count(lambda: self.network.mask_logits(empty(*self.latent)))

    def decode_with_masks(self) -> float:
        return self._count(lambda: self.network.decode_with_masks(empty(*self.latent)))

    def round_trip(self, height: int, width: int) -> float:
        """FLOPs of encoding and decoding a frame of another size."""
        return self._count(lambda: self.network.decode(self.network.encode(empty(1, 3, 1, height, width))))

    def _count(self, function: Callable[[], object]) -> float:
        with torch.no_grad():
            return count(function)


def latent_size(params: RunParams) -> tuple[int, int]:
    factor: int = params.vae.spatial_factor if params.codec.name == "vae" else 1
    return params.clip.height // factor, params.clip.width // factor


def latent_time(params: RunParams) -> LatentTime:
    return LatentTime(params.vae.temporal_factor if params.codec.name == "vae" else 1, params.clip.known)


def num_views(changes: ClipChanges) -> int:
    """Views of a clip that are encoded."""
    return 1 + changes.flip + changes.random_views


def chosen_base(base: BaseName, labelled: bool, single_frames: bool, predicts: bool) -> BaseName:
    """Base of the denoiser by `diffusion.base`.

    Args:
        labelled: whether clips have masks.
        single_frames: whether latents are frames.
        predicts: whether predict is a task.
    """
    if not predicts and base != "moved":
        return "nearest"
    if base != "auto":
        return base
    if not single_frames:
        return "moved"
    return "composed" if labelled else "optical_flow"


def _encode_latents(
    params: RunParams, size: DataSize, codec: CodecCost, motion: "MotionCost | None", base: BaseName
) -> float:
    augment, degraded = params.augment.denoiser, params.encode_latents.degraded

    def views(name: str) -> int:
        return num_views(augment.val if name == "val" else augment.train)

    def composed(split: SplitSize) -> int:
        return {"composed": split.composed_frames, "optical_flow": split.later_frames}.get(base, 0)

    # all clips of these splits have the same length
    coded = sum((views(name) + degraded) * split.clips for name, split in size.splits.items())
    total = coded * codec.encode_clip(params.clip.frames)
    total += sum(views(name) * composed(split) for name, split in size.splits.items()) * codec.encode()
    if motion is None or base != "composed":
        return total
    clips = sum(split.composed for split in size.splits.values())
    return total + clips * motion.sample(params.clip.frames - 1)


# --- Denoiser --------------------------------------------------------------------------------------------


class DenoiserCost:
    """FLOPs of the denoiser; `labelled` whether clips have masks, which `diffusion.base: auto` depends on."""

    def __init__(self, params: RunParams, labelled: bool) -> None:
        self.params = params
        self.time = latent_time(params)
        single_frames = self.time.factor == 1
        self.base = chosen_base(params.diffusion.base, labelled, single_frames, params.clip.predicts)
        self.composes = self.base in ("composed", "optical_flow")  # whether composed frames are encoded
        self.channels = params.vae.latent_channels if params.codec.name == "vae" else 3
        self.latent_size = latent_size(params)
        with META:
            self.network = build_denoiser(params.denoiser, self.channels, self.base == "moved")
        self.objectives = {
            task: Objective(
                make_process(params.diffusion), empty(self.channels), params.diffusion.residual, task
            )
            for task in TASKS
        }

    def training(self) -> float:
        params = self.params.train_denoiser
        step, hops = 0.0, self._hops()
        for task in TASKS:
            of_task = [(share, context, targets) for share, other, context, targets in hops if other == task]
            if not of_task:
                continue
            share = sum(share for share, _, _ in of_task)
            mean = sum(share * context for share, context, _ in of_task) / share
            contexts, targets = [context for _, context, _ in of_task], of_task[0][2]
            step += share * interpolated(
                partial(self._step, task, targets=targets), min(contexts), max(contexts), mean
            )
        return training_flops(self.network, step, params, self.params.engine)

    def _hops(self) -> list[tuple[float, Task, int, int]]:
        """Shares of the steps by task and numbers of context and target frames."""
        params, clip = self.params.train_denoiser, self.params.clip
        rule = HopRule(
            params.context_frames, params.target_offsets, params.max_hops, params.targets, params.max_span,
            params.given_frames, grouped=self.time.factor > 1,
        )  # fmt: skip
        frames = self.time.count(clip.frames)
        shares: dict[Task, float] = {task: getattr(params.tasks, task) for task in TASKS}
        limit, rng = params.context_frames, np.random.default_rng(0)
        found = []
        for task, share in shares.items():
            if share == 0:
                continue
            composed_share = COMPOSED_SHARE if self.composes and task == "predict" else 0.0
            for count in range(1, limit + 1):
                weight = (1 - FULL_CONTEXT) / limit + FULL_CONTEXT * (count == limit)
                for known, part in ((clip.known, composed_share), (None, 1 - composed_share)):
                    if part == 0:
                        continue
                    context, targets = rule.draw(task, rng, frames, count, known)
                    given = len(context) + (0 if known is None else len(targets))
                    found.append((share / sum(shares.values()) * weight * part, task, given, len(targets)))
        return found

    def _step(self, task: Task, context: int, targets: int) -> float:
        params, diffusion = self.params.train_denoiser, self.params.diffusion
        hops = Hops(
            self._latents(ROWS, context), empty(ROWS, context),
            self._latents(ROWS, targets), empty(ROWS, targets), task,
        )  # fmt: skip
        sampled = ScheduledSampling(
            0.0, params.scheduled_sampling_frames, params.scheduled_sampling_steps,
            params.scheduled_sampling_temperature,
        )  # fmt: skip
        loss = HopLoss(
            self.objectives, diffusion.min_snr_gamma, diffusion.time_shift, params.draws,
            params.context_noise, params.context_dropout, sampled,
        )  # fmt: skip
        flops = count_step(lambda: loss(self.network, hops, constant_rng()))
        share = params.scheduled_sampling if task == "predict" else 0.0
        if share == 0:
            return flops
        loss = replace(loss, scheduled_sampling=replace(sampled, share=1.0))
        numbers = middles(max(1, min(sampled.frames, context - 1)))  # each number of predicted frames once
        predicted = [count_step(partial(loss, self.network, hops, constant_rng(fixed=n))) for n in numbers]
        return (1 - share) * flops + share * sum(predicted) / len(predicted)

    def clip(self, codec: CodecCost) -> float:
        """FLOPs of the rollouts of a test clip, with its frames encoded and decoded."""
        params, clip = self.params, self.params.clip
        trained, groups = params.train_denoiser, self.time.hops(params.predict.frame_groups)
        sizes, given = [len(group) for group in groups], self.time.count(clip.known)
        known = min(trained.context_frames, given)

        def hop(frames: int, steps: int) -> Tensor:
            one = params.predict.model_copy(update={"hops": [list(range(1, frames + 1))], "steps": steps})
            strategy = make_strategy(
                one, params.diffusion.num_timesteps, trained.context_frames, trained.given_frames
            )
            composed = self._latents(1, frames) if self.composes else None
            return predict(
                self.network, self._latents(1, known), range(known), [0], self.objectives["predict"],
                strategy, 1, 0, composed,
            )  # fmt: skip

        rollout = sum(
            sizes.count(frames) * count_sampling(partial(hop, frames), params.predict.steps)
            for frames in set(sizes)
        )
        hops = tuple(tuple(frame - 1.0 for frame in group) for group in groups)
        used = used_context(range(clip.known), hops, trained.context_frames, trained.given_frames)
        encoded = clip.known if self.time.factor > 1 else len(used)
        coding = codec.encode_clip(encoded) + params.predict.samples * codec.decode_after(given, sum(sizes))
        if self.composes:
            coding += sum(sizes) * codec.encode()
        return params.predict.samples * rollout + coding

    def _latents(self, rows: int, frames: int) -> Tensor:
        return empty(rows, self.channels, frames, *self.latent_size)


# --- Segmenter and classifier ----------------------------------------------------------------------------


class SegmenterCost:
    """FLOPs of UNet++ and of the classifier of crops."""

    def __init__(self, params: RunParams) -> None:
        self.params = params
        with META:
            self.network = UNetPlusPlus(params.segmenter)
            self.classifier = CropClassifier(params.classifier)

    def training(self, codec: CodecCost) -> float:
        params, clip = self.params.train_segmenter, self.params.clip
        size = (clip.height, clip.width)
        if params.crop_scale is not None:
            size = (crop_side(params.crop_scale, clip.height),) * 2

        def loss() -> dict[str, Tensor]:
            logits, masks = self.network(empty(ROWS, 3, *size)), empty(ROWS, *size).byte()
            return {"loss": factor_loss(logits, masks).mean() + object_loss(logits, masks).mean()}

        step = count_step(loss)
        if params.round_trip > 0:
            step += ROWS * params.round_trip * codec.round_trip(*size)
        return training_flops(self.network, step, params, self.params.engine)

    def classifier_training(self) -> float:
        side = self.params.classifier.crop

        def loss() -> dict[str, Tensor]:
            return {"loss": crop_loss(self.classifier(empty(ROWS, 3, side, side)), empty(ROWS).byte()).mean()}

        return training_flops(
            self.classifier, count_step(loss), self.params.train_classifier, self.params.engine
        )

    def frame(self) -> float:
        """FLOPs of a frame, with its mirror image where `segment.flip_tta`."""
        clip = self.params.clip
        with torch.no_grad():
            flops = count(lambda: self.network(empty(ROWS, 3, clip.height, clip.width)))
        return flops / ROWS * (2 if self.params.segment.flip_tta else 1)

    def crop(self) -> float:
        """FLOPs of a crop and its mirror image."""
        side = self.params.classifier.crop
        with torch.no_grad():
            return count(lambda: self.classifier(empty(2, 3, side, side)))


def _track_objects(params: RunParams, size: DataSize, codec: CodecCost, segmenter: SegmenterCost) -> float:
    unlabeled = size.splits.get("unlabeled", SplitSize()).clips
    frames = size.test_clips * params.clip.known
    frames += min(params.track_objects.unlabeled, unlabeled) * params.clip.frames
    flops = segmenter.frame()
    if params.segment.codec_vote > 0:
        flops += codec.encode() + codec.masks()
    if params.track_objects.classifier_weight > 0:
        flops += PARTS * segmenter.crop()
    return frames * flops


def _segment(params: RunParams, size: DataSize, codec: CodecCost, segmenter: SegmenterCost) -> float:
    votes, frame = params.segment.codec_vote > 0, segmenter.frame()
    predicted = params.predict.samples * (frame + (codec.masks() if votes else 0.0))
    if params.segment.motion_vote == 1:
        predicted = 0.0
    return size.test_clips * predicted + size.scored_clips * (codec.target_round_trip(votes) + 2 * frame)


# --- Motion model ----------------------------------------------------------------------------------------


@dataclass
class MotionCost:
    """FLOPs of the motion model, whose frames are in slots: their number does not matter."""

    params: RunParams
    objects: int = field(init=False)
    motion: ObjectMotion = field(init=False)

    def __post_init__(self) -> None:
        params = self.params
        self.objects = max_objects(params.simulate if uses_simulated(params.extract_frames) else None)
        config = MotionConfig(
            motion=params.motion, data_scale=(1.0, 1.0), ground=GroundConfig(**asdict(GROUND))
        )
        process = motion_process(params.motion.schedule, params.motion.prediction)
        objective = MotionObjective(process, GROUND, torch.ones(2))
        self.motion = ObjectMotion(
            build_motion(params.motion, GROUND), config, objective, torch.device("cpu")
        )

    def training(self) -> float:
        params, clip = self.params.train_motion, self.params.clip
        targets = min(clip.frames - clip.known, self.params.motion.target_slots)
        latents = object_latents(*self._objects(ROWS, clip.known + targets))
        index = torch.arange(float(clip.known + targets)).expand(ROWS, -1)
        hops = Hops(
            latents[:, :, : clip.known], index[:, : clip.known],
            latents[:, :, clip.known :], index[:, clip.known :],
        )  # fmt: skip
        network, settings = self.motion.network, (params.time_shift, params.draws, params.seen_weight)
        loss = MotionLoss(self.motion.objective, *settings, params.unroll, self.params.motion.target_slots)
        numbers = middles(1 + min(params.unroll, clip.known - 1))
        cpu = self.motion.device
        steps = [count_step(partial(loss, network, hops, constant_rng(cpu, n))) for n in numbers]
        return training_flops(network, sum(steps) / len(steps), params, self.params.engine)

    def clip(self) -> float:
        """FLOPs of the most likely future of a test clip and of its samples."""
        return (1 + self.params.sample_motion.samples) * self.sample(max(self.params.predict.frames) - 1)

    def sample(self, last: int) -> float:
        """FLOPs of one future of a clip up to frame index `last`."""
        settings, known = self.params.sample_motion, self.params.clip.known
        states, classes = self._objects(1, known)

        def run(steps: int) -> object:
            params = settings.model_copy(update={"steps": steps})
            return self.motion.sample(["clip"], states, classes, [last], params, 1, 0.0, 0)

        return count_sampling(run, settings.steps)

    def _objects(self, clips: int, frames: int) -> tuple[np.ndarray, np.ndarray]:
        """States (B, N, T, F) and classes (B, N) of visible objects side by side."""
        states = np.zeros((clips, self.objects, frames, len(FEATURES)), np.float32)
        states[..., X] = np.linspace(-0.5, 0.5, self.objects)[:, None]
        states[..., SEEN], states[..., [WIDTH, HEIGHT]], states[..., AREA] = 1.0, 0.1, 0.01
        return states, np.ones((clips, self.objects), np.uint8)
