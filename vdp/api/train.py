"""Train all networks on videos, without DVC: the training stages of the pipeline in turn, then a report.

The stages run as processes in a folder laid out as a checkout, `<model folder>.partial`: params.yaml, code,
clips, models and the states of a stopped training. The model folder appears when all is done.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from pydantic import JsonValue

from vdp.api.train_params import (
    WITHOUT_MASKS,
    initial_files,
    sets_any,
    training_params,
    with_aspect,
    with_initial,
)
from vdp.api.train_videos import (
    Splits,
    Videos,
    aspect_ratio,
    clip_jobs,
    clip_params,
    extract_params,
    first_of,
    list_left_out,
    open_videos,
    pace_of,
    paths_of,
    sources_hash,
    split_videos,
    with_closer_clips,
)
from vdp.api.training_record import TRAINING, TrainingRecord, write_record
from vdp.config.messages import validate
from vdp.config.project import PACKAGE, project_files
from vdp.config.recipes import merged
from vdp.config.schema import PARAMS_FILE
from vdp.config.yaml_file import read_file
from vdp.core.errors import UserError, one_line
from vdp.core.files import locked, replacing, write_text
from vdp.data.extract.extract import extract
from vdp.data.extract.plan import ExtractPolicy
from vdp.data.sources.arrays import ArraySource, Video
from vdp.data.sources.protocols import Pace
from vdp.data.sources.spool import SpooledSource, spool_videos
from vdp.data.stores.clips import ClipStore
from vdp.launch.resume import clear_finished
from vdp.tracking.mlflow_run import TENSORBOARD
from vdp.training.params import TrainSegmenterParams

if TYPE_CHECKING:
    from vdp.api.model import Model

MODELS, CLIPS, LATENTS = Path("data/models"), Path("data/clips"), Path("data/latents")
REPORT = Path("data/report")
PARTIAL = ".partial"  # suffix of the folder of the work in progress
REQUEST, LOCK, SPOOL = "request.json", "lock", "videos"
UNFINISHED = (f"{REQUEST}.part",)  # beside the lock where a training was killed as it began
STORE = "mlflow.db"  # beside the model folder
REPORT_FILE = "report.html"  # of a model folder
REPORT_MODULE = "vdp.api.train_report"
FEW_VIDEOS = 8  # decoded faster than other processes start
CODE = ("*.py", "*.yaml")


@dataclass(frozen=True)
class TrainingPlan:
    """A checked training: nothing is written yet."""

    folder: Path  # of the model, to be written
    force: bool  # whether an existing folder is replaced
    params: dict[str, JsonValue]  # sections of params.yaml
    spaced: bool  # whether the caller has chosen the stride of the clips
    splits: Splits | None  # of files; None for arrays, which are read when the training runs
    arrays: tuple[Iterable[Video], Iterable[Video] | None]  # videos and val, of arrays

    @property
    def partial(self) -> Path:
        """The folder of the work in progress."""
        return self.folder.with_name(self.folder.name + PARTIAL)


def train(
    videos: Videos,
    folder: str | Path,
    val: Videos | None = None,
    recipe: str | None = None,
    changes: Mapping[str, JsonValue] | None = None,
    force: bool = False,
) -> "Model":
    """Train codec, denoiser and, if there are masks, segmenter on videos; `vdp train` does the same.

    The same call continues a training that was interrupted, to the same bytes.

    Args:
        videos: paths of video files and folders; or any iterable of arrays, consumed one by one: each an
            array (T, H, W, 3) uint8 RGB, a tuple (frames, masks) with masks (T, H, W) of class ids, or a
            mapping (see `vdp.data.sources.arrays`). They are cut into clips of `clip.frames` frames.
        folder: output folder; must not exist, except with `force`.
        val: videos to validate on, as `videos`; None holds out `extract_frames.val_share` of `videos` by a
            hash of their names, or the end of a single video.
        recipe: name of a recipe of the project, such as 'smoke', over recipe `own`.
        changes: values by their names in params.yaml: {'train_denoiser.steps': 500}. Without `clip.height`
            and `clip.width` the frame size has the aspect ratio of the videos; without
            `extract_frames.stride` clips of few videos start closer together.
        force: replace `folder`, and discard an interrupted training of other videos or values.

    Returns:
        The trained model, as `vdp.load(folder)`.

    Raises:
        UserError: for an invalid folder, video or value; or if a stage failed, after its message on stderr.
    """
    run(plan_training(videos, folder, val, recipe, changes or {}, force))
    from vdp.api.model import load  # imports torch, which the command line needs not

    return load(folder)


def plan_training(
    videos: Videos,
    folder: str | Path,
    val: Videos | None,
    recipe: str | None,
    changes: Mapping[str, JsonValue],
    force: bool,
) -> TrainingPlan:
    """Check a training before anything is written; arguments as of `train`."""
    folder = Path(folder).expanduser()
    _check_folder(folder, force)
    params, paths = training_params(recipe, changes), paths_of(videos)
    sized = sets_any(recipe, changes, "clip", {"height", "width"})
    cut = extract_params(params)
    val_paths = None if val is None else paths_of(val)
    if val is not None and (paths is None) != (val_paths is None):
        raise UserError("val: expected paths or arrays, as videos")
    splits: Splits | None = None
    arrays: tuple[Iterable[Video], Iterable[Video] | None] = ((), None)
    if paths is not None:
        _check_outside(folder, [*paths, *(val_paths or [])])
        source = open_videos(paths, "videos")
        held_out = None if val_paths is None else open_videos(val_paths, "val")
        splits = split_videos(
            source, held_out, cut.val_share, pace_of(cut), clip_params(params).frames, cut.group
        )
        for line in list_left_out([*paths, *(val_paths or [])], splits):
            print(line, file=sys.stderr)
        aspect = None if sized else aspect_ratio(splits.train)
    else:
        first, stream = first_of(videos, "videos")  # type: ignore[arg-type]  # no paths
        arrays = (stream, None if val is None else first_of(val, "val")[1])  # type: ignore[arg-type]
        height, width, _ = next(iter(ArraySource([first]).frames("video_00000", Pace()))).pixels.shape
        aspect = None if sized else width / height
        del first
    if aspect is not None:
        params = with_aspect(params, aspect)
    params = with_initial(params, folder.with_name(folder.name + PARTIAL) / MODELS)
    # the project's own sources are not those of this training
    sources: dict[str, JsonValue] = {
        "train": "videos", "val": None if val is None else "val", "unlabeled": None, "test_sets": {},
    }  # fmt: skip
    spaced = sets_any(recipe, changes, "extract_frames", {"stride"})
    return TrainingPlan(folder, force, merged(params, {"extract_frames": sources}), spaced, splits, arrays)


def _check_folder(folder: Path, force: bool) -> None:
    if folder.name in ("", ".."):
        raise UserError(f"{folder}: expected the name of a folder to be written")
    if not os.path.lexists(folder):
        return
    if not force:
        raise UserError(f"{folder}: exists; name another folder, or replace it with force")
    if not (folder / TRAINING).is_file():
        raise UserError(f"{folder}: exists and is no folder of a training; name another folder, or remove it")


def _check_outside(folder: Path, videos: Sequence[Path]) -> None:
    """Refuse an output among the videos, of which its pictures and arrays would become part."""
    for path in videos:
        if path.is_dir() and folder.resolve().is_relative_to(path.resolve()):
            raise UserError(f"{folder}: lies in the folder of videos {path}; name a folder outside of it")


def run(plan: TrainingPlan) -> None:
    """Run a training, or continue it where it was interrupted, and write the model folder."""
    partial = plan.partial
    created = not partial.exists()
    if not created and not (partial / REQUEST).is_file() and set(os.listdir(partial)) - {LOCK, *UNFINISHED}:
        raise UserError(
            f"{partial}: exists and is no training in progress; name another folder, or remove it"
        )
    try:
        partial.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = one_line(error)
        raise UserError(f"{plan.folder}: cannot be created ({reason}); name another folder") from None
    with locked(partial / LOCK, f"{partial}: another process trains here; waiting for it to end") as lock:
        if not (partial / LOCK).is_file():
            raise UserError(f"{plan.folder}: another process has written it; use force to train again")
        _start(plan)
        try:
            splits = _cut(plan)
        except UserError:
            if created:
                shutil.rmtree(partial)
            raise
        stages = _stages(partial)
        for number, (module, output) in enumerate(stages, start=1):
            if (partial / output).is_dir():
                continue
            stage = module.rpartition(".")[2]
            print(f"[{number}/{len(stages)}] {stage}", file=sys.stderr)
            clear_finished(partial, stage, partial / "dvc.lock")
            _run(plan, module, lock)
        _publish(plan, splits)


def _start(plan: TrainingPlan) -> None:
    """Write the request, the params and links to the code; or check that they are those of this training."""
    partial, request = plan.partial, _request(plan)
    path = partial / REQUEST
    before = json.loads(path.read_text()) if path.is_file() else request
    changed = [name for name, value in request.items() if before.get(name) != value]
    if changed and not plan.force:
        raise UserError(
            f"{partial}: an interrupted training with other {' and '.join(changed)}; repeat its command to "
            "continue it, or use force to start anew"
        )
    if changed:
        for entry in partial.iterdir():
            if entry.is_symlink() or entry.is_file():
                if entry.name != LOCK:
                    entry.unlink()
            else:
                shutil.rmtree(entry)
    write_text(path, json.dumps(request) + "\n")
    for code in (PACKAGE, project_files() / "stages"):  # checkpoints are keyed by the code too
        link = partial / code.name
        if not link.exists():
            link.unlink(missing_ok=True)  # of another place of the package
            link.symlink_to(code, target_is_directory=True)


def _request(plan: TrainingPlan) -> dict[str, JsonValue]:
    """What a training depends on; arrays are compared when they are read."""
    digest = hashlib.sha256()
    for folder in (PACKAGE, project_files() / "stages"):
        for path in sorted(path for pattern in CODE for path in folder.rglob(pattern)):
            digest.update(path.read_bytes())
    videos = None if plan.splits is None else sources_hash(plan.splits)
    initial: dict[str, JsonValue] = {
        section: hashlib.sha256(file.read_bytes()).hexdigest()[:16]
        for section, file in initial_files(plan.params, plan.partial / MODELS).items()
    }
    return {
        "videos": videos, "params": plan.params, "initial weights": initial, "code": digest.hexdigest()[:16]
    }  # fmt: skip


def _cut(plan: TrainingPlan) -> Splits:
    """Cut the videos into clips and write params.yaml, unless both exist."""
    partial, cut = plan.partial, extract_params(plan.params)
    done = (partial / PARAMS_FILE).is_file()
    splits = plan.splits or _spool(plan, keep_files=not done)
    if done:
        return splits
    count = len(splits.train.videos) + len(splits.val.videos)
    workers = 1 if plan.splits is None or count <= FEW_VIDEOS else cut.workers
    policy = ExtractPolicy(cut.shard_mb, cut.on_bad_video == "skip", cut.max_bad_share, workers)
    params = plan.params if plan.spaced else with_closer_clips(plan.params, splits)
    extract(clip_jobs(splits, params), partial / CLIPS, partial / ".resume/extract_frames", policy)
    (partial / CLIPS / "unlabeled").mkdir(exist_ok=True)
    for path in (partial / SPOOL).rglob("*.npy"):
        path.unlink()
    if not _has_masks(partial / CLIPS):
        params = merged(params, WITHOUT_MASKS)
    shutil.copy(project_files() / "dvc.yaml", partial / "dvc.yaml")
    write_text(partial / PARAMS_FILE, yaml.safe_dump(params, sort_keys=False))
    return splits


def _spool(plan: TrainingPlan, keep_files: bool) -> Splits:
    """Write arrays to files one at a time, and split them."""
    clip, cut = clip_params(plan.params), extract_params(plan.params)

    def spooled(name: str, videos: Iterable[Video]) -> SpooledSource:
        size = (clip.height, clip.width)
        return spool_videos(videos, plan.partial / SPOOL / name, size, cut.fit, keep_files)

    videos, val = plan.arrays
    train, held_out = spooled("videos", videos), None if val is None else spooled("val", val)
    return split_videos(train, held_out, cut.val_share, pace_of(cut), clip.frames)


def _stages(partial: Path) -> list[tuple[str, Path]]:
    """Modules to run, and the folder that each writes."""
    names = {
        "pretrain_vae": MODELS / "codec",
        "encode_latents": LATENTS,
        "train_denoiser": MODELS / "denoiser",
    }
    if _has_masks(partial / CLIPS):
        section = read_file(partial / PARAMS_FILE)["train_segmenter"]
        if validate(TrainSegmenterParams, section, "train_segmenter").pretrained:
            names["train_classifier"] = MODELS / "classifier"
        names["train_segmenter"] = MODELS / "segmenter"
    return [*((f"stages.{name}", output) for name, output in names.items()), (REPORT_MODULE, REPORT)]


def _has_masks(clips: Path) -> bool:
    return all(len(ClipStore(clips / split).labelled) for split in ("train", "val"))


def _run(plan: TrainingPlan, module: str, lock: int) -> None:
    """Run a module in the folder of the work in progress.

    It inherits the lock: where this process is killed, the next call waits for the module to end.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DVC_")}
    environment |= {"MLFLOW_TRACKING_URI": _store(plan.folder), "DVC_EXP_NAME": plan.folder.name}
    command = [sys.executable, "-m", module]
    with subprocess.Popen(command, cwd=plan.partial, env=environment, pass_fds=[lock]) as process:
        try:
            code = process.wait()
        except KeyboardInterrupt:  # Ctrl-C reached the module too, which saves its state
            process.wait()
            raise
    if code:
        name = module.rpartition(".")[2]
        raise UserError(f"{name}: exit code {code}, its message is above; the same command continues")


