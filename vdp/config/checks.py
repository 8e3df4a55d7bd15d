"""Checks of params.yaml over several sections: what each section allows alone may not go together."""

import math
from typing import Any

from vdp.config.choices import MIN_START_TIME
from vdp.config.schema import PARAMS_FILE
from vdp.core.errors import UserError
from vdp.core.tasks import frame_groups, hop_offsets

MOST_SIGNAL = 0.1  # share of the signal's amplitude that may be left where sampling starts from pure noise
LEAST_SIGNAL = 1e-3  # that has to be left where the network gives eps, by which x0 is divided
STRIDE = 2  # of vdp.core.tasks: frames between hops in training


def check_together(data: Any) -> None:
    """Check sections against each other; a check whose sections are not all there is left out.

    Args:
        data: the content of params.yaml, each section of which is valid.

    Raises:
        UserError: for the first mistake found.
    """
    for check, sections in (
        (_check_hops, {"clip", "predict"}),
        (_check_size, {"clip", "codec", "vae"}),
        (_check_gaps, {"clip", "train_denoiser", "predict"}),
        (_check_targets, {"denoiser", "train_denoiser", "predict"}),
        (_check_known, {"clip", "denoiser", "train_denoiser"}),
        (_check_tasks, {"clip", "encode_latents", "denoiser", "train_denoiser"}),
        (_check_schedule, {"diffusion", "predict"}),
        (_check_sampling, {"diffusion", "train_denoiser", "predict"}),
        (_check_evaluation, {"clip", "diffusion", "evaluate_tasks", "train_denoiser"}),
        (_check_sources, {"simulate", "extract_frames"}),
        (_check_vote, {"codec", "pretrain_vae", "segment"}),
    ):
        if sections <= data.keys():
            check(data)


def check_single_frames(data: Any) -> None:
    """The pipeline predicts single frames at uneven distances, so the codec must not join frames.

    Not part of `check_together`, so that `dvc repro pretrain_vae` trains such a codec all the same.

    Raises:
        UserError: if the codec compresses time.
    """
    if not {"codec", "vae"} <= data.keys() or data["codec"]["name"] != "vae":
        return
    factor = data["vae"]["temporal_factor"]
    if factor > 1:
        raise UserError(
            f"{PARAMS_FILE}: vae.temporal_factor={factor} does not go with predict, which needs single "
            "frames: set it to 1 (dvc repro pretrain_vae alone takes it)"
        )


def _check_hops(data: Any) -> None:
    """The rollout has to go forward, from the frame after the known ones to the scored frame."""
    clip, hops = data["clip"], data["predict"]["hops"]
    frames = [frame for group in frame_groups(hops) for frame in group]
    last = clip["frames"]
    where = f"{PARAMS_FILE}: predict.hops={hops}"
    if any(later <= earlier for earlier, later in zip(frames, frames[1:], strict=False)):
        raise UserError(f"{where}: expected frame numbers in ascending order, each once")
    if not frames or frames[0] <= clip["known"]:
        raise UserError(
            f"{where}: expected frame numbers above clip.known={clip['known']}: known frames need no hop"
        )
    if frames[-1] != last:
        raise UserError(f"{where}: expected the scored frame last; end the list with {last}")


def _check_gaps(data: Any) -> None:
    """What predict asks of the denoiser has to be what it was trained for."""
    train, clip, hops = data["train_denoiser"], data["clip"], data["predict"]["hops"]
    strange = sorted(hop_offsets(hops, clip["known"]) - set(train["target_offsets"]))
    if strange:
        raise UserError(
            f"{PARAMS_FILE}: predict.hops={hops} jumps {strange[0]} frames, which "
            f"train_denoiser.target_offsets={train['target_offsets']} does not train: add it there, or hop in smaller steps"
        )
    longest = train["context_frames"] + max(train["target_offsets"])
    if longest > clip["frames"]:
        raise UserError(
            f"{PARAMS_FILE}: train_denoiser.context_frames={train['context_frames']} and a gap of {max(train['target_offsets'])} do not "
            f"fit into clip.frames={clip['frames']}: lower one of them by {longest - clip['frames']}"
        )


