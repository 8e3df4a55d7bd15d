"""Train all networks on arrays, without DVC: the training stages of the pipeline in turn.

The stages run as processes in a folder laid out as a checkout: params.yaml, code, clips, models, the MLflow
store and the states of a stopped training.
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
from vdp.config.messages import validate
from vdp.config.project import PACKAGE, project_files
from vdp.config.read import check_data
from vdp.config.recipes import RECIPES, merged
from vdp.config.schema import PARAMS_FILE, ClipParams
from vdp.config.yaml_file import read_file
from vdp.core.errors import UserError, one_line
from vdp.data.extract.extract import extract
from vdp.data.extract.plan import ExtractJob, ExtractPolicy
from vdp.data.params import ExtractParams
from vdp.data.sources.arrays import ArraySource, Video
from vdp.data.sources.protocols import ClipRule, Pace
from vdp.data.stores.clips import ClipStore
from vdp.training.params import TrainSegmenterParams

MODELS, CLIPS, LATENTS = Path("data/models"), Path("data/clips"), Path("data/latents")
VAL_EVERY = 10  # without `val`, every tenth video is for validation


def train(
    videos: Sequence[Video],
    folder: str | Path,
    val: Sequence[Video] | None = None,
    recipe: str | None = None,
    changes: Mapping[str, JsonValue] | None = None,
    resume: bool = False,
) -> Model:
    """Train codec, denoiser and, if there are masks, segmenter on arrays.

    Args:
        videos: any sequence; each an array (T, H, W, 3) uint8 RGB, a tuple (frames, masks) with masks
            (T, H, W) of class ids, or a mapping (see `vdp.data.sources.arrays`). They
            are cut into clips of `clip.frames` frames, resized to `clip.height` x `clip.width`.
        folder: output folder; must not exist, except with `resume`.
        val: videos to validate on; None takes every tenth of `videos`.
        recipe: name of a recipe of the project, such as 'smoke'; None takes params.yaml as it is.
        changes: values by their names in params.yaml: {'train_denoiser.steps': 500}.
        resume: continue a stopped training with the params and clips of its folder.

    Returns:
        The trained model, as `vdp.load(folder / "data/models")`.

    Raises:
        UserError: for an invalid folder, video or value; or if a stage failed, after its message on stderr.
    """
    folder = Path(folder)
    if resume:
        if recipe is not None or changes:
            raise UserError("resume=True: expected no recipe and no changes; the folder has its params")
        if not (folder / CLIPS).is_dir():
            raise UserError(f"{folder}: no training to resume; call train without resume")
    elif folder.exists():
        raise UserError(f"{folder}: exists; name another folder, or continue it with resume=True")
    else:
        _prepare(folder, videos, val, _params(recipe, changes or {}))
    _run(folder, "pretrain_vae", MODELS / "codec")
    _run(folder, "encode_latents", LATENTS)
    _run(folder, "train_denoiser", MODELS / "denoiser")
    if _has_masks(folder / CLIPS):
        if _starts_from_classifier(folder):
            _run(folder, "train_classifier", MODELS / "classifier")
        _run(folder, "train_segmenter", MODELS / "segmenter")
    return load(folder / MODELS)


def _params(recipe: str | None, changes: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Merge the recipe and the changes into the project's params."""
    project = project_files()
    data = read_file(project / PARAMS_FILE)
    if recipe is not None:
        path = project / RECIPES / f"{recipe}.yaml"
        if not path.is_file():
            names = ", ".join(sorted(path.stem for path in (project / RECIPES).glob("*.yaml")))
            raise UserError(f"recipe={recipe!r}: expected one of {names}")
        data = merged(data, read_file(path))
    for name, value in changes.items():
        if not isinstance(value, str | int | float | bool | list | dict | None):
            raise UserError(f"changes: {name}={value!r}: expected a plain value, as in params.yaml")
        overlay: JsonValue = value
        for key in reversed(name.split(".")):
            overlay = {key: overlay}
        assert isinstance(overlay, dict)
        data = merged(data, overlay)
    check_data(data, single_frames=True)
    return data


