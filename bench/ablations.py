"""The ablation table, with equal processor time for every training: `python -m bench.ablations --help`.

Reads bench/ablations.yaml (the rows) and params.yaml, which each row overlays. A row is a `dvc exp run` in
this checkout. Its training has as many steps as the budget allows: the processor time of a step is measured
first, with the row's settings on data/latents, by stages/train_denoiser.py. Rows with the same training share
it through DVC's run cache. Results are appended to .ablations.jsonl, from which `--table` prints; a row with
a successful result for the same settings, budget and commit is skipped. Set OMP_NUM_THREADS=1 for one thread;
two checkouts with one cache share the rows by `--part`.
"""

import argparse
import json
import os
import re
import resource
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias
from unittest.mock import patch

import numpy as np
from pydantic import JsonValue

from bench.denoisers import markdown
from vdp.config.read import check_data
from vdp.config.recipes import merged
from vdp.config.schema import PARAMS_FILE
from vdp.config.yaml_file import read_file
from vdp.core.errors import UserError, one_line

ROWS = Path("bench/ablations.yaml")
RESULTS = Path(".ablations.jsonl")
LATENTS, CODEC = Path("data/latents"), Path("data/models/codec")
WRITTEN = ["params.yaml", "dvc.lock", "results"]  # tracked files that `dvc exp run` writes

AFTER_TRAINING = ("predict", "segment", "score")  # sections that no training reads
EVALUATION_SHARE = 0.3  # time of predict, segment and score relative to a training's, to balance parts
WARM_STEPS = 3  # not timed: allocation and choice of kernels
TIMED_STEPS = 12  # steps differ in their number of context frames and in scheduled sampling
ROUNDS = 2  # over the same steps; the minimum counts, as other processes only slow a step down

Settings: TypeAlias = Mapping[str, JsonValue]  # dotted key of params.yaml: value


@dataclass(frozen=True)
class Row:
    """A row of the table and the params it changes."""

    group: str
    name: str
    settings: Settings

    @property
    def key(self) -> str:
        """Equal for rows of one experiment."""
        return canonical(self.settings)

    @property
    def training(self) -> str:
        """Equal for rows that share a training."""
        return canonical({k: v for k, v in self.settings.items() if k.split(".")[0] not in AFTER_TRAINING})


@dataclass(frozen=True)
class Result:
    """A line of the results file."""

    row: str
    settings: Settings
    budget: float  # processor seconds of the training
    commit: str
    steps: int  # of the training; 0 if it was not started
    step_seconds: float  # measured processor time of a step
    train_cpu_seconds: float | None  # of the stage train_denoiser; None if DVC had its outs in the cache
    cpu_seconds: float  # of all stages and of DVC
    experiment: str  # name in DVC
    metrics: JsonValue  # results/metrics.json; None if it failed
    failed: str | None  # reason


# --- Rows ------------------------------------------------------------------------------------------------


def canonical(value: JsonValue | Settings) -> str:
    return json.dumps(value, sort_keys=True)


def read_rows(path: Path) -> list[Row]:
    """Read the rows in the order of the file; all inherit the settings of the first.

    Raises:
        UserError: if the format is wrong or a name occurs twice.
    """
    rows: list[Row] = []
    for group, members in read_file(path).items():
        if not isinstance(members, dict):
            raise UserError(f"{path}: {group}: expected rows `name: {{dotted.key: value}}`")
        for name, settings in members.items():
            if not isinstance(settings, dict):
                raise UserError(
                    f"{path}: {group}.{name}: expected {{dotted.key: value}}, or {{}} for the base"
                )
            if any(name == row.name for row in rows):
                raise UserError(f"{path}: {name} occurs twice: rename one")
            rows.append(Row(group, name, {**rows[0].settings, **settings} if rows else settings))
    return rows


def experiments(rows: Sequence[Row]) -> list[Row]:
    """The first row of each experiment."""
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(row.key, row)
    return list(first.values())


