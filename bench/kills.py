"""Kill `dvc repro` at random moments and check that it resumes: `python -m bench.kills --help`.

Each trial runs the smoke recipe, with longer trainings that save a checkpoint every second step, in a clone
of the last commit with an empty cache, as `make run` does (vdp check, dvc repro). All its processes get
SIGKILL at a moment drawn uniformly over the processor time of an undisturbed run, which does not depend on
the load of the machine; then it is run again. Its dvc.lock and scores must equal those of the undisturbed
run, and a training with a checkpoint must have resumed from it. With --each the kills fall into the stages
that share out their work, so many into each at random moments of its own time: the batches that were written
must not be computed again. Prints a table; exit code 1 if a trial fails.
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
simulate: {test: 12}
pretrain_vae: {steps: 60, validate_every: 20}
train_denoiser: {steps: 60, validate_every: 20}
train_segmenter: {steps: 40, validate_every: 20}
train_classifier: {steps: 40, validate_every: 20}
train_motion: {steps: 40, validate_every: 20}
"""
TRAININGS = ("pretrain_vae", "train_denoiser", "train_segmenter", "train_classifier", "train_motion")
SHARED = (
    "extract_frames", "track_objects", "encode_latents", "predict_motion", "predict", "segment",
    "evaluate_tasks",
)  # fmt: skip
RESULTS = ("dvc.lock", "results/metrics.json")
CHECK, RUN = ("python", "-m", "vdp", "check", "--no-cost"), ("dvc", "repro")
STAGE_VARIABLES = (
    "DVC_ROOT", "DVC_STAGE", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV", "MLFLOW_TRACKING_URI",
)  # fmt: skip
POLL_SECONDS = 0.05  # between readings of a run's processor time
KILL_SECONDS = 30.0  # for the kernel to end the processes


@dataclass(frozen=True)
class Reference:
    """An undisturbed run: its processor seconds and the content of RESULTS."""

    seconds: float
    results: dict[str, bytes]


@dataclass(frozen=True)
class Trial:
    """Outcome of a killed run."""

    number: int
    seconds: float  # processor time at the kill
    share: float  # of the reference's
    stage: str  # running at the kill
    checkpoint: int | None  # step of its newest checkpoint
    resumed: int | None  # step from which its training resumed
    repaired: str  # half-written files that vdp check repaired
    errors: tuple[str, ...]  # differences from the reference


# --- Runs ------------------------------------------------------------------------------------------------


