"""Run the extract_frames stage on broken input and check how the run ends."""

import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, SimpleNamespace
from unittest.mock import patch

import numpy as np

from stages import extract_frames
from tests.data.sources.mutations import CONTENT, FURTHER, mutate, mutate_params
from tests.data.sources.small_sources import CLIP, SOURCES, params_text
from vdp.cli.source_check import check_sources
from vdp.config.read import read_section, run_stage
from vdp.config.schema import ClipParams
from vdp.core.classes import NUM_CLASSES
from vdp.core.errors import printable
from vdp.data.extract import plan
from vdp.data.params import ExtractParams
from vdp.data.stores.clips import ClipStore

MAX_SECONDS = 120  # on a busy machine
MAX_MEMORY = 8 * 2**30  # bytes; exceeded by reading /dev/zero
KINDS = [*SOURCES, "params", "params"]
FURTHER_KINDS = ["containers", "videos", "images", "containers", "competition", "clevrer", "pair folders"]
# messages about a source as a whole
WHOLE = re.compile(
    r"no usable videos in raw|raw holds both|raw has (one video|folders for)|raw(/list\.\w+)? not found"
)
# messages about a row or a split of a data set
ROW = re.compile(r"raw, (row \d|\w+:)|/\w*row_\d|/state.json: part of a saved data set")
NOTICE = re.compile(r"skipped: |.*: the header promises |.*: \d+ of \d+ packets do not decode")

Listing = dict[str, tuple[int, ...]]


@dataclass
class Case:
    """A broken project and its files before the run."""

    kind: str
    done: str  # mutations applied
    changed: set[str]
    older_clips: bool
    files: Listing


@dataclass
class Outcome:
    """Exit code and lines on stderr, without the progress bar."""

    code: int
    lines: list[str]


def build_sources(folder: Path) -> Path:
    """Build every kind of source once, to be copied."""
    for kind, (make, _) in SOURCES.items():
        make(folder / kind / "raw")
    return folder


def prepare(sources: Path, seed: int, broken: bool = True, further: bool = False) -> Case:
    """Fill the current folder, which is empty, with the project of a seed.

    `further`: mutations of places, suffixes, masks and headers too, of sources of files alone.
    """
    rng = np.random.default_rng(seed + 10_000 * further)
    kinds = FURTHER_KINDS if further else KINDS
    kind = kinds[seed % len(kinds)]
    source = "images" if kind == "params" else kind
    shutil.copytree(sources / source / "raw", "raw", symlinks=True)
    skip, older_clips = bool(rng.integers(2)), bool(rng.integers(2))
    repair = further and bool(rng.integers(2))
    Path("params.yaml").write_text(params_text(SOURCES[source][1], skip, kind == "params", repair))
    if older_clips:
        Path("data/clips/train").mkdir(parents=True)
        Path("data/clips/train/manifest.json").write_text("older")
    before = listing("raw")
    done = "nothing"
    if broken:
        done = mutate_params(rng) if kind == "params" else mutate(rng, FURTHER if further else CONTENT)
    after = listing("raw")
    changed = {path for path in before | after if before.get(path) != after.get(path)}
    return Case(kind, done, changed, older_clips, after)


def listing(folder: str) -> Listing:
    """Type, size and time of everything in a folder."""
    found = {}
    for path, folders, files in os.walk(os.fsencode(folder)):
        for name in folders + files:
            status = os.lstat(os.path.join(path, name))
            # time and size of a folder change with its files, which are listed
            sizes = (0, 0) if name in folders else (status.st_size, status.st_mtime_ns)
            found[os.fsdecode(os.path.join(path, name))] = (status.st_mode, *sizes)
    return found


# --- The run ---------------------------------------------------------------------------------------------


class Timeout(BaseException):
    """Not caught by the product."""


def run_here(kind: str) -> Outcome:
    """Run the stage in this process and folder."""
    return run_main(kind, extract_frames.main)


def check_here(kind: str) -> Outcome:
    """Check the sources in this process and folder, as `vdp check`."""

    def main() -> None:
        clip, params = read_section(ClipParams, "clip"), read_section(ExtractParams, "extract_frames")
        print(*check_sources(clip, params).left_out, sep="\n", file=sys.stderr)

    return run_main(kind, main)


def run_main(kind: str, main: Callable[[], None]) -> Outcome:
    """Run a stage's function with little time and memory."""
    code = 0
    tracker = SimpleNamespace(is_main=True, summary=lambda values: None)
    with (
        captured_stderr() as lines,
        limits(),
        patch.object(extract_frames, "track_stage", lambda name, workers: nullcontext(tracker)),
        # the other kinds have the sections of the stage alone, which it checks itself
        nullcontext() if kind == "params" else patch("vdp.config.read.check_file"),
        # units of a few clips, as of a large source
        patch.object(plan, "MIN_UNIT_MB", 0),
        patch.object(plan, "UNITS", 3),
    ):
        try:
            run_stage(main)
        except SystemExit as end:
            code = int(end.code or 0)
        except (Exception, Timeout):
            code = -1
            traceback.print_exc()
    # train and test are one folder here
    return Outcome(code, [x for x in lines if not x.startswith("warning: extract_frames.test_sets.t:")])