def _check_targets(data: Any) -> None:
    """A network whose targets see each other is asked for as many of them at once as it was trained with."""
    train, denoiser = data["train_denoiser"], data["denoiser"]
    if not _is_joint(denoiser):
        return
    hops, targets = data["predict"]["hops"], train["targets"]
    for group in frame_groups(hops):
        if len(group) != targets:
            which = "denoiser.unet.temporal" if denoiser["name"] == "unet" else "denoiser.dit.attention"
            raise UserError(
                f"{PARAMS_FILE}: predict.hops={hops} has a hop of {len(group)} frames, and with {which} "
                f"the network knows hops of train_denoiser.targets={targets}: make all hops of one size, "
                "and targets that size"
            )
    if train["scheduled_sampling"] > 0 and targets > 1:
        raise UserError(
            f"{PARAMS_FILE}: train_denoiser.scheduled_sampling={train['scheduled_sampling']} makes frames one by one, "
            f"which a network of hops of train_denoiser.targets={targets} does not know: set it to 0"
        )


def _is_joint(denoiser: Any) -> bool:
    """Whether the frames of a hop see each other."""
    if denoiser["name"] == "unet":
        return denoiser["unet"]["temporal"]
    return denoiser["dit"]["attention"] != "one_way"


def _check_known(data: Any) -> None:
    """Frames that the network is to look at or to make itself are among those it is trained with."""
    train, unet = data["train_denoiser"], data["denoiser"]["unet"]
    if data["denoiser"]["name"] == "unet" and unet["context_slots"] > train["context_frames"]:
        raise UserError(
            f"{PARAMS_FILE}: denoiser.unet.context_slots={unet['context_slots']} is more than "
            f"train_denoiser.context_frames={train['context_frames']}, so some are never trained: lower it, or raise the other"
        )
    if train["scheduled_sampling"] == 0:
        return
    if train["scheduled_sampling_frames"] >= train["context_frames"]:
        least = train["scheduled_sampling_frames"] + 1
        raise UserError(
            f"{PARAMS_FILE}: train_denoiser.scheduled_sampling_frames={train['scheduled_sampling_frames']} leaves none of "
            f"train_denoiser.context_frames={train['context_frames']} to make them from: raise known to {least}, or make "
            "fewer (scheduled_sampling=0: none)"
        )
    missing = sorted({1, STRIDE if train["max_hops"] else 1} - set(train["target_offsets"]))
    if missing:
        raise UserError(
            f"{PARAMS_FILE}: train_denoiser.scheduled_sampling={train['scheduled_sampling']} makes known frames, which "
            f"lie {missing[0]} apart, a distance that gaps={train['target_offsets']} does not train: add it there, or "
            "set scheduled_sampling to 0"
        )


def _check_tasks(data: Any) -> None:
    """What a task needs besides its share."""
    train, frames = data["train_denoiser"], data["clip"]["frames"]
    shares = train["tasks"]
    where = f"{PARAMS_FILE}: train_denoiser.tasks"
    if shares["restore"] > 0 and data["encode_latents"]["degraded"] == 0:
        raise UserError(
            f"{where}.restore={shares['restore']} needs degraded clips to learn from: set "
            "encode_latents.degraded to 1 or more, or restore to 0"
        )
    if shares["interpolate"] > 0:
        known, span, targets = train["context_frames"], train["max_span"], train["targets"]
        if known < 2:
            raise UserError(
                f"{where}.interpolate={shares['interpolate']} needs known frames on both sides: raise "
                f"train_denoiser.context_frames={known} to 2, or set interpolate to 0"
            )
        if not targets < span <= frames - known + 1:
            raise UserError(
                f"{PARAMS_FILE}: train_denoiser.max_span={span}: expected {targets + 1} to {frames - known + 1}, "
                f"so that gaps hold train_denoiser.targets={targets} and fit, with train_denoiser.context_frames="
                f"{known} frames around them, into clip.frames={frames}"
            )
    if shares["generate"] > 0:
        together = set(range(1, 1 + (train["targets"] if _is_joint(data["denoiser"]) else 1)))
        missing = sorted(together - set(train["target_offsets"]))
        if missing:
            raise UserError(
                f"{where}.generate={shares['generate']} rolls clips out frame by frame, and "
                f"train_denoiser.target_offsets={train['target_offsets']} lacks {missing[0]}: add it there, or set generate to 0"
            )
    if shares["generate"] + shares["restore"] > 0 and train["targets"] > frames:
        raise UserError(
            f"{PARAMS_FILE}: train_denoiser.targets={train['targets']} is more than clip.frames={frames}: "
            "lower it"
        )


