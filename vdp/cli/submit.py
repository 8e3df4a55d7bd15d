"""The competition's submission: the mask of the last frame of every hidden video, in one verified file.

A hidden set is a folder of `video_<number>` folders, each with the context frames, from `image_0.png` on.
"""

import hashlib
import io
import json
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vdp.api.loading import DENOISER, LatentDiffusion, check_task, clips_per_batch, load_latent_diffusion
from vdp.api.motion import ClipObjects, ObjectMotion, load_motion
from vdp.api.tracks import load_tracker
from vdp.config.read import check_file, read_section, read_value
from vdp.config.schema import ClipParams
from vdp.config.yaml_file import read_file
from vdp.core.checkout import project_root
from vdp.core.classes import NUM_CLASSES
from vdp.core.device import pick_device
from vdp.core.errors import UserError, one_line
from vdp.core.tasks import hop_offsets
from vdp.data.extract.cut import cut_clips
from vdp.data.extract.plan import files_hash
from vdp.data.params import ExtractParams
from vdp.data.sources.competition import FOLDER, PICTURE, CompetitionSource
from vdp.data.sources.protocols import ClipRule, Pace
from vdp.data.sources.walk import list_folder
from vdp.data.stores.clips import Clip, Pixels
from vdp.data.video.resize import resize_mask
from vdp.launch.items import Arrays, Uncounted, share_in, split_rows
from vdp.launch.params import EngineParams
from vdp.launch.resume import resume_folder
from vdp.models.segmenters.masks import MaskPredictor
from vdp.models.segmenters.params import SegmentParams, TrackParams
from vdp.models.segmenters.track import ObjectTracker
from vdp.sampling.params import PredictParams, SampleMotionParams
from vdp.tracking.progress import progress

HEIGHT, WIDTH = 160, 240  # pixels of a submitted mask
FIRST_PICTURE = 0  # number of a video's first frame
MAX_NUMBERS = 8  # numbers of videos in a message
READ = ("seed", "clip", "extract_frames", "predict", "sample_motion", "segment", "track_objects")
MAX_CROP = 0.01  # relative difference of the aspect ratios of pictures and clips


@dataclass(frozen=True)
class MotionPredictor:
    """Compose frames and masks as the stages track_objects and predict_motion do."""

    tracker: ObjectTracker
    motion: ObjectMotion
    params: SampleMotionParams

    def track(self, clip: Clip) -> tuple[ClipObjects, Pixels]:
        """Track the objects of a clip's context frames; also their masks frame by frame."""
        found = self.tracker(clip.frames)
        return ClipObjects(clip.name, clip.frames, found.labels, found.classes), found.frame_masks

    def masks(self, clip: ClipObjects, frames: Sequence[int], seed: int) -> Pixels:
        """Return the composed masks of the last of `frames`, (R, H, W)."""
        places = self.motion.sample(
            [clip.name], clip.states[None], clip.classes[None], frames, self.params,
            self.params.samples, self.params.temperature, seed,
        )[0]  # fmt: skip
        composer = self.motion.composer(clip.frames, clip.labels, clip.states, clip.classes)
        return np.stack([composer.mask(sample[:, -1]) for sample in places])


@dataclass(frozen=True)
class Predictor:
    """Predict masks as the stages of the pipeline do."""

    model: LatentDiffusion
    mask_predictor: MaskPredictor
    motion: MotionPredictor
    params: PredictParams
    seed: int

    @property
    def batch_size(self) -> int:
        """Clips per batch."""
        return clips_per_batch(self.params)

    def masks(self, clips: Sequence[Clip]) -> list[Pixels]:
        """Predict the class ids (H, W) uint8 of the last frame of clips from their context frames."""
        names, context = [clip.name for clip in clips], [clip.frames for clip in clips]
        targets = [number - 1 for number in self.params.frames]
        tracked = [self.motion.track(clip) for clip in clips]
        bases = None
        if self.model.config.base == "composed":
            objects = [clip for clip, _ in tracked]
            bases = self.motion.motion.compose(objects, targets, self.motion.params, self.seed)
        frames, latents = self.model.sample_clips(names, context, self.params, self.seed, bases)
        masks = []
        for row, (clip, known) in enumerate(tracked):
            composed = self.motion.masks(clip, targets, self.seed)
            allowed = self.mask_predictor.allowed_classes(known)
            masks.append(self.mask_predictor.prediction(frames[row, :, -1], latents[row], allowed, composed))
        return masks


