"""Two processes, started by Fabric's launcher, learn what one learns, and end together.

They take seconds to start, so a start serves many tests: its last job is the one that ends it.
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
from tests.training.test_engine import assert_close, losses

NETWORKS = ["vae", "unet-features+own", "dit+own"]
SLOW = 900  # seconds: something waits for ever
TWO: dict[str, object] = {"devices": 2}
FSDP: dict[str, object] = {"devices": 2, "strategy": "fsdp"}
Result = dict[str, object]


@dataclass(frozen=True)
class Started:
    """What came of processes: an exit code, what they said, and of each the results of its jobs."""

    code: int
    told: list[str]
    main: list[Result]
    other: list[Result]


def start(folder: Path, jobs: Sequence[Job]) -> Started:
    """Run jobs, one after the other, in two processes."""
    path = folder / "jobs.json"
    path.write_text(json.dumps([asdict(job) for job in jobs]))
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.process", str(path)],
        stderr=subprocess.PIPE, text=True, timeout=SLOW, start_new_session=True,
    )  # fmt: skip
    lines = [line.strip() for line in done.stderr.replace("\r", "\n").splitlines()]
    results = [json.loads(file.read_text()) for file in (folder / f"jobs.{rank}.json" for rank in (0, 1))]
    return Started(done.returncode, [line for line in lines if line and "step/s" not in line], *results)


# --- The same losses -------------------------------------------------------------------------------------

ONCE: dict[str, object] = {"validate_every": 20}
SAME = {
    **{f"{name} ddp": Job(name, TWO, ONCE) for name in NETWORKS},
    **{f"{name} fsdp": Job(name, FSDP, ONCE) for name in NETWORKS},
    "vae ddp parts": Job("vae", TWO, {**ONCE, "accumulate": 4}),
    "segmenter ddp": Job("segmenter", TWO, {"steps": 3}),
    "segmenter fsdp": Job("segmenter", FSDP, {"steps": 3}),
    "line fsdp worse": Job("line", FSDP, {"validate_every": 4}, worsens=True),
    "failure": Job("line", TWO, harm="fail", rank=1),
}


@pytest.fixture(scope="module")
def same(tmp_path_factory: pytest.TempPathFactory) -> Started:
    return start(tmp_path_factory.mktemp("same"), list(SAME.values()))


@pytest.fixture(scope="module")
def alone() -> dict[str, Result]:
    return {name: run(Job(name, params=ONCE)) for name in NETWORKS}


def of(started: Started, name: str) -> Result:
    return started.main[list(SAME).index(name)]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("name", NETWORKS)
def test_two_processes_give_the_losses_of_one(same, alone, name, strategy):
    two = of(same, f"{name} {strategy}")
    assert len(losses(two)) == 20 and two["names"] == alone[name]["names"]
    assert_close(two, alone[name], 1e-5)


def test_two_processes_that_part_their_shares_again_do_so_too(same, alone):
    assert_close(of(same, "vae ddp parts"), alone["vae"], 1e-5)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_batch_norm_learns_from_the_part_of_each_process(same, strategy):
    """Its statistics are those of a part, so the losses are others than those of one process."""
    assert losses(of(same, f"segmenter {strategy}"))[-1] < losses(of(same, f"segmenter {strategy}"))[0]


def test_all_processes_know_the_same_curves_and_end_with_the_same_weights(same):
    for name, main, other in zip(SAME, same.main, same.other, strict=False):
        assert main["curves"] == other["curves"], name
        if not name.startswith("segmenter"):  # each has batch norm's statistics of its own parts
            assert main["hash"] == other["hash"], name


def test_shared_weights_are_averaged_on_after_a_validation_that_was_not_the_best(same):
    alone = run(Job("line", params={"validate_every": 4}, worsens=True))
    assert losses(of(same, "line fsdp worse")) == pytest.approx(losses(alone), abs=1e-5)


def test_a_mistake_that_one_process_meets_ends_all_with_a_line_of_each(same):
    assert same.code == 1
    errors = [line for line in same.told if line.startswith("error")]
    assert errors[0] == "error in process 1: clip 7: cannot be read"
    assert len(errors) == 2 and "another process of this training cannot be reached" in errors[1]
    assert not any("Traceback" in line for line in same.told)


# --- Going on --------------------------------------------------------------------------------------------

STATES: dict[str, object] = {"save_steps": 4}
STEPS: dict[str, object] = {"steps": 10, "validate_every": 5}


@dataclass(frozen=True)
class Resumed:
    """Trainings that have been left, and taken up by as many processes or by more."""

    whole: dict[str, Result]
    taken_up: dict[str, Result]
    stopped: Started
    folder: Path


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Resumed:
    folder = tmp_path_factory.mktemp("resumed")
    run(Job("vae", STATES, STEPS, str(folder / "one"), harm="leave"))

    def left_and_taken_up(kind: str, engine: dict[str, object]) -> list[Job]:
        engine, states = engine | STATES, str(folder / kind)
        return [
            Job("vae", engine, STEPS),
            Job("vae", engine, STEPS, states, harm="leave"),
            Job("vae", engine, STEPS, states),
        ]

    jobs = [
        *left_and_taken_up("ddp", TWO),
        *left_and_taken_up("fsdp", FSDP),
        Job("vae", TWO, STEPS, str(folder / "one")),
        Job("line", TWO, {"num_workers": 1}, str(folder / "stopped"), harm="terminate", rank=0),
    ]
    done = start(folder, jobs)
    whole = {"ddp": done.main[0], "fsdp": done.main[3]}
    return Resumed(whole, {"ddp": done.main[2], "fsdp": done.main[5], "one": done.main[6]}, done, folder)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_that_go_on_end_in_the_same_bytes(resumed, strategy):
    assert resumed.taken_up[strategy] == resumed.whole[strategy]


def test_what_one_process_began_two_finish(resumed):
    assert_close(resumed.taken_up["one"], run(Job("vae", params=STEPS)), 1e-5)


def test_a_signal_to_the_main_process_stops_all_at_one_step_and_one_process_can_finish(resumed):
    """DVC's child alone is sent a signal; whoever is killed on the way would be told of."""
    states, stopped = resumed.folder / "stopped", resumed.stopped
    assert stopped.code == 128 + 15
    told = "a_training: stopped after step 6 of 20; run again, it goes on from there"
    assert sum(line.startswith(told) for line in stopped.told) == 1
    assert not any("error" in line.lower() or "Traceback" in line for line in stopped.told)
    assert sorted(path.name for path in states.iterdir()) == [
        "000000006.json",
        "000000006.safetensors",
        "lock",
    ]
    assert_close(run(Job("line", states=str(states))), run(Job("line")), 1e-5)


def test_no_process_is_left(same, resumed):
    mine = str(resumed.folder.parent).encode()  # others may run these tests too
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # one that has just ended
            command = entry.read_bytes()
            assert not (mine in command and b"tests.training.process" in command)
