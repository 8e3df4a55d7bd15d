"""The stage evaluate_tasks on small synthetic test sets, with models whose predictions are known."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from stages import evaluate_tasks
from tests.evaluation.recorder import Recorder, results
from vdp.api.model import Sampling
from vdp.api.task_scores import degraded_clips, true_clips
from vdp.config.messages import validate
from vdp.data.params import DegradeParams
from vdp.data.stores.clips import Clip, ClipStore, write_clips
from vdp.evaluation.tasks import blend

pytestmark = pytest.mark.slow

REPO = Path(__file__).parents[2]
FRAMES, KNOWN, HEIGHT, WIDTH = 8, 3, 16, 24
DEGRADE = {"noise": [0.1, 0.3], "low_light": None, "blur": [1.0, 1.0], "compression": None, "dropped": None}
PARAMS = f"""
seed: 3
launcher: python
engine: {{precision: auto, devices: 1, num_nodes: 1, strategy: auto, compile: false, checkpointing: false,
  save_minutes: 5, save_steps: null, batch_clips: 2, max_skipped: 20}}
clip: {{frames: {FRAMES}, known: {KNOWN}, height: {HEIGHT}, width: {WIDTH}}}
degrade: {json.dumps(DEGRADE)}
evaluate_tasks: {{clips: 2, interpolate_frames: [3, 1], samples: 3, object_pixels: 4, sampler: ddim, steps: 2,
  temperature: 0.0, generate_temperature: 1.0, figures: 1}}
predict: {{hops: [{FRAMES}], checkpoint: 7, sampler: ddim, spacing: trailing, eta: 0.0, steps: 1,
  temperature: 0.0, guidance: 1.0, context_noise: 0.0, samples: 1, batch_size: 1, keep: all}}
"""


class Oracle:
    """Returns the truth: finds the true clip by one of its frames."""

    tasks: tuple[str, ...] = ("predict", "interpolate", "generate", "restore")
    offset: int = 1  # between the frames that are predicted
    max_generated: int | None = None
    segments: bool = True

    def __init__(self, clips: list[np.ndarray]) -> None:
        self.clips = clips
        self.samplings: list[Sampling] = []

    def predictable(self, limit):
        return [number for number in range(1, limit + 1) if number % self.offset == 0]

    def predict(self, clip, sampling=None, at=()):
        self.samplings.append(sampling)
        assert len(clip) == KNOWN
        return self.true(clip)[None, [KNOWN - 1 + number for number in at]]

    def interpolate(self, before, after, frames=10, samples=1, latent=False, sampling=None):
        assert len(before) + frames + len(after) == FRAMES
        return self.true(before)[None, len(before) : len(before) + frames]

    def restore(self, clip, sampling=None):
        return min(self.clips, key=lambda true: float(np.square(true.astype(float) - clip).mean()))

    def generate(self, count=1, frames=22, sampling=None):
        self.samplings.append(sampling)
        return np.stack([self.clips[0][:frames]] * count)

    def round_trip(self, clip):
        assert any(np.array_equal(clip, true) for true in self.clips), "the ceiling is of clean clips"
        return clip ^ 1  # an error of 1 everywhere

    def segment(self, clip):
        return (clip[..., 0] > 150).astype(np.uint8)

    def true(self, part: np.ndarray) -> np.ndarray:
        return next(true for true in self.clips if np.array_equal(true[: len(part)], part))


class Baseline(Oracle):
    """Returns the baselines; restores nothing and generates empty frames."""

    def predict(self, clip, sampling=None, at=()):
        return np.stack([clip[-1]] * len(at))[None]

    def interpolate(self, before, after, frames=10, samples=1, latent=False, sampling=None):
        return blend(before[-1], after[0], frames)[None]

    def restore(self, clip, sampling=None):
        return clip

    def generate(self, count=1, frames=22, sampling=None):
        return np.zeros((count, frames, HEIGHT, WIDTH, 3), np.uint8)


def moving_clip(number: int, frames: int = FRAMES, paired: bool = False) -> Clip:
    """A bright square moves two pixels per frame over a random background."""
    background = np.random.default_rng(number).integers(0, 100, (HEIGHT, WIDTH, 3), np.uint8)
    pixels = np.stack([background] * frames)
    for k in range(frames):
        pixels[k, 4:10, 1 + 2 * k : 7 + 2 * k] = 200
    return Clip(f"video_{number:05d}", pixels, None, 255 - pixels if paired else None)


CLIPS = {
    "plain": [moving_clip(n) for n in range(3)],
    "pairs": [moving_clip(n + 3, paired=True) for n in range(2)],
    "hidden": [moving_clip(n + 5, frames=KNOWN) for n in range(2)],
}
TRUTH = [clip.frames for name in ("plain", "pairs") for clip in CLIPS[name]]


@pytest.fixture
def project(tmp_path, monkeypatch) -> Recorder:
    """A test set of three clips, one of pairs and a hidden one."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(PARAMS)
    Path("dvc.yaml").write_text((REPO / "dvc.yaml").read_text())
    for name, clips in CLIPS.items():
        write_clips(Path("data/clips/test") / name, clips, shard_mb=1)
    recorder = Recorder()
    monkeypatch.setattr(evaluate_tasks, "track_stage", recorder.track_stage)
    monkeypatch.setattr(
        evaluate_tasks,
        "log_predictor",
        lambda tracker, models, checkpoint: tracker.artifacts.append(f"predictor {checkpoint}"),
    )
    return recorder


