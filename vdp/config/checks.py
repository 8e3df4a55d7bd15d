"""Checks over several sections of params.yaml, each of which is valid alone."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vdp.config.choices import MIN_START_TIME, BaseName, Spacing, sampling_levels
from vdp.config.schema import PARAMS_FILE, ClipParams, Params
from vdp.core.errors import UserError
from vdp.core.latent_time import TRAINED_GROUPS, LatentTime
from vdp.core.tasks import GROUP_STRIDE, STRIDE, hop_offsets

if TYPE_CHECKING:
    from vdp.data.params import ExtractParams
    from vdp.data.simulator.params import SimulateParams
    from vdp.diffusion.params import DiffusionParams
    from vdp.evaluation.params import EvaluateTasksParams
    from vdp.models.classifiers.params import ClassifierParams
    from vdp.models.codecs.params import CodecParams, EncodeParams, VAEParams
    from vdp.models.denoisers.params import DenoiserParams
    from vdp.models.segmenters.params import SegmenterParams, SegmentParams
    from vdp.sampling.params import PredictParams
    from vdp.training.params import PretrainVAEParams, TrainDenoiserParams, TrainSegmenterParams

MAX_SIGNAL = 0.1  # amplitude of the data at the last level, where sampling starts from pure noise
MIN_SIGNAL = 1e-3  # amplitude by which eps is divided to recover x0
SIMULATED_UNLABELED = Path("data/raw/simulated/unlabeled")


def check_sections(sections: Mapping[str, Params]) -> None:
    """Check the sections, by name, against each other; a UserError for the first mistake."""
    for check in CHECKS:
        check(**{name: sections[name] for name in inspect.signature(check).parameters})


def _require(valid: bool, message: str) -> None:
    if not valid:
        raise UserError(f"{PARAMS_FILE}: {message}")


# --- Each check takes the sections that its parameters name ------------------------------------------------


def _known(clip: ClipParams, train_denoiser: "TrainDenoiserParams") -> None:
    """The stages of motion and prediction have work where a frame is not known."""
    share, known = train_denoiser.tasks.predict, f"clip.known={clip.known}: expected"
    _require(
        clip.predicts or share == 0,
        f"{known} < clip.frames={clip.frames} with train_denoiser.tasks.predict={share}; leave a frame to "
        "predict, or set predict to 0",
    )
    _require(
        share > 0 or not clip.predicts,
        f"{known} clip.frames={clip.frames} with train_denoiser.tasks.predict={share}, as nothing is "
        f"predicted; set it to {clip.frames}",
    )


def _hops(clip: ClipParams, predict: "PredictParams") -> None:
    if not clip.predicts:
        return
    frames, where = predict.frames, f"predict.hops={predict.hops}: expected"
    ascending = all(earlier < later for earlier, later in zip(frames, frames[1:], strict=False))
    _require(ascending, f"{where} frame numbers in ascending order, each once")
    _require(frames[0] > clip.known, f"{where} frame numbers > clip.known={clip.known}")
    _require(frames[-1] == clip.frames, f"{where} the scored frame last; end the list with {clip.frames}")


def _latent_size(clip: ClipParams, codec: "CodecParams", vae: "VAEParams") -> None:
    factor = vae.spatial_factor
    for side, size in (("height", clip.height), ("width", clip.width)):
        _require(
            codec.name != "vae" or size % factor == 0,
            f"clip.{side}={size}: expected a multiple of vae.spatial_factor={factor}; set it to "
            f"{max(size // factor, 1) * factor} or {(size // factor + 1) * factor}",
        )


def latent_time(clip: ClipParams, codec: "CodecParams", vae: "VAEParams") -> LatentTime:
    """Return which latent frame of the codec codes a frame of a clip."""
    return LatentTime(vae.temporal_factor if codec.name == "vae" else 1, clip.known)


def _length(time: LatentTime, clip: ClipParams) -> str:
    """Words for the length of a clip in the frames of the denoiser."""
    if time.factor == 1:
        return f"clip.frames={clip.frames}"
    return f"{time.count(clip.frames)} (latent frames of clip.frames={clip.frames})"


def _temporal_codec(
    clip: ClipParams,
    codec: "CodecParams",
    vae: "VAEParams",
    denoiser: "DenoiserParams",
    diffusion: "DiffusionParams",
    train_denoiser: "TrainDenoiserParams",
    predict: "PredictParams",
) -> None:
    time, train = latent_time(clip, codec, vae), train_denoiser
    if time.factor == 1:
        return
    where = f"with vae.temporal_factor={time.factor}"
    _require(
        clip.frames > TRAINED_GROUPS * time.factor,
        f"clip.frames={clip.frames}: expected >= {1 + TRAINED_GROUPS * time.factor} {where}, the frames of "
        "a clip of pretrain_vae; raise it, or lower temporal_factor",
    )
    _require(
        not clip.predicts or diffusion.base not in ("composed", "optical_flow"),
        f"diffusion.base={diffusion.base}: expected auto, moved or nearest {where}, as only single frames "
        "are composed; set it to auto",
    )
    _require(
        not train.reverse,
        f"train_denoiser.reverse=true: expected false {where}, as a latent frame is directed in time; set it "
        "to false",
    )
    _require(
        train.tasks.generate == 0 or denoiser.is_joint or train.targets == 1,
        f"train_denoiser.targets={train.targets}: expected 1 {where}, tasks.generate above 0 and a denoiser "
        "that is not joint; set it to 1",
    )
    generated = time.frames_of(train.targets if denoiser.is_joint else 1)
    above = 1 + time.factor * ((clip.frames - 1) // time.factor + 1)
    more = ", or raise train_denoiser.targets" if denoiser.is_joint else ""
    _require(
        clip.predicts or train.tasks.generate == 0 or generated >= 1,
        f"clip.frames={clip.frames}: expected 1 + a multiple of {time.factor} {where} and tasks.generate "
        f"without predict, as the padding before a clip, {time.padding}, takes all that is "
        f"generated at once; set clip.frames and clip.known to {above - time.factor} or {above}{more}",
    )
    if not clip.predicts:
        return
    given = time.count(clip.known)
    predicted = [number for hop in time.hops(predict.frame_groups) for number in hop]
    missing = set(range(given + 1, max(predicted) + 1)) - set(predicted)
    first = time.factor * (min(missing, default=0) - 2) + 2 - time.padding
    _require(
        not missing,
        f"predict.hops={predict.hops}: expected a frame of each group of {time.factor} after clip.known="
        f"{clip.known} {where}, as a group is decoded after those before it; add one of {first}.."
        f"{first + time.factor - 1}",
    )


def _offsets(
    clip: ClipParams,
    codec: "CodecParams",
    vae: "VAEParams",
    train_denoiser: "TrainDenoiserParams",
    predict: "PredictParams",
) -> None:
    if not clip.predicts:
        return
    train, offsets, time = train_denoiser, train_denoiser.target_offsets, latent_time(clip, codec, vae)
    untrained = hop_offsets(time.hops(predict.frame_groups), time.count(clip.known)) - set(offsets)
    unit = "" if time.factor == 1 else f" (latent frames of {time.factor})"
    _require(
        not untrained,
        f"predict.hops={predict.hops}: expected hops over train_denoiser.target_offsets={offsets}{unit}; add "
        f"{min(untrained, default=0)} there, or use shorter hops",
    )
    frames, longest = time.count(clip.frames), train.context_frames + max(offsets)
    _require(
        longest <= frames,
        f"train_denoiser.context_frames={train.context_frames}: expected <= {_length(time, clip)} "
        f"together with max(train_denoiser.target_offsets)={max(offsets)}; lower one of them by "
        f"{longest - frames}",
    )


def _joint_targets(
    clip: ClipParams,
    codec: "CodecParams",
    vae: "VAEParams",
    denoiser: "DenoiserParams",
    train_denoiser: "TrainDenoiserParams",
    predict: "PredictParams",
) -> None:
    if not denoiser.is_joint or not clip.predicts:
        return
    targets, time = train_denoiser.targets, latent_time(clip, codec, vae)
    which = "denoiser.unet.temporal" if denoiser.name == "unet" else "denoiser.dit.attention"
    unit = "frames" if time.factor == 1 else f"groups of {time.factor} frames"
    _require(
        all(len(group) == targets for group in time.hops(predict.frame_groups)),
        f"predict.hops={predict.hops}: expected hops of train_denoiser.targets={targets} {unit} with "
        f"{which}; use hops of that size",
    )
    _require(
        train_denoiser.scheduled_sampling == 0 or targets == 1,
        f"train_denoiser.scheduled_sampling={train_denoiser.scheduled_sampling}: expected 0 with {which}",
    )


def _bases(
    clip: ClipParams,
    codec: "CodecParams",
    vae: "VAEParams",
    denoiser: "DenoiserParams",
    diffusion: "DiffusionParams",
    train_denoiser: "TrainDenoiserParams",
    predict: "PredictParams",
) -> None:
    """A target's base is a context frame, which independent targets of a hop would see of each other."""
    if denoiser.is_joint or _base(clip, diffusion) == "nearest":
        return
    targets = train_denoiser.targets
    _require(
        targets == 1,
        f"train_denoiser.targets={targets}: expected 1 with diffusion.base={diffusion.base} and a denoiser "
        "that is not joint; set it to 1 and raise draws, or set the base to nearest",
    )
    if not clip.predicts:
        return
    time = latent_time(clip, codec, vae)
    unit = "frame" if time.factor == 1 else f"group of {time.factor} frames"
    _require(
        all(len(group) == 1 for group in time.hops(predict.frame_groups)),
        f"predict.hops={predict.hops}: expected one {unit} per hop with diffusion.base={diffusion.base} and "
        "a denoiser that is not joint; split the groups, or set the base to nearest",
    )


