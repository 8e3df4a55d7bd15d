"""Runs in the MLflow store, and `.stats/stages.json`."""

import json
import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run

from vdp.core.errors import UserError
from vdp.core.flops import flop_counter
from vdp.core.rank import process_rank
from vdp.tracking import mlflow_run
from vdp.tracking.mlflow_run import MACHINE_TAG, Tracker, experiment_key, read_stats, save_stats, track_stage

pytestmark = pytest.mark.slow

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
    return {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}


def picture(level: int) -> np.ndarray:
    return np.full((120, 300, 3), level, np.uint8)


def start(code: str) -> "subprocess.Popen[str]":
    """Run code in a new process, which has its own times, memory and imports."""
    env = {**os.environ, "PYTHONPATH": str(REPO)}
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", code], env=env, stdout=pipe, stderr=pipe, text=True)


def output_of(code: str) -> str:
    process = start(code)
    output, error = process.communicate()
    assert process.returncode == 0, error
    return output


def test_stages_are_nested_in_the_run_of_their_experiment(store):
    with track_stage("simulate"):
        pass
    with track_stage("score") as tracker:
        tracker.headline({"simulated": {"jaccard": 0.5, "baseline": {"copy_last": 0.25}}})
    found = runs(store)
    parent = found.pop(experiment_key())
    assert set(found) == {"simulate", "score"}
    assert {run.data.tags["mlflow.parentRunId"] for run in found.values()} == {parent.info.run_id}
    assert {run.info.status for run in (parent, *found.values())} == {"FINISHED"}
    params = {"seed": "3", "clip.frames": "22", "clip.known": "11", "predict.hops": "[13, 22]"}
    assert parent.data.params == params
    assert parent.data.metrics["simulated.jaccard"] == 0.5
    assert parent.data.metrics["simulated.baseline.copy_last"] == 0.25
    assert "seconds.simulate" in parent.data.metrics


def test_the_experiment_key_depends_on_params_and_names_the_commit_or_dvcs_name(project, monkeypatch):
    before = experiment_key()
    assert before.startswith("no-commit-")
    (project / "params.yaml").write_text(PARAMS.replace("seed: 3", "seed: 4"))
    assert experiment_key() != before
    monkeypatch.setenv("PATH", "")  # without git
    assert experiment_key().startswith("no-commit-")
    monkeypatch.setenv("DVC_EXP_NAME", "brave-newt")
    assert experiment_key().startswith("brave-newt-")


def test_every_point_of_a_curve_is_logged_once(store):
    with track_stage("train_denoiser") as tracker:
        for step in range(1200):  # more than one flush and more than one batch
            tracker.log({"loss": step / 2}, step=step)
    history = store.get_metric_history(runs(store)["train_denoiser"].info.run_id, "loss")
    assert sorted((point.step, point.value) for point in history) == [(i, i / 2) for i in range(1200)]


def test_points_are_buffered_and_mlflow_is_imported_at_the_first_flush(project):
    output_of(
        "import sys\nfrom vdp.tracking.mlflow_run import Tracker\n"
        "for step in range(400): Tracker('x').log({'a': 1.0}, step=0)\nassert 'mlflow' not in sys.modules"
    )


def test_artifacts_are_kept_with_the_stage(store, project):
    (project / "strip.png").write_bytes(b"picture")
    with track_stage("score") as tracker:
        tracker.artifact(project / "strip.png", folder="strips")
        with pytest.raises(FileNotFoundError, match="gone.png"):
            tracker.artifact(Path("gone.png"))
    folder = project / "mlartifacts" / runs(store)["score"].info.run_id / "artifacts"
    assert (folder / "strips" / "strip.png").read_bytes() == b"picture"


