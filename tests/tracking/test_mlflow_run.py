"""Tracking: what lands in the MLflow store and in .stats/stages.json."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from vdp.core.errors import UserError
from vdp.tracking import mlflow_run
from vdp.tracking.mlflow_run import Tracker, experiment_key, flatten, read_stats, save_stats, track_stage

REPO = Path(__file__).parents[2]
RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
PARAMS = "seed: 3\nclip:\n  frames: 22\n  known: 11\npredict:\n  hops: [13, 22]\n"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project folder without git: the current folder, and DVC's root."""
    (tmp_path / "params.yaml").write_text(PARAMS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    for name in ("MLFLOW_TRACKING_URI", "DVC_EXP_NAME", *RANKS):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def store(project: Path, empty_store: bytes) -> MlflowClient:
    (project / "mlflow.db").write_bytes(empty_store)
    return MlflowClient(f"sqlite:///{project / 'mlflow.db'}")


def runs(client: MlflowClient) -> dict[str, Run]:
    experiment = client.get_experiment_by_name("vdp")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    return {run.info.run_name: run for run in found}


def test_two_stages_share_the_run_of_their_experiment(store):
    with track_stage("simulate"):
        pass
    with track_stage("score") as tracker:
        tracker.headline({"simulated": {"jaccard": 0.5}})
    found = runs(store)
    parent = found.pop(experiment_key())
    assert set(found) == {"simulate", "score"}
    assert {run.data.tags["mlflow.parentRunId"] for run in found.values()} == {parent.info.run_id}
    assert {run.info.status for run in (parent, *found.values())} == {"FINISHED"}
    assert parent.data.params == {
        "seed": "3",
        "clip.frames": "22",
        "clip.known": "11",
        "predict.hops": "[13, 22]",
    }
    assert parent.data.metrics["simulated.jaccard"] == 0.5
    assert "seconds.simulate" in parent.data.metrics


def test_changed_params_are_another_experiment(project, monkeypatch):
    before = experiment_key()
    (project / "params.yaml").write_text(PARAMS.replace("seed: 3", "seed: 4"))
    assert experiment_key() != before
    monkeypatch.setenv("DVC_EXP_NAME", "brave-newt")
    assert experiment_key().startswith("brave-newt-")


def test_without_a_commit_or_without_git_the_key_says_so(monkeypatch):
    assert experiment_key().startswith("no-commit-")
    monkeypatch.setenv("PATH", "")
    assert experiment_key().startswith("no-commit-")


def test_every_point_of_a_curve_arrives_once(store):
    with track_stage("train_denoiser") as tracker:
        for step in range(1200):  # more than one flush and more than one batch
            tracker.log({"loss": step / 2}, step=step)
    run = runs(store)["train_denoiser"]
    history = store.get_metric_history(run.info.run_id, "loss")
    assert sorted((point.step, point.value) for point in history) == [(i, i / 2) for i in range(1200)]


def test_points_of_old_steps_that_are_logged_again_are_sent_together(store, monkeypatch):
    sent: list[int] = []
    log_batch = MlflowClient.log_batch

    def counted(self: MlflowClient, run: str, **given: list[object]) -> None:
        sent.extend([len(given["metrics"])] if "metrics" in given else [])
        log_batch(self, run, **given)

    with track_stage("train_denoiser") as tracker:
        monkeypatch.setattr(MlflowClient, "log_batch", counted)
        for step in range(400):
            tracker.log({"loss": 1.0}, step=step)
        assert sent == []
        tracker.flush()
        assert sent == [400]


def test_mlflow_is_not_loaded_before_there_is_something_to_send(project):
    code = (
        "import sys\nfrom vdp.tracking.mlflow_run import Tracker\n"
        "Tracker('x').log({'a': 1.0}, step=0)\nassert 'mlflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(REPO)})


def test_files_and_texts_are_kept_with_the_stage(store, project):
    (project / "strip.png").write_bytes(b"picture")
    with track_stage("score") as tracker:
        tracker.artifact(project / "strip.png", folder="strips")
        tracker.text("note.txt", "hello")
    run = runs(store)["score"]
    folder = project / "mlartifacts" / run.info.run_id / "artifacts"
    assert (folder / "strips" / "strip.png").read_bytes() == b"picture"
    assert (folder / "note.txt").read_text() == "hello"


def picture(level: int) -> np.ndarray:
    return np.full((120, 300, 3), level, np.uint8)


def test_pictures_of_one_name_are_kept_by_step_as_they_are(store, project):
    with track_stage("train_denoiser") as tracker:
        for step in (400, 800):
            tracker.picture("validation/samples", picture(step // 8), step)
    run = runs(store)["train_denoiser"]
    folder = project / "mlartifacts" / run.info.run_id / "artifacts" / "images"
    assert run.data.tags["mlflow.loggedImages"] == "True"  # by which the page of the run shows its slider
    for step in (400, 800):
        (file,) = folder.glob(f"validation~samples+step+{step}+*.png")
        assert np.array_equal(cv2.imread(str(file)), picture(step // 8))
        assert len(list(folder.glob(f"validation~samples+step+{step}+*.webp"))) == 1  # what the page shows


def test_a_name_that_mlflow_does_not_take_is_refused():
    with pytest.raises(ValueError, match="samples:1.*rename"):
        Tracker("score").picture("samples:1", picture(0), step=1)


def test_a_picture_that_cannot_be_written_costs_a_warning_not_the_stage(store, project, capsys):
    (project / "mlartifacts").write_text("a file in the way")
    with track_stage("train_denoiser") as tracker:
        for step in (1, 2):
            tracker.picture("samples", picture(0), step)
        tracker.log({"loss": 1.0}, step=2)
    said = capsys.readouterr()
    assert said.err.count("train_denoiser goes on without MLflow") == 1
    assert said.out == ""


def test_a_missing_file_is_refused_by_name():
    with pytest.raises(FileNotFoundError, match="gone.png"):
        Tracker("score").artifact(Path("gone.png"))


class Stopped(KeyboardInterrupt):
    """As a training raises that was asked to stop."""


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (Stopped, "KILLED")]
)
def test_a_failing_stage_marks_its_run_and_its_error_rises(store, error, status):
    with pytest.raises(error), track_stage("predict") as tracker:
        tracker.log({"loss": 1.0}, step=1)
        raise error("no")
    found = runs(store)
    assert {run.info.status for run in found.values()} == {status}
    assert found["predict"].data.metrics["loss"] == 1.0
    assert read_stats() == {}


def test_a_run_left_behind_by_a_killed_process_is_ended_by_the_next(store):
    tracker = Tracker("train_denoiser")
    tracker.log({"loss": 1.0}, step=1)
    tracker.flush()
    left = runs(store)["train_denoiser"].info.run_id
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    host = mlflow_run._process_name().partition(":")[0]
    store.set_tag(left, mlflow_run.PROCESS_TAG, f"{host}:{gone.pid}")
    with track_stage("train_denoiser"):
        assert store.get_run(left).info.status == "RUNNING"
    assert store.get_run(left).info.status == "KILLED"


@pytest.mark.parametrize(
    ("ranks", "main"),
    [
        ({}, True),
        ({"RANK": "0", "LOCAL_RANK": "0", "SLURM_PROCID": "3"}, True),  # torchrun's own count comes first
        ({"RANK": "4", "LOCAL_RANK": "0"}, False),  # torchrun, the first process of a second machine
        ({"LOCAL_RANK": "0"}, True),
        ({"LOCAL_RANK": "1"}, False),
        ({"LOCAL_RANK": "0", "NODE_RANK": "0"}, True),
        ({"LOCAL_RANK": "0", "NODE_RANK": "1"}, False),
        ({"LOCAL_RANK": "1", "NODE_RANK": "0"}, False),
        ({"LOCAL_RANK": "1", "SLURM_PROCID": "0"}, False),  # one task of SLURM that starts processes itself
        ({"SLURM_PROCID": "0"}, True),
        ({"SLURM_PROCID": "1"}, False),
    ],
)
def test_whoever_starts_the_processes_one_of_them_is_the_main_one(monkeypatch, ranks, main):
    for name, rank in ranks.items():
        monkeypatch.setenv(name, rank)
    assert mlflow_run.is_main_process() == main


def test_only_one_process_of_a_distributed_run_reports(project, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    (project / "note.txt").write_text("hello")
    with track_stage("train_denoiser") as tracker:
        tracker.log({"loss": 1.0}, step=1)
        tracker.summary({"best": 1.0})
        tracker.headline({"jaccard": 1.0})
        tracker.text("note.txt", "hello")
        tracker.artifact(project / "note.txt")
        tracker.picture("samples", picture(0), step=1)
        tracker.flush()
    with pytest.raises(ValueError), track_stage("train_denoiser"):
        raise ValueError
    assert {path.name for path in project.iterdir()} == {"params.yaml", "note.txt"}


def test_time_and_memory_are_kept_per_stage(store, project):
    save_stats("simulate", {"seconds": 1.0})
    with track_stage("score"):
        pass
    stats = json.loads((project / ".stats" / "stages.json").read_text())
    assert stats["simulate"] == {"seconds": 1.0}
    assert stats["score"]["seconds"] >= 0
    assert stats["score"]["peak_memory_mb"] > 10


def test_a_broken_store_costs_a_warning_not_the_stage(project, capsys):
    (project / "mlflow.db").write_bytes(b"this is not a database" * 100)
    with track_stage("score"):
        pass
    assert "score goes on without MLflow" in capsys.readouterr().err
    assert "score" in read_stats()


def test_a_server_that_does_not_answer_is_told_at_the_start(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match="does not answer"), track_stage("score"):
        pytest.fail("the stage has started")


def test_nested_numbers_flatten_to_dotted_names():
    assert flatten({"a": {"b": 1, "c": {"d": 2.5}}, "e": 3}) == {"a.b": 1.0, "a.c.d": 2.5, "e": 3.0}


def test_two_cold_starts_at_once_leave_one_sound_store(project):
    """Without the lock both processes create the tables, and one of them dies."""
    code = (
        "from vdp.tracking.mlflow_run import track_stage\n"
        "with track_stage('{}') as tracker: tracker.log({{'x': 1.0}}, step=0)"
    )
    env = {**os.environ, "PYTHONPATH": str(REPO)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code.format(name)], env=env, stderr=subprocess.PIPE, text=True
        )
        for name in ("left", "right")
    ]
    said = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert said == ["", ""]  # not a word of set-up chatter either
    found = runs(MlflowClient(f"sqlite:///{project / 'mlflow.db'}"))
    assert set(found) == {experiment_key(), "left", "right"}
    assert set(read_stats()) == {"left", "right"}


def said_by(project: Path, code: str) -> str:
    """What a fresh process prints: time and memory of this one are those of all tests before."""
    env = {**os.environ, "PYTHONPATH": str(REPO)}
    words = [sys.executable, "-c", code]
    return subprocess.run(words, cwd=project, env=env, check=True, capture_output=True, text=True).stdout


def test_the_seconds_of_a_stage_count_from_the_start_of_its_process(project):
    code = (
        "import time\ntime.sleep(0.5)\nfrom vdp.tracking.mlflow_run import Tracker\n"
        "print(Tracker('x').usage()['seconds'])"
    )
    assert 0.5 <= float(said_by(project, code)) < 30


def test_the_memory_of_worker_processes_is_told_beside_the_stages_own(project):
    code = (
        "import json, subprocess, sys\nfrom vdp.tracking.mlflow_run import Tracker\n"
        "tracker = Tracker('x')\nbefore = tracker.usage()\n"
        "subprocess.run([sys.executable, '-c', 'b = bytearray(bytes([1]) * 2**28)'], check=True)\n"
        "print(json.dumps([before, tracker.usage()]))"
    )
    before, after = json.loads(said_by(project, code))
    assert "peak_worker_memory_mb" not in before
    assert after["peak_worker_memory_mb"] > 256 > after["peak_memory_mb"]
