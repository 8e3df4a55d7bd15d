"""The submission to the competition: the mask of the last frame of every hidden video, in one checked file.

A hidden set is a folder of `video_<number>` folders, each with the known frames `image_0.png` and on.
"""

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from zlib import crc32

import numpy as np
import torch

from vdp.api.loading import SEGMENTER, Trained, load_trained
from vdp.config.read import check_file, read_section, read_value
from vdp.config.schema import ClipParams
from vdp.core.classes import NUM_CLASSES
from vdp.core.device import pick_device
from vdp.core.errors import UserError, one_line
from vdp.core.tasks import hop_offsets
from vdp.data.encode import encode_frames
from vdp.data.extract.cut import cut_clips
from vdp.data.params import ExtractParams
from vdp.data.sources.competition import FOLDER, PICTURE, CompetitionSource
from vdp.data.sources.protocols import ClipRule, Pace
from vdp.data.sources.walk import list_folder
from vdp.data.stores.clips import Clip, Pixels
from vdp.data.video.resize import resize_mask
from vdp.models.segmenters.factory import load_segmenter
from vdp.models.segmenters.masks import MaskMaker
from vdp.models.segmenters.params import SegmentParams
from vdp.sampling.params import PredictParams
from vdp.sampling.predict import strategy_of
from vdp.tracking.progress import progress

HEIGHT, WIDTH = 160, 240  # pixels of a mask that is handed in
FIRST_PICTURE = 0  # number of a video's first frame
NAMED = 8  # numbers of videos in a message
RATIO = 0.01  # by how much the aspect ratio of pictures may differ from the clips' before crops matter


