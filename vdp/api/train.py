"""Train all networks on videos that a program holds, without DVC: the stages of the pipeline in turn.

They run as processes of their own in a folder that has what the pipeline's checkout has: params.yaml, clips,
models, MLflow's store and the states of a training that was stopped.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml
from pydantic import JsonValue

from vdp.api.model import Model, load
from vdp.config.checks import check_single_frames
from vdp.config.messages import validate
from vdp.config.read import check_data
from vdp.config.recipes import RECIPES, merged
from vdp.config.schema import PARAMS_FILE, ClipParams
from vdp.config.yaml_file import read_file
from vdp.core.errors import UserError, one_line
from vdp.data.extract.extract import Job, Policy, extract
from vdp.data.params import ExtractParams
from vdp.data.sources.arrays import ArraySource, Video
from vdp.data.sources.protocols import ClipRule, Pace
from vdp.data.stores.clips import ClipStore

PROJECT = Path(__file__).parents[2]
LINKED = ("vdp", "stages")  # a training's states are keyed by the code as well
MODELS, CLIPS, LATENTS = Path("data/models"), Path("data/clips"), Path("data/latents")
EVERY = 10  # of the videos one is kept for validation


def train(
    videos: Sequence[Video],
    folder: str | Path,
    held_out: Sequence[Video] | None = None,
    recipe: str | None = None,
    changes: Mapping[str, JsonValue] | None = None,
    resume: bool = False,
) -> Model:
    """Train codec, denoiser and, where there are masks, segmenter on arrays.

    Args:
        videos: each an array (T, H, W, 3) uint8 RGB, or a tuple (frames, masks) with masks (T, H, W) of class
            ids, or a mapping with `frames`, `masks` and `conditions`; see `vdp.data.sources.arrays`. Each is
            cut into clips of `clip.frames` frames, resized to `clip.height` x `clip.width`.
        folder: where everything is kept; it must not exist yet, but with `resume`.
        held_out: videos to validate on; None takes every tenth of `videos`.
        recipe: name of one of the project's recipes, as 'smoke'; None takes its params.yaml.
        changes: values over these, by their names in params.yaml: {'train_denoiser.steps': 500}.
        resume: go on with a folder whose training was stopped, with its params and its clips.

    Returns:
        The trained model, as `vdp.load(folder / "data/models")` gives it.

    Raises:
        UserError: if the folder, a video or a value cannot be used; or a stage has failed, whose message
            stands on stderr.
    """
    folder = Path(folder)
    if resume:
        if recipe is not None or changes:
            raise UserError("resume=True goes on with the folder's own params: leave recipe and changes out")
        if not (folder / CLIPS).is_dir():
            raise UserError(f"{folder}: there is no training to resume: call train without resume")
    elif folder.exists():
        raise UserError(f"{folder} exists already: name another folder, or go on with it by resume=True")
    else:
        _prepare(folder, videos, held_out, _params(recipe, changes or {}))
    _run(folder, "pretrain_vae", MODELS / "codec")
    _run(folder, "encode_latents", LATENTS)
    _run(folder, "train_denoiser", MODELS / "denoiser")
    if _labelled(folder / CLIPS):
        _run(folder, "train_segmenter", MODELS / "segmenter")
    return load(folder / MODELS)


def _params(recipe: str | None, changes: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """The project's params with a recipe and changes over them."""
    data = read_file(PROJECT / PARAMS_FILE)
    if recipe is not None:
        path = PROJECT / RECIPES / f"{recipe}.yaml"
        if not path.is_file():
            known = ", ".join(sorted(path.stem for path in (PROJECT / RECIPES).glob("*.yaml")))
            raise UserError(f"recipe={recipe!r} is not there: known: {known}")
        data = merged(data, read_file(path))
    for name, value in changes.items():
        if not isinstance(value, str | int | float | bool | list | dict | None):
            raise UserError(f"changes: {name}={value!r}: expected a plain value, as in params.yaml")
        overlay: JsonValue = value
        for key in reversed(name.split(".")):
            overlay = {key: overlay}
        assert isinstance(overlay, dict)
        data = merged(data, overlay)
    check_data(data)
    check_single_frames(data)
    return data


