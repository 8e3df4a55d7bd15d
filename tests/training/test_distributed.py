"""Two processes, started by Fabric, train as one does and end together.

They take seconds to start, so one start serves many tests; its last job is the one that ends it.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from tests.training.process import Job, run
from tests.training.test_engine import NETWORKS, assert_close, losses

pytestmark = pytest.mark.slow

TIMEOUT = 900  # seconds
DDP: dict[str, object] = {"devices": 2}
FSDP: dict[str, object] = {"devices": 2, "strategy": "fsdp"}
Result = dict[str, object]


@dataclass(frozen=True)
class Finished:
    """Exit code and stderr of the processes, and the results of each job in the main and the other one."""

    code: int
    stderr: list[str]
    main: list[Result]
    other: list[Result]


def start(folder: Path, jobs: Sequence[Job]) -> Finished:
    """Run jobs in sequence in two processes."""
    path = folder / "jobs.json"
    path.write_text(json.dumps([asdict(job) for job in jobs]))
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.process", str(path)],
        stderr=subprocess.PIPE, text=True, timeout=TIMEOUT, start_new_session=True,
    )  # fmt: skip
    lines = [line.strip() for line in done.stderr.replace("\r", "\n").splitlines()]
    results = [json.loads(file.read_text()) for file in (folder / f"jobs.{rank}.json" for rank in (0, 1))]
    return Finished(done.returncode, [line for line in lines if line and "step/s" not in line], *results)


# --- The same losses -------------------------------------------------------------------------------------

ONCE: dict[str, object] = {"steps": 10, "validate_every": 10}
JOBS = {
    **{f"{name} ddp": Job(name, DDP, ONCE) for name in NETWORKS},
    **{f"{name} fsdp": Job(name, FSDP, ONCE) for name in NETWORKS},
    "vae ddp parts": Job("vae", DDP, {**ONCE, "accumulate": 4}),
    "vae-muon ddp": Job("vae", DDP, {**ONCE, "optimizer": "muon"}),
    "vae-muon fsdp": Job("vae", FSDP, {**ONCE, "optimizer": "muon"}),
    "segmenter ddp": Job("segmenter", DDP, {"steps": 3}),
    "segmenter fsdp": Job("segmenter", FSDP, {"steps": 3}),
    "classifier ddp": Job("classifier", DDP, {"steps": 30}),
    "classifier fsdp": Job("classifier", FSDP, {"steps": 30}),
    "line fsdp rising": Job("line", FSDP, {"validate_every": 4}, rising_val_loss=True),
    "failure": Job("line", DDP, fault="fail", rank=1),
}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return start(tmp_path_factory.mktemp("two"), list(JOBS.values()))


@pytest.fixture(scope="module")
def one() -> dict[str, Result]:
    return {name: run(Job(name, params=ONCE)) for name in NETWORKS}


def result_of(two: Finished, name: str) -> Result:
    return two.main[list(JOBS).index(name)]


@pytest.mark.parametrize("name", [name for name in JOBS if name.split()[0] in NETWORKS])
def test_two_processes_give_the_losses_of_one(two, one, name):
    expected, result = one[name.split()[0]], result_of(two, name)
    assert len(losses(result)) == 10 and result["names"] == expected["names"]
    assert_close(result, expected, 1e-5)
    assert result["flops"] == expected["flops"] > 0


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_muon_in_two_processes_gives_the_losses_of_one(two, strategy):
    expected = run(Job("vae", params={**ONCE, "optimizer": "muon"}))
    result = result_of(two, f"vae-muon {strategy}")
    assert_close(result, expected, 1e-5)
    assert result["flops"] == pytest.approx(expected["flops"])


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("name", ["segmenter", "classifier"])
def test_batch_norm_learns_from_the_part_of_each_process(two, name, strategy):
    """Its statistics are those of a part, so the losses differ from those of one process."""
    curve = losses(result_of(two, f"{name} {strategy}"))
    assert curve[-1] < curve[0]


def test_all_processes_have_the_same_curves_and_weights(two):
    for name, main, other in zip(JOBS, two.main, two.other, strict=False):
        assert main["curves"] == other["curves"], name
        if not name.startswith(
            ("segmenter", "classifier")
        ):  # batch norm has the statistics of the parts of a process
            assert main["hash"] == other["hash"], name


def test_sharded_weights_are_averaged_after_a_validation_that_was_not_the_best(two):
    alone = run(Job("line", params={"validate_every": 4}, rising_val_loss=True))
    assert losses(result_of(two, "line fsdp rising")) == pytest.approx(losses(alone), abs=1e-5)


def test_an_error_in_one_process_ends_all_with_one_line_each(two):
    assert two.code == 1
    errors = [line for line in two.stderr if line.startswith("error")]
    assert errors[0] == "error in process 1: clip 7: cannot be read"
    assert len(errors) == 2 and "another process of this stage cannot be reached" in errors[1]
    assert not any("Traceback" in line for line in two.stderr)


# --- Resuming --------------------------------------------------------------------------------------------

SAVE: dict[str, object] = {"save_steps": 4}
STEPS: dict[str, object] = {"steps": 10, "validate_every": 5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("resumed")


@pytest.fixture(scope="module")
def resumed(folder: Path) -> Finished:
    """Uninterrupted, left and resumed trainings; one resumed from one process; a stopped one."""
    run(Job("vae", SAVE, STEPS, str(folder / "one"), fault="leave"))
    jobs = [
        job
        for name, engine in (("ddp", DDP | SAVE), ("fsdp", FSDP | SAVE))
        for job in (
            Job("vae", engine, STEPS),
            Job("vae", engine, STEPS, str(folder / name), fault="leave"),
            Job("vae", engine, STEPS, str(folder / name)),
        )
    ]
    muon = {**STEPS, "optimizer": "muon"}
    jobs += [
        Job("vae", FSDP | SAVE, muon),
        Job("vae", FSDP | SAVE, muon, str(folder / "muon"), fault="leave"),
        Job("vae", FSDP | SAVE, muon, str(folder / "muon")),
    ]
    jobs += [
        Job("vae", DDP, STEPS, str(folder / "one")),
        Job("line", DDP, {}, str(folder / "stopped"), fault="terminate", rank=0),
    ]
    return start(folder, jobs)


@pytest.mark.parametrize("first", [0, 3, 6])
def test_resume_in_two_processes_matches_an_uninterrupted_run(resumed, first):
    assert resumed.main[first + 2] == resumed.main[first]


def test_two_processes_resume_a_training_of_one(resumed):
    assert_close(resumed.main[9], run(Job("vae", params=STEPS)), 1e-5)


def test_a_signal_to_the_main_process_stops_all_at_one_step_and_one_process_can_resume(resumed, folder):
    assert resumed.code == 128 + 15
    stopped = [line for line in resumed.stderr if "a_training: stopped after step 6 of 20; run again" in line]
    assert len(stopped) == 1
    assert not any("error" in line.lower() or "Traceback" in line for line in resumed.stderr)
    names = {path.name for path in (folder / "stopped").iterdir()}
    assert names == {"000000006.json", "000000006.safetensors", "lock"}
    assert_close(run(Job("line", checkpoints=str(folder / "stopped"))), run(Job("line")), 1e-5)


def test_no_process_is_left(two, resumed, folder):
    mine = str(folder.parent).encode()  # others may run these tests too
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # one that has just ended
            command = entry.read_bytes()
            assert not (mine in command and b"tests.training.process" in command)