def run(monkeypatch, model) -> dict[str, dict[str, dict]]:
    monkeypatch.setattr(
        evaluate_tasks, "load", lambda folder, checkpoint, device: model if checkpoint == 7 else None
    )
    evaluate_tasks.main()
    return json.loads(Path("results/tasks.json").read_text())


def test_perfect_predictions_are_scored_above_their_baselines(project, monkeypatch):
    model = Oracle(TRUTH)
    scores = run(monkeypatch, model)
    assert sorted(scores) == ["pairs", "plain"], "a hidden set has no truth"
    plain = scores["plain"]
    restored = [plain["restore"][kind] for kind in ("noise", "blur")]
    for score in (plain["predict"], *plain["interpolate"].values(), *restored):
        assert score["psnr"] == 100 and score["ssim"] == pytest.approx(1, abs=1e-6)
        assert score["gain_db"] > 50
    short, long = plain["interpolate"]["1"], plain["interpolate"]["3"]
    assert list(plain["interpolate"]) == ["1", "3"]
    assert short["blend"]["psnr"] > long["blend"]["psnr"] > long["nearest"]["psnr"]
    assert 14 < plain["restore"]["noise"]["degraded"]["psnr"] < 17  # 14 dB, and more where noise is clipped
    assert plain["restore"]["codec"]["psnr"] == pytest.approx(20 * np.log10(255), abs=1e-4)
    assert plain["generate"]["generated"] == plain["generate"]["true"]
    assert plain["generate"]["true"] == {"mean": 1.0, "frames_with_any": 1.0, "fewest": 1.0, "most": 1.0}
    assert {(s.sampler, s.steps, s.seed) for s in model.samplings} == {("ddim", 2, 3)}
    assert [s.temperature for s in model.samplings] == [1.0, 0.0, 0.0, 0.0, 0.0], "only generate is random"


def test_predictions_equal_to_the_baselines_gain_nothing(project, monkeypatch):
    scores = run(monkeypatch, Baseline(TRUTH))
    plain = scores["plain"]
    assert plain["predict"]["gain_db"] == 0
    assert [plain["interpolate"][count]["gain_db"] for count in ("1", "3")] == [0, 0]
    assert [plain["restore"][kind]["gain_db"] for kind in ("noise", "blur")] == [0, 0]
    assert plain["generate"]["generated"] == {"mean": 0, "frames_with_any": 0, "fewest": 0, "most": 0}
    assert "paired" not in plain["restore"]
    paired = scores["pairs"]["restore"]["paired"]
    assert paired["gain_db"] == 0 and paired["degraded"]["psnr"] < 10, "a negative is far from the truth"