@dataclass(frozen=True)
class Predictor:
    """Masks of clips, made as the stages predict and segment make them."""

    trained: Trained
    maker: MaskMaker
    params: PredictParams
    seed: int

    @property
    def clips_at_once(self) -> int:
        """Clips that the stage predict rolls out together."""
        return max(1, self.params.batch_size // self.params.samples)

    def masks(self, clips: Sequence[Clip]) -> list[Pixels]:
        """Class ids (H, W) uint8 of the last predicted frame, for clips of their known frames."""
        trained, params = self.trained, self.params
        strategy = strategy_of(params, trained.config.diffusion.num_timesteps, trained.config.context_frames)
        known = torch.stack(
            [encode_frames(trained.codec.encode, c.frames, len(c.frames), trained.device) for c in clips]
        )
        numbers = [crc32(clip.name.encode()) for clip in clips]
        frames, latents = trained.futures(known, numbers, strategy, params.samples, self.seed)
        latents = latents.astype(np.float16)  # as the stage predict keeps them
        return [
            self.maker.clip_masks(clip.frames, frames[row, :, -1], latents[row], None)["prediction"]
            for row, clip in enumerate(clips)
        ]


def submit(hidden: Path, out: Path, models: Path, force: bool) -> tuple[int, ...]:
    """Predict the mask of frame `clip.frames` of every hidden video and write them as one tensor.

    What may be wrong with the videos and the output is found before the first one is predicted.

    Args:
        hidden: folder of `video_<number>` folders, whose numbers leave none out.
        out: file to write with torch.save: uint8 (N, 160, 240) class ids in the order of the videos' numbers.
        models: folder of the trained `codec`, `denoiser` and `segmenter`.
        force: whether to replace `out` if it exists.

    Returns:
        The shape that was written and read back.

    Raises:
        UserError: for a set that is not complete, naming the numbers; for an output that exists, unless
            `force`, or that cannot be written; for a mistake in params.yaml.
        FileNotFoundError: if `hidden` or a model is not there.
    """
    check_file()
    clip = read_section(ClipParams, "clip")
    _check_out(out, force)
    source = CompetitionSource(hidden)
    videos = _numbered_videos(hidden)
    predictor = _load_predictor(models, clip)
    rule = _rule(clip)
    _check_videos(source, videos, rule)
    items = list(videos.values())
    masks = np.zeros((len(items), HEIGHT, WIDTH), np.uint8)
    for rows in progress(range(len(items)), predictor.clips_at_once, "predict"):
        clips = [_read(source, items[row], rule) for row in rows]
        for row, mask in zip(rows, predictor.masks(clips), strict=True):
            masks[row] = resize_mask(mask, HEIGHT, WIDTH, "stretch")
    return _write(torch.from_numpy(masks), out, force)


def _load_predictor(models: Path, clip: ClipParams) -> Predictor:
    device = pick_device()
    trained = load_trained(models, device)
    size, learnt = (clip.height, clip.width), (trained.config.height, trained.config.width)
    if size != learnt:
        raise UserError(
            f"clip.height={size[0]}, clip.width={size[1]}: the denoiser in {models} has learnt from frames "
            f"of {learnt[0]} and {learnt[1]}: set these, or run `dvc repro`"
        )
    params, gaps = read_section(PredictParams, "predict"), trained.config.target_offsets
    if strange := sorted(hop_offsets(params.hops, clip.known) - set(gaps)):
        raise UserError(
            f"predict.hops={params.hops} jumps {strange[0]} frames, which the denoiser in {models} has not "
            f"learnt, but only {', '.join(map(str, gaps))}: hop so, or run `dvc repro`"
        )
    segmenter = load_segmenter(models / SEGMENTER).to(device)
    maker = MaskMaker(segmenter, trained.codec, read_section(SegmentParams, "segment"), device)
    return Predictor(trained, maker, params, read_value("seed"))


def _rule(clip: ClipParams) -> ClipRule:
    """The known frames of each video, at the size and in the way in which test clips are extracted."""
    fit = read_section(ExtractParams, "extract_frames").fit
    return ClipRule(clip.known, clip.known, clip.height, clip.width, fit, Pace(), stride=clip.known)


# --- The videos ------------------------------------------------------------------------------------------


def _numbered_videos(folder: Path) -> dict[int, str]:
    """The video folders in a folder by their numbers, ascending.

    Raises:
        FileNotFoundError: if the folder is not there.
        UserError: if it holds none, two have one number, or one between others is missing.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; expected one of video_<number> folders")
    found: dict[int, str] = {}
    for name in list_folder(folder)[0]:
        match = FOLDER.fullmatch(name)
        if match and found.setdefault(int(match[1]), name) != name:
            raise UserError(
                f"{folder}: {found[int(match[1])]} and {name}: two folders of one number; remove one of them"
            )
    if not found:
        raise UserError(
            f"{folder}: no folder video_<number> in it; give the folder that holds them, as DATASET/hidden"
        )
    first, last = min(found), max(found)
    missing = last - first + 1 - len(found)
    if missing:
        numbers = islice((n for n in range(first, last + 1) if n not in found), NAMED)
        raise UserError(
            f"{folder}: {missing} of video_{first} to video_{last} missing, number "
            f"{_listed(numbers, missing)}; a submission needs every video: restore them"
        )
    return dict(sorted(found.items()))


def _check_videos(source: CompetitionSource, videos: Mapping[int, str], rule: ClipRule) -> None:
    """Read the known frames of every video once.

    Raises:
        UserError: if some cannot be used; names their numbers and what is wrong with the first one.
    """
    wrong: dict[int, str] = {}
    numbers = list(videos)
    for (row,) in progress(range(len(numbers)), 1, "check"):
        reason = _problem(source, videos[numbers[row]], rule)
        if reason is not None:
            wrong[numbers[row]] = reason
    if wrong:
        raise UserError(
            f"{source.folder}: {len(wrong)} of {len(videos)} videos cannot be used, number "
            f"{_listed(islice(wrong, NAMED), len(wrong))}; a submission needs every video: restore them; "
            f"the first: {next(iter(wrong.values()))}"
        )


def _problem(source: CompetitionSource, item: str, rule: ClipRule) -> str | None:
    """Why the known frames of a video cannot be used; None where they can."""
    label = source.label(item)
    try:
        pictures = [path.name for path in source.files(item) if PICTURE.fullmatch(path.name)]
        if len(pictures) < rule.frames:
            return f"{label}: {len(pictures)} pictures, expected at least {rule.frames}"
        if int(PICTURE.sub(r"\1", pictures[0])) != FIRST_PICTURE:
            return f"{label}: begins with {pictures[0]}, expected image_{FIRST_PICTURE}.png"
        height, width = next(source.frames(item, Pace())).pixels.shape[:2]
        _read(source, item, rule)
    except (ValueError, OSError) as error:
        return one_line(error)
    if rule.fit == "crop" and abs(width * rule.height / (height * rule.width) - 1) > RATIO:
        return (
            f"{label}: pictures of {width}x{height} would be cut to the shape of clips, "
            f"{rule.width}x{rule.height}, and their masks with them; set extract_frames.fit to stretch"
        )
    return None


def _read(source: CompetitionSource, item: str, rule: ClipRule) -> Clip:
    """The known frames of a video."""
    return next(cut_clips(source, item, rule))


def _listed(numbers: Iterator[int], count: int) -> str:
    """The first of `count` numbers, and how many more there are."""
    named = [str(number) for number in numbers]
    return ", ".join(named) + (f" and {count - len(named)} more" if count > len(named) else "")


# --- The output ------------------------------------------------------------------------------------------


def _check_out(out: Path, force: bool) -> None:
    """Find what would keep the output from being written, before the work.

    Raises:
        UserError: if it exists, unless `force`, or its folder is not there or may not be written to.
    """
    if out.is_dir():
        raise UserError(f"{out}: a folder; name a file in it, as {out / 'final_predictions.pt'}")
    if out.exists() and not force:
        raise UserError(f"{out}: exists already; give another name, or --force to replace it")
    if not out.parent.is_dir():
        raise UserError(f"{out.parent}: no such folder; make it, or write to another one")
    if not os.access(out.parent, os.W_OK):
        raise UserError(f"{out.parent}: may not be written to; write to another folder")


def _write(masks: torch.Tensor, out: Path, force: bool) -> tuple[int, ...]:
    """Write masks under a name of their own, read them back, check them, and give them their name.

    Raises:
        ValueError: if what is read is not what was written.
        UserError: if the output has come into being during the work, unless `force`; the work is kept.
    """
    part = out.with_name(f"{out.name}.{os.getpid()}.part")
    try:
        data = io.BytesIO()  # a full disk is an OSError when bytes are written, but not when torch writes
        torch.save(masks, data)
        with part.open("xb") as file:
            file.write(data.getbuffer())
        shape = _check_written(part, masks)
        if out.exists() and not force:
            kept = part.rename(out.with_name(f"{out.name}.{os.getpid()}"))
            raise UserError(f"{out}: exists since; the submission is in {kept}")
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
    return shape


def _check_written(path: Path, masks: torch.Tensor) -> tuple[int, ...]:
    read = torch.load(path, weights_only=True)
    expected = (len(masks), HEIGHT, WIDTH)
    if read.dtype != torch.uint8 or tuple(read.shape) != expected:
        raise ValueError(
            f"{path}: expected uint8 {expected}, read {read.dtype} {tuple(read.shape)}; write it again"
        )
    if read.max() >= NUM_CLASSES or not torch.equal(read, masks):
        raise ValueError(f"{path}: other masks were read than were written; is the disk full?")
    return tuple(read.shape)
