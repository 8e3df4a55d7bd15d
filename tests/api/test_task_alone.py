"""Models of one task alone, and models that skip frames: what they have not learnt is left out or refused."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

import vdp
from stages import encode_latents, predict, predict_motion, score, segment, track_objects, train_motion
from tests.evaluation.recorder import Recorder
from tests.small_models import HEIGHT, WIDTH, save_small_models
from vdp.api.loading import LatentDiffusion, load_latent_diffusion
from vdp.api.model import Model
from vdp.api.task_report import task_sections
from vdp.config.yaml_file import read_file
from vdp.core.empty import NO_TARGETS, empty_reason
from vdp.core.errors import UserError
from vdp.data.stores.clips import Clip, write_clips
from vdp.data.stores.latents import LatentClips
from vdp.tracking.figures import encode_png

REPO = Path(__file__).parents[2]
FRAMES = 4
FAST = vdp.Sampling(steps=1)
RESTORED = {"noise": {"psnr": 30.0, "ssim": 0.9, "gain_db": 2.0, "degraded": {"psnr": 28.0, "ssim": 0.8}}}
OBJECTS = {
    kind: {"mean": mean, "frames_with_any": 1.0, "fewest": 1.0, "most": 3.0}
    for kind, mean in (("generated", 1.5), ("true", 2.0))
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The params of a restoration of whole clips, in the current folder."""
    data = read_file(REPO / "params.yaml")
    data["clip"] = {"frames": FRAMES, "known": FRAMES, "height": HEIGHT, "width": WIDTH}
    data["train_denoiser"]["tasks"] = {"predict": 0.0, "interpolate": 0.0, "generate": 0.0, "restore": 1.0}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(data))
    (tmp_path / "dvc.yaml").write_text((REPO / "dvc.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    for stage in (encode_latents, predict, predict_motion, score, segment, track_objects, train_motion):
        monkeypatch.setattr(stage, "track_stage", Recorder().track_stage)
    return tmp_path


def test_stages_of_motion_and_prediction_have_nothing_to_do_and_give_the_reason(project, monkeypatch, capsys):
    monkeypatch.setattr(Recorder, "is_main", True, raising=False)
    restores = SimpleNamespace(config=SimpleNamespace(tasks={"restore": 1.0}))
    monkeypatch.setattr(predict, "load_latent_diffusion", lambda *_: restores)
    for stage in (track_objects, train_motion, predict_motion, predict, segment):
        stage.main()
    folders = ["data/tracks", "data/models/motion", "data/motion", "data/predictions", "data/masks"]
    assert {name: empty_reason(Path(name)) for name in folders} == dict.fromkeys(folders, NO_TARGETS)
    assert capsys.readouterr().out.splitlines() == [f"{name}: left empty: {NO_TARGETS}" for name in folders]

    Path("results/tasks").mkdir(parents=True)
    Path("results/tasks.json").write_text(json.dumps({"mine": {"restore": RESTORED}}))
    Path("results/tasks/mine_restore.png").write_bytes(encode_png(np.full((8, 8, 3), 90, np.uint8)))
    score.main()
    report = Path("results/report.html").read_text()
    assert json.loads(Path("results/metrics.json").read_text()) == {}
    assert NO_TARGETS[1:] in report and "restore: mine" in report and "noise +2.00 dB" in report
    assert report.count("data:image/webp") == 1 and NO_TARGETS in capsys.readouterr().out


@pytest.mark.slow
def test_nothing_is_composed_of_clips_that_are_known_whole(project, capsys):
    save_small_models(Path("data/models"), segmenter=False)
    shape = (2, FRAMES, HEIGHT, WIDTH, 3)
    drawn = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    clips = [Clip(name, frames, None) for name, frames in zip("ab", drawn, strict=True)]
    for split in ("train", "val"):
        write_clips(Path("data/clips") / split, clips, 1)
    encode_latents.main()
    latents = LatentClips(Path("data/latents"), ["train"])
    assert (latents.num_frames, latents.composed_from) == (FRAMES, None)


def test_sections_compare_each_task_with_its_baselines(tmp_path):
    under = {"blur": RESTORED["noise"] | {"gain_db": -0.5}}
    scores = {"a": {"predict": RESTORED["noise"], "restore": RESTORED | under}, "b": {"generate": OBJECTS}}
    restored, generated = task_sections(scores, tmp_path)
    assert restored.failed and "UNDER the baseline in blur" in restored.verdict
    assert restored.tables[0].rows[0] == ("noise", "30.00", "0.9000", "degraded 28.00")
    assert not generated.failed and generated.verdict.startswith(
        "generated: 1.50 objects a frame, true: 2.00"
    )
    assert generated.tables[0].rows[1] == ("true", "2.00", "1.00", "1.00", "3.00")


# --- The API ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[LatentDiffusion, Path]:
    folder = save_small_models(tmp_path_factory.mktemp("models"), segmenter=False)
    return load_latent_diffusion(folder, vdp.api.model.pick_device()), folder


def without_predict(small: tuple[LatentDiffusion, Path], **changes: object) -> Model:
    model, folder = small
    tasks = {"generate": 0.5, "restore": 0.5}
    config = model.config.model_copy(update={"tasks": tasks, **changes})
    objectives = {task: model.objectives[task] for task in ("generate", "restore")}
    return Model(replace(model, config=config, objectives=objectives), folder)


@pytest.mark.slow
def test_frames_that_need_predict_are_refused_and_those_at_once_are_generated(small):
    model = without_predict(small)
    assert model.max_generated == 1
    assert model.generate(2, sampling=FAST).shape == (2, 1, HEIGHT, WIDTH, 3)
    with pytest.raises(
        UserError, match="frames=2: expected at most 1, as the model was not trained to predict"
    ):
        model.generate(1, frames=2, sampling=FAST)
    clip = np.zeros((3, HEIGHT, WIDTH, 3), np.uint8)
    assert model.restore(clip, FAST).shape == clip.shape
    with pytest.raises(UserError, match="was trained for generate, restore, not predict; train with"):
        model.predict(clip, frames=1, sampling=FAST)


def direct(small: tuple[LatentDiffusion, Path], offsets: list[int], **changes: object) -> Model:
    model, folder = small
    config = model.config.model_copy(update={"target_offsets": offsets, **changes})
    return Model(replace(model, config=config), folder)


@pytest.mark.slow
def test_a_direct_model_predicts_the_frames_at_its_offsets_and_refuses_others(small):
    """Frame 4 is one hop; every other model of the same weights reaches it by more."""
    model, clip = direct(small, [4]), np.random.default_rng(0).integers(0, 256, (5, 20, 30, 3), np.uint8)
    assert (model.every_frame, model.predictable(9)) == (False, [4, 8])
    assert model.frame_numbers() == [4] and direct(small, [1, 2]).frame_numbers(3) == [1, 2, 3]
    alone = model.predict(clip, samples=2, sampling=FAST)
    assert alone.shape == (2, 1, 20, 30, 3)
    both = model.predict(clip, None, 2, FAST, at=[4, 8])
    assert both.shape == (2, 2, 20, 30, 3)
    for arguments in ({"frames": 4}, {"at": [3]}, {"at": [4, 6]}):
        with pytest.raises(
            UserError, match=r"lead to frame \d after the clip; expected frames such as 4, 8, 12, 16,"
        ):
            model.predict(clip, sampling=FAST, **arguments)
    for arguments in ({"at": [8, 4]}, {"at": []}, {"at": [4, 4]}, {"at": [0]}, {"at": [4], "frames": 1}):
        with pytest.raises(UserError, match=r"^(at|frames)="):
            model.predict(clip, sampling=FAST, **arguments)


@pytest.mark.slow
def test_frames_by_number_are_those_of_the_whole_future_where_the_hops_are_the_same(small):
    model, clip = (
        direct(small, [1]),
        np.random.default_rng(1).integers(0, 256, (5, HEIGHT, WIDTH, 3), np.uint8),
    )
    whole = model.predict(clip, 4, sampling=FAST)
    assert np.array_equal(model.predict(clip, sampling=FAST, at=[2, 4]), whole[:, [1, 3]])
