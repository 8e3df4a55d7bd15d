"""`vdp train` on drawn videos in a few steps: its plan, a kill, the model folder, a prediction with it."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from pydantic import JsonValue

import vdp
from tests.cli.test_app import REPO, run
from vdp.cli.train import parse_changes
from vdp.core.errors import UserError
from vdp.data.sources.input_clips import find_clip
from vdp.data.video.write import write_frames

pytestmark = pytest.mark.slow

CHANGES: dict[str, JsonValue] = {
    "clip.height": 32, "clip.width": 48, "clip.frames": 8, "clip.known": 5, "predict.hops": [6, 8],
    "extract_frames.stride": 4, "augment.denoiser.train.random_views": 1,
    "pretrain_vae.steps": 3, "train_denoiser.steps": 3, "train_denoiser.context_frames": 3,
    "evaluate_tasks.interpolate_frames": [1], "train_denoiser.max_span": 4,
}  # fmt: skip
TIMEOUT = 1500.0  # seconds


def draw_videos(folder: Path) -> None:
    """Videos of 20 frames per second of a square that moves right."""
    for number in range(2):
        frames = np.full((16, 32, 48, 3), 90, np.uint8)
        for n, frame in enumerate(frames):
            frame[8 + 4 * number : 20 + 4 * number, 2 * n : 2 * n + 12] = (200, 40, 40)
        write_frames(folder / f"{number}.mp4", iter(frames), 20)


def words(out: str) -> list[str]:
    """The command, on 10 frames per second, in a few steps."""
    settings = [word for name, value in CHANGES.items() for word in ("--set", f"{name}={json.dumps(value)}")]
    return ["train", "videos", "-o", out, "--recipe", "smoke", "--fps", "10", *settings]


@dataclass(frozen=True)
class Trained:
    """A folder with the models of a killed and continued command, and those of Python."""

    folder: Path
    codec_written: int  # ns: before the command was continued
    output: str


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("train")
    (folder / "videos").mkdir()
    draw_videos(folder / "videos")
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    environment |= {"PYTHONPATH": str(REPO), "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [sys.executable, "-m", "vdp", *words("killed")]
    weights = folder / "killed.partial/data/models/codec/model.safetensors"
    with subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True) as process:
        ends = time.monotonic() + TIMEOUT
        while not weights.is_file() and process.poll() is None and time.monotonic() < ends:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
    assert not (folder / "killed").exists()
    written = weights.stat().st_mtime_ns
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    program = (
        "import json, sys, vdp\n"
        "changes = json.loads(sys.argv[1])\n"
        "if __name__ == '__main__':\n"
        "    vdp.train(['videos'], 'python', recipe='smoke', changes=changes)\n"
    )
    changes = json.dumps({**CHANGES, "extract_frames.fps": 10.0})
    subprocess.run([sys.executable, "-c", program, changes], cwd=folder, env=environment, check=True)
    return Trained(folder, written, done.stdout)


def test_a_killed_command_ends_with_the_bytes_of_python_never_killed(trained):
    found = {
        name: {
            str(path.relative_to(trained.folder / name)): path.read_bytes()
            for path in sorted((trained.folder / name).rglob("*"))
            if path.is_file()
        }
        for name in ("killed", "python")
    }
    assert found["killed"].keys() == found["python"].keys()
    assert [name for name, content in found["killed"].items() if content != found["python"][name]] == []
    assert {"codec/model.safetensors", "denoiser/config.json", "report.html", "training.json"} <= found[
        "python"
    ].keys()
    weights = trained.folder / "killed/codec/model.safetensors"
    assert weights.stat().st_mtime_ns == trained.codec_written  # a finished part is not redone


def test_the_cost_comes_first_and_a_table_beside_the_baselines_at_the_end(trained):
    before, _, after = trained.output.partition("held-out clips")
    assert "TFLOP" in before and "minutes" in before and "48x32, 10 frames per second" in before
    rows = [line.split() for line in after.splitlines()]
    assert ["frame", "predicted", "copy", "flow", "predicted", "copy", "flow"] in rows
    assert [row[0] for row in rows if len(row) == 7][1:] == ["6", "7", "8", "mean"]
    metrics = json.loads((trained.folder / "killed/metrics.json").read_text())
    assert metrics["hops"].keys() == {"6", "7", "8"} and {"psnr", "copy_psnr", "flow_ssim"} <= metrics.keys()


def test_no_work_in_progress_is_left_and_the_runs_are_in_one_store(trained):
    assert sorted(path.name for path in trained.folder.iterdir() if path.suffix != ".lock") == [
        "killed", "mlartifacts", "mlflow.db", "python", "videos",
    ]  # fmt: skip
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{trained.folder / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("vdp").experiment_id])
    parents = {run.info.run_name.partition("-")[0]: run for run in runs if "vdp.key" in run.data.tags}
    assert parents.keys() == {"killed", "python"}
    assert parents["killed"].data.metrics["psnr"] == pytest.approx(parents["python"].data.metrics["psnr"])
    assert {"train_report", "pretrain_vae"} <= {run.info.run_name for run in runs}


def test_predict_selects_the_frames_as_in_training(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained.folder)
    Path("videos/new.mp4").unlink(missing_ok=True)
    assert run(monkeypatch, "predict", "videos/0.mp4", "-o", "a.mp4", "--frames", "3", "--models", "killed",
               "--steps", "1") == 0  # fmt: skip
    found = find_clip("a.mp4")
    assert (sum(1 for _ in found.frames()), found.rate(), found.size()) == (3, 10, (32, 48))
    for name in ("a.mp4", "a_strip.png"):
        Path(name).unlink()
    assert vdp.load("killed").info()["selected_frames"] == "10 per second"
    for command in (["restore", "videos/0.mp4"], ["interpolate", "videos/0.mp4", "videos/1.mp4"]):
        assert run(monkeypatch, *command, "--models", "killed") == 1
        assert "was trained for predict" in capsys.readouterr().err


def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("videos").mkdir()
    draw_videos(Path("videos"))
    before = sorted(tmp_path.rglob("*"))
    assert run(monkeypatch, *words("new"), "--dry-run") == 0
    shown = capsys.readouterr().out
    assert "train on      1 video: videos/" in shown and "TFLOP" in shown
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("word", ["seed", "=3", "seed=[1"])
def test_a_malformed_change_is_refused(word):
    with pytest.raises(UserError, match="--set="):
        parse_changes([word])


def test_changes_are_yaml_values_by_name():
    words = ["seed=3", "clip.height=64", "predict.hops=[13, 22]", "codec.name=vae", "seed=4"]
    assert parse_changes(words) == {
        "seed": 4, "clip.height": 64, "predict.hops": [13, 22], "codec.name": "vae"
    }  # fmt: skip
