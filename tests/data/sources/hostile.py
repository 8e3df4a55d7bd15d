"""Run the extract_frames stage on broken input, and check what a user is owed however the run ends.

`python -m tests.data.hostile 3000` plays the cases of that many seeds and tells of each that went wrong.
"""

import faulthandler
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from unittest.mock import patch

import numpy as np

from stages import extract_frames
from tests.data.sources.mutations import mutate, mutate_params
from tests.data.sources.small_sources import CLIP, SOURCES, params_text
from vdp.config.read import run_stage
from vdp.config.schema import SECTIONS
from vdp.core.classes import NUM_CLASSES
from vdp.core.errors import printable
from vdp.data.extract import extract as extraction
from vdp.data.stores.clips import ClipStore

HANGS = 30  # seconds
MEMORY = 8 * 2**30  # bytes: as reading /dev/zero would take
KINDS = [*SOURCES, "params", "params"]
STAGE_SECTIONS = {name: SECTIONS[name] for name in ("clip", "extract_frames")}
# what can only be said of a source as a whole
OF_ALL = re.compile(
    r"no usable videos in raw|raw holds both|raw has (one video|folders for)|raw(/list\.\w+)? is not there"
)
# a row, a split, or where a split should be
OF_SET = re.compile(r"raw, (row \d|\w+:)|/\w*row_\d|/state.json: expected in a saved data set")
NOTICE = re.compile(r"skipped: |.*: the header says |extract_frames\.[\w.]+: \d+ videos lie in folders ")

Listing = dict[str, tuple[int, ...]]


@dataclass
class Case:
    """A broken project: its kind, what was done to it, and what was there before the run."""

    kind: str
    done: str
    changed: set[str]
    older_clips: bool
    files: Listing


@dataclass
class Outcome:
    """How a run ended: its exit code and what stays on the screen, without the bar."""

    code: int
    lines: list[str]


def build_sources(folder: Path) -> Path:
    """Every kind of source, made once to be copied."""
    for kind, (make, _) in SOURCES.items():
        make(folder / kind / "raw")
    return folder


def prepare(sources: Path, seed: int, broken: bool = True) -> Case:
    """Fill the current folder, which is empty, with the project of a seed."""
    rng = np.random.default_rng(seed)
    kind = KINDS[seed % len(KINDS)]
    source = "images" if kind == "params" else kind
    shutil.copytree(sources / source / "raw", "raw", symlinks=True)
    skip, older_clips = bool(rng.integers(2)), bool(rng.integers(2))
    Path("params.yaml").write_text(params_text(SOURCES[source][1], skip, whole=kind == "params"))
    if older_clips:
        Path("data/clips/train").mkdir(parents=True)
        Path("data/clips/train/manifest.json").write_text("older")
    before = listing("raw")
    done = "nothing"
    if broken:
        done = mutate_params(rng) if kind == "params" else mutate(rng)
    after = listing("raw")
    changed = {path for path in before | after if before.get(path) != after.get(path)}
    return Case(kind, done, changed, older_clips, after)


def listing(folder: str) -> Listing:
    """Type, size and time of everything in a folder."""
    found = {}
    for path, folders, files in os.walk(os.fsencode(folder)):
        for name in folders + files:
            status = os.lstat(os.path.join(path, name))
            # a folder's own time and size change with its files, which are listed anyway
            sizes = (0, 0) if name in folders else (status.st_size, status.st_mtime_ns)
            found[os.fsdecode(os.path.join(path, name))] = (status.st_mode, *sizes)
    return found


# --- The run ---------------------------------------------------------------------------------------------


class Hung(BaseException):
    """A run took too long; nothing in the product catches it."""


class Recorder:
    """Stands for the tracker."""

    def summary(self, values: dict[str, float]) -> None:
        """Forget them."""


@contextmanager
def track_stage(name: str) -> Iterator[Recorder]:
    yield Recorder()


def run_here(kind: str) -> Outcome:
    """Run the stage in this process and folder."""
    code = 0
    with (
        screen() as lines,
        limits(),
        patch.object(extract_frames, "track_stage", track_stage),
        patch("vdp.config.schema.SECTIONS", SECTIONS if kind == "params" else STAGE_SECTIONS),
        # units of a few clips, as large sources have
        patch.object(extraction, "MIN_UNIT_MB", 0),
        patch.object(extraction, "UNITS", 3),
    ):
        try:
            run_stage(extract_frames.main)
        except SystemExit as end:
            code = int(end.code or 0)
        except (Exception, Hung):
            code = -1
            traceback.print_exc()
    # train and test are one folder here, which is told
    return Outcome(
        code, [line for line in lines if not line.startswith("warning: extract_frames.test_sets.t:")]
    )


@contextmanager
def limits() -> Iterator[None]:
    """Of time and memory."""

    def hung(number: int, frame: FrameType | None) -> None:
        raise Hung

    before = signal.signal(signal.SIGALRM, hung)
    memory = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, memory[1]))
    signal.alarm(HANGS)
    try:
        yield
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_DATA, memory)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def screen() -> Iterator[list[str]]:
    """The lines that a terminal would show of stderr at the end, also those of C libraries."""
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
    """Text without the bar, and without what it has overwritten."""
    shown = [line.rpartition("\r")[2] for line in text.split("\n")]
    return [line for line in shown if line.strip() and not line.startswith("extract: ")]