def select(rows: Sequence[Row], names: Sequence[str]) -> list[Row]:
    """The experiments of the named rows.

    Raises:
        UserError: for an unknown name.
    """
    by_name = {row.name: row for row in rows}
    for name in names:
        if name not in by_name:
            raise UserError(f"--rows: {name} is unknown; expected one of {', '.join(by_name)}")
    keys = {by_name[name].key for name in names}
    return [row for row in experiments(rows) if row.key in keys]


def part_of(rows: Sequence[Row], part: int, parts: int) -> list[Row]:
    """One of several parts of similar duration; rows that share a training stay in one part."""
    families: dict[str, list[Row]] = {}
    for row in rows:
        families.setdefault(row.training, []).append(row)
    loads = [0.0] * parts
    selected: list[Row] = []
    for family in families.values():
        lightest = loads.index(min(loads))
        loads[lightest] += 1 + EVALUATION_SHARE * len(family)
        if lightest == part:
            selected += family
    return selected


def nested(settings: Settings) -> dict[str, JsonValue]:
    """{"a.b": 1} to {"a": {"b": 1}}."""
    result: dict[str, JsonValue] = {}
    for dotted, value in settings.items():
        overlay = value
        for key in reversed(dotted.split(".")):
            overlay = {key: overlay}
        assert isinstance(overlay, dict)
        result = merged(result, overlay)
    return result


