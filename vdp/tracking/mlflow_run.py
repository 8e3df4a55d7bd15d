"""MLflow runs: one per experiment, with a nested run per stage; the ledger of what each stage has used.

The store is `mlflow.db` and `mlartifacts/` in the main checkout, also for `dvc exp run --temp` and queued
experiments; MLFLOW_TRACKING_URI overrides it. Metrics are logged in batches, as one
takes as long as a thousand. MLflow takes seconds to import and is imported at the first flush.
"""

import functools
import hashlib
import json
import logging
import os
import re
import resource
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeAlias, TypedDict, TypeVar, Union

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from vdp.config.messages import validate
from vdp.config.schema import PARAMS_FILE
from vdp.config.yaml_file import read_file
from vdp.core.checkout import project_root
from vdp.core.errors import UserError, one_line, printable
from vdp.core.files import locked, write_text
from vdp.core.flops import TERA, flop_counter
from vdp.core.machine import describe_machine
from vdp.core.rank import process_rank
from vdp.tracking.params import TrackingParams

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from vdp.tracking.event_file import EventFile

EXPERIMENT = "vdp"
KEY_TAG = "vdp.key"  # identifies the run of an experiment
PROCESS_TAG = "vdp.process"  # host:pid of a stage, distinguishes a killed run from one in progress
MACHINE_TAG = "vdp.machine"
FLUSH_POINTS = 500
GIF_DITHER = 3  # OpenCV's other levels lose colours
FILM_MILLISECONDS, FILM_PAUSE = 250, 1000  # of a frame of a clip, and of its last one
FLUSH_SECONDS = 15.0
SQLITE = "sqlite:///"
ARTIFACTS = "mlartifacts"
TENSORBOARD = "tensorboard"  # folder of the event files, by experiment and stage
ARTIFACT_COLUMNS = {
    "experiments": "artifact_location",
    "runs": "artifact_uri",
    "logged_models": "artifact_location",
}
NAMED = re.compile(r"[a-z][a-z0-9+.-]*:|:|databricks")  # a URI with a scheme, or a name that MLflow knows
MAX_METRICS = 1000  # MLflow's limits for one log_batch
MAX_PARAMS = 100
MAX_PARAM_CHARS = 6000
PARENT_METRICS = ("seconds", "core_minutes", "tflop")  # of a stage, logged to the experiment's run too
PICTURE_NAME = re.compile(r"[a-zA-Z0-9_\-./ ]+")  # names that MLflow accepts

Numbers: TypeAlias = Mapping[str, Union[float, "Numbers"]]  # nested: {"simulated": {"jaccard": 0.4}}
P = ParamSpec("P")
T = TypeVar("T")


class Usage(TypedDict, total=False):
    """What a stage has used; its entry in the ledger `.stats/stages.json`."""

    seconds: float  # from the start of the process
    core_minutes: float  # CPU time of the process and its ended children
    workers: int  # processes of a stage without networks
    tflop: float  # arithmetic of its networks; of a resumed training, of all its steps
    peak_memory_mb: float  # MB of 2^20 bytes
    peak_worker_memory_mb: float
    peak_gpu_memory_mb: float
    machine: str  # core-minutes compare between equal machines only


