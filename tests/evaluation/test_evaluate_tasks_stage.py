"""The stage evaluate_tasks on small made-up test sets, with models whose answers are known."""

import json
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest

from stages import evaluate_tasks
from vdp.api.model import Sampling
from vdp.config.messages import validate
from vdp.data.params import DegradeParams
from vdp.data.stores.clips import Clip, write_clips
from vdp.evaluation.tasks import blend

FRAMES, KNOWN, HEIGHT, WIDTH = 8, 3, 16, 24
DEGRADE = {"noise": [0.1, 0.3], "low_light": None, "blur": [1.0, 1.0], "compression": None, "dropped": None}
PARAMS = f"""
seed: 3
launcher: python
clip: {{frames: {FRAMES}, known: {KNOWN}, height: {HEIGHT}, width: {WIDTH}}}
degrade: {json.dumps(DEGRADE)}
evaluate_tasks: {{clips: 2, between: [3, 1], samples: 3, object_pixels: 4, sampler: ddim, steps: 2,
  temperature: 0.0, generate_temperature: 1.0, shown: 1}}
"""


class TruthTeller:
    """Knows the true clips, and finds the one that it is asked about by one of its frames."""

    tasks: tuple[str, ...] = ("predict", "interpolate", "generate", "restore")
    every_frame: bool = True

    def __init__(self, clips: list[np.ndarray]) -> None:
        self.clips = clips
        self.asked: list[Sampling] = []

    def predict(self, clip, frames=11, samples=1, sampling=None):
        self.asked.append(sampling)
        assert len(clip) == KNOWN
        return self.true(clip)[None, KNOWN : KNOWN + frames]

    def interpolate(self, before, after, frames=10, samples=1, latent=False, sampling=None):
        assert len(before) + frames + len(after) == FRAMES
        return self.true(before)[None, len(before) : len(before) + frames]

    def restore(self, clip, sampling=None):
        return min(self.clips, key=lambda true: float(np.square(true.astype(float) - clip).mean()))

    def generate(self, count=1, frames=22, sampling=None):
        self.asked.append(sampling)
        return np.stack([self.clips[0][:frames]] * count)

    def round_trip(self, clip):
        assert any(np.array_equal(clip, true) for true in self.clips), "the ceiling is of clean clips"
        return clip ^ 1  # an error of 1 everywhere

    def segment(self, clip):
        return (clip[..., 0] > 150).astype(np.uint8)

    def true(self, part: np.ndarray) -> np.ndarray:
        return next(true for true in self.clips if np.array_equal(true[: len(part)], part))


class Copier(TruthTeller):
    """Answers as the simple answers do; it restores nothing, and what it generates shows nothing."""

    def predict(self, clip, frames=11, samples=1, sampling=None):
        return np.stack([clip[-1]] * frames)[None]

    def interpolate(self, before, after, frames=10, samples=1, latent=False, sampling=None):
        return blend(before[-1], after[0], frames)[None]

    def restore(self, clip, sampling=None):
        return clip

    def generate(self, count=1, frames=22, sampling=None):
        return np.zeros((count, frames, HEIGHT, WIDTH, 3), np.uint8)


class Recorder:
    """Stands for the tracker."""

    def __init__(self) -> None:
        self.headlines: dict[str, object] = {}
        self.artifacts: list[str] = []

    def headline(self, values) -> None:
        self.headlines.update(values)

    def artifact(self, path: Path, folder: str | None = None) -> None:
        assert path.exists()
        self.artifacts.append(path.name)


def moving_clip(number: int, frames: int = FRAMES, paired: bool = False) -> Clip:
    """A bright square that moves two pixels a frame over a ground of its own."""
    ground = np.random.default_rng(number).integers(0, 100, (HEIGHT, WIDTH, 3), np.uint8)
    pixels = np.stack([ground] * frames)
    for k in range(frames):
        pixels[k, 4:10, 1 + 2 * k : 7 + 2 * k] = 200
    return Clip(f"video_{number:05d}", pixels, None, 255 - pixels if paired else None)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A test set of three clips, one of pairs and a hidden one."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(PARAMS)
    clips = {
        "plain": [moving_clip(n) for n in range(3)],
        "pairs": [moving_clip(n + 3, paired=True) for n in range(2)],
        "hidden": [moving_clip(n + 5, frames=KNOWN) for n in range(2)],
    }
    for name, some in clips.items():
        write_clips(Path("data/clips/test") / name, some, shard_mb=1)
    recorder = Recorder()

    @contextmanager
    def track_stage(name: str):
        assert name == "evaluate_tasks"
        yield recorder

    logged: list[Path] = []
    monkeypatch.setattr(evaluate_tasks, "track_stage", track_stage)
    monkeypatch.setattr(evaluate_tasks, "log_predictor", lambda tracker, models: logged.append(models))
    recorder.logged = logged
    recorder.truth = [clip.frames for name in ("plain", "pairs") for clip in clips[name]]
    return recorder


def run(monkeypatch, model) -> dict[str, dict[str, dict]]:
    monkeypatch.setattr(evaluate_tasks, "load", lambda folder: model)
    evaluate_tasks.main()
    return json.loads(Path("results/tasks.json").read_text())