def test_a_run_writes_and_reports_scores_sheets_and_gifs(project, monkeypatch, capsys):
    scores = run(monkeypatch, Oracle(TRUTH))
    first = results()
    assert {path.removeprefix("results/") for path in first} == {
        "tasks.json", "tasks/generate.png", "tasks/generate_00.gif",
        *(f"tasks/{s}_{t}.{e}" for s in ("pairs", "plain") for t in ("interpolate", "predict", "restore")
          for e in ("gif", "png")),
    }  # fmt: skip
    assert project.headlines == scores
    assert project.artifacts == ["tasks.json", "tasks", "predictor 7"]
    printed = capsys.readouterr().out
    assert "plain" in printed and "interpolate 3" in printed and "hidden: not measured" in printed
    for gif in ("plain_predict.gif", "generate_00.gif"):
        ok, film = cv2.imreadanimation(str(Path("results/tasks") / gif))
        assert ok and len(film.frames) == FRAMES
        assert film.frames[0].shape[1] > 2 * WIDTH, "clips side by side, enlarged"
    run(monkeypatch, Oracle(TRUTH))
    assert results() == first


def test_tasks_that_were_not_learned_are_left_out(project, monkeypatch):
    model = Oracle(TRUTH)
    model.tasks = ("predict",)
    scores = run(monkeypatch, model)
    assert {name: list(tasks) for name, tasks in scores.items()} == {
        "pairs": ["predict"],
        "plain": ["predict"],
    }


def test_a_model_that_skips_frames_is_scored_on_those_it_predicts(project, monkeypatch):
    model = Oracle(TRUTH)
    model.tasks, model.offset = ("predict",), FRAMES - KNOWN
    scores = run(monkeypatch, model)
    assert scores["plain"]["predict"]["psnr"] == 100
    ok, film = cv2.imreadanimation("results/tasks/plain_predict.gif")
    assert ok and len(film.frames) == KNOWN + 1


def test_a_model_that_does_not_predict_generates_what_it_can_and_is_no_predictor(project, monkeypatch):
    model = Oracle(TRUTH)
    model.tasks, model.max_generated = ("generate", "restore"), 2
    scores = run(monkeypatch, model)
    assert set(scores["plain"]) == {"generate", "restore"}
    ok, film = cv2.imreadanimation("results/tasks/generate_00.gif")
    assert ok and len(film.frames) == 2
    assert project.artifacts == ["tasks.json", "tasks"]


def test_without_a_segmenter_generated_clips_are_drawn_and_not_counted(project, monkeypatch):
    model = Oracle(TRUTH)
    model.segments = False
    monkeypatch.setattr(model, "segment", None)
    scores = run(monkeypatch, model)
    assert set(scores["plain"]) == {"predict", "interpolate", "restore"}
    assert {"generate.png", "generate_00.gif"} <= {path.name for path in Path("results/tasks").iterdir()}


def test_without_truth_there_are_generated_clips_and_no_scores(project, monkeypatch):
    for name in ("plain", "pairs"):
        (Path("data/clips/test") / name / "manifest.json").unlink()
    assert run(monkeypatch, Oracle(TRUTH)) == {}
    assert sorted(path.name for path in Path("results/tasks").iterdir()) == [
        "generate.png",
        "generate_00.gif",
    ]


def test_degradations_are_deterministic_and_at_the_middle_of_their_range(project):
    clips = true_clips(ClipStore(Path("data/clips/test/plain")), FRAMES, count=3)
    params = validate(DegradeParams, DEGRADE, "degrade")
    first, again = ({k: frames for k, _, frames in degraded_clips(clips, params, 3)} for _ in range(2))
    assert list(first) == ["noise", "blur"]
    for kind, frames in first.items():
        assert all(np.array_equal(frames[clip.name], again[kind][clip.name]) for clip in clips)
    errors = [
        (frames - clip.frames.astype(float))[clip.frames // 20 == 4]  # of 80..99, where few are clipped
        for clip, frames in zip(clips, first["noise"].values(), strict=True)
    ]
    assert np.concatenate(errors).std() == pytest.approx(0.2 * 255, rel=0.06)