def test_pictures_are_kept_by_name_and_step(store, project):
    with track_stage("train_denoiser") as tracker:
        for step in (400, 800):
            tracker.picture("validation/samples", picture(step // 8), step)
        with pytest.raises(ValueError, match="name='samples:1': expected"):
            tracker.picture("samples:1", picture(0), step=1)
    run = runs(store)["train_denoiser"]
    folder = project / "mlartifacts" / run.info.run_id / "artifacts" / "images"
    assert run.data.tags["mlflow.loggedImages"] == "True"  # enables the slider on the page of the run
    for step in (400, 800):
        (file,) = folder.glob(f"validation~samples+step+{step}+*.png")
        assert np.array_equal(cv2.imread(str(file)), picture(step // 8))
        assert len(list(folder.glob(f"validation~samples+step+{step}+*.webp"))) == 1  # shown on the page


def test_a_clip_is_kept_as_a_gif_by_name_and_step(store, project):
    with track_stage("score") as tracker:
        tracker.film("samples", [picture(40 * n) for n in range(4)], step=30)
    files = list((project / "mlartifacts").rglob("samples/samples_00000030.gif"))
    assert len(files) == 1
    found, animation = cv2.imdecodeanimation(np.fromfile(files[0], np.uint8))
    assert found and len(animation.frames) == 4
    assert [int(frame[0, 0, 0]) for frame in animation.frames] == pytest.approx([0, 40, 80, 120], abs=8)


def test_a_picture_that_cannot_be_written_gives_one_warning(store, project, capsys):
    (project / "mlartifacts").write_text("a file in place of the folder")
    with track_stage("train_denoiser") as tracker:
        for step in (1, 2):
            tracker.picture("samples", picture(0), step)
        tracker.log({"loss": 1.0}, step=2)
    printed = capsys.readouterr()
    assert printed.err.count("train_denoiser: continuing without MLflow") == 1
    assert printed.out == ""


def test_a_broken_store_gives_one_warning(project, capsys):
    (project / "mlflow.db").write_bytes(b"this is not a database" * 100)
    with track_stage("score"):
        pass
    assert capsys.readouterr().err.count("score: continuing without MLflow") == 1
    assert "score" in read_stats()


def test_a_server_that_does_not_respond_is_an_error_before_the_stage_starts(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match="MLFLOW_TRACKING_URI=http://127.0.0.1:9"), track_stage("score"):
        pytest.fail("the stage has started")


class Stopped(KeyboardInterrupt):
    """Raised by a training that was asked to stop."""


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (Stopped, "KILLED")]
)
def test_a_failing_stage_marks_its_run_and_raises_its_error(store, error, status):
    with pytest.raises(error), track_stage("predict") as tracker:
        tracker.log({"loss": 1.0}, step=1)
        raise error("no")
    found = runs(store)
    assert {run.info.status for run in found.values()} == {status}
    assert found["predict"].data.metrics["loss"] == 1.0
    assert read_stats() == {}


def test_the_run_of_a_killed_process_is_ended_by_the_next(store):
    tracker = Tracker("train_denoiser")
    tracker.log({"loss": 1.0}, step=1)
    tracker.flush()
    killed = runs(store)["train_denoiser"].info.run_id
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    store.set_tag(killed, mlflow_run.PROCESS_TAG, f"{socket.gethostname()}:{process.pid}")
    assert store.get_run(killed).info.status == "RUNNING"
    with track_stage("train_denoiser"):
        pass
    assert store.get_run(killed).info.status == "KILLED"


@pytest.mark.parametrize(
    ("ranks", "main"),
    [
        ({}, True),
        ({"RANK": "0", "LOCAL_RANK": "0", "SLURM_PROCID": "3"}, True),  # torchrun's rank takes precedence
        ({"RANK": "4", "LOCAL_RANK": "0"}, False),  # torchrun, the first process of a second machine
        ({"LOCAL_RANK": "0"}, True),
        ({"LOCAL_RANK": "1"}, False),
        ({"LOCAL_RANK": "0", "NODE_RANK": "0"}, True),
        ({"LOCAL_RANK": "0", "NODE_RANK": "1"}, False),
        ({"LOCAL_RANK": "1", "NODE_RANK": "0"}, False),
        ({"LOCAL_RANK": "1", "SLURM_PROCID": "0"}, False),  # a SLURM task that starts processes
        ({"SLURM_PROCID": "0"}, True),
        ({"SLURM_PROCID": "1"}, False),
    ],
)
def test_one_process_of_every_launcher_is_the_main_one(monkeypatch, ranks, main):
    for name, rank in ranks.items():
        monkeypatch.setenv(name, rank)
    assert (process_rank() == 0) == main


def test_only_the_main_process_reports(project, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with track_stage("train_denoiser") as tracker:
        tracker.log({"loss": 1.0}, step=1)
        tracker.headline({"jaccard": 1.0})
        tracker.artifact(project / "params.yaml")
        tracker.picture("samples", picture(0), step=1)
        tracker.flush()
    with pytest.raises(ValueError), track_stage("train_denoiser"):
        raise ValueError
    assert {path.name for path in project.iterdir()} == {"params.yaml"}


def test_time_and_memory_are_kept_per_stage(store, project):
    save_stats("simulate", {"seconds": 1.0})
    with track_stage("score"):
        pass
    stats = json.loads((project / ".stats" / "stages.json").read_text())
    assert stats["simulate"] == {"seconds": 1.0}
    assert stats["score"]["seconds"] >= 0
    assert stats["score"]["peak_memory_mb"] > 10


def test_the_ledger_has_the_arithmetic_of_a_stage_and_the_processor_time_of_its_workers(store):
    with track_stage("predict") as tracker:
        tracker.add_flops(2.5e12)
        tracker.add_flops(1e12)
    with track_stage("simulate", workers=3):
        pass
    stats, found = read_stats(), runs(store)
    predict, simulate, parent = (found[name].data for name in ("predict", "simulate", experiment_key()))
    assert stats["predict"]["tflop"] == predict.metrics["tflop"] == parent.metrics["tflop.predict"] == 3.5
    assert "tflop" not in stats["simulate"] and "tflop.simulate" not in parent.metrics
    assert "workers" not in stats["predict"] and stats["simulate"]["workers"] == 3
    for name, run in (("predict", predict), ("simulate", simulate)):
        minutes = stats[name]["core_minutes"]
        assert 0 < minutes == run.metrics["core_minutes"] == parent.metrics[f"core_minutes.{name}"]
        assert "BF16" in stats[name]["machine"] == run.tags[MACHINE_TAG]


def product(a: torch.Tensor, b: torch.Tensor, times: int = 1, name: str = "") -> torch.Tensor:
    for _ in range(times):
        result = a @ b
    return result


def test_the_flops_of_all_calls_are_added_and_one_of_each_size_is_counted(monkeypatch):
    counted = []

    @contextmanager
    def recorded():
        with flop_counter() as counter:
            yield counter
        counted.append(counter.get_total_flops())

    monkeypatch.setattr(mlflow_run, "flop_counter", recorded)
    tracker = Tracker("predict")
    call = tracker.counted(product)
    a, b, c = torch.ones(5, 7), torch.ones(7, 11), torch.ones(3, 7)
    one, other = 2 * 5 * 7 * 11, 2 * 3 * 7 * 11
    for name in ("first", "second", "third"):
        assert torch.equal(call(a, b, name=name), a @ b)
    assert counted == [one]
    call(c, b)
    call(a, b, times=4)
    call(a, b, 4)
    call(a, b, times=4)
    assert counted == [one, other, 4 * one, 4 * one]
    assert tracker.usage()["tflop"] == (3 * one + other + 3 * 4 * one) / 1e12


def test_a_call_that_fails_is_not_counted():
    tracker = Tracker("predict")
    with pytest.raises(RuntimeError, match="shapes"):
        tracker.counted(product)(torch.ones(2, 3), torch.ones(2, 3))
    assert "tflop" not in tracker.usage()


def test_two_first_runs_in_parallel_share_one_store(project):
    """Without the lock both processes create the tables, and one of them fails."""
    code = (
        "from vdp.tracking.mlflow_run import track_stage\n"
        "with track_stage('{}') as tracker: tracker.log({{'x': 1.0}}, step=0)"
    )
    processes = [start(code.format(name)) for name in ("left", "right")]
    printed = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], printed
    assert printed == ["", ""]  # no set-up messages either
    found = runs(MlflowClient(f"sqlite:///{project / 'mlflow.db'}"))
    assert set(found) == {experiment_key(), "left", "right"}
    assert set(read_stats()) == {"left", "right"}


def test_usage_counts_from_process_start_and_separates_worker_memory(project):
    before, after, worker_seconds = json.loads(
        output_of(
            "import json, resource, subprocess, sys, time\ntime.sleep(0.5)\n"
            "from vdp.tracking.mlflow_run import Tracker\n"
            "tracker = Tracker('x')\nbefore = tracker.usage()\n"
            "subprocess.run([sys.executable, '-c', 'b = bytearray(bytes([1]) * 2**28)'], check=True)\n"
            "work = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
            "print(json.dumps([before, tracker.usage(), work.ru_utime + work.ru_stime]))"
        )
    )
    assert 0.5 <= before["seconds"] < 30
    assert "peak_worker_memory_mb" not in before
    assert after["peak_worker_memory_mb"] > 256 > after["peak_memory_mb"]
    assert 60 * after["core_minutes"] >= worker_seconds > 0.05
    assert 60 * (after["core_minutes"] - before["core_minutes"]) >= 0.5 * worker_seconds


# --- Where the store is ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("", "sqlite:///{}/mlflow.db"),
        ("sqlite:///own/runs.db", "sqlite:///{}/own/runs.db"),
        ("file:runs", "file:{}/runs"),
        ("./runs", "{}/runs"),
        ("sqlite:////disk/runs.db", "sqlite:////disk/runs.db"),
        ("file:///disk/runs", "file:///disk/runs"),
        ("/disk/runs", "/disk/runs"),
        ("http://host:5000", "http://host:5000"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("databricks", "databricks"),
    ],
)
def test_a_relative_store_of_a_temporary_checkout_is_that_of_the_main_one(
    project, monkeypatch, uri, expected
):
    (project / ".dvc/tmp").mkdir(parents=True)
    monkeypatch.chdir(project / ".dvc/tmp")
    if uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert mlflow_run.tracking_uri() == expected.format(project)


def artifacts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Artifacts of the stage's run in a project, as MLflow reads them there."""
    monkeypatch.chdir(folder)
    client = MlflowClient(mlflow_run.tracking_uri())
    run = runs(client)["score"]
    assert not run.info.artifact_uri.startswith(("/", "file:"))
    return [file.path for file in client.list_artifacts(run.info.run_id)]


def test_a_project_of_any_name_can_be_moved(tmp_path, monkeypatch, empty_store):
    """Also from a temporary checkout, whose artifacts are those of the main one."""
    folder = tmp_path / "a b%20c?d#e"
    copy = folder / ".dvc/tmp/exps/standalone/tmp1"
    copy.mkdir(parents=True)
    (folder / "mlflow.db").write_bytes(empty_store)
    monkeypatch.setenv("DVC_ROOT", str(folder))
    monkeypatch.chdir(copy)
    Path("x.txt").write_text("x")
    with track_stage("score") as tracker:
        tracker.artifact(Path("x.txt"))
    assert artifacts(folder, monkeypatch) == ["x.txt"]
    moved = folder.rename(tmp_path / "moved")
    monkeypatch.setenv("DVC_ROOT", str(moved))
    assert artifacts(moved, monkeypatch) == ["x.txt"]