def length_settings(data: Mapping[str, JsonValue], steps: int) -> dict[str, JsonValue]:
    """Settings of a training of `steps` steps: a warm-up of at most a tenth, and at least one log point."""
    train = data["train_denoiser"]
    assert isinstance(train, dict)
    settings: dict[str, JsonValue] = {"train_denoiser.steps": steps}
    for key, limit in (("warmup_steps", steps // 10), ("log_every", steps), ("validate_every", steps)):
        now = train[key]
        assert isinstance(now, int)
        if now > limit:
            settings[f"train_denoiser.{key}"] = limit
    return settings


def flags(settings: Settings) -> list[str]:
    """`-S key=value` for each setting; lists are written as JSON without spaces."""
    words: list[str] = []
    for key, value in settings.items():
        text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        words += ["-S", f"{key}={text}"]
    return words


# --- The time of a step ----------------------------------------------------------------------------------


def step_seconds(data: Mapping[str, JsonValue]) -> float:
    """Measure the processor time of a training step with these params, on the latents of this checkout.

    Raises:
        UserError: if the stage fails.
    """
    train = data["train_denoiser"]
    assert isinstance(train, dict)
    steps = WARM_STEPS + TIMED_STEPS
    few: dict[str, JsonValue] = {"steps": steps, "log_every": 1, "validate_every": steps, "warmup_steps": 1}
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.joinpath(PARAMS_FILE.name).write_text(json.dumps({**data, "train_denoiser": {**train, **few}}))
        for data_folder in (LATENTS, CODEC):
            folder.joinpath(data_folder).parent.mkdir(parents=True, exist_ok=True)
            folder.joinpath(data_folder).symlink_to(data_folder.resolve())
        done = subprocess.run(
            [sys.executable, "-c", "from bench.ablations import time_stage; time_stage()"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(Path.cwd())},
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise UserError(failure_reason(done.stderr))
    rounds = json.loads(done.stdout.splitlines()[-1])
    fastest = [min(times) for times in zip(*rounds, strict=True)]
    return sum(fastest) / len(fastest)


class Clock:
    """A tracker that records the processor time at the end of each step, with a log point per step."""

    def __init__(self) -> None:
        self.ends: dict[int, float] = {}

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.ends.setdefault(step, time.process_time())  # the last step is logged again with its validation

    def picture(self, name: str, picture: np.ndarray, step: int) -> None:
        pass

    def add_flops(self, flops: float) -> None:
        pass

    @property
    def steps(self) -> list[float]:
        """Seconds of each step after the warm-up."""
        return [self.ends[step] - self.ends[step - 1] for step in sorted(self.ends) if step > WARM_STEPS]


def time_stage() -> None:
    """Run stages/train_denoiser.py in the current folder and print the seconds of its steps as JSON."""
    from stages import train_denoiser
    from vdp.config.read import run_stage
    from vdp.training.checkpoint import TrainingCheckpoints

    rounds: list[list[float]] = []

    @contextmanager
    def clocked(stage: str) -> Iterator[Clock]:
        clock = Clock()
        yield clock
        rounds.append(clock.steps)

    checkpoints = TrainingCheckpoints(Path("checkpoints"))
    with (
        patch.object(train_denoiser, "track_stage", clocked),
        patch.object(train_denoiser, "stage_checkpoints", lambda stage, root: checkpoints),
    ):
        for _ in range(ROUNDS):
            run_stage(train_denoiser.main)
    print(json.dumps(rounds))


# --- Running a row ---------------------------------------------------------------------------------------


class Bench:
    """Run rows with one budget at one commit, and append their results to a file."""

    def __init__(self, budget: float, results: Path, commit: str) -> None:
        self.budget, self.results, self.commit = budget, results, commit
        earlier = [r for r in read_results([results]) if r.budget == budget and r.commit == commit]
        self.done = {canonical(result.settings) for result in earlier if result.failed is None}
        # a shared training is found in the cache by its number of steps, so its time is not measured again
        self.seconds = {
            Row("", result.row, result.settings).training: result.step_seconds
            for result in earlier
            if result.step_seconds
        }

    def plan(self, row: Row) -> dict[str, JsonValue]:
        """The row's settings and those of its training's length.

        Raises:
            UserError: if params.yaml is invalid with them, or the training fails.
        """
        data = merged(read_file(), nested(row.settings))
        check_data(data)
        if row.training not in self.seconds:
            self.seconds[row.training] = step_seconds(data)
        steps = max(1, int(self.budget / self.seconds[row.training]))
        settings = {**row.settings, **length_settings(data, steps)}
        check_data(merged(data, nested(settings)))
        return settings

    def run(self, row: Row, settings: Settings, experiment: str) -> None:
        """Run a row as a DVC experiment and write its result."""
        try:
            code, output, cpu_seconds, train_seconds = run_timed(command(experiment, settings))
        finally:
            git("checkout", "HEAD", "--", *WRITTEN)  # HEAD: an interrupted DVC leaves params.yaml staged
        failed = failure_reason(output) if code else None
        metrics = None
        if failed is None:
            ref = f"{experiments_ref(self.commit)}/{experiment}"
            metrics = json.loads(git("show", f"{ref}:results/metrics.json"))
        steps = settings["train_denoiser.steps"]
        assert isinstance(steps, int)
        self.write(
            Result(
                row=row.name,
                settings=row.settings,
                budget=self.budget,
                commit=self.commit,
                steps=steps,
                step_seconds=self.seconds[row.training],
                train_cpu_seconds=train_seconds,
                cpu_seconds=round(cpu_seconds, 1),
                experiment=experiment,
                metrics=metrics,
                failed=failed,
            )
        )

    def write_failure(self, row: Row, reason: str) -> None:
        """Write the result of a row that could not be started."""
        self.write(
            Result(row.name, row.settings, self.budget, self.commit, 0, 0.0, None, 0.0, "", None, reason)
        )

    def write(self, result: Result) -> None:
        with self.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(result)) + "\n")
        if result.failed:
            print(f"{result.row}: failed: {result.failed}", flush=True)


def command(experiment: str, settings: Settings) -> list[str]:
    return ["dvc", "exp", "run", "--name", experiment, *flags(settings)]


def unused_name(name: str, taken: Sequence[str]) -> str:
    """The name, with a number if the commit has an experiment of this name: none is overwritten."""
    names = [name, *(f"{name}-{n}" for n in range(2, len(taken) + 3))]
    return next(name for name in names if name not in taken)


def run_timed(words: Sequence[str]) -> tuple[int, str, float, float | None]:
    """Run a Python module and show its output.

    Returns:
        Exit code, output, processor seconds of it and its children, and of the stage train_denoiser.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # for the commands of the stages
    output = b""
    with (
        training_times() as train,
        subprocess.Popen(
            [sys.executable, "-m", *words],
            env={**os.environ, "PATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
        ) as process,
    ):
        assert process.stdout is not None
        while chunk := process.stdout.read(65536):
            output += chunk
            sys.stdout.buffer.write(chunk)
            sys.stdout.flush()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return process.returncode, output.decode(errors="replace"), cpu, max(train, default=None)


@contextmanager
def training_times() -> Iterator[list[float]]:
    """Sample the processor seconds of this checkout's train_denoiser process into the list."""
    seconds: list[float] = []
    done = threading.Event()

    def sample() -> None:
        while not done.wait(0.5):
            for process in Path("/proc").glob("[0-9]*"):
                if (used := training_seconds(process)) is not None:
                    seconds.append(used)

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield seconds
    finally:
        done.set()
        sampler.join()


def training_seconds(process: Path) -> float | None:
    """Processor seconds of a process (its folder in /proc); None if it is not this checkout's training."""
    try:
        if b"stages.train_denoiser" not in process.joinpath("cmdline").read_bytes():
            return None
        if process.joinpath("cwd").readlink() != Path.cwd():
            return None
        fields = process.joinpath("stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended, or belongs to another user
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime and stime


def failure_reason(output: str) -> str:
    """The last error line of a command's output; a stage's own line takes precedence over DVC's."""
    lines = [line.strip() for line in re.split(r"[\r\n]+", output) if line.strip()]
    errors = [line for line in lines if re.match(r"(error:|ERROR:|[\w.]*(Error|Exception)\b)", line)]
    stage = [line for line in errors if not line.startswith("ERROR:")]
    return (stage or errors or lines or ["no output"])[-1].removeprefix("error: ")[:300]


def git(*words: str) -> str:
    """Output of a git command; raises UserError with git's own message if it fails."""
    done = subprocess.run(["git", *words], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"git {words[0]}: {failure_reason(done.stderr)}")
    return done.stdout.strip()


def experiments_ref(commit: str) -> str:
    """Prefix of the refs of DVC's experiments of a commit."""
    return f"refs/exps/{commit[:2]}/{commit[2:]}"


def experiment_names(commit: str) -> list[str]:
    ref = experiments_ref(commit)
    listed = git("for-each-ref", "--format=%(refname)", ref).split()
    return [name.removeprefix(f"{ref}/") for name in listed]


# --- The table -------------------------------------------------------------------------------------------

HEAD = ["group", "row", "steps", "CPU s", "Jaccard", "copy", "ratio", "PSNR", "codec ceiling"]


def read_results(paths: Sequence[Path]) -> list[Result]:
    """The lines of results files; a missing file has none."""
    lines = [line for path in paths if path.is_file() for line in path.read_text("utf-8").splitlines()]
    return [Result(**json.loads(line)) for line in lines if line]


def table(rows: Sequence[Row], results: Sequence[Result]) -> str:
    """Markdown: a table for each budget and commit, in the order of the rows, with each row's last result."""
    runs: dict[tuple[float, str], dict[str, Result]] = {}
    for result in results:
        runs.setdefault((result.budget, result.commit), {})[canonical(result.settings)] = result
    parts: list[str] = []
    for (budget, commit), found in runs.items():
        lines: list[list[str]] = []
        for group in dict.fromkeys(row.group for row in rows):
            inside = [row for row in rows if row.group == group and row.key in found]
            # a group with results of the base only compares nothing
            if group == rows[0].group or any(row.key != rows[0].key for row in inside):
                lines += [cells(row, found[row.key]) for row in inside]
        title = f"{budget:g} processor seconds of training each, commit {commit[:7]}"
        parts.append(f"{title}\n\n{markdown(HEAD, lines)}")
    return "\n\n".join(parts)


def cells(row: Row, result: Result) -> list[str]:
    first = [row.group, row.name, str(result.steps or "-")]
    if result.failed is not None:
        return [*first, "failed: " + result.failed.replace("|", "\\|"), *[""] * 5]
    shared = "shared" if result.train_cpu_seconds is None else f"{result.train_cpu_seconds:.0f}"
    return [*first, shared, *scores(result.metrics)]


def scores(metrics: JsonValue) -> list[str]:
    """Jaccard, its copy baseline, their ratio, PSNR and the codec's ceiling, of the first test set."""
    first = next(iter(metrics.values())) if isinstance(metrics, dict) and metrics else {}
    jaccard, copy = number(first, "jaccard"), number(first, "baseline", "copy_last")
    ratio = jaccard / copy if jaccard is not None and copy else None
    psnr, ceiling = number(first, "psnr"), number(first, "ceiling", "codec")
    values = [(jaccard, 4), (copy, 4), (ratio, 2), (psnr, 2), (ceiling, 4)]
    return ["-" if value is None else f"{value:.{digits}f}" for value, digits in values]


def number(value: JsonValue, *path: str) -> float | None:
    """A number of nested metrics; None if it is missing."""
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return float(value) if isinstance(value, int | float) else None


# --- The command -----------------------------------------------------------------------------------------


def ablate(rows: Sequence[Row], bench: Bench, dry: bool) -> None:
    """Run each row without a result; a failed row does not stop the others."""
    for count, row in enumerate(rows, 1):
        if row.key in bench.done:
            print(f"{row.name}: has a result", flush=True)
            continue
        try:
            settings = bench.plan(row)
        except (ValueError, OSError) as error:
            if dry:
                print(f"{row.name}: failed: {one_line(error)}", flush=True)
            else:
                bench.write_failure(row, one_line(error))
            continue
        experiment = unused_name(row.name, experiment_names(bench.commit))
        print(
            f"# {count}/{len(rows)}: {1000 * bench.seconds[row.training]:.1f} ms of processor time per step"
        )
        print(shlex.join(command(experiment, settings)), flush=True)
        if not dry:
            bench.run(row, settings, experiment)


def check_ready(dry: bool) -> None:
    """Raise UserError if the latents are missing or a run would overwrite uncommitted changes."""
    if not LATENTS.is_dir():
        raise UserError(f"{LATENTS}: missing: run `dvc repro encode_latents train_segmenter` first")
    changed = git("status", "--porcelain", "--untracked-files=no").splitlines()
    if changed and not dry:
        first = changed[0].split()[-1]
        raise UserError(
            f"the workspace has uncommitted changes (first of {len(changed)}: {first}): commit them, or undo "
            f"those of an interrupted run: git checkout HEAD -- {' '.join(WRITTEN)}"
        )


def parse_part(text: str) -> tuple[int, int]:
    """Parse `0/2` to (0, 2)."""
    part, _, parts = text.partition("/")
    if not part.isdecimal() or not parts.isdecimal() or int(part) >= int(parts):
        raise argparse.ArgumentTypeError(f"{text}: expected 0/2 or 1/2")
    return int(part), int(parts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--budget", type=float, help="processor seconds of each training")
    parser.add_argument("--rows", type=lambda text: text.split(","), help="names, separated by commas")
    parser.add_argument("--part", type=parse_part, help="0/2 or 1/2: for two checkouts")
    parser.add_argument("--dry-run", action="store_true", help="measure and print the commands only")
    parser.add_argument(
        "--table", type=Path, nargs="*", metavar="FILE", help=f"print the table of these files ({RESULTS})"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"file to append to ({RESULTS})")
    parser.add_argument("--file", type=Path, default=ROWS, help=f"the rows ({ROWS})")
    args = parser.parse_args()
    try:
        rows = read_rows(args.file)
        if args.table is not None:
            print(table(rows, read_results(args.table or [args.results])))
            return
        if args.budget is None or not args.budget > 0:
            raise UserError("--budget: expected the processor seconds of a training, above 0")
        selected = select(rows, args.rows) if args.rows else experiments(rows)
        if args.part:
            selected = part_of(selected, *args.part)
        check_ready(args.dry_run)
        ablate(selected, Bench(args.budget, args.results, git("rev-parse", "HEAD")), args.dry_run)
    except (ValueError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
