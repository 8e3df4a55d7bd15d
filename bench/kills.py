"""Kill `dvc repro` at random moments; it is to end as if it had not been: `python -m bench.kills --help`.

Each trial is a clone of this checkout's last commit with an empty cache. The smoke recipe, with longer
trainings that save their state every other step, is run there as by `make run` (vdp check, dvc repro). At a
moment drawn uniformly over the processor time of a run that is left alone (time that does not depend on what
else the machine has to do) all its processes are sent SIGKILL; then it is run again, to the end. Its dvc.lock
and its scores are to be those of a run that is left alone, byte for byte, and a training that had saved a
state is to have gone on from it. Prints a table; exit code 1 where a trial did not end so.
"""

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from vdp.core.errors import UserError, one_line

RECIPE = "smoke"
LONGER = """\
engine: {save_steps: 2}
pretrain_vae: {steps: 60, validate_every: 20}
train_denoiser: {steps: 60, validate_every: 20}
train_segmenter: {steps: 40, validate_every: 20}
"""
TRAININGS = ("pretrain_vae", "train_denoiser", "train_segmenter")
RESULTS = ("dvc.lock", "results/metrics.json")
CHECK, RUN = ("python", "-m", "vdp", "check"), ("dvc", "repro")
OF_A_STAGE = ("DVC_ROOT", "DVC_STAGE", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV", "MLFLOW_TRACKING_URI")
LOOK_SECONDS = 0.05  # between looks at a run's processor time
DEATH_SECONDS = 30.0  # for the kernel to end what was killed


@dataclass(frozen=True)
class Ended:
    """A run that got to its end."""

    seconds: float  # of processor time
    results: dict[str, bytes]  # of RESULTS


@dataclass(frozen=True)
class Trial:
    """What became of a run that was killed."""

    number: int
    seconds: float  # of processor time until the kill
    share: float  # of the length of a run
    stage: str  # where the kill fell
    state: int | None  # newest step that this stage had saved by then
    went_on: int | None  # step after which its training was taken up
    mended: str  # what vdp check said of files left half written
    wrong: tuple[str, ...]  # what is not as it is without a kill


# --- Runs ------------------------------------------------------------------------------------------------


class Checkout:
    """A clone of the last commit, with the params of these trials and caches of its own."""

    def __init__(self, source: Path, folder: Path) -> None:
        self.folder = folder
        self.log = folder.with_suffix(".log")
        self.env = {name: value for name, value in os.environ.items() if name not in OF_A_STAGE}
        self.env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{self.env['PATH']}"
        self.env |= {"PYTHONUNBUFFERED": "1", "DVC_SITE_CACHE_DIR": str(folder.with_suffix(".site"))}
        self.env.setdefault("OMP_NUM_THREADS", "1")
        subprocess.run(["git", "clone", "--quiet", str(source), str(folder)], check=True)
        folder.joinpath("recipes", "kills.yaml").write_text(LONGER)
        for recipe in (RECIPE, "kills"):
            self.tell("python", "-m", "vdp", "recipe", recipe)

    def start(self) -> "subprocess.Popen[bytes]":
        """`dvc repro`, in a process group of its own; what it prints goes to the log."""
        with self.log.open("wb") as log:
            return subprocess.Popen(
                RUN, cwd=self.folder, env=self.env, stdout=log, stderr=log, start_new_session=True
            )

    def tell(self, *words: str) -> str:
        """What a command said here.

        Raises:
            UserError: where it failed.
        """
        with subprocess.Popen(
            words, cwd=self.folder, env=self.env, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ) as process:  # fmt: skip
            try:
                output, _ = process.communicate()
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        with self.log.open("a") as log:
            log.write(output)
        if process.returncode:
            last = output.strip().splitlines()[-1:] or ["it said nothing"]
            raise UserError(f"{' '.join(words)} in {self.folder}: exit code {process.returncode}: {last[0]}")
        return output

    def results(self) -> dict[str, bytes]:
        return {name: self.folder.joinpath(name).read_bytes() for name in RESULTS}

    def states(self, stage: str) -> list[int]:
        """Steps of the states that a stage has saved, ascending."""
        return sorted(int(path.stem) for path in self.folder.glob(f".resume/{stage}-*/[0-9]*.json"))

    def remove(self) -> None:
        for path in (self.folder, self.folder.with_suffix(".site")):
            shutil.rmtree(path, ignore_errors=True)
        self.log.unlink(missing_ok=True)


def left_alone(checkout: Checkout) -> Ended:
    """A run that nothing happens to."""
    process = checkout.start()
    try:
        seconds = seconds_until(process, float("inf"))
    finally:
        end(process)
    if process.returncode:
        raise UserError(f"without a kill `dvc repro` has exit code {process.returncode}: see {checkout.log}")
    return Ended(seconds, checkout.results())


def seconds_until(process: "subprocess.Popen[bytes]", limit: float) -> float:
    """Processor time of a run, at its end or when it has reached a limit."""
    seconds = 0.0
    while seconds < limit and process.poll() is None:
        time.sleep(LOOK_SECONDS)
        seconds = max(seconds, processor_seconds(process.pid))  # 0 once it has ended
    return seconds


def processor_seconds(session: int) -> float:
    """Processor time of all processes of a session, with that of children that have ended."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()  # from field 3, the state
        except OSError:
            continue  # it has ended meanwhile
        if int(fields[3]) == session:
            ticks += sum(int(field) for field in fields[11:15])  # user, system, both of children
    return ticks / os.sysconf("SC_CLK_TCK")


def end(process: "subprocess.Popen[bytes]") -> None:
    """SIGKILL for all processes of a group, and wait until none is left."""
    deadline = time.monotonic() + DEATH_SECONDS
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        process.poll()
        time.sleep(0.01)


# --- Trials ----------------------------------------------------------------------------------------------


def killed(checkout: Checkout, seconds: float, then: float) -> bool:
    """Run it and kill it after so much processor time and some seconds; False if it has ended before."""
    process = checkout.start()
    try:
        seconds_until(process, seconds)
        time.sleep(then)
        return process.poll() is None
    finally:
        end(process)


class Trials:
    """Trials against the same reference.

    Args:
        source: the repository whose last commit is tried.
        folder: for the clones; those of trials that went wrong stay.
        reference: a run without a kill.
        seed: of the moments.
    """

    def __init__(self, source: Path, folder: Path, reference: Ended, seed: int) -> None:
        self.source, self.folder, self.reference, self.seed = source, folder, reference, seed

    def __call__(self, number: int) -> Trial:
        """One trial; one whose run had ended before its moment is made again with another."""
        moments = random.Random(f"{self.seed}/{number}")
        for attempt in range(100):
            checkout = Checkout(self.source, self.folder / f"{number}-{attempt}")
            share = moments.random()
            if not killed(checkout, share * self.reference.seconds, moments.uniform(0, LOOK_SECONDS)):
                checkout.remove()
                continue
            trial = self._taken_up(checkout, number, share)
            if not trial.wrong:
                checkout.remove()
            print(row(trial), file=sys.stderr, flush=True)
            return trial
        raise UserError(
            f"trial {number}: all runs ended before they were killed, as none should: run it alone"
        )

    def _taken_up(self, checkout: Checkout, number: int, share: float) -> Trial:
        stage = stage_at(checkout.log.read_text(errors="replace"))
        state = max(checkout.states(stage), default=None)
        wrong, mended, went_on = [], "", None
        try:
            mended = mended_by(checkout.tell(*CHECK))
            went_on = step_gone_on_after(checkout.tell(*RUN), stage)
            results = checkout.results()
            wrong += [name for name in RESULTS if results[name] != self.reference.results[name]]
            wrong += [f"states of {name} left" for name in TRAININGS if checkout.states(name)]
            if state is not None and went_on is None:
                wrong.append("did not go on from its state")
        except (ValueError, OSError) as error:
            wrong.append(one_line(error))
        seconds = share * self.reference.seconds
        return Trial(number, seconds, share, stage, state, went_on, mended, tuple(wrong))


def stage_at(output: str) -> str:
    """Where DVC was, by what it had said: in a stage, or at its own work after one."""
    said = re.findall(r"Running stage '(\w+)'|(Updating) lock file", output)
    if not said:
        return "before the first"
    stages = [stage for stage, _ in said if stage]
    return f"after {stages[-1]}" if said[-1][1] else stages[-1]


def step_gone_on_after(output: str, stage: str) -> int | None:
    """The step after which a stage said that its training goes on."""
    found = re.search(rf"{stage}: goes on after step (\d+) of", output)
    return int(found[1]) if found else None


def mended_by(output: str) -> str:
    """Files that vdp check has said to be left half written."""
    return ", ".join(re.findall(r"^(\S+): was left half written", output, re.MULTILINE))


# --- The table -------------------------------------------------------------------------------------------

HEAD = ["kill", "after", "of a run", "in", "state of step", "went on after", "half written", "as without"]


def cells(trial: Trial) -> list[str]:
    state, went_on = ("-" if step is None else str(step) for step in (trial.state, trial.went_on))
    verdict = "NO: " + "; ".join(trial.wrong) if trial.wrong else "yes"
    moment = [f"{trial.seconds:.1f} s", f"{100 * trial.share:.0f} %"]
    return [str(trial.number), *moment, trial.stage, state, went_on, trial.mended or "-", verdict]


def row(trial: Trial) -> str:
    return " | ".join(cells(trial))


def table(trials: Sequence[Trial]) -> str:
    """The trials in Markdown, in the order of their moments."""
    lines = [cells(trial) for trial in sorted(trials, key=lambda trial: trial.seconds)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [HEAD, ["---"] * len(HEAD), *lines])


# --- The command -----------------------------------------------------------------------------------------


def compare(source: Path, folder: Path, kills: int, seed: int, jobs: int) -> list[Trial]:
    """All trials, some at a time."""
    if any(folder.iterdir()):
        raise UserError(f"--folder {folder}: is not empty: name one that is")
    fixed = folder / "source"  # the checkout may get further commits
    subprocess.run(["git", "clone", "--quiet", "--bare", str(source), str(fixed)], check=True)
    alone = Checkout(fixed, folder / "reference")
    reference = left_alone(alone)
    print(f"a run without a kill: {reference.seconds:.1f} s of processor time", file=sys.stderr, flush=True)
    alone.remove()
    with ThreadPoolExecutor(jobs) as pool:
        try:
            return list(pool.map(Trials(fixed, folder, reference, seed), range(1, kills + 1)))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # those that are running end, no other begins
            raise


def main() -> None:
    """Do what the arguments ask for."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.kills",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kills", type=int, default=20, help="trials")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--jobs", type=int, default=1, help="trials at a time")
    parser.add_argument("--folder", type=Path, help="for the clones; without it, one that is removed")
    args = parser.parse_args()
    with TemporaryDirectory(prefix="kills-") as scratch:
        folder = (args.folder or Path(scratch)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        trials = compare(Path.cwd(), folder, args.kills, args.seed, args.jobs)
    print(table(trials))
    sys.exit(1 if any(trial.wrong for trial in trials) else 0)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(1)
