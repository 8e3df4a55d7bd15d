"""One MLflow run per experiment, one nested run per stage, and the time and memory that each stage took.

The store is `mlflow.db` and `mlartifacts/` in the main checkout, also for `dvc exp run --temp` and queued
experiments; MLFLOW_TRACKING_URI overrides it. Everything is written through `MlflowClient`, in batches:
a single metric costs MLflow as much as a thousand. MLflow takes seconds to import, so it is imported at the
first flush, not when a stage starts.
"""

import hashlib
import json
import logging
import os
import re
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar, Union

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from vdp.config.schema import PARAMS_FILE
from vdp.config.yaml_file import read_file
from vdp.core.errors import UserError
from vdp.core.files import locked
from vdp.core.rank import process_rank

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "vdp"
KEY_TAG = "vdp.key"  # what an experiment's run is found by
PROCESS_TAG = "vdp.process"  # host:pid of a stage, to tell a killed run from one in progress
FLUSH_POINTS = 500
FLUSH_SECONDS = 15.0
MAX_METRICS = 1000  # MLflow's limits for one log_batch
MAX_PARAMS = 100
MAX_PARAM_CHARS = 6000
PICTURE_NAME = re.compile(r"[a-zA-Z0-9_\-./ ]+")  # what MLflow takes

Numbers: TypeAlias = Mapping[str, Union[float, "Numbers"]]  # nested: {"simulated": {"jaccard": 0.4}}
T = TypeVar("T")


@contextmanager
def track_stage(stage: str) -> Iterator["Tracker"]:
    """Track one stage as a run nested in its experiment's run.

    On a clean exit the stage's seconds and peak memory go to MLflow and to `.stats/stages.json`; a stage that
    raises leaves its run marked FAILED (KILLED on Ctrl-C) and the error rises on.

    Raises:
        UserError: at the start, if MLFLOW_TRACKING_URI names a store that does not answer.
    """
    tracker = Tracker(stage)
    try:
        yield tracker
    except KeyboardInterrupt:
        tracker.close("KILLED")
        raise
    except BaseException:
        tracker.close("FAILED")
        raise
    usage = tracker.usage()
    tracker.close("FINISHED", usage)
    if tracker.is_main:
        save_stats(stage, usage)