@contextmanager
def track_stage(stage: str, workers: int | None = None) -> Iterator["Tracker"]:
    """Track a stage as a run nested in its experiment's run.

    On success its usage goes to MLflow and to `.stats/stages.json`. On an error the run is marked FAILED
    (KILLED on Ctrl-C) and the error propagates.

    Args:
        stage: name of its script.
        workers: processes of a stage without networks; None for others.

    Raises:
        UserError: at the start, if the server of MLFLOW_TRACKING_URI does not respond.
    """
    tracker = Tracker(stage, workers)
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
    """Buffer the metrics of a stage and log them to MLflow in batches; created by `track_stage`.

    In a distributed run only the main process logs. If the store fails, one warning is printed and the stage
    continues without it.
    """

    def __init__(self, stage: str, workers: int | None = None) -> None:
        self.stage, self.workers = stage, workers
        self.is_main = process_rank() == 0
        self._started = _process_start()
        self._last_flush = time.time()
        self._key = experiment_key()
        self._child_mb, self._ignored_child_mb = 0.0, _largest_child_mb()
        self._flops = 0.0
        self._flops_of_call: dict[Hashable, float] = {}  # by name and sizes of the arguments
        self._points: list[tuple[str, float, int, int]] = []  # name, value, step, milliseconds
        self._runs: _Runs | None = None
        self._disabled = not self.is_main
        self._events: EventFile | None = None
        if self.is_main and writes_tensorboard():
            with self._reporting_events():
                self._events = _open_events(project_root() / TENSORBOARD / self._key / stage)
        if self.is_main and not tracking_uri().startswith("sqlite"):
            self._connect()

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Add a point to each named curve; buffered until the next flush."""
        now = _now_ms()
        self._points += [(name, float(value), step, now) for name, value in values.items()]
        if self._events is not None:
            with self._reporting_events():
                self._events.scalars(values, step)
        if len(self._points) >= FLUSH_POINTS or time.time() - self._last_flush > FLUSH_SECONDS:
            self.flush()

    def summary(self, values: Numbers) -> None:
        """Log numbers of the whole stage; nested names are joined by dots."""
        self.log(flatten(values), step=0)

    def headline(self, values: Numbers) -> None:
        """Log numbers to the experiment's run, by which experiments are compared."""
        points = [(name, value, 0, _now_ms()) for name, value in flatten(values).items()]
        self._write(lambda runs: runs.log_metrics(runs.parent, points))

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Log a file, or all files of a folder, with the stage's run."""
        if not path.exists():
            raise FileNotFoundError(f"{path}: cannot be tracked, it does not exist; write it first")
        method = "log_artifacts" if path.is_dir() else "log_artifact"
        self.send(lambda client, run: getattr(client, method)(run, str(path), folder))

    def picture(self, name: str, picture: NDArray[np.uint8], step: int) -> None:
        """Log a picture (H, W, 3) uint8 of this step with the stage's run.

        Raises:
            ValueError: if the name has other characters than letters, digits, spaces, `_`, `-`, `.` and `/`.
        """
        if not PICTURE_NAME.fullmatch(name):
            raise ValueError(
                f"name={name!r}: expected only letters, digits, spaces, _, -, . and /; rename it"
            )
        self.send(lambda client, run: client.log_image(run, picture, key=name, step=step, synchronous=True))
        if self._events is not None:
            with self._reporting_events():
                self._events.picture(name, picture, step)

    def film(self, name: str, film: Sequence[NDArray[np.uint8]], step: int) -> None:
        """Log a clip, pictures (H, W, 3) uint8 of one size, as a GIF of this step with the stage's run."""
        if self._disabled:
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{name}_{step:08d}.gif"
            path.write_bytes(_encode_gif(film))
            self.artifact(path, name)

    def send(self, write: Callable[["MlflowClient", str], T]) -> T | None:
        """Call `write(client, run id of the stage)`; None if nothing is logged or the store has failed."""
        return self._write(lambda runs: write(runs.client, runs.child))

    def flush(self) -> None:
        """Log the buffered points."""
        if self._events is not None:
            with self._reporting_events():
                self._events.flush()
        points, self._points = self._points, []
        self._last_flush = time.time()
        if points:
            self._write(lambda runs: runs.log_metrics(runs.child, points))

    @property
    def flops(self) -> float:
        """FLOPs of the stage so far."""
        return self._flops

    def add_flops(self, flops: float) -> None:
        """Add counted FLOPs to the stage's."""
        self._flops += flops

    def counted(self, function: Callable[P, T]) -> Callable[P, T]:
        """Return a function whose calls add their FLOPs to the stage's; its results do not change.

        A counted call is slower. Only the first of equal name and sizes of its arguments is counted.
        """
        name = getattr(function, "__qualname__", repr(function))

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            key = (name, _sizes(args), tuple((k, _sizes(value)) for k, value in sorted(kwargs.items())))
            if key in self._flops_of_call:
                result = function(*args, **kwargs)
            else:
                with flop_counter() as counter:
                    result = function(*args, **kwargs)
                self._flops_of_call[key] = float(counter.get_total_flops())
            self.add_flops(self._flops_of_call[key])
            return result

        return call

    def usage(self) -> Usage:
        """What the stage has used so far."""
        usage = Usage(
            seconds=round(time.time() - self._started, 2),
            core_minutes=round(_cpu_seconds() / 60, 4),
            peak_memory_mb=_own_peak_mb(),
            machine=describe_machine(),
        )
        if self.workers is not None:
            usage["workers"] = self.workers
        if self._flops > 0:
            usage["tflop"] = self._flops / TERA
        self._update_child_peak()
        if self._child_mb > 0:
            usage["peak_worker_memory_mb"] = self._child_mb
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
            usage["peak_gpu_memory_mb"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
            usage["machine"] += f"; {torch.cuda.get_device_name()}"
        return usage

    def close(self, status: str, usage: Usage | None = None) -> None:
        """Flush and end the run with an MLflow status: FINISHED, FAILED or KILLED."""

        numbers = {
            key: float(value) for key, value in (usage or {}).items() if isinstance(value, int | float)
        }
        totals = [name for name in PARENT_METRICS if name in numbers]

        def end(runs: _Runs) -> None:
            points = [(f"{name}.{self.stage}", numbers[name], 0, _now_ms()) for name in totals]
            if usage:
                runs.log_metrics(runs.parent, points)
                runs.client.set_tag(runs.child, MACHINE_TAG, usage["machine"])
            runs.client.set_terminated(runs.child, status)
            runs.client.set_terminated(runs.parent, status)

        self.summary(numbers)
        self.flush()
        self._write(end)

    def _write(self, write: "Callable[[_Runs], T]") -> T | None:
        if runs := self._connect():
            with self._reporting():
                return write(runs)
        return None

    def _connect(self) -> "_Runs | None":
        """Open the runs at the first call; None if nothing is logged."""
        if self._runs is None and not self._disabled:
            self._update_child_peak()
            with self._reporting():
                self._runs = _open_runs(self.stage, self._key, int(self._started * 1000))
            self._ignored_child_mb = _largest_child_mb()  # MLflow's own child processes do not count
        return self._runs if not self._disabled else None

    def _update_child_peak(self) -> None:
        if _largest_child_mb() > self._ignored_child_mb:
            self._child_mb = _largest_child_mb()

    @contextmanager
    def _reporting_events(self) -> Iterator[None]:
        """Print an error of the event file or its import as one warning; the stage continues without it."""
        try:
            yield
        except (OSError, ImportError) as error:
            self._events = None
            if isinstance(error, OSError):
                reason = one_line(error)
            else:
                reason = f"{printable(str(error))}; run pip install -r requirements.txt"
            print(f"warning: {self.stage}: continuing without TensorBoard: {reason}", file=sys.stderr)

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        """Print an error of the store as one warning; the stage continues."""
        # no telemetry, no minutes of silent retries, no progress bars
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            logging.disable(logging.WARNING)  # set-up messages of mlflow, alembic and sqlalchemy
            yield
        except (MlflowException, SQLAlchemyError, OSError) as error:  # OSError: a full disk
            message = " ".join(str(error).split())[:300]
            if self._runs is None and not tracking_uri().startswith("sqlite"):
                raise UserError(
                    f"MLFLOW_TRACKING_URI={tracking_uri()}: the server does not respond; start it, or unset "
                    f"the variable to track in {project_root() / 'mlflow.db'} ({message})"
                ) from None
            self._disabled = True
            print(f"warning: {self.stage}: continuing without MLflow: {message}", file=sys.stderr)
        finally:
            logging.disable(logging.NOTSET)


# --- Runs ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Runs:
    """The experiment's run (`parent`) and the stage's run in it (`child`)."""

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

    # Two processes that set up a new database at the same time corrupt it, and both would create the parent.
    with locked(_store_folder() / "mlflow.db.lock"):
        client = MlflowClient(tracking_uri())
        experiment = _experiment_id(client)
        if "MLFLOW_TRACKING_URI" not in os.environ:
            _make_artifacts_relative()
        parent = _parent_run(client, experiment, key, started_ms)
        _end_killed_runs(client, experiment, parent, stage)
        tags = {
            "mlflow.parentRunId": parent,
            "mlflow.source.name": f"stages/{stage}.py",
            PROCESS_TAG: f"{socket.gethostname()}:{os.getpid()}",
        }
        child = client.create_run(experiment, started_ms, tags, run_name=stage).info.run_id
    return _Runs(client, parent, child)


def _experiment_id(client: "MlflowClient") -> str:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        local = tracking_uri().startswith(SQLITE)
        artifacts = (_store_folder() / ARTIFACTS).resolve().as_uri() if local else None
        return client.create_experiment(EXPERIMENT, artifact_location=artifacts)
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    return experiment.experiment_id


def _make_artifacts_relative() -> None:
    """Store the paths of artifacts relative to the project's folder, which may be moved or copied.

    MLflow stores absolute paths, and takes a relative one as relative to the current folder; a temporary
    checkout has a link for them.
    """
    prefix = f"/{ARTIFACTS}"
    with closing(sqlite3.connect(tracking_uri().removeprefix(SQLITE), timeout=60)) as database, database:
        for table, column in ARTIFACT_COLUMNS.items():
            database.execute(
                f"UPDATE {table} SET {column} = substr({column}, instr({column}, :prefix) + 1) "
                f"WHERE instr({column}, :prefix) AND ({column} LIKE 'file:%' OR {column} LIKE '/%')",
                {"prefix": prefix},
            )
    target = project_root() / ARTIFACTS
    if target.parent != Path.cwd() and not os.path.lexists(ARTIFACTS):
        target.mkdir(exist_ok=True)
        os.symlink(target, ARTIFACTS, target_is_directory=True)


def _parent_run(client: "MlflowClient", experiment: str, key: str, started_ms: int) -> str:
    """Find the experiment's run by its key, or create it with all of params.yaml as its params."""
    from mlflow.entities import Param

    found = client.search_runs([experiment], f"tags.`{KEY_TAG}` = '{key}'", max_results=1)
    if found:
        client.update_run(found[0].info.run_id, status="RUNNING")
        return found[0].info.run_id
    tags = {KEY_TAG: key, "mlflow.source.name": "dvc.yaml"}
    if commit := _git_commit():
        tags["mlflow.source.git.commit"] = commit
    if name := os.environ.get("DVC_EXP_NAME"):
        tags["DVC_EXP_NAME"] = name
    run = client.create_run(experiment, started_ms, tags, run_name=key).info.run_id
    data = _flatten_params(read_file() if PARAMS_FILE.is_file() else {})
    params = [Param(name, str(value)[:MAX_PARAM_CHARS]) for name, value in data.items()]
    for start in range(0, len(params), MAX_PARAMS):
        client.log_batch(run, params=params[start : start + MAX_PARAMS])
    return run


def _end_killed_runs(client: "MlflowClient", experiment: str, parent: str, stage: str) -> None:
    """End the stage's runs that are RUNNING without a process, as after SIGKILL."""
    query = f"tags.mlflow.parentRunId = '{parent}' and attributes.run_name = '{stage}'"
    for run in client.search_runs([experiment], f"{query} and attributes.status = 'RUNNING'"):
        host, _, pid = run.data.tags.get(PROCESS_TAG, "").partition(":")
        if host == socket.gethostname() and not Path(f"/proc/{pid}").exists():
            client.set_terminated(run.info.run_id, "KILLED")


# --- Names and paths -------------------------------------------------------------------------------------


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, else the SQLite file of the main checkout; a relative one is relative to it."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}mlflow.db"
    for prefix in (SQLITE, "file:", ""):
        path = uri.removeprefix(prefix)
        if uri.startswith(prefix) and not path.startswith("/") and not NAMED.match(path):
            place = os.path.normpath(project_root() / path)
            # MLflow misreads these in a path; relative to the current folder there are none
            return prefix + (os.path.relpath(place) if set(place) & set("?#%") else place)
    return uri


def _store_folder() -> Path:
    """Folder of a local store: artifacts lie beside the SQLite file."""
    uri = tracking_uri()
    return Path(uri.removeprefix(SQLITE)).parent if uri.startswith(SQLITE) else project_root()


def _open_events(folder: Path) -> "EventFile":
    from vdp.tracking.event_file import EventFile  # imports tensorboardX, which takes seconds

    return EventFile(folder)


def writes_tensorboard() -> bool:
    """Whether section `tracking` of ./params.yaml asks for event files."""
    section = read_file().get("tracking") if PARAMS_FILE.is_file() else None
    return section is not None and validate(TrackingParams, section, "tracking").tensorboard


def experiment_key() -> str:
    """Name of the experiment: DVC's name for it or the git commit, and a hash of params.yaml."""
    content = PARAMS_FILE.read_bytes() if PARAMS_FILE.is_file() else b""
    name = os.environ.get("DVC_EXP_NAME") or _git_commit()[:7] or "no-commit"
    return f"{name}-{hashlib.sha256(content).hexdigest()[:8]}"


def _git_commit() -> str:
    """The commit checked out here; '' without git, a repository or a commit."""
    try:
        found = subprocess.run(["git", "rev-parse", "--verify", "HEAD"], capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""


def flatten(values: Numbers, prefix: str = "") -> dict[str, float]:
    """{"a": {"b": 1}} to {"a.b": 1.0}."""
    flat: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = float(value)
    return flat


def _flatten_params(values: Mapping[str, JsonValue], prefix: str = "") -> dict[str, JsonValue]:
    flat: dict[str, JsonValue] = {}
    for name, value in values.items():
        name = prefix + name
        flat |= _flatten_params(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat


# --- The ledger ------------------------------------------------------------------------------------------


def read_stats() -> dict[str, Usage]:
    """Usage of each stage's last run, by stage; empty before the first run."""
    path = _stats_file()
    return json.loads(path.read_text()) if path.is_file() else {}


def save_stats(stage: str, usage: Usage) -> None:
    """Replace one stage's entry, under a lock against other stages."""
    with locked(_stats_file().with_suffix(".lock")):
        stats = {**read_stats(), stage: usage}
        write_text(_stats_file(), json.dumps(stats, indent=1) + "\n")


def _stats_file() -> Path:
    return project_root() / ".stats" / "stages.json"  # outside git and DVC: differs between equal runs


def _encode_gif(film: Sequence[NDArray[np.uint8]]) -> bytes:
    import cv2

    animation = cv2.Animation()
    animation.frames = [frame[..., ::-1] for frame in film]
    animation.durations = [FILM_MILLISECONDS] * (len(film) - 1) + [FILM_PAUSE]
    animation.loop_count = 0  # endless
    return bytes(cv2.imencodeanimation(".gif", animation, [cv2.IMWRITE_GIF_DITHER, GIF_DITHER])[1])


def _process_start() -> float:
    """Start of this process in seconds since the epoch, so that the time of imports counts."""
    stat = Path("/proc/self/stat")
    if not stat.is_file():
        return time.time()
    ticks = int(stat.read_text().rpartition(")")[2].split()[19])  # field 22; the name may contain spaces
    return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))


def _sizes(value: object) -> Hashable:
    """Sizes of the arguments of a call, on which its FLOPs depend: shapes, lengths and numbers."""
    if (shape := getattr(value, "shape", None)) is not None:
        return tuple(shape)
    if isinstance(value, list | tuple):
        return tuple(_sizes(item) for item in value)
    return repr(value) if isinstance(value, int | float | None) else type(value).__name__


def _cpu_seconds() -> float:
    """CPU time of this process and its children that have ended."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, who))


def _own_peak_mb() -> float:
    """Peak memory of this process: VmHWM, as Linux's ru_maxrss includes that of the parent before exec."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return round(int(line.split()[1]) / 1024, 1)
    return _mb(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def _largest_child_mb() -> float:
    return _mb(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)


def _mb(maxrss: int) -> float:
    return round(maxrss / (2**20 if sys.platform == "darwin" else 1024), 1)


def _now_ms() -> int:
    return int(time.time() * 1000)