def submit(
    hidden: Path, out: Path, models: Path, force: bool, checkpoint: int | None = None, devices: int = 1
) -> tuple[int, ...] | None:
    """Predict the mask of frame `clip.frames` of every hidden video and write them as one tensor.

    Videos and output are checked before the first prediction. After a kill the same call predicts only the
    batches that are missing under `.resume/`.

    Args:
        hidden: folder of `video_<number>` folders, numbered without gaps.
        out: file for torch.save: uint8 (N, 160, 240) class ids in the order of the numbers.
        models: folder of the trained `codec`, `denoiser` and `segmenter`.
        force: whether to replace `out` if it exists.
        checkpoint: step of kept weights of the denoiser; None for predict.checkpoint.
        devices: processes, one GPU each.

    Returns:
        The shape that was written and read back; None in other processes than the main one.

    Raises:
        UserError: for an incomplete set, an output that exists or cannot be written, or invalid params.
        FileNotFoundError: if `hidden` or a model is missing.
    """
    check_file()
    clip = read_section(ClipParams, "clip")
    _check_output(out, force)
    source = CompetitionSource(hidden)
    videos = _numbered_videos(hidden)
    fit = read_section(ExtractParams, "extract_frames").fit
    rule = ClipRule(clip.known, clip.known, clip.height, clip.width, fit, Pace(), stride=clip.known)
    _check_videos(source, videos, rule)
    items = list(videos.values())
    engine = read_section(EngineParams, "engine").model_copy(update={"devices": devices, "num_nodes": 1})
    folder = resume_folder(project_root(), "submit", _key(source, items, models, checkpoint))
    with share_in(folder, "submit", engine, Uncounted()) as work:
        predictor = _load_predictor(models, clip, checkpoint, work.processes.device)

        def predict(rows: Sequence[int]) -> Arrays:
            masks = predictor.masks([_read(source, items[row], rule) for row in rows])
            return {"masks": np.stack([resize_mask(mask, HEIGHT, WIDTH, "stretch") for mask in masks])}

        parts = work.compute(hidden.name, split_rows(range(len(items)), predictor.batch_size), predict)
        if not work.join():
            return None
        shape = _write(torch.from_numpy(np.concatenate([part["masks"] for part in parts])), out, force)
    shutil.rmtree(folder, ignore_errors=True)
    return shape


def _key(source: CompetitionSource, items: Sequence[str], models: Path, checkpoint: int | None) -> str:
    """Hash what the masks depend on: params, models, the device, and the names and sizes of the pictures."""
    data, precision = read_file(), read_section(EngineParams, "engine").precision
    params = json.dumps({name: data.get(name) for name in READ}, sort_keys=True)
    device = f"{precision} {pick_device().type} {torch.__version__}"
    digest = hashlib.sha256(f"{params} {checkpoint} {files_hash(source, items)} {device}".encode())
    for file in sorted(path for path in models.rglob("*") if path.suffix in (".safetensors", ".json")):
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:16]


def _load_predictor(
    models: Path, clip: ClipParams, checkpoint: int | None, device: torch.device
) -> Predictor:
    params = read_section(PredictParams, "predict")
    model = load_latent_diffusion(models, device, checkpoint or params.checkpoint)
    config = model.config
    check_task(config, "predict", models / DENOISER)
    if (clip.height, clip.width) != (config.height, config.width):
        raise UserError(
            f"clip.height={clip.height}, clip.width={clip.width}: the denoiser in {models} was "
            f"trained on {config.height} and {config.width}; set these, or run `dvc repro`"
        )
    offsets = config.target_offsets
    time = model.time(clip.known)
    hops = time.hops(params.frame_groups)
    if untrained := sorted(hop_offsets(hops, time.count(clip.known)) - set(offsets)):
        raise UserError(
            f"predict.hops={params.hops}: has target offset {untrained[0]}; the denoiser in {models} was "
            f"trained on {', '.join(map(str, offsets))}; change the hops, or run `dvc repro`"
        )
    tracker = load_tracker(
        models, read_section(SegmentParams, "segment"), read_section(TrackParams, "track_objects"), device
    )
    motion = MotionPredictor(
        tracker, load_motion(models, device), read_section(SampleMotionParams, "sample_motion")
    )
    return Predictor(model, tracker.masks, motion, params, read_value("seed"))


# --- The videos ------------------------------------------------------------------------------------------