# --- What a user is owed ---------------------------------------------------------------------------------


def check(case: Case, outcome: Outcome) -> None:
    """The source is as it was, and there are clips that can be read, or one line that says why not.

    Raises:
        AssertionError: if that is not true.
    """
    assert outcome.code in (0, 1), "\n".join(outcome.lines)
    assert listing("raw") == case.files, "the user's source has changed"
    if outcome.code == 0:
        check_notices(case, outcome.lines)
        check_clips(case)
        return
    *notices, error = outcome.lines
    check_notices(case, notices)
    assert re.match("error: .", error) and error.isprintable()
    assert names_the_change(case, error)
    assert os.path.isdir("data/clips") == case.older_clips
    assert not Path("data").exists() or [path.name for path in Path("data").iterdir()] in ([], ["clips"])
    if case.older_clips:
        assert [str(path) for path in Path("data/clips").rglob("*.*")] == ["data/clips/train/manifest.json"]
        assert Path("data/clips/train/manifest.json").read_text() == "older"


def check_notices(case: Case, lines: list[str]) -> None:
    for line in lines:
        assert NOTICE.match(line), f"noise: {line}"
        assert line.isprintable() and names_the_change(case, line), line


def names_the_change(case: Case, line: str) -> bool:
    """Whether it names a key of params.yaml, or a changed file: by its path, its video's, or its row's."""
    if case.kind == "params":
        return "params.yaml: " in line or "extract_frames." in line
    if OF_ALL.search(line) or ("set" in case.kind and OF_SET.search(line)):
        return True
    if "clevrer" in case.kind and "video_00001.mp4: input/output error" in line:  # of its proposals
        return True
    changed = {parent for path in case.changed for parent in (Path(path), *Path(path).parents[:-2])}
    if "pair" in case.kind or "list" in case.kind:  # a pair is named by its other side too
        changed |= {Path(str(p).replace("raw/input", "raw/target")) for p in changed}
        changed |= {Path(str(p).replace("raw/target", "raw/input")) for p in changed}
    return any(printable(str(path)) in line for path in changed)


def check_clips(case: Case) -> None:
    assert [path.name for path in Path("data").iterdir()] == ["clips"]
    assert [path.name for path in Path(".resume/extract_frames").iterdir()] == ["lock"]
    stores = [ClipStore(path.parent) for path in Path("data/clips").rglob("manifest.json")]
    assert stores
    for store in stores:
        names = store.names
        assert len(set(names)) == len(names) > 0
        for index in range(len(store)):
            clip = store.clip(index)
            assert len(clip.frames) in (CLIP["frames"], CLIP["known"])
            assert clip.frames.shape[1:] == (store.height, store.width, 3)
            if clip.masks is not None:
                assert clip.masks.shape == clip.frames.shape[:3] and clip.masks.max() < NUM_CLASSES
            assert clip.conditions is None or clip.conditions.shape == clip.frames.shape
        for entry in store.skipped:
            assert entry["reason"].isprintable() and names_the_change(case, entry["reason"])


# --- A campaign ------------------------------------------------------------------------------------------


def campaign(first: int, last: int) -> int:
    """Play the seeds from the first up to the last; the number of cases that went wrong."""
    faulthandler.enable(os.fdopen(os.dup(2), "w"))
    home, wrong = Path.cwd(), 0
    ends: Counter[str] = Counter()
    slowest = (0.0, first)
    with tempfile.TemporaryDirectory() as folder:
        sources = build_sources(Path(folder) / "sources")
        for seed in range(first, last):
            print(seed, end="\r", flush=True)  # the last one, should a library end the process
            here = Path(folder) / f"case{seed}"
            here.mkdir()
            os.chdir(here)
            case = prepare(sources, seed)
            started = time.monotonic()
            outcome = run_here(case.kind)
            slowest = max(slowest, (time.monotonic() - started, seed))
            ends[f"{case.kind}: exit code {outcome.code}"] += 1
            try:
                check(case, outcome)
            except AssertionError as error:
                wrong += 1
                place = traceback.extract_tb(error.__traceback__)[-1]
                print(f"seed {seed} ({case.kind}: {printable(case.done)}): line {place.lineno}: {place.line}")
                print("    " + "\n    ".join(outcome.lines[-20:]), flush=True)
            os.chdir(home)
            shutil.rmtree(here, ignore_errors=True)
    for end, count in sorted(ends.items()):
        print(f"{count:6d} {end}")
    print(f"slowest: seed {slowest[1]}, {slowest[0]:.1f} s; {wrong} of {last - first} went wrong")
    return wrong


if __name__ == "__main__":
    numbers = [int(text) for text in sys.argv[1:]] or [300]
    sys.exit(campaign(0 if len(numbers) == 1 else numbers[0], numbers[-1]) > 0)