class Checkout:
    """A clone of the last commit with the params of the trials and its own caches."""

    def __init__(self, source: Path, folder: Path) -> None:
        self.folder = folder
        self.log = folder.with_suffix(".log")
        self.env = {name: value for name, value in os.environ.items() if name not in STAGE_VARIABLES}
        self.env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{self.env['PATH']}"
        self.env |= {"PYTHONUNBUFFERED": "1", "DVC_SITE_CACHE_DIR": str(folder.with_suffix(".site"))}
        self.env.setdefault("OMP_NUM_THREADS", "1")
        subprocess.run(["git", "clone", "--quiet", str(source), str(folder)], check=True)
        folder.joinpath("recipes", "kills.yaml").write_text(LONGER)
        for recipe in (RECIPE, "kills"):
            self.run("python", "-m", "vdp", "recipe", recipe)

    def start(self, *options: str) -> "subprocess.Popen[bytes]":
        """Start `dvc repro` in a process group; its output goes to the log."""
        with self.log.open("wb") as log:
            return subprocess.Popen(
                [*RUN, *options],
                cwd=self.folder,
                env=self.env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def run(self, *words: str) -> str:
        """Run a command and return its output; raises UserError if it fails."""
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
            last = (output.strip().splitlines() or ["no output"])[-1]
            raise UserError(f"{' '.join(words)} in {self.folder}: exit code {process.returncode}: {last}")
        return output

    def results(self) -> dict[str, bytes]:
        return {name: self.folder.joinpath(name).read_bytes() for name in RESULTS}

    def checkpoints(self, stage: str) -> list[int]:
        """Steps of the checkpoints of a stage."""
        return [int(path.stem) for path in self.folder.glob(f".resume/{stage}-*/[0-9]*.json")]

    def batches(self, stage: str) -> int:
        """Files of the batches of a stage that shares out its work."""
        return len(list(self.folder.glob(f".resume/{stage}-*/*/*.npz")))

    def remove(self) -> None:
        for path in (self.folder, self.folder.with_suffix(".site")):
            shutil.rmtree(path, ignore_errors=True)
        self.log.unlink(missing_ok=True)


def run_undisturbed(checkout: Checkout) -> Reference:
    process = checkout.start()
    try:
        seconds = wait_seconds(process, float("inf"))
    finally:
        kill(process)
    if process.returncode:
        raise UserError(f"undisturbed `dvc repro`: exit code {process.returncode}: see {checkout.log}")
    return Reference(seconds, checkout.results())


def wait_seconds(process: "subprocess.Popen[bytes]", limit: float) -> float:
    """Wait until a run ends or reaches a limit of processor seconds; returns those used."""
    seconds = 0.0
    while seconds < limit and process.poll() is None:
        time.sleep(POLL_SECONDS)
        seconds = max(seconds, processor_seconds(process.pid))  # 0 once it has ended
    return seconds


def processor_seconds(session: int) -> float:
    """Processor time of all processes of a session and of their ended children."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()  # from field 3, the state
        except OSError:
            continue  # it has ended
        if int(fields[3]) == session:
            ticks += sum(int(field) for field in fields[11:15])  # user and system, own and children's
    return ticks / os.sysconf("SC_CLK_TCK")


def kill(process: "subprocess.Popen[bytes]") -> None:
    """Send SIGKILL to a process group until none of its processes is left."""
    deadline = time.monotonic() + KILL_SECONDS
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        process.poll()
        time.sleep(0.01)


# --- Trials ----------------------------------------------------------------------------------------------


class Trials:
    """Run trials against one reference; the clones of failed trials are kept in `folder`."""

    def __init__(self, source: Path, folder: Path, reference: Reference, seed: int) -> None:
        self.source, self.folder, self.reference, self.seed = source, folder, reference, seed

    def __call__(self, number: int) -> Trial:
        """Run one trial; a run that ends before its moment is repeated with another moment."""
        moments = random.Random(f"{self.seed}/{number}")
        for attempt in range(100):
            checkout = Checkout(self.source, self.folder / f"{number}-{attempt}")
            share = moments.random()
            process = checkout.start()
            try:
                wait_seconds(process, share * self.reference.seconds)
                time.sleep(moments.uniform(0, POLL_SECONDS))
                ended = process.poll() is not None
            finally:
                kill(process)
            if ended:
                checkout.remove()
                continue
            trial = self._resume(checkout, number, share)
            if not trial.errors:
                checkout.remove()
            print(" | ".join(cells(trial)), file=sys.stderr, flush=True)
            return trial
        raise UserError(f"trial {number}: every run ended before its kill; run it without other load")

    def _resume(self, checkout: Checkout, number: int, share: float) -> Trial:
        stage = stage_at(checkout.log.read_text(errors="replace"))
        checkpoint = max(checkout.checkpoints(stage), default=None)
        errors, repaired, resumed = [], "", None
        try:
            repaired = repaired_files(checkout.run(*CHECK))
            resumed = resumed_step(checkout.run(*RUN), stage)
            results = checkout.results()
            errors += [name for name in RESULTS if results[name] != self.reference.results[name]]
            errors += [f"checkpoints of {name} left" for name in TRAININGS if checkout.checkpoints(name)]
            if checkpoint is not None and resumed is None:
                errors.append("did not resume from its checkpoint")
        except (ValueError, OSError) as error:
            errors.append(one_line(error))
        seconds = share * self.reference.seconds
        return Trial(number, seconds, share, stage, checkpoint, resumed, repaired, tuple(errors))


def stage_at(output: str) -> str:
    """The stage that DVC ran last, by its output."""
    found = re.findall(r"Running stage '(\w+)'|(Updating) lock file", output)
    if not found:
        return "before the first"
    stages = [stage for stage, _ in found if stage]
    return f"after {stages[-1]}" if found[-1][1] else stages[-1]


def resumed_step(output: str, stage: str) -> int | None:
    found = re.search(rf"{stage}: resumed after step (\d+) of", output)
    return int(found[1]) if found else None


def repaired_files(output: str) -> str:
    return ", ".join(re.findall(r"^(\S+): truncated by a killed run", output, re.MULTILINE))


# --- Kills in one stage ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class StageTrial:
    """Outcome of a kill in a stage that shares out its work."""

    stage: str
    share: float  # of the stage's processor time at the kill
    written: int  # batches at the kill
    reused: int  # batches that the next run took over
    errors: tuple[str, ...]


def kill_in_stages(source: Path, folder: Path, kills: int, seed: int) -> list[StageTrial]:
    """Kill each stage of `SHARED` at random moments of its own and run it again."""
    checkout = Checkout(source, folder / "stages")
    run_undisturbed(checkout)
    lock, trials = checkout.results()["dvc.lock"], []
    for stage in SHARED:
        options = ("--force", "--single-item", stage)
        process = checkout.start(*options)
        seconds = wait_seconds(process, float("inf"))
        for number in range(kills):
            share = random.Random(f"{seed}/{stage}/{number}").random()
            shutil.rmtree(checkout.folder / ".resume", ignore_errors=True)
            process = checkout.start(*options)
            wait_seconds(process, share * seconds)
            kill(process)
            written = checkout.batches(stage)
            checkout.run(*CHECK)
            output = checkout.run(*RUN, *options)
            reused, errors = reused_batches(output), []
            if reused < written:
                errors.append(f"{written - reused} batches were computed again")
            if checkout.results()["dvc.lock"] != lock:
                errors.append("dvc.lock")
            trials.append(StageTrial(stage, share, written, reused, tuple(errors)))
            print(trials[-1], file=sys.stderr, flush=True)
    return trials


def reused_batches(output: str) -> int:
    """Batches that a run took over from earlier ones, by its output."""
    return sum(map(int, re.findall(r": (\d+) of \d+ batches are those", output)))


def stage_table(trials: Sequence[StageTrial]) -> str:
    head = ["stage", "of its time", "batches written", "taken over", "equal"]
    lines = [
        [t.stage, f"{100 * t.share:.0f} %", str(t.written), str(t.reused), "; ".join(t.errors) or "yes"]
        for t in trials
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *lines])


# --- The table -------------------------------------------------------------------------------------------

HEAD = ["kill", "after", "of a run", "in", "checkpoint", "resumed from", "repaired", "equal"]


def cells(trial: Trial) -> list[str]:
    checkpoint, resumed = ("-" if step is None else str(step) for step in (trial.checkpoint, trial.resumed))
    verdict = "NO: " + "; ".join(trial.errors) if trial.errors else "yes"
    moment = [f"{trial.seconds:.1f} s", f"{100 * trial.share:.0f} %"]
    return [str(trial.number), *moment, trial.stage, checkpoint, resumed, trial.repaired or "-", verdict]


def table(trials: Sequence[Trial]) -> str:
    """The trials in Markdown, ordered by the time of the kill."""
    lines = [cells(trial) for trial in sorted(trials, key=lambda trial: trial.seconds)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [HEAD, ["---"] * len(HEAD), *lines])


# --- The command -----------------------------------------------------------------------------------------


def run_trials(source: Path, folder: Path, kills: int, seed: int, jobs: int) -> list[Trial]:
    if any(folder.iterdir()):
        raise UserError(f"--folder {folder}: expected an empty folder")
    fixed = folder / "source"  # the checkout may get further commits
    subprocess.run(["git", "clone", "--quiet", "--bare", str(source), str(fixed)], check=True)
    checkout = Checkout(fixed, folder / "reference")
    reference = run_undisturbed(checkout)
    print(f"an undisturbed run: {reference.seconds:.1f} s of processor time", file=sys.stderr, flush=True)
    checkout.remove()
    with ThreadPoolExecutor(jobs) as pool:
        try:
            return list(pool.map(Trials(fixed, folder, reference, seed), range(1, kills + 1)))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # running trials end, no other starts
            raise


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.kills",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kills", type=int, default=20, help="number of trials")
    parser.add_argument("--each", type=int, help="kills in each stage that shares out its work, instead")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--jobs", type=int, default=1, help="parallel trials")
    parser.add_argument("--folder", type=Path, help="empty folder for the clones; default: a temporary one")
    args = parser.parse_args()
    with TemporaryDirectory(prefix="kills-") as scratch:
        folder = (args.folder or Path(scratch)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        if args.each is not None:
            in_stages = kill_in_stages(Path.cwd(), folder, args.each, args.seed)
            print(stage_table(in_stages))
            sys.exit(1 if any(trial.errors for trial in in_stages) else 0)
        trials = run_trials(Path.cwd(), folder, args.kills, args.seed, args.jobs)
    print(table(trials))
    sys.exit(1 if any(trial.errors for trial in trials) else 0)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(1)
