"""The ablation table, every training at the same processor time: `python -m bench.ablations --help`.

Reads bench/ablations.yaml (the rows) and params.yaml, which every row overlays. Each row is a `dvc exp run`
in this checkout. Its training gets as many steps as the budget buys: the processor time of one step is
measured with the row's settings on data/latents, by stages/train_denoiser.py itself. Rows that change no
training share one, found again in DVC's run cache. Each row appends a line to .ablations.jsonl, from which
`--table` prints; rows that are in it, with the same settings, budget and commit, are not run again unless
they failed. OMP_NUM_THREADS=1 for one thread; two checkouts with one cache can share the work by `--part`.
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

from vdp.config.read import check_data
from vdp.config.recipes import merged
from vdp.config.schema import PARAMS_FILE
from vdp.config.yaml_file import read_file
from vdp.core.errors import UserError, one_line

ROWS = Path("bench/ablations.yaml")
RESULTS = Path(".ablations.jsonl")
LATENTS, CODEC = Path("data/latents"), Path("data/models/codec")
WRITTEN = ["params.yaml", "dvc.lock", "results"]  # the tracked files that `dvc exp run` writes

AFTER_TRAINING = ("predict", "segment", "score")  # sections that no training reads
EVALUATION_SHARE = 0.3  # time of predict, segment and score, as a share of a training's; for even parts
WARM_STEPS = 3  # the first ones allocate and choose kernels
TIMED_STEPS = 12  # several: steps differ, by their number of known frames or by what the network makes itself
ROUNDS = 2  # over the same steps: the faster of the two counts, as other processes only slow one down

Settings: TypeAlias = Mapping[str, JsonValue]  # dotted key of params.yaml: value


@dataclass(frozen=True)
class Row:
    """A line of the table: what it is called and what it changes."""

    group: str
    name: str
    settings: Settings

    @property
    def key(self) -> str:
        """Equal for rows that are one experiment."""
        return canonical(self.settings)

    @property
    def training(self) -> str:
        """Equal for rows that share a training."""
        inside = {k: v for k, v in self.settings.items() if k.split(".")[0] not in AFTER_TRAINING}
        return canonical(inside)


@dataclass(frozen=True)
class Result:
    """A line of the results file."""

    row: str
    settings: Settings
    budget: float  # processor seconds of the training
    commit: str
    steps: int  # of the training; 0 where it was not got so far
    step_seconds: float  # processor time of a step, as measured before
    train_cpu_seconds: float | None  # of the stage train_denoiser; None where DVC had its result already
    cpu_seconds: float  # of all stages and of DVC
    experiment: str  # DVC's name of it
    metrics: JsonValue  # its results/metrics.json; None where it failed
    failed: str | None  # why


# --- Rows ------------------------------------------------------------------------------------------------


def canonical(value: JsonValue | Settings) -> str:
    return json.dumps(value, sort_keys=True)


def read_rows(path: Path) -> list[Row]:
    """The rows of a file such as bench/ablations.yaml, in its order; the first one's settings are under all.

    Raises:
        UserError: if it is not such a file, or a name is given twice.
    """
    rows: list[Row] = []
    for group, members in read_file(path).items():
        if not isinstance(members, dict):
            raise UserError(f"{path}: {group}: expected rows, as `name: {{dotted.key: value}}`")
        for name, settings in members.items():
            if not isinstance(settings, dict):
                raise UserError(
                    f"{path}: {group}.{name}: expected {{dotted.key: value}}, or {{}} for the base"
                )
            if any(name == row.name for row in rows):
                raise UserError(f"{path}: {name} is given twice: rows are known by their names, rename one")
            rows.append(Row(group, name, {**rows[0].settings, **settings} if rows else settings))
    return rows


def experiments(rows: Sequence[Row]) -> list[Row]:
    """The first row of each settings: the others show the same experiment."""
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(row.key, row)
    return list(first.values())


def named(rows: Sequence[Row], names: Sequence[str]) -> list[Row]:
    """The experiments behind these names.

    Raises:
        UserError: for a name that no row has.
    """
    by_name = {row.name: row for row in rows}
    for name in names:
        if name not in by_name:
            raise UserError(f"--rows: {name} is not a row; known: {', '.join(by_name)}")
    wanted = {by_name[name].key for name in names}
    return [row for row in experiments(rows) if row.key in wanted]


def part_of(rows: Sequence[Row], part: int, parts: int) -> list[Row]:
    """One of several shares of the rows, about even in time; rows that share a training stay together."""
    together: dict[str, list[Row]] = {}
    for row in rows:
        together.setdefault(row.training, []).append(row)
    loads = [0.0] * parts
    mine: list[Row] = []
    for family in together.values():
        lightest = loads.index(min(loads))
        loads[lightest] += 1 + EVALUATION_SHARE * len(family)
        if lightest == part:
            mine += family
    return mine


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


def for_steps(data: Mapping[str, JsonValue], steps: int) -> dict[str, JsonValue]:
    """Settings of a training of so many steps: a short one warms up for a tenth and still has its curves."""
    train = data["train_denoiser"]
    assert isinstance(train, dict)
    settings: dict[str, JsonValue] = {"train_denoiser.steps": steps}
    for key, most in (("warmup_steps", steps // 10), ("log_every", steps), ("validate_every", steps)):
        now = train[key]
        assert isinstance(now, int)
        if now > most:
            settings[f"train_denoiser.{key}"] = most
    return settings


def flags(settings: Settings) -> list[str]:
    """`-S key=value` for each; lists, nested ones too, are written as JSON without spaces."""
    words: list[str] = []
    for key, value in settings.items():
        shown = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        words += ["-S", f"{key}={shown}"]
    return words


# --- The time of a step ----------------------------------------------------------------------------------


def step_seconds(data: Mapping[str, JsonValue]) -> float:
    """Processor time of a training step with these params, on the latents of this checkout.

    Raises:
        UserError: as the stage says it, where it cannot train with them.
    """
    train = data["train_denoiser"]
    assert isinstance(train, dict)
    steps = WARM_STEPS + TIMED_STEPS
    few: dict[str, JsonValue] = {"steps": steps, "log_every": 1, "validate_every": steps, "warmup_steps": 1}
    with TemporaryDirectory() as folder:
        place = Path(folder)
        place.joinpath(PARAMS_FILE.name).write_text(json.dumps({**data, "train_denoiser": {**train, **few}}))
        for data_folder in (LATENTS, CODEC):
            place.joinpath(data_folder).parent.mkdir(parents=True, exist_ok=True)
            place.joinpath(data_folder).symlink_to(data_folder.resolve())
        code = "from bench.ablations import time_stage; time_stage()"
        ran = subprocess.run(
            [sys.executable, "-c", code],
            cwd=place,
            env={**os.environ, "PYTHONPATH": str(Path.cwd())},
            capture_output=True,
            text=True,
        )
        if ran.returncode:
            raise UserError(reason(ran.stderr))
        rounds = json.loads(ran.stdout.splitlines()[-1])
    return mean_step(rounds)


def mean_step(rounds: Sequence[Sequence[float]]) -> float:
    """Mean over the steps of the least time that each took in any round."""
    least = [min(times) for times in zip(*rounds, strict=True)]
    return sum(least) / len(least)


class Clock:
    """In the place of a stage's tracker, with curves of one step: notes when each step ended."""

    def __init__(self) -> None:
        self.ends: dict[int, float] = {}

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.ends.setdefault(step, time.process_time())  # the last step is told twice, with its validation

    def picture(self, name: str, picture: np.ndarray, step: int) -> None:
        """Pictures come after the last step."""

    @property
    def steps(self) -> list[float]:
        """Seconds of each step after the warm ones."""
        return [self.ends[step] - self.ends[step - 1] for step in sorted(self.ends) if step > WARM_STEPS]