def _base(clip: ClipParams, diffusion: "DiffusionParams") -> BaseName:
    """The base by `diffusion.base`: without predict all but moved are nearest."""
    return diffusion.base if clip.predicts or diffusion.base == "moved" else "nearest"


def _context(
    clip: ClipParams,
    codec: "CodecParams",
    vae: "VAEParams",
    denoiser: "DenoiserParams",
    diffusion: "DiffusionParams",
    train_denoiser: "TrainDenoiserParams",
) -> None:
    train, context, slots = train_denoiser, train_denoiser.context_frames, denoiser.unet.context_slots
    time = latent_time(clip, codec, vae)
    bases = 0 if _base(clip, diffusion) == "nearest" else train.targets if denoiser.is_joint else 1
    # a hop of restore has the degraded frames of all targets
    degraded = train.targets if train.tasks.restore > 0 else 0
    filled = max(context + bases, degraded)
    generates_only = not train.tasks.predict + train.tasks.interpolate + train.tasks.restore
    bound = f"train_denoiser.context_frames={context}" + (" and the base" if bases else "")
    if degraded > context + bases:
        bound = f"train_denoiser.targets={degraded}, frames that restore reads together"
    _require(
        denoiser.name != "unet" or generates_only or slots <= filled,
        f"denoiser.unet.context_slots={slots}: expected <= {filled}, {bound}; lower it",
    )
    if not clip.predicts:
        return
    _require(
        train.given_frames <= context,
        f"train_denoiser.given_frames={train.given_frames}: expected <= "
        f"train_denoiser.context_frames={context}; lower it",
    )
    _require(
        time.factor > 1 or diffusion.base in ("nearest", "moved") or context <= clip.known,
        f"train_denoiser.context_frames={context}: expected <= clip.known={clip.known} with "
        f"diffusion.base={diffusion.base}; lower it",
    )
    if train.scheduled_sampling == 0:
        return
    _require(
        train.scheduled_sampling_frames < context,
        f"train_denoiser.scheduled_sampling_frames={train.scheduled_sampling_frames}: expected < "
        f"train_denoiser.context_frames={context}; raise context_frames",
    )
    stride = STRIDE if time.factor == 1 else GROUP_STRIDE
    untrained = {1, stride if train.max_hops else 1} - set(train.target_offsets)
    _require(
        not untrained,
        f"train_denoiser.target_offsets={train.target_offsets}: expected {min(untrained, default=0)} among "
        f"them with scheduled_sampling={train.scheduled_sampling}; add it, or set scheduled_sampling to 0",
    )


