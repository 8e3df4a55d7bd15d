"""The SLURM jobs, with commands of SLURM and DVC replaced by stubs; bench/slurm.sh runs them under SLURM."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from vdp.config.yaml_file import read_file

REPO = Path(__file__).parents[1]
JOBS = REPO / "slurm"
PIPELINE, STAGE = JOBS / "train.sbatch", JOBS / "stage.sbatch"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to submit from, with the stubs first on PATH."""
    bin_ = tmp_path / ".venv" / "bin"
    bin_.mkdir(parents=True)
    (bin_ / "activate").touch()
    (tmp_path / "slurm").symlink_to(JOBS)
    (tmp_path / "params.yaml").write_text("launcher: srun python  # or python\n")
    for name, action in (
        ("python", ""),
        ("dvc", "exec /bin/sleep ${LASTS:-0}"),
        ("scancel", ""),
        ("scontrol", ""),
        ("timeout", ""),
    ):
        (bin_ / name).write_text(f'#!/bin/bash\necho "{name} $*" >>called\n{action}\n')
        (bin_ / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "12")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("job", "repro"),
    [([PIPELINE], "repro"), ([STAGE, "--force", "predict"], "repro --single-item --force predict")],
)
def test_a_job_checks_the_params_and_runs_the_pipeline_or_a_stage(checkout, job, repro):
    assert subprocess.run(["bash", *job]).returncode == 0
    called = (checkout / "called").read_text().splitlines()
    assert called == ["python -m vdp check --no-cost", f"dvc --wait-for-lock {repro}"]


def test_a_stage_job_without_a_stage_is_refused(checkout):
    run = subprocess.run(["bash", STAGE], capture_output=True, text=True)
    assert run.returncode == 2 and run.stderr.startswith("usage: ")
    assert not (checkout / "called").exists()


def test_a_failed_pipeline_is_not_requeued(checkout):
    (checkout / ".venv" / "bin" / "dvc").write_text("#!/bin/bash\nexit 7\n")
    assert subprocess.run(["bash", PIPELINE]).returncode == 7
    assert "scontrol" not in (checkout / "called").read_text()


def test_before_the_time_limit_trainings_are_stopped_and_the_job_is_requeued(checkout, monkeypatch):
    monkeypatch.setenv("LASTS", "5")
    job = subprocess.Popen(["bash", PIPELINE], start_new_session=True)
    called = checkout / "called"
    while not (called.exists() and "repro" in called.read_text()):
        assert job.poll() is None
        time.sleep(0.01)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(timeout=4) != 0
    os.killpg(job.pid, signal.SIGKILL)  # the rest of the pipeline, as SLURM does
    stopped, waited, requeued = called.read_text().splitlines()[2:]
    assert (stopped, requeued) == ("scancel --signal=TERM 12", "scontrol requeue 12")
    assert re.fullmatch(r"timeout 60 tail --pid=\d+ --follow /dev/null", waited)


def test_a_launcher_other_than_srun_is_refused(checkout):
    (checkout / "params.yaml").write_text("launcher: python  # or srun python\n")
    run = subprocess.run(["bash", PIPELINE], capture_output=True, text=True)
    assert run.returncode == 1 and run.stderr.startswith("error: params.yaml: ")
    assert not (checkout / "called").exists()


def test_the_params_that_the_script_names_exist():
    params = read_file(REPO / "params.yaml")
    text = PIPELINE.read_text()
    assert "launcher: srun python" in text and "launcher" in params
    named = re.findall(r"\bengine\.(\w+)", text)
    assert named and set(named) <= set(params["engine"])


def test_both_jobs_have_the_same_options():
    options = [
        [
            line
            for line in path.read_text().splitlines()
            if line.startswith("#SBATCH") and "--job-name" not in line
        ]
        for path in (PIPELINE, STAGE)
    ]
    assert options[0] == options[1] and len(options[0]) > 8


def test_the_run_under_slurm_refuses_a_folder_that_exists(tmp_path):
    run = subprocess.run(["bash", REPO / "bench/slurm.sh", tmp_path], capture_output=True, text=True)
    assert run.returncode == 2 and run.stderr.startswith("usage: ")
    assert not list(tmp_path.iterdir())