def _prepare(
    folder: Path,
    videos: Sequence[Video],
    held_out: Sequence[Video] | None,
    params: dict[str, JsonValue],
) -> None:
    """Make the folder, whole or not at all: params, pipeline, code and clips."""
    train, val = _split(videos, held_out)
    with _made_aside(folder) as part:
        cut = validate(ExtractParams, params["extract_frames"], "extract_frames")
        policy = Policy(cut.shard_mb, cut.on_bad_video == "skip", cut.max_bad_share, 1)
        jobs = {split: _job(chosen, params, split) for split, chosen in (("train", train), ("val", val))}
        extract(jobs, part / CLIPS, part / ".resume/extract_frames", policy)
        (part / CLIPS / "unlabeled").mkdir()
        if not _labelled(part / CLIPS):  # nothing that a mask head could learn from
            params = merged(params, {"pretrain_vae": {"mask_weight": 0.0}, "segment": {"codec_vote": 0.0}})
        (part / PARAMS_FILE).write_text(yaml.safe_dump(params, sort_keys=False))
        shutil.copy(PROJECT / "dvc.yaml", part / "dvc.yaml")
        for name in LINKED:
            (part / name).symlink_to(PROJECT / name, target_is_directory=True)


@contextmanager
def _made_aside(folder: Path) -> Iterator[Path]:
    """A scratch folder that gets the name `folder` if the block ends well, and vanishes if not.

    Raises:
        UserError: if it cannot be made there, or something of that name has come up meanwhile.
    """
    try:
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({one_line(error)}): name a folder that can") from None
    try:
        yield part
        if folder.exists():
            raise UserError(f"{folder} exists by now: name another folder")
        part.chmod(0o755)  # mkdtemp's own is for one user alone
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _labelled(clips: Path) -> bool:
    """Whether there are masks to learn from and masks to validate on."""
    return all(len(ClipStore(clips / split).labelled) for split in ("train", "val"))


def _split(
    videos: Sequence[Video], held_out: Sequence[Video] | None
) -> tuple[Sequence[Video], Sequence[Video]]:
    """Videos to train on and to validate on."""
    for name, given in (("videos", videos), ("held_out", held_out)):
        if given is not None and not (
            hasattr(given, "__len__") and hasattr(given, "__getitem__") and len(given)
        ):
            raise UserError(f"{name}: expected a sequence of one video or more, such as a list of arrays")
    if held_out is not None:
        return videos, held_out
    if len(videos) < 2:
        raise UserError(
            f"videos: expected two or more, one of them to validate on, got {len(videos)}; give more, or "
            "name those to validate on as held_out"
        )
    val = [videos[place] for place in range(len(videos)) if place % EVERY == EVERY - 1] or [videos[-1]]
    kept = len(videos) if len(videos) >= EVERY else len(videos) - 1
    return [videos[place] for place in range(kept) if place % EVERY != EVERY - 1], val


def _job(videos: Sequence[Video], params: Mapping[str, JsonValue], name: str) -> Job:
    """How videos become clips, by sections `clip` and `extract_frames`."""
    clip = validate(ClipParams, params["clip"], "clip")
    cut = validate(ExtractParams, params["extract_frames"], "extract_frames")
    pace = Pace(cut.interval if cut.fps is None else 1, cut.fps, cut.offset)
    rule = ClipRule(clip.frames, clip.frames, clip.height, clip.width, cut.fit, pace, cut.stride)
    source = ArraySource(videos)
    return Job(source, source.items(), rule, "videos" if name == "train" else "held_out")


def _run(folder: Path, stage: str, made: Path) -> None:
    """Run a stage of the pipeline in the folder, unless what it makes is there."""
    if (folder / made).is_dir():
        return
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DVC_")}
    done = subprocess.run([sys.executable, "-m", f"stages.{stage}"], cwd=folder, env=environment, check=False)
    if done.returncode:
        raise UserError(
            f"{stage} ended with exit code {done.returncode}, its message stands above; go on by resume=True"
        )
