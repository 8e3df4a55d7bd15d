"""Recipes of known systems, shrunk as by `bench.recipes`: valid, one training step, one result."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import vdp
from bench import recipes
from bench.recipes import RECIPES, Result, headline, small_params, table, write_pairs
from stages import encode_latents, extract_frames, predict, pretrain_vae, train_denoiser
from tests.evaluation.recorder import Recorder
from tests.training.small import MemoryLogger
from vdp.config import read
from vdp.config.messages import validate
from vdp.config.read import check_data
from vdp.config.recipes import merged
from vdp.config.yaml_file import read_file
from vdp.data.simulator.params import SimulateParams
from vdp.data.sources.pairs import PairSource
from vdp.data.sources.protocols import Pace
from vdp.data.stores.clips import Clip, ClipStore, write_clips

pytestmark = pytest.mark.slow

REPO = Path(__file__).parents[2]
ONE_STEP = {"steps": 1, "batch_size": 1, "warmup_steps": 0, "log_every": 1, "validate_every": 1}
FAST = vdp.Sampling(steps=5)
# over the shrunk recipes
SMALLER = {
    "pretrain_vae": ONE_STEP,
    "train_denoiser": ONE_STEP,
    "predict": {"samples": 1, "batch_size": 1},
    "denoiser": {"dit": {"depth": 1}},
}


class Tracker(Recorder, MemoryLogger):
    """Keeps the points of a training."""

    is_main = True

    def __init__(self) -> None:
        Recorder.__init__(self)
        MemoryLogger.__init__(self)


def clip_of(name: str, data: dict, seed: int) -> Clip:
    """A bright square that moves over noise; its degraded form is half as bright."""
    clip = data["clip"]
    frames = np.random.default_rng(seed).integers(0, 90, (clip["frames"], clip["height"], clip["width"], 3))
    for k, frame in enumerate(frames):
        frame[4:10, (k + seed) % 8 : (k + seed) % 8 + 6] = 220
    paired = data["encode_latents"]["degraded"] > 0
    return Clip(name, frames.astype(np.uint8), None, (frames // 2).astype(np.uint8) if paired else None)


def run_stages(
    folder: Path, data: dict, monkeypatch: pytest.MonkeyPatch, write: Callable[[dict], None]
) -> Tracker:
    """Run the codec, the latents and one training step in a folder; returns the tracker of the training."""
    monkeypatch.chdir(folder)
    Path("params.yaml").write_text(yaml.safe_dump(data))
    monkeypatch.setattr(read, "read_file", lambda: data)  # each section would parse the file again
    Path("dvc.yaml").write_text((REPO / "dvc.yaml").read_text())
    write(data)
    for stage in (pretrain_vae, encode_latents, train_denoiser):
        tracker = Tracker()
        monkeypatch.setattr(stage, "track_stage", tracker.track_stage)
        stage.main()
    losses = tracker.curve("loss")
    assert [step for step, _ in losses] == [1] and np.isfinite(losses[0][1])
    return tracker


def write_store(data: dict) -> None:
    for seed, split in enumerate(("train", "val", "test/videos")):
        write_clips(Path("data/clips") / split, [clip_of("a", data, seed)], shard_mb=1)


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "restore_pairs"])
def test_a_recipe_takes_a_training_step_and_gives_a_result(tmp_path, monkeypatch, name):
    data = merged(small_params(REPO, name), SMALLER)
    check_data(data)
    run_stages(tmp_path, data, monkeypatch, write_store)
    clip, model = data["clip"], vdp.load("data/models")
    shape = clip["frames"], clip["height"], clip["width"], 3
    if name == "generate":
        assert list(model.tasks) == ["generate"]
        (generated,) = model.generate(frames=clip["frames"], sampling=FAST)
        assert generated.shape == shape and generated.std() > 1
        return
    assert list(model.tasks) == ["predict"]
    monkeypatch.setattr(predict, "track_stage", Tracker().track_stage)
    predict.main()
    found = Path("data/predictions/videos")
    hops = [hop if isinstance(hop, list) else [hop] for hop in data["predict"]["hops"]]
    frames = [frame for hop in hops for frame in hop]
    assert json.loads((found / "predictions.json").read_text())["hops"] == frames
    assert np.load(found / "frames.npy").shape == (1, 1, len(frames), *shape[1:])


def test_restore_pairs_learns_from_a_paired_hugging_face_set_and_restores_it(tmp_path, monkeypatch):
    """The pictures of the columns input and target become degraded and clean clips."""
    data = merged(small_params(REPO, "restore_pairs"), SMALLER)
    data["extract_frames"]["test_sets"] = {"pairs": "data/raw/pairs/test"}
    data["extract_frames"]["val"] = "data/raw/pairs/test"  # a share of few videos may be none
    check_data(data)

    def extract(data: dict) -> None:
        for seed, split in enumerate(("train", "test")):
            clip = clip_of("a", data, seed)
            sides = {"input": clip.conditions, "target": clip.frames}
            columns = {
                side: [[cv2.imencode(".png", frame)[1].tobytes() for frame in frames]]
                for side, frames in sides.items()
            }
            folder = Path("data/raw/pairs") / split
            folder.mkdir(parents=True)
            pq.write_table(pa.table(columns), folder / f"{split}.parquet")
        monkeypatch.setattr(extract_frames, "track_stage", Tracker().track_stage)
        extract_frames.main()

    run_stages(tmp_path, data, monkeypatch, extract)
    model, store = vdp.load("data/models"), ClipStore(Path("data/clips/test/pairs"))
    assert list(model.tasks) == ["restore"]
    degraded = store.conditions(0)
    assert store.frames(0).mean() == pytest.approx(2 * degraded.mean(), rel=0.02)
    restored = model.restore(degraded, FAST)
    assert restored.shape == degraded.shape == (16, data["clip"]["height"], data["clip"]["width"], 3)
    assert not np.array_equal(restored, degraded)


@pytest.mark.parametrize("name", RECIPES)
def test_a_shrunk_recipe_keeps_its_structure(name):
    full = merged(read_file(REPO / "params.yaml"), read_file(REPO / "recipes" / f"{name}.yaml"))
    small = small_params(REPO, name)
    check_data(full)
    for section, keys in {
        "clip": ("frames", "known"),
        "train_denoiser": ("tasks", "target_offsets", "targets", "context_frames", "max_hops"),
        "predict": ("hops", "sampler", "spacing"),
        "vae": ("spatial_factor", "temporal_factor", "convolutions", "latent_channels"),
    }.items():
        assert {key: small[section][key] for key in keys} == {key: full[section][key] for key in keys}
    for section in ("codec", "diffusion"):
        assert small[section] == full[section]
    unet, shrunk = full["denoiser"]["unet"], small["denoiser"]["unet"]
    assert len(unet["channel_mults"]) == len(shrunk["channel_mults"])
    assert unet["conditioning"] == shrunk["conditioning"] and unet["temporal"] == shrunk["temporal"]


def test_pairs_are_noisy_and_clean_videos_of_the_same_names(tmp_path, monkeypatch):
    def write_gray(params: SimulateParams, seed: int, frames: int, root: Path) -> None:
        for split in ("train", "val", "test"):
            for number in range(getattr(params, split)):
                folder = root / split / f"video_{number}"
                folder.mkdir(parents=True)
                for k in range(frames):
                    cv2.imwrite(str(folder / f"image_{k}.png"), np.full((16, 24, 3), 100 + k, np.uint8))

    monkeypatch.setattr(recipes, "write_dataset", write_gray)
    params = validate(SimulateParams, read_file(REPO / "params.yaml")["simulate"], "simulate")
    write_pairs(tmp_path, 3, params)
    for split, count in recipes.PAIR_COUNTS.items():
        source = PairSource(tmp_path / split)
        assert len(source.items()) == count
        frames = list(source.frames(source.items()[-1], Pace()))
        assert [int(frame.pixels.mean()) for frame in frames] == [100, 101, 102]
        noise = np.stack([frame.condition.astype(float) - frame.pixels for frame in frames]).std()
        assert 20 < noise < 30  # 0.1 x 255


def test_the_table_has_the_scores_and_the_error_of_a_failure():
    metrics = {"simulated": {"jaccard": 0.25, "psnr": 20.0, "clips": 2}}
    tasks = {"pairs": {"restore": {"given": {"psnr": 21.0, "degraded": {"psnr": 19.5}}}}}
    scores = headline(metrics, tasks)
    assert (
        scores
        == "simulated jaccard 0.25, psnr 20.00; pairs: restore given 21.00, restore given degraded 19.50"
    )
    lines = table([Result("a", "", 12.4, scores), Result("b", "stage x: failed", 1.0, "")]).splitlines()
    assert lines[2] == f"| a | yes | 12 | {scores} |"
    assert lines[3] == "| b | NO: stage x: failed | 1 |  |"