def _numbered_videos(folder: Path) -> dict[int, str]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; expected a folder of video_<number> folders")
    videos: dict[int, str] = {}
    for name in list_folder(folder)[0]:
        match = FOLDER.fullmatch(name)
        if match and videos.setdefault(int(match[1]), name) != name:
            raise UserError(f"{folder}: {videos[int(match[1])]} and {name} have the same number; remove one")
    if not videos:
        raise UserError(f"{folder}: expected video_<number> folders in it, such as DATASET/hidden has")
    first, last = min(videos), max(videos)
    missing = last - first + 1 - len(videos)
    if missing:
        absent = (number for number in range(first, last + 1) if number not in videos)
        numbers = [number for number, _ in zip(absent, range(MAX_NUMBERS), strict=False)]
        raise UserError(
            f"{folder}: {missing} of video_{first} to video_{last} missing, number "
            f"{_numbers(numbers, missing)}; a submission needs every video, restore them"
        )
    return dict(sorted(videos.items()))


def _check_videos(source: CompetitionSource, videos: Mapping[int, str], rule: ClipRule) -> None:
    reasons: dict[int, str] = {}
    numbers = list(videos)
    for (row,) in progress(range(len(numbers)), 1, "check"):
        reason = _problem(source, videos[numbers[row]], rule)
        if reason is not None:
            reasons[numbers[row]] = reason
    if reasons:
        raise UserError(
            f"{source.folder}: {len(reasons)} of {len(videos)} videos cannot be used, number "
            f"{_numbers(reasons, len(reasons))}; a submission needs every video, restore them; "
            f"first reason: {next(iter(reasons.values()))}"
        )


def _problem(source: CompetitionSource, item: str, rule: ClipRule) -> str | None:
    """Return the reason why a video cannot be used, or None."""
    label = source.label(item)
    try:
        pictures = [path.name for path in source.files(item) if PICTURE.fullmatch(path.name)]
        if len(pictures) < rule.frames:
            return f"{label}: {len(pictures)} pictures, expected at least {rule.frames}"
        if int(PICTURE.sub(r"\1", pictures[0])) != FIRST_PICTURE:
            return f"{label}: starts at {pictures[0]}, expected image_{FIRST_PICTURE}.png"
        height, width = next(source.frames(item, Pace())).pixels.shape[:2]
        _read(source, item, rule)
    except (ValueError, OSError) as error:
        return one_line(error)
    if rule.fit == "crop" and abs(width * rule.height / (height * rule.width) - 1) > MAX_CROP:
        return (
            f"{label}: pictures of {width}x{height} would be cropped to the aspect of "
            f"{rule.width}x{rule.height}, and their masks with them; set extract_frames.fit to stretch"
        )
    return None


def _read(source: CompetitionSource, item: str, rule: ClipRule) -> Clip:
    return next(cut_clips(source, item, rule))


def _numbers(numbers: Collection[int], count: int) -> str:
    """List the first of `count` numbers."""
    listed = list(map(str, numbers))[:MAX_NUMBERS]
    return ", ".join(listed) + (f" and {count - len(listed)} more" if count > len(listed) else "")


# --- The output ------------------------------------------------------------------------------------------


def _check_output(out: Path, force: bool) -> None:
    if out.is_dir():
        raise UserError(f"{out}: is a folder; name a file in it, such as {out / 'final_predictions.pt'}")
    if out.exists() and not force:
        raise UserError(f"{out}: already exists; choose another name, or replace it with --force")
    if not out.parent.is_dir():
        raise UserError(f"{out.parent}: no such folder; create it, or choose another one")
    if not os.access(out.parent, os.W_OK):
        raise UserError(f"{out.parent}: not writable; choose another folder")


def _write(masks: torch.Tensor, out: Path, force: bool) -> tuple[int, ...]:
    """Write masks under a temporary name, verify them, and rename the file."""
    part = out.with_name(f"{out.name}.{os.getpid()}.part")
    try:
        data = io.BytesIO()  # torch.save reports no full disk, writing bytes does
        torch.save(masks, data)
        with part.open("xb") as file:
            file.write(data.getbuffer())
        shape = _verify(part, masks)
        if out.exists() and not force:
            kept = part.rename(out.with_name(f"{out.name}.{os.getpid()}"))
            raise UserError(f"{out}: was created meanwhile; the submission is in {kept}")
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
    return shape


def _verify(path: Path, masks: torch.Tensor) -> tuple[int, ...]:
    written = torch.load(path, weights_only=True)
    expected = (len(masks), HEIGHT, WIDTH)
    if written.dtype != torch.uint8 or tuple(written.shape) != expected:
        raise ValueError(
            f"{path}: expected uint8 {expected}, got {written.dtype} {tuple(written.shape)}; write it again"
        )
    if written.max() >= NUM_CLASSES or not torch.equal(written, masks):
        raise ValueError(f"{path}: differs from the predicted masks; is the disk full?")
    return tuple(written.shape)