def time_stage() -> None:
    """Run stages/train_denoiser.py where this process stands and print the seconds of its steps, as JSON."""
    from stages import train_denoiser
    from vdp.config.read import run_stage
    from vdp.training.checkpoint import States

    rounds: list[list[float]] = []

    @contextmanager
    def clocked(stage: str) -> Iterator[Clock]:
        clock = Clock()
        yield clock
        rounds.append(clock.steps)

    def nowhere(stage: str, root: Path) -> States:
        return States(Path("states"))

    with (
        patch.object(train_denoiser, "track_stage", clocked),
        patch.object(train_denoiser, "states_of", nowhere),
    ):
        for _ in range(ROUNDS):
            run_stage(train_denoiser.main)
    print(json.dumps(rounds))


# --- Running a row ---------------------------------------------------------------------------------------


@dataclass
class Ran:
    """What a command did."""

    code: int
    output: str
    cpu_seconds: float  # of it and all it started
    train_cpu_seconds: float | None


class Bench:
    """Runs rows at one budget and commit, and knows what has been run."""

    def __init__(self, budget: float, results: Path, commit: str) -> None:
        self.budget, self.results, self.commit = budget, results, commit
        mine = [r for r in read_results([results]) if r.budget == budget and r.commit == commit]
        self.done = {canonical(result.settings) for result in mine if result.failed is None}
        # a training is found again only by its number of steps, so that its time is not measured anew
        self.seconds = {
            Row("", result.row, result.settings).training: result.step_seconds
            for result in mine
            if result.step_seconds
        }

    def plan(self, row: Row) -> dict[str, JsonValue]:
        """The row's settings together with those of its training's length.

        Raises:
            UserError: where params.yaml would not be valid with them, or no training is possible.
        """
        data = merged(read_file(), nested(row.settings))
        check_data(data)
        if row.training not in self.seconds:
            self.seconds[row.training] = step_seconds(data)
        steps = max(1, int(self.budget / self.seconds[row.training]))
        settings = {**row.settings, **for_steps(data, steps)}
        check_data(merged(data, nested(settings)))
        return settings

    def run(self, row: Row, settings: Settings, experiment: str) -> None:
        """Run a row as a DVC experiment and write its line."""
        try:
            ran = run_watched(command(experiment, settings))
        finally:
            git("checkout", "HEAD", "--", *WRITTEN)  # HEAD: a DVC that is stopped leaves params.yaml staged
        failed = reason(ran.output) if ran.code else None
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
                train_cpu_seconds=ran.train_cpu_seconds,
                cpu_seconds=round(ran.cpu_seconds, 1),
                experiment=experiment,
                metrics=metrics,
                failed=failed,
            )
        )

    def refuse(self, row: Row, why: str) -> None:
        """Write the line of a row that could not be started."""
        self.write(Result(row.name, row.settings, self.budget, self.commit, 0, 0.0, None, 0.0, "", None, why))

    def write(self, result: Result) -> None:
        with self.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(result)) + "\n")
        if result.failed:
            print(f"{result.row}: failed: {result.failed}", flush=True)