class Tracker:
    """Collects what a stage reports and passes it on to MLflow in batches; made by `track_stage`."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.is_main = is_main_process()
        self._started = process_start()
        self._last_flush = time.time()
        self._key = experiment_key()
        self._child_mb, self._ignored_child_mb = 0.0, _largest_child_mb()
        self._points: list[tuple[str, float, int, int]] = []  # name, value, step, milliseconds
        self._runs: _Runs | None = None
        self._lost = not self.is_main  # only one process of a distributed run reports
        if self.is_main and not tracking_uri().startswith("sqlite"):
            self._connect()

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Add one point to each named curve; held back until the next flush."""
        now = int(time.time() * 1000)
        self._points += [(name, float(value), step, now) for name, value in values.items()]
        if len(self._points) >= FLUSH_POINTS or time.time() - self._last_flush > FLUSH_SECONDS:
            self.flush()

    def summary(self, values: Numbers) -> None:
        """Numbers of the stage as a whole; nested names are joined by dots."""
        self.log(flatten(values), step=0)

    def headline(self, values: Numbers) -> None:
        """Numbers by which experiments are compared: they go to the experiment's run."""
        if runs := self._connect():
            with self._reporting():
                runs.log_metrics(runs.parent, [(k, v, 0, _now_ms()) for k, v in flatten(values).items()])

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Keep a copy of a file, or of all files of a folder, with the stage's run."""
        if not path.exists():
            raise FileNotFoundError(f"{path}: cannot be tracked, it does not exist; write it first")
        if runs := self._connect():
            with self._reporting():
                add = runs.client.log_artifacts if path.is_dir() else runs.client.log_artifact
                add(runs.child, str(path), folder)

    def text(self, name: str, content: str) -> None:
        """Keep a text with the stage's run, as the artifact `name`."""
        if runs := self._connect():
            with self._reporting():
                runs.client.log_text(runs.child, content, name)

    def picture(self, name: str, picture: NDArray[np.uint8], step: int) -> None:
        """Show a picture (H, W, 3) uint8 with the stage's run, beside those of the same name at other steps.

        Raises:
            ValueError: if the name has other characters than letters, digits, spaces, `_`, `-`, `.` and `/`.
        """
        if not PICTURE_NAME.fullmatch(name):
            raise ValueError(
                f"name={name!r}: expected letters, digits, spaces, _, -, . and / alone; rename it"
            )
        if runs := self._connect():
            with self._reporting():
                runs.client.log_image(runs.child, picture, key=name, step=step, synchronous=True)

    def send(self, write: Callable[["MlflowClient", str], T]) -> T | None:
        """Let `write` write what has no method here, with the client and the id of the stage's run.

        Returns:
            What `write` returns; None where nothing is reported, or the store has failed.
        """
        if runs := self._connect():
            with self._reporting():
                return write(runs.client, runs.child)
        return None

    def flush(self) -> None:
        """Send what has been held back."""
        points, self._points = self._points, []
        self._last_flush = time.time()
        if points and (runs := self._connect()):
            with self._reporting():
                runs.log_metrics(runs.child, points)

    def usage(self) -> dict[str, float]:
        """Seconds since the process began and peak memory (MB of 2^20 bytes), up to now."""
        usage = {"seconds": round(time.time() - self._started, 2), "peak_memory_mb": _own_peak_mb()}
        self._note_children()
        if self._child_mb > 0:
            usage["peak_worker_memory_mb"] = self._child_mb
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
            usage["peak_gpu_memory_mb"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
        return usage

    def close(self, status: str, usage: Mapping[str, float] | None = None) -> None:
        """Send the rest and end the run with an MLflow status: FINISHED, FAILED or KILLED."""
        self.summary(usage or {})
        self.flush()
        if runs := self._connect():
            with self._reporting():
                if usage:
                    seconds = (f"seconds.{self.stage}", usage["seconds"], 0, _now_ms())
                    runs.log_metrics(runs.parent, [seconds])
                runs.client.set_terminated(runs.child, status)
                runs.client.set_terminated(runs.parent, status)

    def _connect(self) -> "_Runs | None":
        """The runs to write to, opened at the first call; None when nothing is to be reported."""
        if self._runs is None and not self._lost:
            self._note_children()
            with self._reporting():
                self._runs = _open_runs(self.stage, self._key, int(self._started * 1000))
            self._ignored_child_mb = (
                _largest_child_mb()
            )  # MLflow starts programs too, and they are not the stage's
        return self._runs if not self._lost else None

    def _note_children(self) -> None:
        if _largest_child_mb() > self._ignored_child_mb:
            self._child_mb = _largest_child_mb()

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        """Hours of training are not given up because the tracking store is: warn once and go on without."""
        _prepare_mlflow()
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            with _quiet():
                yield
        except (MlflowException, SQLAlchemyError, OSError) as error:  # OSError: a full disk
            message = " ".join(str(error).split())[:300]
            if self._runs is None and not tracking_uri().startswith("sqlite"):
                raise UserError(
                    f"MLFLOW_TRACKING_URI={tracking_uri()} does not answer: start that server, or unset the "
                    f"variable to track in {project_root() / 'mlflow.db'} ({message})"
                ) from None
            self._lost = True
            print(f"warning: {self.stage} goes on without MLflow: {message}", file=sys.stderr)


# --- Runs ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Runs:
    """An open connection: the experiment's run (`parent`) and the stage's run in it (`child`)."""

    client: "MlflowClient"
    parent: str
    child: str

    def log_metrics(self, run: str, points: list[tuple[str, float, int, int]]) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(name, value, when, step) for name, value, step, when in points]
        for start in range(0, len(metrics), MAX_METRICS):
            self.client.log_batch(run, metrics=metrics[start : start + MAX_METRICS])


def _open_runs(stage: str, key: str, started_ms: int) -> _Runs:
    from mlflow import MlflowClient

    # Two processes that set up a new database at once corrupt it, and two stages would both make the parent.
    with locked(project_root() / "mlflow.db.lock"):
        client = MlflowClient(tracking_uri())
        experiment = _experiment_id(client)
        parent = _parent_run(client, experiment, key, started_ms)
        _end_killed_runs(client, experiment, parent, stage)
        tags = {
            "mlflow.parentRunId": parent,
            "mlflow.source.name": f"stages/{stage}.py",
            PROCESS_TAG: _process_name(),
        }
        child = client.create_run(experiment, started_ms, tags, run_name=stage).info.run_id
    return _Runs(client, parent, child)


def _experiment_id(client: "MlflowClient") -> str:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        local = tracking_uri().startswith("sqlite")
        artifacts = (project_root() / "mlartifacts").as_uri() if local else None
        return client.create_experiment(EXPERIMENT, artifact_location=artifacts)
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    return experiment.experiment_id


def _parent_run(client: "MlflowClient", experiment: str, key: str, started_ms: int) -> str:
    """The experiment's run: found by its key, else made, with all of params.yaml as its params."""
    found = client.search_runs([experiment], f"tags.`{KEY_TAG}` = '{key}'", max_results=1)
    if found:
        client.update_run(found[0].info.run_id, status="RUNNING")
        return found[0].info.run_id
    tags = {KEY_TAG: key, "mlflow.source.name": "dvc.yaml"}
    if commit := git_commit():
        tags["mlflow.source.git.commit"] = commit
    if name := os.environ.get("DVC_EXP_NAME"):
        tags["DVC_EXP_NAME"] = name
    run = client.create_run(experiment, started_ms, tags, run_name=key).info.run_id
    _log_params(client, run)
    return run