def _prepare(
    folder: Path, videos: Sequence[Video], val: Sequence[Video] | None, params: dict[str, JsonValue]
) -> None:
    """Write params, clips and links to the code, atomically."""
    splits = dict(zip(("train", "val"), _split(videos, val), strict=True))
    with _new_folder(folder) as part:
        cut = validate(ExtractParams, params["extract_frames"], "extract_frames")
        policy = ExtractPolicy(cut.shard_mb, cut.on_bad_video == "skip", cut.max_bad_share, 1)
        jobs = {split: _job(chosen, params, split) for split, chosen in splits.items()}
        extract(jobs, part / CLIPS, part / ".resume/extract_frames", policy)
        (part / CLIPS / "unlabeled").mkdir()
        if not _has_masks(part / CLIPS):
            params = merged(params, {"pretrain_vae": {"mask_weight": 0.0}, "segment": {"codec_vote": 0.0}})
        (part / PARAMS_FILE).write_text(yaml.safe_dump(params, sort_keys=False))
        shutil.copy(project_files() / "dvc.yaml", part / "dvc.yaml")
        for code in (PACKAGE, project_files() / "stages"):  # checkpoints are keyed by the code too
            (part / code.name).symlink_to(code, target_is_directory=True)


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Yield a scratch folder; rename it to `folder` on success, remove it on failure."""
    try:
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise UserError(f"{folder}: cannot be created ({one_line(error)}); name another folder") from None
    try:
        yield part
        if folder.exists():
            raise UserError(f"{folder}: was created meanwhile; name another folder")
        part.chmod(0o755)  # mkdtemp's mode is 0o700
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _starts_from_classifier(folder: Path) -> bool:
    section = read_file(folder / PARAMS_FILE)["train_segmenter"]
    return validate(TrainSegmenterParams, section, "train_segmenter").pretrained


def _has_masks(clips: Path) -> bool:
    return all(len(ClipStore(clips / split).labelled) for split in ("train", "val"))


def _split(videos: Sequence[Video], val: Sequence[Video] | None) -> tuple[Sequence[Video], Sequence[Video]]:
    for name, value in (("videos", videos), ("val", val)):
        if value is not None and not (
            hasattr(value, "__len__") and hasattr(value, "__getitem__") and len(value)
        ):
            raise UserError(f"{name}: expected a sequence of at least one video, such as a list of arrays")
    if val is not None:
        return videos, val
    if len(videos) < 2:
        raise UserError(f"videos: expected at least 2 without val, got {len(videos)}; add videos or pass val")
    every = min(VAL_EVERY, len(videos))
    chosen = [index for index in range(len(videos)) if index % every == every - 1]
    return [videos[index] for index in range(len(videos)) if index not in chosen], [videos[i] for i in chosen]


def _job(videos: Sequence[Video], params: Mapping[str, JsonValue], split: str) -> ExtractJob:
    """Build the extraction job of a split from sections `clip` and `extract_frames`."""
    clip = validate(ClipParams, params["clip"], "clip")
    cut = validate(ExtractParams, params["extract_frames"], "extract_frames")
    pace = Pace(cut.interval if cut.fps is None else 1, cut.fps, cut.offset)
    rule = ClipRule(clip.frames, clip.frames, clip.height, clip.width, cut.fit, pace, cut.stride)
    source = ArraySource(videos)
    return ExtractJob(source, source.items(), rule, "videos" if split == "train" else split)


def _run(folder: Path, stage: str, output: Path) -> None:
    """Run a stage in the folder, unless its output exists."""
    if (folder / output).is_dir():
        return
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DVC_")}
    done = subprocess.run([sys.executable, "-m", f"stages.{stage}"], cwd=folder, env=environment, check=False)
    if done.returncode:
        raise UserError(
            f"{stage}: exit code {done.returncode}, its message is above; continue with resume=True"
        )