@contextmanager
def limits() -> Iterator[None]:
    """Limit time and memory."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Timeout

    before = signal.signal(signal.SIGALRM, stop)
    memory = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (MAX_MEMORY, memory[1]))
    signal.alarm(MAX_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_DATA, memory)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def captured_stderr() -> Iterator[list[str]]:
    """Lines that a terminal would show of stderr at the end, including those of C libraries."""
    lines: list[str] = []
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file, open(os.devnull, "w") as out:
        os.dup2(file.fileno(), 2)
        try:
            # descriptor 2 itself, as in a process of its own
            with (
                open(2, "w", buffering=1, errors="backslashreplace", closefd=False) as err,
                patch.object(sys, "stderr", err),
                patch.object(sys, "stdout", out),
            ):
                yield lines
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        file.seek(0)
        lines += screen_lines(file.read().decode("utf-8", "replace"))


def screen_lines(text: str) -> list[str]:
    """Lines without the progress bar and what it has overwritten."""
    shown = [line.rpartition("\r")[2] for line in text.split("\n")]
    return [line for line in shown if line.strip() and not line.startswith("extract: ")]


# --- The outcome -----------------------------------------------------------------------------------------


def check(case: Case, outcome: Outcome) -> None:
    """Assert that the source is unchanged, and that there are readable clips or a one-line error."""
    assert outcome.code in (0, 1), "\n".join(outcome.lines)
    assert listing("raw") == case.files, "the user's source has changed"
    notices = outcome.lines if outcome.code == 0 else outcome.lines[:-1]
    for line in notices:
        assert NOTICE.match(line), f"unexpected: {line}"
        assert line.isprintable() and names_the_change(case, line), line
    if outcome.code == 0:
        check_clips(case)
        return
    error = outcome.lines[-1]
    assert re.match("error: .", error) and error.isprintable()
    assert names_the_change(case, error)
    assert os.path.isdir("data/clips") == case.older_clips
    assert not Path("data").exists() or [path.name for path in Path("data").iterdir()] in ([], ["clips"])
    if case.older_clips:
        assert [str(path) for path in Path("data/clips").rglob("*.*")] == ["data/clips/train/manifest.json"]
        assert Path("data/clips/train/manifest.json").read_text() == "older"


def check_without_work(case: Case, outcome: Outcome) -> None:
    """Assert that `vdp check` has written nothing, and ended well or with one line."""
    assert outcome.code in (0, 1), "\n".join(outcome.lines)
    assert listing("raw") == case.files, "the user's source has changed"
    assert not Path(".resume").exists() and os.path.isdir("data/clips") == case.older_clips
    assert all(line.isprintable() for line in outcome.lines)
    errors = [line for line in outcome.lines if line.startswith("error: ")]
    assert len(errors) == outcome.code and (not errors or errors == outcome.lines[-1:])


def run_case(case: Case) -> tuple[Outcome, Outcome]:
    """Check and extract; what the check refuses is refused by the run too."""
    before = check_here(case.kind)
    check_without_work(case, before)
    after = run_here(case.kind)
    check(case, after)
    assert before.code <= after.code, before.lines
    return before, after


def names_the_change(case: Case, line: str) -> bool:
    """Whether a line names a key of params.yaml, or a changed file by its path, its video's, or its row's."""
    if case.kind == "params":
        return "params.yaml: " in line or "extract_frames." in line
    if WHOLE.search(line) or ("set" in case.kind and ROW.search(line)):
        return True
    if "clevrer" in case.kind and "video_00001.mp4: input/output error" in line:  # of its proposals
        return True
    changed = {parent for path in case.changed for parent in (Path(path), *Path(path).parents[:-2])}
    if "pair" in case.kind or "list" in case.kind:  # either side names a pair
        for one, other in (("raw/input", "raw/target"), ("raw/target", "raw/input")):
            changed |= {Path(str(path).replace(one, other)) for path in changed}
    return any(printable(str(path)) in line for path in changed)


def check_clips(case: Case) -> None:
    assert [path.name for path in Path("data").iterdir()] == ["clips"]
    assert [path.name for path in Path(".resume/extract_frames").iterdir()] == ["lock"]
    stores = [ClipStore(path.parent) for path in Path("data/clips").rglob("manifest.json")]
    assert stores
    for store in stores:
        assert len(set(store.names)) == len(store.names) > 0
        for clip in map(store.clip, range(len(store))):
            assert len(clip.frames) in (CLIP["frames"], CLIP["known"])
            assert clip.frames.shape[1:] == (store.height, store.width, 3)
            if clip.masks is not None:
                assert clip.masks.shape == clip.frames.shape[:3] and clip.masks.max() < NUM_CLASSES
            assert clip.conditions is None or clip.conditions.shape == clip.frames.shape
        for entry in store.skipped:
            assert entry["reason"].isprintable() and names_the_change(case, entry["reason"])