def _log_params(client: "MlflowClient", run: str) -> None:
    from mlflow.entities import Param

    data = read_file() if PARAMS_FILE.is_file() else {}
    params = [Param(name, str(value)[:MAX_PARAM_CHARS]) for name, value in flatten_params(data).items()]
    for start in range(0, len(params), MAX_PARAMS):
        client.log_batch(run, params=params[start : start + MAX_PARAMS])


def _end_killed_runs(client: "MlflowClient", experiment: str, parent: str, stage: str) -> None:
    """A process killed outright leaves its run RUNNING for ever; end those of this stage that are gone."""
    mine = f"tags.mlflow.parentRunId = '{parent}' and attributes.run_name = '{stage}'"
    for run in client.search_runs([experiment], f"{mine} and attributes.status = 'RUNNING'"):
        host, _, pid = run.data.tags.get(PROCESS_TAG, "").partition(":")
        if host == socket.gethostname() and not Path(f"/proc/{pid}").exists():
            client.set_terminated(run.info.run_id, "KILLED")


# --- Names and places ------------------------------------------------------------------------------------


def project_root() -> Path:
    """The main checkout, also inside the temporary checkouts that DVC makes for experiments."""
    return Path(os.environ.get("DVC_ROOT") or ".").resolve()


def tracking_uri() -> str:
    """Where runs are kept: MLFLOW_TRACKING_URI, else the SQLite file of the main checkout."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{project_root() / 'mlflow.db'}"


def experiment_key() -> str:
    """One name for one experiment: DVC's name for it or the git commit, and a hash of params.yaml."""
    content = PARAMS_FILE.read_bytes() if PARAMS_FILE.is_file() else b""
    name = os.environ.get("DVC_EXP_NAME") or git_commit()[:7] or "no-commit"
    return f"{name}-{hashlib.sha256(content).hexdigest()[:8]}"


def git_commit() -> str:
    """The commit checked out here; '' without git, a repository or a commit."""
    try:
        found = subprocess.run(["git", "rev-parse", "--verify", "HEAD"], capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""


def is_main_process() -> bool:
    """Whether this is the process of a distributed run that reports; true in an ordinary run."""
    return process_rank() == 0


def flatten(values: Numbers, prefix: str = "") -> dict[str, float]:
    """{"a": {"b": 1}} to {"a.b": 1.0}."""
    flat: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = float(value)
    return flat


def flatten_params(values: Mapping[str, JsonValue], prefix: str = "") -> dict[str, JsonValue]:
    """{"a": {"b": [1, 2]}} to {"a.b": [1, 2]}."""
    flat: dict[str, JsonValue] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= flatten_params(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


# --- Time and memory -------------------------------------------------------------------------------------


def stats_file() -> Path:
    """Seconds and memory of each stage's last run; outside of git and DVC, as equal runs differ in them."""
    return project_root() / ".stats" / "stages.json"


def read_stats() -> dict[str, dict[str, float]]:
    """What `stats_file` holds, by stage; empty before the first run."""
    return json.loads(stats_file().read_text()) if stats_file().is_file() else {}


def save_stats(stage: str, usage: Mapping[str, float]) -> None:
    """Replace one stage's entry; safe against other stages doing the same at the same time."""
    path = stats_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_suffix(".lock")):
        stats = {**read_stats(), stage: dict(usage)}
        new = path.with_suffix(".new")
        new.write_text(json.dumps(stats, indent=1) + "\n")
        new.replace(path)


def process_start() -> float:
    """When this process began, so that a stage's imports count; seconds since the epoch."""
    stat = Path("/proc/self/stat")
    if not stat.is_file():
        return time.time()
    ticks = int(
        stat.read_text().rpartition(")")[2].split()[19]
    )  # field 22, after a name that may hold spaces
    return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))


def _own_peak_mb() -> float:
    """Peak memory of this process.

    Linux's ru_maxrss survives exec, so a small process started by a big one would report the big one's peak;
    VmHWM does not.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return round(int(line.split()[1]) / 1024, 1)
    return _mb(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def _largest_child_mb() -> float:
    return _mb(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)


def _mb(maxrss: int) -> float:
    return round(maxrss / (2**20 if sys.platform == "darwin" else 1024), 1)


def _process_name() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def _now_ms() -> int:
    return int(time.time() * 1000)


def _prepare_mlflow() -> None:
    """What MLflow reads from the environment: no usage reports, no minutes of silent retries, no bars."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the set-up chatter of mlflow, alembic and sqlalchemy from the user's screen."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