def test_a_model_that_tells_the_truth_is_perfect_and_its_baselines_are_not(project, monkeypatch):
    scores = run(monkeypatch, TruthTeller(project.truth))
    assert sorted(scores) == ["pairs", "plain"], "a hidden set has no truth to measure by"
    plain = scores["plain"]
    answers = [
        plain["predict"],
        *plain["interpolate"].values(),
        *(plain["restore"][k] for k in ("noise", "blur")),
    ]
    for answer in answers:
        assert answer["psnr"] == 100 and answer["ssim"] == pytest.approx(1, abs=1e-6)
        assert answer["gain_db"] > 50
    assert list(plain["interpolate"]) == ["1", "3"]
    assert plain["interpolate"]["1"]["blend"]["psnr"] > plain["interpolate"]["3"]["blend"]["psnr"]
    assert plain["interpolate"]["3"]["blend"]["psnr"] > plain["interpolate"]["3"]["nearest"]["psnr"]
    # noise of a standard deviation of 0.2: 14 dB, and a little more where it is clipped
    assert 14 < plain["restore"]["noise"]["degraded"]["psnr"] < 17
    assert plain["restore"]["codec"]["psnr"] == pytest.approx(20 * np.log10(255), abs=1e-4)
    assert plain["generate"]["generated"] == plain["generate"]["true"]
    assert plain["generate"]["true"] == {"mean": 1.0, "frames_with_any": 1.0, "fewest": 1.0, "most": 1.0}


def test_where_there_is_a_truth_the_likeliest_answer_is_taken_and_clips_are_generated_at_random(
    project, monkeypatch
):
    model = TruthTeller(project.truth)
    run(monkeypatch, model)
    assert {(s.sampler, s.steps, s.seed) for s in model.asked} == {("ddim", 2, 3)}
    assert [s.temperature for s in model.asked] == [1.0, 0.0, 0.0, 0.0, 0.0]


def test_a_model_that_answers_as_the_baselines_do_gains_nothing(project, monkeypatch):
    scores = run(monkeypatch, Copier(project.truth))["plain"]
    assert scores["predict"]["gain_db"] == 0
    assert [scores["interpolate"][count]["gain_db"] for count in ("1", "3")] == [0, 0]
    assert [scores["restore"][kind]["gain_db"] for kind in ("noise", "blur")] == [0, 0]
    assert scores["generate"]["generated"] == {"mean": 0, "frames_with_any": 0, "fewest": 0, "most": 0}


def test_clips_that_come_in_pairs_are_restored_from_what_they_came_with(project, monkeypatch):
    scores = run(monkeypatch, Copier(project.truth))
    assert "paired" not in scores["plain"]["restore"]
    paired = scores["pairs"]["restore"]["paired"]
    assert paired["gain_db"] == 0 and paired["degraded"]["psnr"] < 10, "a negative is far from the truth"


def test_a_run_leaves_its_numbers_sheets_and_gifs_and_reports_them(project, monkeypatch, capsys):
    scores = run(monkeypatch, TruthTeller(project.truth))
    names = sorted(path.name for path in Path("results/tasks").iterdir())
    tasks = [
        f"{s}_{t}.{e}"
        for s in ("pairs", "plain")
        for t in ("interpolate", "predict", "restore")
        for e in ("gif", "png")
    ]
    assert names == sorted(["generate.png", "generate_00.gif", *tasks])
    assert project.headlines == scores
    assert project.artifacts == ["tasks.json", "tasks"]
    assert project.logged == [Path("data/models")]
    printed = capsys.readouterr().out
    assert "plain" in printed and "interpolate 3" in printed and "hidden: not measured" in printed
    for gif in ("plain_predict.gif", "generate_00.gif"):
        ok, film = cv2.imreadanimation(str(Path("results/tasks") / gif))
        assert ok and len(film.frames) == FRAMES
        assert film.frames[0].shape[1] > 2 * WIDTH, "clips beside each other, enlarged"


def test_a_second_run_gives_the_same_bytes(project, monkeypatch):
    files = []
    for _ in range(2):
        run(monkeypatch, TruthTeller(project.truth))
        files.append({str(p): p.read_bytes() for p in sorted(Path("results").rglob("*")) if p.is_file()})
    assert files[0] == files[1]


def test_what_the_network_has_not_learnt_is_left_out(project, monkeypatch):
    model = TruthTeller(project.truth)
    model.tasks = ("predict",)
    scores = run(monkeypatch, model)
    assert {name: list(tasks) for name, tasks in scores.items()} == {
        "pairs": ["predict"],
        "plain": ["predict"],
    }


def test_sets_without_truth_leave_no_numbers_and_generated_clips_are_shown_all_the_same(project, monkeypatch):
    for name in ("plain", "pairs"):
        (Path("data/clips/test") / name / "manifest.json").unlink()
    assert run(monkeypatch, TruthTeller(project.truth)) == {}
    assert sorted(path.name for path in Path("results/tasks").iterdir()) == [
        "generate.png",
        "generate_00.gif",
    ]


def test_degradations_are_at_the_middle_of_their_range_and_the_same_each_time(project):
    clips = evaluate_tasks.true_clips(
        evaluate_tasks.ClipStore(Path("data/clips/test/plain")), FRAMES, count=3
    )
    params = validate(DegradeParams, DEGRADE, "degrade")
    (first, again) = (
        {k: made for k, _, made in evaluate_tasks.degraded_clips(clips, params, 3)} for _ in range(2)
    )
    assert list(first) == ["noise", "blur"]
    for kind, made in first.items():
        assert all(np.array_equal(made[clip.name], again[kind][clip.name]) for clip in clips)
    errors = [
        (made - clip.frames.astype(float))[clip.frames // 20 == 4]  # of 80..99, where few are clipped
        for clip, made in zip(clips, first["noise"].values(), strict=True)
    ]
    assert np.concatenate(errors).std() == pytest.approx(0.2 * 255, rel=0.06)