def _check_schedule(data: Any) -> None:
    """Sampling starts from pure noise, so the process has to be about there."""
    diffusion, predict = data["diffusion"], data["predict"]
    steps, levels = predict["steps"], diffusion["num_timesteps"]
    if steps > levels:
        raise UserError(
            f"{PARAMS_FILE}: predict.steps={steps} is more than diffusion.num_timesteps={levels}: lower it, "
            "or raise the other"
        )
    table = diffusion["schedule"] != "flow" and not diffusion["zero_terminal_snr"]
    if table and (left := _signal(diffusion, levels)) > MOST_SIGNAL:
        raise UserError(
            f"{PARAMS_FILE}: diffusion.num_timesteps={levels} and beta_end={diffusion['beta_end']} leave "
            f"{left:.0%} of the signal at the last level, where sampling starts from pure noise: raise one "
            "of them, or set zero_terminal_snr to true"
        )
    if predict["spacing"] == "trailing":
        if diffusion["prediction"] == "eps":
            raise UserError(
                f"{PARAMS_FILE}: predict.spacing=trailing does not go with diffusion.prediction=eps: it "
                "starts where next to nothing of the picture is left, which eps cannot tell; set spacing to "
                "leading"
            )
        return
    first = (steps - 1) * (levels // steps) + 1
    if first / levels < MIN_START_TIME:
        raise UserError(
            f"{PARAMS_FILE}: predict.steps={steps} with predict.spacing=leading starts at time "
            f"{first / levels:.2f}, far from the pure noise that it starts with: take 5 steps or more, of a "
            f"number that divides diffusion.num_timesteps={levels}, or set spacing to trailing"
        )
    if diffusion["prediction"] == "eps" and _signal(diffusion, first) < LEAST_SIGNAL:
        raise UserError(
            f"{PARAMS_FILE}: diffusion.prediction=eps cannot tell the picture where sampling starts, level "
            f"{first} of diffusion.num_timesteps={levels}: nothing is left of it there; lower beta_end or "
            "predict.steps, or set prediction to v"
        )


def _signal(diffusion: Any, level: int) -> float:
    """Amplitude of the signal at a level of a schedule of betas, as vdp.diffusion.schedules has it."""
    count = diffusion["num_timesteps"]
    if diffusion["schedule"] == "cosine":
        start, end = (
            math.cos((step / count + 0.008) / 1.008 * math.pi / 2) for step in (0, min(level, count - 1))
        )
        return end / start
    low, high = diffusion["beta_start"], diffusion["beta_end"]
    logarithm = 0.0
    for step in range(level):
        share = step / (count - 1)
        if diffusion["schedule"] == "sigmoid":
            share = 1 / (1 + math.exp(6 - 12 * share))
        logarithm += math.log1p(-(low + (high - low) * share))
    return math.exp(0.5 * logarithm)


def _check_sampling(data: Any) -> None:
    """The sampler asks for nothing that was not trained."""
    diffusion, train, predict = data["diffusion"], data["train_denoiser"], data["predict"]
    where = f"{PARAMS_FILE}: predict"
    if diffusion["prediction"] == "eps" and train["scheduled_sampling"] > 0:
        raise UserError(
            f"{PARAMS_FILE}: train_denoiser.scheduled_sampling={train['scheduled_sampling']} does not go with "
            "diffusion.prediction=eps: its frames start from pure noise, where eps cannot tell the picture; "
            "set prediction to v or flow, or scheduled_sampling to 0"
        )
    if predict["eta"] > 0 and predict["sampler"] != "ddim":
        raise UserError(
            f"{where}.eta={predict['eta']} is of sampler ddim alone, and predict.sampler="
            f"{predict['sampler']}: set eta to 0, or sampler to ddim"
        )
    if predict["guidance"] != 1 and train["context_dropout"] == 0:
        raise UserError(
            f"{where}.guidance={predict['guidance']} needs a network that was trained without context at "
            "times: set train_denoiser.context_dropout above 0 (as 0.1), or guidance to 1"
        )
    if predict["context_noise"] > train["context_noise"]:
        raise UserError(
            f"{where}.context_noise={predict['context_noise']} is more than "
            f"train_denoiser.context_noise={train['context_noise']} has trained: lower it, or raise the other"
        )


def _check_evaluation(data: Any) -> None:
    """Gaps that are measured have known frames on both sides, and the process has levels for the steps."""
    frames, evaluate = data["clip"]["frames"], data["evaluate_tasks"]
    where = f"{PARAMS_FILE}: evaluate_tasks"
    widest = max(evaluate["interpolate_frames"])
    if data["train_denoiser"]["tasks"]["interpolate"] > 0 and widest > frames - 2:
        raise UserError(
            f"{where}.interpolate_frames={evaluate['interpolate_frames']}: expected gaps of 1 to {frames - 2} frames, as "
            f"clip.frames={frames} and a frame is known on each side; leave out {widest}"
        )
    levels = data["diffusion"]["num_timesteps"]
    if evaluate["steps"] > levels:
        raise UserError(
            f"{where}.steps={evaluate['steps']} is more than diffusion.num_timesteps={levels}: lower it"
        )


def _check_sources(data: Any) -> None:
    """Every training needs clips, and so does its validation."""
    sources = data["extract_frames"]
    for split in ("train", "val"):
        if sources[split] is None and (split == "train" or sources["val_share"] == 0):
            instead = ", or set val_share above 0" if split == "val" else ""
            raise UserError(
                f"{PARAMS_FILE}: extract_frames.{split} is null: training needs it; name a folder of videos"
                f"{instead}"
            )
    if data["simulate"]["unlabeled"] == 0 and sources["unlabeled"] == "data/raw/simulated/unlabeled":
        raise UserError(
            f"{PARAMS_FILE}: extract_frames.unlabeled names a split that simulate.unlabeled=0 leaves empty: "
            "set it to null"
        )


def _check_vote(data: Any) -> None:
    """Only a codec with a trained mask head has a vote."""
    vote = data["segment"]["codec_vote"]
    if vote > 0 and (data["codec"]["name"] != "vae" or data["pretrain_vae"]["mask_weight"] == 0):
        raise UserError(
            f"{PARAMS_FILE}: segment.codec_vote={vote} needs a codec with a trained mask head: set it to 0, "
            "or codec.name to vae and pretrain_vae.mask_weight above 0"
        )


def _check_size(data: Any) -> None:
    """Each latent position covers a square of pixels, and only whole ones."""
    if data["codec"]["name"] != "vae":
        return
    factor = data["vae"]["spatial_factor"]
    for side in ("height", "width"):
        size = data["clip"][side]
        if size % factor:
            raise UserError(
                f"{PARAMS_FILE}: clip.{side}={size} is not a multiple of vae.spatial_factor={factor}: "
                f"set it to {max(size // factor, 1) * factor} or {(size // factor + 1) * factor}"
            )