def _store(folder: Path) -> str:
    """Return the MLflow store: MLFLOW_TRACKING_URI seen from here, else a file beside the model folder."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.parent.resolve() / STORE}"
    scheme, separator, path = uri.partition(":///")
    if scheme == "sqlite" and path:
        return f"{scheme}{separator}{Path(path).absolute()}"
    return uri if "://" in uri else str(Path(uri).absolute())


def _publish(plan: TrainingPlan, splits: Splits) -> None:
    """Write the model folder, whole, and remove the work in progress."""
    partial = plan.partial
    with replacing(partial / "model") as part:
        for path in (*(partial / MODELS).iterdir(), *(partial / REPORT).iterdir()):
            (shutil.copytree if path.is_dir() else shutil.copy)(path, part / path.name)
        shutil.copy(partial / PARAMS_FILE, part / PARAMS_FILE)
        if (partial / TENSORBOARD).is_dir():
            shutil.copytree(partial / TENSORBOARD, part / TENSORBOARD)
        write_record(part, _record(plan, splits))
    if os.path.lexists(plan.folder):
        if not plan.force:
            raise UserError(f"{plan.folder}: was created meanwhile; remove it, then repeat the command")
        plan.folder.rename(partial / "replaced")
    (partial / "model").rename(plan.folder)
    shutil.rmtree(partial)


def _record(plan: TrainingPlan, splits: Splits) -> TrainingRecord:
    cut = extract_params(plan.params)
    stores = [ClipStore(plan.partial / CLIPS / name) for name in ("train", "val")]
    skipped = [entry for store in stores for entry in store.skipped]
    unusable = {entry["video"] for entry in skipped}
    train, val = (
        [item for item in part.videos if item not in unusable] for part in (splits.train, splits.val)
    )
    return TrainingRecord(
        interval=cut.interval, fps=cut.fps, held_out=splits.rule, train=train, val=val, skipped=skipped
    )
