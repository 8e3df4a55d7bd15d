"""What bench.kills reads from a run's output, and its table."""

import subprocess
import sys
import time
from dataclasses import replace

import pytest

from bench import kills
from bench.kills import Trial

RAN = """\
Running stage 'simulate':
> python -m stages.simulate
Generating lock file 'dvc.lock'
Updating lock file 'dvc.lock'

Running stage 'pretrain_vae':
> python -m stages.pretrain_vae
pretrain_vae: goes on after step 14 of 60 (.resume/pretrain_vae-0123)
"""
GOOD = Trial(3, 12.34, 0.5, "pretrain_vae", 14, 14, "", ())


@pytest.mark.parametrize(
    ("output", "stage"),
    [
        ("", "before the first"),
        (RAN, "pretrain_vae"),
        (RAN + "Updating lock file 'dvc.lock'\n", "after pretrain_vae"),
        (RAN[: RAN.index("Running stage 'pre")], "after simulate"),
    ],
)
def test_a_kill_falls_into_a_stage_or_between_two(output, stage):
    assert kills.stage_at(output) == stage


def test_a_training_that_says_so_went_on():
    assert kills.step_gone_on_after(RAN, "pretrain_vae") == 14
    assert kills.step_gone_on_after(RAN, "train_denoiser") is None


def test_files_that_were_half_written_are_named():
    said = "dvc.lock: was left half written by a killed run; made anew\nparams.yaml is valid\n"
    assert kills.mended_by(said) == "dvc.lock"
    assert kills.mended_by("params.yaml is valid\n") == ""


def test_the_table_is_in_the_order_of_the_moments_and_says_what_is_wrong():
    bad = replace(GOOD, seconds=1.0, state=None, went_on=None, wrong=("dvc.lock", "results/metrics.json"))
    head, _, first, second = kills.table([GOOD, bad]).splitlines()
    assert first.endswith("| - | - | - | NO: dvc.lock; results/metrics.json |")
    assert second.endswith("| pretrain_vae | 14 | 14 | - | yes |")
    assert len({line.count("|") for line in (head, first, second)}) == 1


def test_all_processes_of_a_run_are_ended(tmp_path):
    alive = tmp_path / "alive"
    child = f"import time\nwhile True:\n    open({str(alive)!r}, 'w'); time.sleep(0.01)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    process = subprocess.Popen([sys.executable, "-c", parent], start_new_session=True)
    while not alive.exists():
        assert process.poll() is None
        time.sleep(0.01)
    kills.end(process)
    assert process.poll() == -9
    alive.unlink()
    time.sleep(0.1)
    assert not alive.exists()