def _tasks(
    clip: ClipParams,
    codec: "CodecParams",
    vae: "VAEParams",
    encode_latents: "EncodeParams",
    denoiser: "DenoiserParams",
    train_denoiser: "TrainDenoiserParams",
) -> None:
    train, shares, context = train_denoiser, train_denoiser.tasks, train_denoiser.context_frames
    where, time = "train_denoiser.tasks", latent_time(clip, codec, vae)
    frames = time.count(clip.frames)
    if shares.restore > 0:
        _require(
            encode_latents.degraded > 0,
            f"{where}.restore={shares.restore}: expected encode_latents.degraded >= 1; raise degraded",
        )
    if shares.interpolate > 0:
        _require(
            context >= 2,
            f"{where}.interpolate={shares.interpolate}: expected context_frames >= 2; raise it",
        )
        longest = frames - context + 1
        _require(
            train.targets < train.max_span <= longest,
            f"train_denoiser.max_span={train.max_span}: expected {train.targets + 1}..{longest} with "
            f"targets={train.targets}, context_frames={context} and {_length(time, clip)}; change one",
        )
    if shares.generate > 0 and shares.predict > 0:
        missing = set(range(1, 1 + (train.targets if denoiser.is_joint else 1))) - set(train.target_offsets)
        _require(
            not missing,
            f"{where}.generate={shares.generate}: expected {min(missing, default=0)} in "
            f"train_denoiser.target_offsets={train.target_offsets}; add it, or set generate to 0",
        )
    _require(
        shares.generate + shares.restore == 0 or train.targets <= frames,
        f"train_denoiser.targets={train.targets}: expected <= {_length(time, clip)}; lower it",
    )


