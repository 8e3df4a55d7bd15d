"""Trainings outside DVC: their inputs, params and folders; tests/cli/test_train.py runs one."""

import json
import os
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from pydantic import JsonValue

from vdp.api import train as module
from vdp.api import train_videos
from vdp.api.train import plan_training, run, train
from vdp.api.train_params import frame_size, training_params
from vdp.api.train_videos import open_videos
from vdp.api.training_record import TrainingRecord, read_record
from vdp.config.yaml_file import read_file
from vdp.core.errors import UserError
from vdp.data.sources.protocols import Source
from vdp.data.sources.split import train_and_val
from vdp.data.sources.videos import VideoSource
from vdp.data.stores.clips import ClipStore
from vdp.data.video.write import write_frames

COUNT = 44  # frames of a video: enough to hold out its end


def video(seed: int, masks: bool = False, count: int = COUNT, size: tuple[int, int] = (16, 24)):
    rng = np.random.default_rng(seed)
    clip = rng.integers(100, 156, (count, *size, 3), dtype=np.uint8)  # no scene cuts
    return (clip, rng.integers(0, 49, clip.shape[:3], dtype=np.uint8)) if masks else clip


def write_video(path: Path, seed: int = 0, count: int = COUNT, size: tuple[int, int] = (16, 24)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_frames(path, iter(video(seed, count=count, size=size)), 10)
    return path


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The modules that a training runs, in tmp_path; each writes a file in place of its output."""
    stages: list[str] = []

    def fake(plan, name, lock):
        stages.append(name.rpartition(".")[2])
        output = dict(module._stages(plan.partial))[name]
        (plan.partial / output).mkdir(parents=True)
        (plan.partial / output / "written").write_text(name)

    monkeypatch.setattr(module, "_run", fake)
    monkeypatch.setattr("vdp.api.model.load", Path)
    monkeypatch.chdir(tmp_path)
    return stages


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the work in progress, which is not turned into a model folder."""
    monkeypatch.setattr(module, "_publish", lambda plan, splits: None)
    return Path("new.partial")


def names(split: str, folder: Path = Path("new.partial")) -> list[str]:
    return ClipStore(folder / "data/clips" / split).names


# --- Folders ---------------------------------------------------------------------------------------------


def test_the_model_folder_appears_whole_and_nothing_else_is_left(stages):
    assert train([video(0), video(1)], "new", recipe="smoke", changes={"seed": 5}) == Path("new")
    assert stages == ["pretrain_vae", "encode_latents", "train_denoiser", "train_report"]
    assert [path.name for path in Path().iterdir()] == ["new"]
    found = {str(path.relative_to("new")) for path in Path("new").rglob("*") if path.is_file()}
    assert found == {"codec/written", "denoiser/written", "written", "params.yaml", "training.json"}
    params = yaml.safe_load(Path("new/params.yaml").read_text())
    assert (params["seed"], params["pretrain_vae"]["steps"], params["pretrain_vae"]["mask_weight"]) == (
        5,
        6,
        0,
    )


def test_the_record_names_the_videos_and_the_selected_frames(stages):
    write_video(Path("videos/a.mp4"))
    write_video(Path("videos/b.mp4"), count=5)
    train("videos", "new", val=[write_video(Path("c.mp4"))], changes={"extract_frames.interval": 2})
    record = read_record(Path("new"))
    assert record is not None
    assert (record.train, record.val, record.interval) == (["a.mp4"], ["c.mp4"], 2)
    (skipped,) = record.skipped
    assert skipped["video"] == "b.mp4" and "videos/b.mp4: too few frames" in skipped["reason"]


def test_the_interval_of_a_clip_follows_the_trained_rate():
    record = TrainingRecord(interval=1, fps=10, held_out="", train=[], val=[], skipped=[])
    assert [record.interval_at(rate) for rate in (30, 29.97, 24, 5)] == [3, 3, 2, 1]
    assert record.model_copy(update={"fps": None, "interval": 4}).interval_at(30) == 4


def test_the_segmenter_is_trained_if_both_splits_have_masks(stages):
    labelled = [video(n, masks=True) for n in range(2)]
    train(labelled, "a", val=labelled[:1])
    assert stages[3:] == ["train_classifier", "train_segmenter", "train_report"]
    assert yaml.safe_load(Path("a/params.yaml").read_text())["pretrain_vae"]["mask_weight"] > 0
    stages.clear()
    train(labelled, "b", val=[video(9)])
    assert "train_segmenter" not in stages
    stages.clear()
    train(labelled, "c", val=labelled[:1], changes={"train_segmenter.pretrained": False})
    assert "train_segmenter" in stages and "train_classifier" not in stages


def test_the_same_call_continues_after_an_interruption_without_redoing_finished_parts(stages, monkeypatch):
    def interrupted(plan, name, lock):
        if name.endswith("train_denoiser"):
            raise KeyboardInterrupt
        fake(plan, name, lock)

    fake = module._run
    monkeypatch.setattr(module, "_run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train((video(n) for n in range(2)), "new")
    manifest = Path("new.partial/data/clips/train/manifest.json")
    written = manifest.stat().st_mtime_ns
    assert not Path("new").exists() and not list(Path("new.partial/videos").rglob("*.npy"))
    monkeypatch.setattr(module, "_run", fake)
    monkeypatch.setattr(module, "_publish", lambda plan, splits: None)
    train((video(n) for n in range(2)), "new")
    assert stages == ["pretrain_vae", "encode_latents", "train_denoiser", "train_report"]
    assert manifest.stat().st_mtime_ns == written


def test_a_training_starts_from_a_model_of_the_caller_s_folder(stages, kept, monkeypatch):
    old = Path("old/denoiser")
    old.mkdir(parents=True)
    changes = {"train_denoiser.init_from": "old", "extract_frames.scene_cut": None}
    with pytest.raises(UserError, match="train_denoiser.init_from=old: expected a model folder"):
        plan_training([video(0)], "new", None, None, changes, force=False)
    for name in ("model.safetensors", "config.json"):
        (old / name).write_text("weights")
    train([video(0)], "new", changes=changes)
    written = yaml.safe_load((kept / "params.yaml").read_text())["train_denoiser"]["init_from"]
    assert written == str((old / "model.safetensors").absolute())
    (old / "model.safetensors").write_text("others")
    with pytest.raises(UserError, match="interrupted training with other initial weights"):
        train([video(0)], "new", changes=changes)


@pytest.mark.parametrize(
    ("message", "videos", "changes"),
    [
        ("interrupted training with other params", 2, {"seed": 1}),
        (r"videos\[1\]: differs from that of the interrupted training", (0, 7), {}),
        ("videos: 1 of the interrupted training are missing", 1, {}),
    ],
)
def test_another_training_does_not_continue_an_interrupted_one(stages, kept, message, videos, changes):
    train([video(0), video(1)], "new", val=[video(2)])
    seeds = range(videos) if isinstance(videos, int) else videos
    with pytest.raises(UserError, match=message):
        train([video(seed) for seed in seeds], "new", val=[video(2)], changes=changes)
    assert (kept / "data/models/codec/written").is_file()


def test_changed_files_do_not_continue_an_interrupted_training_and_force_starts_anew(stages, kept):
    write_video(Path("videos/a.mp4"))
    train("videos", "new")
    write_video(Path("videos/a.mp4"), count=60)
    with pytest.raises(UserError, match="with other videos"):
        train("videos", "new")
    train("videos", "new", force=True)
    assert stages.count("pretrain_vae") == 2


def test_only_the_folder_of_a_training_is_replaced(stages):
    Path("new").mkdir()
    Path("new/kept.txt").write_text("mine")
    for force, message in ((False, "new: exists; name another"), (True, "is no folder of a training")):
        with pytest.raises(UserError, match=message):
            train([video(0)], "new", force=force)
    train([video(0)], "other")
    train([video(1)], "other", force=True)
    assert Path("new/kept.txt").is_file() and stages.count("train_report") == 2
    assert sorted(path.name for path in Path().iterdir()) == ["new", "other"]


# --- Params ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("aspect", "size"),
    [(640 / 272, (48, 112)), (176 / 144, (72, 88)), (4 / 3, (72, 96)), (9 / 16, (104, 56))],
)
def test_the_frame_size_has_the_aspect_ratio_at_about_the_default_pixels(aspect, size):
    assert frame_size(aspect, 64 * 96, 8) == size


@pytest.mark.parametrize("aspect", [0.05, 0.3, 1.0, 3.0, 20.0])
@pytest.mark.parametrize("multiple", [4, 8, 16])
def test_every_aspect_ratio_has_a_frame_size(aspect, multiple):
    height, width = frame_size(aspect, 64 * 96, multiple)
    assert height % multiple == width % multiple == 0 and min(height, width) >= 16
    assert height * width <= 1.6 * 64 * 96 * max(1.0, aspect / 10, 0.1 / aspect)


def test_the_frame_size_is_that_of_the_videos_unless_it_is_set(stages, kept):
    write_video(Path("tall.mp4"), size=(64, 32))
    assert plan_training("tall.mp4", "x", None, None, {}, False).params["clip"]["height"] == 112
    for recipe, changes in ((None, {"clip.height": 48, "clip.width": 64}), ("full", {})):
        clip = plan_training("tall.mp4", "x", None, recipe, changes, False).params["clip"]
        assert clip["width"] in (64, 240)
    assert plan_training([video(0, size=(64, 32))], "x", None, None, {}, False).params["clip"]["width"] == 56


def test_a_recipe_is_over_recipe_own_and_single_values_over_both():
    params = training_params("smoke", {"pretrain_vae.steps": 3})
    assert (params["pretrain_vae"]["steps"], params["pretrain_vae"]["batch_size"]) == (3, 4)
    assert params["extract_frames"]["on_bad_video"] == "skip"


# --- Held-out videos -------------------------------------------------------------------------------------


def test_a_share_of_the_videos_is_held_out_by_their_names(stages, kept):
    for name in "abcdef":
        write_video(Path(f"videos/{name}.mp4"))
    train("videos", "new", changes={"extract_frames.stride": 44})
    val, trained = ({name.rpartition("_")[0] for name in names(split)} for split in ("val", "train"))
    assert val | trained == set("abcdef") and not val & trained
    items = [f"{name}.mp4" for name in "abcdef"]
    assert val == {item.removesuffix(".mp4") for item in train_and_val(items, 0.1)[1]}


def test_the_end_of_a_single_video_is_held_out(stages, kept):
    frames = video(0, count=110)
    train([frames], "new", changes={"clip.height": 16, "clip.width": 24})
    held = [int(name.rpartition("_")[2]) for name in names("val")]
    trained = [int(name.rpartition("_")[2]) for name in names("train")]
    assert max(trained) + 22 <= 88 == min(held)
    store = ClipStore(Path("new.partial/data/clips/val"))
    assert (store.frames(0) == frames[88:]).all()


@pytest.mark.parametrize(
    ("many", "chosen", "distance"), [(200, None, 1), (16, None, 5), (8, None, 11), (200, 9, 9)]
)
def test_clips_of_few_videos_start_closer_together(stages, kept, monkeypatch, capsys, many, chosen, distance):
    """99 frames give eight clips at a stride of 11; a change is reported in one line."""
    monkeypatch.setattr(train_videos, "MANY_CLIPS", many)
    write_video(Path("a.mp4"), count=99)
    write_video(Path("b.mp4"), count=44)
    changes: dict[str, JsonValue] = {} if chosen is None else {"extract_frames.stride": chosen}
    train("a.mp4", "new", val="b.mp4", changes=changes)
    starts = [int(name.rpartition("_")[2]) for name in names("train")]
    assert starts == list(range(0, 99 - 21, distance))
    assert read_file(kept / "params.yaml")["extract_frames"]["stride"] == distance  # type: ignore[index]
    lines = [line for line in capsys.readouterr().err.splitlines() if "stride" in line]
    changed = f"extract_frames.stride: 11 -> {distance}, as few videos give few clips: about {len(starts)}"
    expected = f"{changed} to train on, 8 without; --set extract_frames.stride=N sets it"
    assert lines == ([expected] if chosen is None and distance < 11 else [])


def strides(videos: Path | Source, **changes: JsonValue) -> tuple[int, int]:
    """The stride of the params and that of a training on videos."""
    params = training_params(None, {f"extract_frames.{key}": value for key, value in changes.items()})
    source = videos if not isinstance(videos, Path) else open_videos([videos], "videos")
    split = train_videos.Split(source, source.items())
    chosen = train_videos.with_closer_clips(params, train_videos.Splits(split, split, ""))
    before, after = (train_videos.extract_params(each).stride for each in (params, chosen))
    return before, after


def test_the_stride_stays_where_the_lengths_of_the_videos_are_unknown(tmp_path):
    class Unknown(VideoSource):
        """As the videos of a Hugging Face data set."""

        def count(self, item: str) -> int:
            return 0

    path = write_video(tmp_path / "a.mp4", count=99)
    assert strides(path) == (11, 1)
    assert strides(Unknown(path)) == (11, 11)


def test_a_lower_rate_gives_closer_clips(tmp_path, monkeypatch):
    """Of 99 frames at 10 per second 50 are selected: three clips in place of eight."""
    monkeypatch.setattr(train_videos, "MANY_CLIPS", 8)
    path = write_video(tmp_path / "a.mp4", count=99)
    assert strides(path) == (11, 11)
    assert strides(path, fps=5) == (11, 4) == strides(path, interval=2)
    assert strides(train_videos.SpanSource(open_videos([path], "videos"), 0, 50)) == (11, 4)


def test_folders_named_train_and_val_are_splits(stages, kept):
    for folder in ("train", "val"):
        write_video(Path(folder, "a.mp4"))
    train(["train", "val"], "new")
    assert names("train")[0].startswith("train_a") and names("val")[0].startswith("val_a")


def test_files_of_one_name_and_folders_are_joined_and_repeats_dropped(tmp_path):
    paths = [write_video(tmp_path / name) for name in ("x/clip.mp4", "y/clip.mp4", "z/other.mp4", "z/b.mp4")]
    found = open_videos([*paths[:3], tmp_path / "z"], "videos").items()
    assert found == ["x/clip.mp4", "y/clip.mp4", "other.mp4", "z/b.mp4"]
    assert open_videos([tmp_path / "*" / "clip.mp4"], "videos").items() == ["x/clip.mp4", "y/clip.mp4"]


# --- Arrays ----------------------------------------------------------------------------------------------


def test_a_generator_is_consumed_video_by_video(stages, kept):
    alive: list[int] = []
    living: list[weakref.ref[np.ndarray]] = []

    def videos() -> Iterator[np.ndarray]:
        for number in range(8):
            alive.append(sum(reference() is not None for reference in living))
            made = video(number)
            living.append(weakref.ref(made))
            yield made
            del made

    size: dict[str, JsonValue] = {"clip.height": 16, "clip.width": 24}
    train(videos(), "new", changes=size | {"extract_frames.stride": 11})
    assert len(alive) == 8 and max(alive) <= 2
    assert len(names("train")) + len(names("val")) == 8 * 3


def test_an_unusable_array_is_listed_and_the_others_are_used(stages, kept, capsys):
    train([video(0), video(1).astype(np.int32), video(2), video(3, count=5)], "new", val=[video(4)])
    shown = capsys.readouterr().err
    assert "skipped: videos[1].frames: expected uint8" in shown and "skipped: videos[3]: too few" in shown
    assert {name.rpartition("_")[0] for name in names("train")} == {"video_00000", "video_00002"}


# --- Refusals --------------------------------------------------------------------------------------------

INVALID = {
    "videos: expected at least one video": {"videos": []},
    "videos: expected videos, such as a list": {"videos": 3},
    "val: expected at least one video": {"val": []},
    "val: expected paths or arrays, as videos": {"val": "here.mp4"},
    "recipe='tiny': expected one of .*smoke": {"recipe": "tiny"},
    "seed=-1: expected": {"changes": {"seed": -1}},
    "train_denoiser.stepz": {"changes": {"train_denoiser.stepz": 1}},
    "changes: seed=.* expected a plain value": {"changes": {"seed": np.int64(3)}},
    "diffusion.base=composed: expected auto": {
        "changes": {"vae.temporal_factor": 2, "diffusion.base": "composed"}
    },
    r"videos\[0\].* 5": {"videos": [video(0, count=5), video(1, count=5)], "val": [video(2)]},
    r"videos\[0\]: a single video of 30 frames.* at least 44": {"videos": [video(0, count=30)]},
    "videos: none.mp4 not found": {"videos": "none.mp4"},
    "lies in the folder of videos": {"videos": "."},
    "target_offsets=.*add 1 there": {"changes": {"train_denoiser.target_offsets": [2, 4]}},
    "cannot be created": {"folder": "file/x"},
    "expected the name of a folder": {"folder": "."},
}


@pytest.mark.parametrize("message", INVALID)
def test_an_invalid_input_is_refused_and_leaves_nothing(stages, tmp_path, message):
    Path("file").write_text("mine")
    with pytest.raises((ValueError, OSError), match=message):
        train(**({"videos": [video(0), video(1)], "folder": "new"} | INVALID[message]))
    assert stages == [] and list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_videos_to_validate_on_are_not_trained_on(stages):
    write_video(Path("videos/a.mp4"))
    write_video(Path("videos/b.mp4"))
    with pytest.raises(UserError, match="val: 1 of its videos are also trained on, such as videos/b.mp4"):
        train("videos", "new", val="videos/b.mp4")


def test_a_folder_in_place_of_the_work_in_progress_is_kept(stages):
    Path("new.partial").mkdir()
    Path("new.partial/kept.txt").write_text("mine")
    with pytest.raises(UserError, match="new.partial: exists and is no training in progress"):
        train([video(0)], "new")
    assert os.listdir("new.partial") == ["kept.txt"]


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        (None, "sqlite:///{here}/mlflow.db"),
        ("sqlite:///runs/a.db", "sqlite:///{here}/runs/a.db"),
        ("sqlite:////data/a.db", "sqlite:////data/a.db"),
        ("http://host:5000", "http://host:5000"),
        ("mlruns", "{here}/mlruns"),
    ],
)
def test_the_store_is_that_of_the_current_folder(tmp_path, monkeypatch, uri, expected):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert module._store(Path("new")) == expected.format(here=tmp_path)


def test_a_folder_created_meanwhile_is_kept(stages):
    plan = plan_training([video(0)], "new", None, None, {}, False)
    Path("new").mkdir()
    with pytest.raises(UserError, match="was created meanwhile"):
        run(plan)
    assert list(Path("new").iterdir()) == [] and Path("new.partial/data/models").is_dir()


def test_a_failed_stage_is_reported_with_how_to_continue(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = plan_training([video(0)], "new", None, None, {}, False)
    plan.partial.mkdir()
    (plan.partial / "broken.py").write_text("import sys; sys.exit('no disk')")
    with (
        (plan.partial / "lock").open("w") as lock,
        pytest.raises(UserError, match="broken: exit code 1.*same command"),
    ):
        module._run(plan, "broken", lock.fileno())
    assert "no disk" in capfd.readouterr().err


def test_an_entry_of_the_request_is_plain_data(stages, kept):
    train([video(0)], "new")
    assert set(json.loads((kept / "request.json").read_text())) == {
        "videos",
        "params",
        "code",
        "initial weights",
    }