def command(experiment: str, settings: Settings) -> list[str]:
    return ["dvc", "exp", "run", "--name", experiment, *flags(settings)]


def free_name(name: str, taken: Sequence[str]) -> str:
    """The name, or with a number where this commit has such an experiment: none is ever overwritten."""
    names = [name, *(f"{name}-{n}" for n in range(2, len(taken) + 3))]
    return next(name for name in names if name not in taken)


def run_watched(words: Sequence[str]) -> Ran:
    """Run a command, showing what it prints, with this Python first in the PATH of its stages."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    output = b""
    with (
        watched_training() as train,
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
    return Ran(process.returncode, output.decode(errors="replace"), cpu, max(train, default=None))


@contextmanager
def watched_training() -> Iterator[list[float]]:
    """Puts the processor seconds of the stage train_denoiser of this checkout, so far, into the list."""
    seconds: list[float] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.5):
            for process in Path("/proc").glob("[0-9]*"):
                if (used := training_seconds(process)) is not None:
                    seconds.append(used)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seconds
    finally:
        done.set()
        watcher.join()


def training_seconds(process: Path) -> float | None:
    """Processor seconds of a process (its folder in /proc); None if it is not this checkout's training."""
    try:
        if b"stages.train_denoiser" not in process.joinpath("cmdline").read_bytes():
            return None
        if process.joinpath("cwd").readlink() != Path.cwd():
            return None
        fields = process.joinpath("stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended, or is another user's
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime and stime


def reason(output: str) -> str:
    """Why a command failed, from what it printed: a stage's own line before DVC's word on it."""
    lines = [line.strip() for line in re.split(r"[\r\n]+", output) if line.strip()]
    told = [line for line in lines if re.match(r"(error:|ERROR:|[\w.]*(Error|Exception)\b)", line)]
    stage = [line for line in told if not line.startswith("ERROR:")]
    return (stage or told or lines or ["it printed nothing"])[-1].removeprefix("error: ")[:300]


def git(*words: str) -> str:
    """What git prints.

    Raises:
        UserError: with git's own line, if it fails.
    """
    ran = subprocess.run(["git", *words], capture_output=True, text=True)
    if ran.returncode:
        raise UserError(f"git {words[0]}: {reason(ran.stderr)}")
    return ran.stdout.strip()


def experiments_ref(commit: str) -> str:
    """Where DVC keeps the experiments of a commit."""
    return f"refs/exps/{commit[:2]}/{commit[2:]}"


def experiment_names(commit: str) -> list[str]:
    ref = experiments_ref(commit)
    listed = git("for-each-ref", "--format=%(refname)", ref).split()
    return [name.removeprefix(f"{ref}/") for name in listed]


# --- The table -------------------------------------------------------------------------------------------


def read_results(paths: Sequence[Path]) -> list[Result]:
    """The lines of results files, in order; a file that is not there has none."""
    lines = [line for path in paths if path.is_file() for line in path.read_text("utf-8").splitlines()]
    return [Result(**json.loads(line)) for line in lines if line]


def table(rows: Sequence[Row], results: Sequence[Result]) -> str:
    """Markdown: a table for each budget and commit, rows as in the yaml; a row's last result counts."""
    runs: dict[tuple[float, str], dict[str, Result]] = {}
    for result in results:
        runs.setdefault((result.budget, result.commit), {})[canonical(result.settings)] = result
    parts: list[str] = []
    for (budget, commit), found in runs.items():
        parts += [f"{budget:g} processor seconds of training each, commit {commit[:7]}", "", *HEAD]
        groups = list(dict.fromkeys(row.group for row in rows if row.key in found))
        for group in groups:
            inside = [row for row in rows if row.group == group and row.key in found]
            # a group of which only the base was run says nothing
            if group == rows[0].group or any(row.key != rows[0].key for row in inside):
                parts += [table_line(row, found[row.key], rows) for row in inside]
        parts.append("")
    return "\n".join(parts).rstrip()


HEAD = [
    "| group | row | steps | CPU s | Jaccard | copy | ratio | PSNR | codec ceiling |",
    "|---|---|---:|---:|---:|---:|---:|---:|---:|",
]


def table_line(row: Row, result: Result, rows: Sequence[Row]) -> str:
    cells = [row.group, row.name, str(result.steps or "-")]
    if result.failed is not None:
        return "| " + " | ".join([*cells, "failed: " + result.failed.replace("|", "\\|"), *[""] * 5]) + " |"
    shared = "shared" if result.train_cpu_seconds is None else f"{result.train_cpu_seconds:.0f}"
    return "| " + " | ".join([*cells, shared, *scores(result.metrics)]) + " |"


def scores(metrics: JsonValue) -> list[str]:
    """Jaccard, its copy baseline, their ratio, PSNR and the codec's ceiling, of the first test set."""
    first = next(iter(metrics.values())) if isinstance(metrics, dict) and metrics else {}
    jaccard, copy = number(first, "jaccard"), number(first, "baseline", "copy_last")
    ratio = jaccard / copy if jaccard is not None and copy else None
    shown = [
        (jaccard, 4),
        (copy, 4),
        (ratio, 2),
        (number(first, "psnr"), 2),
        (number(first, "ceiling", "codec"), 4),
    ]
    return ["-" if value is None else f"{value:.{digits}f}" for value, digits in shown]


def number(value: JsonValue, *path: str) -> float | None:
    """A number inside nested metrics; None where it is not scored, as without masks."""
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return float(value) if isinstance(value, int | float) else None


# --- The command -----------------------------------------------------------------------------------------


def ablate(rows: Sequence[Row], bench: Bench, dry: bool) -> None:
    """Run each row that is not done; a row that fails does not stop the others."""
    for count, row in enumerate(rows, 1):
        if row.key in bench.done:
            print(f"{row.name}: done before", flush=True)
            continue
        try:
            settings = bench.plan(row)
        except (ValueError, OSError) as error:
            if dry:
                print(f"{row.name}: failed: {one_line(error)}", flush=True)
            else:
                bench.refuse(row, one_line(error))
            continue
        experiment = free_name(row.name, experiment_names(bench.commit))
        print(f"# {count}/{len(rows)}: {1000 * bench.seconds[row.training]:.1f} ms of processor time a step")
        print(shlex.join(command(experiment, settings)), flush=True)
        if not dry:
            bench.run(row, settings, experiment)


def check_ready(dry: bool) -> None:
    """Raises UserError where rows cannot be run: nothing of the user's may be lost or mixed in."""
    if not LATENTS.is_dir():
        raise UserError(f"{LATENTS}: not there: run `dvc repro encode_latents train_segmenter` first")
    changed = git("status", "--porcelain", "--untracked-files=no").splitlines()
    if changed and not dry:
        first = changed[0].split()[-1]
        raise UserError(
            f"the workspace has changes that are not committed (first of {len(changed)}: {first}): commit "
            f"them, or undo what a killed run left: git checkout HEAD -- {' '.join(WRITTEN)}"
        )


def main() -> None:
    """Do what the arguments ask for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--budget", type=float, help="processor seconds of each training")
    parser.add_argument("--rows", type=lambda text: text.split(","), help="names, separated by commas")
    parser.add_argument("--part", type=lambda text: text.split("/"), help="0/2 or 1/2: for two checkouts")
    parser.add_argument("--dry-run", action="store_true", help="measure and print the commands alone")
    parser.add_argument(
        "--table", type=Path, nargs="*", metavar="FILE", help=f"print the table of these files ({RESULTS})"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"file to append to ({RESULTS})")
    parser.add_argument("--file", type=Path, default=ROWS, help=f"the rows ({ROWS})")
    arguments = parser.parse_args()
    try:
        rows = read_rows(arguments.file)
        if arguments.table is not None:
            print(table(rows, read_results(arguments.table or [arguments.results])))
            return
        if arguments.budget is None or not arguments.budget > 0:
            raise UserError("--budget: expected the processor seconds of a training, above 0")
        chosen = named(rows, arguments.rows) if arguments.rows else experiments(rows)
        if arguments.part:
            chosen = part_of(chosen, *parsed_part(arguments.part))
        check_ready(arguments.dry_run)
        ablate(
            chosen, Bench(arguments.budget, arguments.results, git("rev-parse", "HEAD")), arguments.dry_run
        )
    except (ValueError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(1)


def parsed_part(words: Sequence[str]) -> tuple[int, int]:
    """["0", "2"] to (0, 2)."""
    if len(words) != 2 or not all(word.isdecimal() for word in words) or int(words[0]) >= int(words[1]):
        raise UserError(f"--part: expected 0/2 or 1/2, got {'/'.join(words)}")
    return int(words[0]), int(words[1])


if __name__ == "__main__":
    main()