def _signal(diffusion: "DiffusionParams") -> None:
    if diffusion.schedule == "flow" or diffusion.zero_terminal_snr:
        return
    left = diffusion.signal(diffusion.num_timesteps)
    _require(
        left <= MAX_SIGNAL,
        f"diffusion.num_timesteps={diffusion.num_timesteps}: expected at most {MAX_SIGNAL:.0%} of the signal "
        f"at the last level, got {left:.0%}; raise it or beta_end, or set zero_terminal_snr to true",
    )


def _steps(
    clip: ClipParams,
    diffusion: "DiffusionParams",
    predict: "PredictParams",
    evaluate_tasks: "EvaluateTasksParams",
) -> None:
    eps = diffusion.prediction == "eps"
    _require(
        not eps or not clip.predicts or predict.spacing == "leading",
        "predict.spacing=trailing: expected leading with diffusion.prediction=eps; set spacing to leading",
    )
    # evaluate_tasks samples as the Python API does
    if clip.predicts:
        _steps_of("predict", predict.steps, predict.spacing, diffusion)
    _steps_of("evaluate_tasks", evaluate_tasks.steps, "leading" if eps else "trailing", diffusion)


def _steps_of(section: str, steps: int, spacing: Spacing, diffusion: "DiffusionParams") -> None:
    levels, where = diffusion.num_timesteps, f"{section}.steps={steps}: expected"
    _require(
        steps <= levels, f"{where} <= diffusion.num_timesteps={levels}; lower it, or raise num_timesteps"
    )
    first = sampling_levels(steps, spacing, levels)[0]
    _require(
        first / levels >= MIN_START_TIME,
        f"{where} a start at time >= {MIN_START_TIME} with leading spacing, got {first / levels:.2f}; use at "
        f"least 5 steps, a divisor of diffusion.num_timesteps={levels}",
    )
    _require(
        diffusion.prediction != "eps" or diffusion.signal(first) >= MIN_SIGNAL,
        f"diffusion.prediction=eps: expected data left at level {first} of diffusion.num_timesteps={levels}, "
        f"where {section} starts; lower beta_end or {section}.steps, or set prediction to v",
    )


def _sampling(
    clip: ClipParams,
    diffusion: "DiffusionParams",
    train_denoiser: "TrainDenoiserParams",
    predict: "PredictParams",
) -> None:
    if not clip.predicts:
        return
    train = train_denoiser
    _require(
        diffusion.prediction != "eps" or train.scheduled_sampling == 0,
        f"train_denoiser.scheduled_sampling={train.scheduled_sampling}: expected 0 with diffusion.prediction="
        "eps, as it starts from pure noise; set prediction to v or flow, or scheduled_sampling to 0",
    )
    _require(
        predict.guidance == 1 or train.context_dropout > 0,
        f"predict.guidance={predict.guidance}: expected 1 with train_denoiser.context_dropout=0; set "
        "context_dropout to 0.1, or guidance to 1",
    )
    _require(
        predict.context_noise <= train.context_noise,
        f"predict.context_noise={predict.context_noise}: expected <= train_denoiser.context_noise; lower it",
    )


def _interpolation(
    clip: ClipParams, train_denoiser: "TrainDenoiserParams", evaluate_tasks: "EvaluateTasksParams"
) -> None:
    counts = evaluate_tasks.interpolate_frames
    _require(
        train_denoiser.tasks.interpolate == 0 or max(counts) <= clip.frames - 2,
        f"evaluate_tasks.interpolate_frames={counts}: expected 1..{clip.frames - 2}; remove {max(counts)}",
    )


def _sources(simulate: "SimulateParams", extract_frames: "ExtractParams") -> None:
    _require(
        extract_frames.train is not None,
        "extract_frames.train=null: expected a source; name a folder of videos",
    )
    _require(
        extract_frames.val is not None or extract_frames.val_share > 0,
        "extract_frames.val=null: expected a source; name a folder of videos, or set val_share above 0",
    )
    unlabeled = extract_frames.splits().get("unlabeled")
    _require(
        simulate.unlabeled > 0 or unlabeled is None or unlabeled.folder != SIMULATED_UNLABELED,
        f"extract_frames.unlabeled={SIMULATED_UNLABELED}: expected null with simulate.unlabeled=0",
    )


def _codec_vote(codec: "CodecParams", pretrain_vae: "PretrainVAEParams", segment: "SegmentParams") -> None:
    _require(
        segment.codec_vote == 0 or (codec.name == "vae" and pretrain_vae.mask_weight > 0),
        f"segment.codec_vote={segment.codec_vote}: expected 0 without a trained mask head; set it to 0, or "
        "codec.name to vae and pretrain_vae.mask_weight above 0",
    )


def _segmenter(
    clip: ClipParams,
    codec: "CodecParams",
    vae: "VAEParams",
    classifier: "ClassifierParams",
    segmenter: "SegmenterParams",
    train_segmenter: "TrainSegmenterParams",
) -> None:
    train, encoder = train_segmenter, f"conv{classifier.base_channels}"
    _require(
        not train.pretrained or segmenter.encoder == encoder,
        f"train_segmenter.pretrained=true: expected the classifier's network, segmenter.encoder={encoder}, "
        f"got {segmenter.encoder}; change the encoder, or set pretrained to false",
    )
    _require(
        segmenter.size is None or train.crop_scale is None,
        f"segmenter.size={segmenter.size and list(segmenter.size)}: expected null with "
        f"train_segmenter.crop_scale={train.crop_scale}, as whole frames are resized; set one to null",
    )
    if train.crop_scale is None or train.round_trip == 0 or codec.name != "vae":
        return
    side = max(2, round(train.crop_scale * clip.height))
    _require(
        side % vae.spatial_factor == 0,
        f"train_segmenter.crop_scale={train.crop_scale}: expected crops of a multiple of vae.spatial_factor="
        f"{vae.spatial_factor} pixels with round_trip={train.round_trip}, got {side} of clip.height="
        f"{clip.height}; change crop_scale, or set round_trip to 0",
    )


def _kept(train_denoiser: "TrainDenoiserParams", predict: "PredictParams") -> None:
    every, step = train_denoiser.keep_every, predict.checkpoint
    if step is None:
        return
    where = f"predict.checkpoint={step}: expected"
    _require(every is not None, f"{where} null with train_denoiser.keep_every=null; set keep_every")
    _require(
        every is None or step % every == 0,
        f"{where} a multiple of train_denoiser.keep_every={every}; change one",
    )
    last = train_denoiser.steps  # None: only the clips tell
    _require(last is None or step <= last, f"{where} <= train_denoiser.steps={last}; lower it")


def _initial(
    codec: "CodecParams",
    pretrain_vae: "PretrainVAEParams",
    segmenter: "SegmenterParams",
    train_segmenter: "TrainSegmenterParams",
) -> None:
    _require(
        codec.name == "vae" or pretrain_vae.init_from is None,
        f"pretrain_vae.init_from={pretrain_vae.init_from}: expected null with codec.name={codec.name}, which "
        "is not trained",
    )
    _require(
        train_segmenter.init_from is None or not train_segmenter.pretrained,
        f"train_segmenter.init_from={train_segmenter.init_from}: expected train_segmenter.pretrained=false, "
        "as all weights are given",
    )
    _require(
        train_segmenter.init_from is None or segmenter.weights is None,
        f"segmenter.weights={segmenter.weights}: expected null with train_segmenter.init_from, which has "
        "those of the encoder too",
    )


CHECKS: tuple[Callable[..., None], ...] = (
    _known,
    _hops,
    _latent_size,
    _temporal_codec,
    _offsets,
    _joint_targets,
    _bases,
    _context,
    _tasks,
    _signal,
    _steps,
    _sampling,
    _interpolation,
    _sources,
    _codec_vote,
    _segmenter,
    _kept,
    _initial,
)
