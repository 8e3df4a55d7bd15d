"""Extraction: the same bytes whatever the number of processes and interruptions; one line for what breaks."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.data.sources.source_contract import RULE, clips_of, make_picture_folder, make_video_file
from vdp.core.files import locked
from vdp.data.extract import extract as extraction
from vdp.data.extract.extract import Job, Policy, extract
from vdp.data.sources.competition import CompetitionSource
from vdp.data.sources.images import ImageFolderSource
from vdp.data.sources.protocols import ClipRule, Frame, Pace, Source
from vdp.data.sources.videos import VideoSource
from vdp.data.stores.clips import Clip, ClipStore, ShardWriter

STOP = Policy(shard_mb=1, skip=False, max_bad_share=0.0, workers=1)
SKIP = replace(STOP, skip=True, max_bad_share=0.5)
BIG = replace(RULE, height=64, width=96)  # 0.39 MiB a clip: two fill a shard of 1 MiB


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units of a few clips, as large sources have."""
    monkeypatch.setattr(extraction, "MIN_UNIT_MB", 0)
    monkeypatch.setattr(extraction, "UNITS", 3)


def job(source: Source, rule: ClipRule = BIG) -> Job:
    return Job(source, source.items(), rule, "extract_frames.train")


def run(tmp_path: Path, *jobs: Job, policy: Policy = STOP, out: str = "out") -> list[ClipStore]:
    (tmp_path / out).mkdir()
    named = {f"split{n}": job for n, job in enumerate(jobs)}
    return list(extract(named, tmp_path / out, tmp_path / "work", policy).values())


def content(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def make_mixed(folder: Path, videos: int = 8) -> ImageFolderSource:
    for n in range(videos):
        make_picture_folder(folder / f"v{n}", frames=22 + 22 * (n % 3), masks=n % 2 == 0)
    return ImageFolderSource(folder)


def assert_nothing_half_written(tmp_path: Path, out: str = "out") -> None:
    assert not list((tmp_path / out).rglob("manifest.json"))


@pytest.mark.parametrize("rule", [BIG, RULE], ids=["a video in a unit", "several videos in a unit"])
def test_every_clip_of_every_split_is_kept_in_order(tmp_path, rule):
    mixed = make_mixed(tmp_path / "a")
    for n in (0, 10, 2):
        make_picture_folder(tmp_path / "b" / f"video_{n}", masks=n != 10)
    stores = run(tmp_path, job(mixed, rule), job(CompetitionSource(tmp_path / "b"), rule))
    for source, store in zip((mixed, CompetitionSource(tmp_path / "b")), stores, strict=True):
        expected = clips_of(source, rule)
        expected.sort(key=lambda clip: clip.masks is None)
        assert store.names == [clip.name for clip in expected]
        for index, clip in enumerate(expected):
            np.testing.assert_array_equal(store.frames(index), clip.frames)
            if clip.masks is not None:
                np.testing.assert_array_equal(store.masks(index), clip.masks)
        assert store.num_labelled == sum(clip.masks is not None for clip in expected)
    assert stores[1].names == ["video_0", "video_2", "video_10"]
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["lock"]


def test_no_shard_is_larger_than_asked_for(tmp_path):
    (store,) = run(tmp_path, job(make_mixed(tmp_path / "a")))
    sizes = [path.stat().st_size for path in store.folder.glob("frames_*.npy")]
    assert max(sizes) <= 2**20 and len(sizes) >= len(store) / 2


def test_the_number_of_processes_changes_no_byte(tmp_path):
    source = make_mixed(tmp_path / "a")
    run(tmp_path, job(source), out="one")
    run(tmp_path, job(source), job(source), policy=replace(STOP, workers=2), out="two")
    assert content(tmp_path / "one" / "split0") == content(tmp_path / "two" / "split0")
    assert content(tmp_path / "two" / "split0") == content(tmp_path / "two" / "split1")


def test_a_video_that_cannot_be_used_stops_the_run_in_one_line(tmp_path):
    source = make_mixed(tmp_path / "a")
    (tmp_path / "a" / "v5" / "image_30.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="extract_frames.train: .*v5/image_30.png: not a readable") as error:
        run(tmp_path, job(source))
    assert "\n" not in str(error.value) and "on_bad_video to skip" in str(error.value)
    assert_nothing_half_written(tmp_path)


def test_a_stop_in_another_process_is_the_same_line(tmp_path):
    source = make_mixed(tmp_path / "a")
    (tmp_path / "a" / "v5" / "image_30.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="extract_frames.train: .*v5/image_30.png: not a readable"):
        run(tmp_path, job(source), policy=replace(STOP, workers=2))
    assert_nothing_half_written(tmp_path)


@pytest.mark.parametrize(("workers", "rule"), [(1, BIG), (1, RULE), (2, RULE)])
def test_a_skipped_video_leaves_only_its_reason(tmp_path, workers, rule):
    """v5 breaks in its second clip: the first is taken back; the others are as if v5 had not been there."""
    source = make_mixed(tmp_path / "a")
    (tmp_path / "a" / "v5" / "image_30.png").write_bytes(b"no picture")
    (store,) = run(tmp_path, job(source, rule), policy=replace(SKIP, workers=workers))
    assert [entry["video"] for entry in store.skipped] == ["v5"]
    assert "v5/image_30.png: not a readable picture" in store.skipped[0]["reason"]
    others = {
        clip.name: clip
        for item in source.items()
        if item != "v5"
        for clip in extraction.cut_clips(source, item, rule)
    }
    assert sorted(store.names) == sorted(others)
    for index, name in enumerate(store.names):
        np.testing.assert_array_equal(store.frames(index), others[name].frames)


def test_skipped_videos_are_named_in_the_log(tmp_path, capsys):
    source = make_mixed(tmp_path / "a")
    (tmp_path / "a" / "v1" / "image_0.png").write_bytes(b"")
    run(tmp_path, job(source), policy=SKIP)
    assert "skipped: " in capsys.readouterr().err


def test_too_many_skipped_videos_stop_the_run(tmp_path):
    source = make_mixed(tmp_path / "a", videos=4)
    for n in (0, 1, 2):
        (tmp_path / "a" / f"v{n}" / "image_0.png").write_bytes(b"")
    with pytest.raises(
        ValueError, match="3 of 4 videos cannot be used, more than .*max_bad_share=0.5 allows"
    ):
        run(tmp_path, job(source), policy=SKIP)
    assert_nothing_half_written(tmp_path)


def test_a_split_without_any_usable_video_stops_the_run(tmp_path):
    make_picture_folder(tmp_path / "a" / "v0", frames=3)
    with pytest.raises(ValueError, match="extract_frames.train: none of its 1 videos can be used: .*too few"):
        run(tmp_path, job(ImageFolderSource(tmp_path / "a")), policy=replace(SKIP, max_bad_share=1.0))


def test_two_videos_of_one_name_are_told_before_any_is_read(tmp_path, monkeypatch):
    make_video_file(tmp_path / "a" / "x.mp4")
    make_video_file(tmp_path / "a" / "x.avi")
    source = VideoSource(tmp_path / "a")
    (store,) = run(tmp_path, job(source), policy=SKIP, out="skipped")
    assert store.names == ["x_000000", "x_000022"]
    assert "same names as those of" in store.skipped[0]["reason"]
    monkeypatch.setattr(extraction, "cut_clips", None)
    with pytest.raises(ValueError, match=r"x.mp4: its clips would have the same names as those of .*x.avi"):
        run(tmp_path, job(source))


def test_what_was_decoded_before_a_stop_is_not_decoded_again(tmp_path, monkeypatch):
    source = make_mixed(tmp_path / "a")
    run(tmp_path, job(source), out="whole")
    broken = tmp_path / "a" / "v6" / "image_0.png"
    good = broken.read_bytes()
    broken.write_bytes(b"")
    with pytest.raises(ValueError, match="v6"):
        run(tmp_path, job(source), out="stopped")
    broken.write_bytes(good)
    read: list[str] = []
    cut = extraction.cut_clips
    monkeypatch.setattr(extraction, "cut_clips", lambda s, item, r: [read.append(item), cut(s, item, r)][1])
    run(tmp_path, job(source), out="again")
    assert content(tmp_path / "again") == content(tmp_path / "whole")
    assert "v6" in read and "v0" not in read


def recording(names: list[str]) -> Callable[[ShardWriter, Clip], bool]:
    """`ShardWriter.append` that notes what it writes."""
    append = ShardWriter.append

    def recorded(self: ShardWriter, clip: Clip) -> bool:
        names.append(clip.name)
        return append(self, clip)

    return recorded


def test_a_unit_that_was_interrupted_goes_on_after_its_last_full_shard(tmp_path, monkeypatch):
    """A long video is interrupted at every one of its clips in turn."""
    make_picture_folder(tmp_path / "a" / "long", frames=22 * 9)
    source = ImageFolderSource(tmp_path / "a")
    run(tmp_path, job(source), out="whole")
    cut = extraction.cut_clips
    for stop in range(1, 9):
        appended: list[str] = []

        def interrupted(*args: object, stop: int = stop) -> Iterator[object]:
            for number, clip in enumerate(cut(*args)):
                if number == stop:
                    raise KeyboardInterrupt
                yield clip

        monkeypatch.setattr(extraction, "cut_clips", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, job(source), out=f"stopped{stop}")
        assert_nothing_half_written(tmp_path, f"stopped{stop}")
        monkeypatch.setattr(extraction, "cut_clips", cut)
        with monkeypatch.context() as patch:
            patch.setattr(extraction.ShardWriter, "append", recording(appended))
            run(tmp_path, job(source), out=f"again{stop}")
        assert content(tmp_path / f"again{stop}") == content(tmp_path / "whole")
        assert len(appended) <= 9 - (stop - 1) // 2 * 2  # shards hold two clips


def test_work_of_other_params_is_not_taken_over(tmp_path):
    source = make_mixed(tmp_path / "a")
    bad = tmp_path / "a" / "v6" / "image_0.png"
    good = bad.read_bytes()
    bad.write_bytes(b"")
    with pytest.raises(ValueError, match="v6"):
        run(tmp_path, job(source), out="stopped")
    bad.write_bytes(good)
    smaller = replace(BIG, height=32, width=48)
    (store,) = run(tmp_path, job(source, smaller), out="again")
    (fresh,) = run(tmp_path, job(source, smaller), out="fresh")
    assert content(store.folder) == content(fresh.folder) and (store.height, store.width) == (32, 48)


def test_a_unit_is_named_after_all_that_its_bytes_depend_on(tmp_path):
    source = make_mixed(tmp_path / "a", videos=2)
    names = {
        extraction._unit_hash("code", job(source), ["v0", "v1"], 1),
        extraction._unit_hash("other code", job(source), ["v0", "v1"], 1),
        extraction._unit_hash("code", job(source), ["v0"], 1),
        extraction._unit_hash("code", job(source), ["v1", "v0"], 1),
        extraction._unit_hash("code", job(source), ["v0", "v1"], 2),
        extraction._unit_hash("code", job(source, replace(BIG, stride=11)), ["v0", "v1"], 1),
        extraction._unit_hash("code", job(source, replace(BIG, pace=Pace(2))), ["v0", "v1"], 1),
        extraction._unit_hash("code", job(VideoSource(tmp_path / "a")), ["v0", "v1"], 1),
    }
    assert len(names) == 8


def stop_at_v7(tmp_path: Path, source: Source) -> None:
    """A run that stops at a broken picture of v7, which is then as it was before."""
    bad = tmp_path / "a" / "v7" / "image_0.png"
    good, times = bad.read_bytes(), bad.stat()
    bad.write_bytes(b"")
    with pytest.raises(ValueError, match="v7"):
        run(tmp_path, job(source), out="stopped")
    bad.write_bytes(good)
    os.utime(bad, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_a_unit_that_lost_a_file_is_made_again_whatever_happens_meanwhile(tmp_path, monkeypatch):
    """As when a run is killed while it moves its shards, and the next one while it makes the unit again."""
    source = make_mixed(tmp_path / "a")
    run(tmp_path, job(source), out="whole")
    stop_at_v7(tmp_path, source)
    lost = next(path for path in sorted((tmp_path / "work").glob("*/frames_000.npy")) if lists(path, "v2_"))
    lost.unlink()
    cut = extraction.cut_clips

    def killed(source: Source, item: str, rule: ClipRule) -> Iterator[Clip]:
        yield from cut(source, item, rule)
        if item == "v2":  # its files are all there, but not complete
            raise KeyboardInterrupt

    monkeypatch.setattr(extraction, "cut_clips", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, job(source), out="killed")
    monkeypatch.setattr(extraction, "cut_clips", cut)
    run(tmp_path, job(source), out="again")
    assert content(tmp_path / "again") == content(tmp_path / "whole")


def lists(shard: Path, name: str) -> bool:
    """Whether a finished unit's shard 0 begins with a clip of that name."""
    unit = shard.parent / "unit.json"
    return unit.is_file() and json.loads(unit.read_text())["shards"][0]["names"][0].startswith(name)


@pytest.mark.parametrize("name", ["unit.json", "journal.json", "frames_000.npy"])
def test_what_was_damaged_after_a_stop_is_made_again(tmp_path, name):
    source = make_mixed(tmp_path / "a")
    run(tmp_path, job(source), out="whole")
    stop_at_v7(tmp_path, source)
    damaged = list((tmp_path / "work").glob(f"*/{name}"))
    assert damaged
    for path in damaged:
        os.truncate(path, path.stat().st_size // 2)
    run(tmp_path, job(source), out="again")
    assert content(tmp_path / "again") == content(tmp_path / "whole")


def test_a_unit_is_worked_at_by_one_process_at_a_time(tmp_path):
    """A worker of a run that was killed may still be at it when the next run comes."""
    source = make_mixed(tmp_path / "a", videos=1)
    (tmp_path / "work").mkdir()
    folder = tmp_path / "work" / "unit"
    with ThreadPoolExecutor(1) as pool:
        with locked(folder.with_suffix(".lock")):
            waiting = pool.submit(extraction.extract_unit, job(source), ["v0"], folder, STOP)
            time.sleep(0.3)
            assert not folder.exists() and not waiting.done()
        assert waiting.result().shards


def test_a_changed_file_is_decoded_again(tmp_path):
    source = make_mixed(tmp_path / "a", videos=6)
    bad = tmp_path / "a" / "v5" / "image_0.png"
    good = bad.read_bytes()
    bad.write_bytes(b"")
    with pytest.raises(ValueError, match="v5"):
        run(tmp_path, job(source), out="stopped")
    bad.write_bytes(good)
    changed = tmp_path / "a" / "v0" / "image_3.png"
    changed.write_bytes((tmp_path / "a" / "v0" / "image_9.png").read_bytes())
    os.utime(changed, ns=(1, 1))
    (store,) = run(tmp_path, job(source), out="again")
    assert store.frames(0)[3].mean() == 90


SCRIPT = """
import sys
from pathlib import Path
from tests.data.test_extract import BIG, STOP, job, run, extraction, replace, ImageFolderSource
extraction.MIN_UNIT_MB, extraction.UNITS = 0, 3
if __name__ == "__main__":
    root = Path(sys.argv[1])
    run(root, job(ImageFolderSource(root / "a")), policy=replace(STOP, workers=2), out=sys.argv[2])
"""


def test_a_killed_run_is_taken_up_to_the_same_bytes(tmp_path):
    source = make_mixed(tmp_path / "a", videos=12)
    run(tmp_path, job(source), out="whole")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    repo = Path(__file__).parents[3]
    for number in range(3):
        child = subprocess.Popen(
            [sys.executable, str(script), str(tmp_path), f"killed{number}"],
            env={**os.environ, "PYTHONPATH": str(repo)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        started = time.monotonic()
        while time.monotonic() < started + 20 and child.poll() is None:
            if len(list((tmp_path / "work").glob("split0-*/*.npy"))) > 3 * number:
                break
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
        child.communicate(timeout=20)  # ends when its workers have ended too: they have the same stdout
    run(tmp_path, job(source), out="again")
    assert content(tmp_path / "again") == content(tmp_path / "whole")


IDLE = """
import multiprocessing, time
from concurrent.futures import ProcessPoolExecutor
from vdp.data.extract import _Signs, _start_worker
if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    signs = _Signs({}, context.Value("Q", 0), context.Event())
    pool = ProcessPoolExecutor(1, context, _start_worker, (signs,))
    pool.submit(time.sleep, 0).result()
    print("idle", flush=True)
    time.sleep(60)
"""


def test_a_worker_without_work_ends_with_a_run_that_was_killed(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(IDLE)
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    child = subprocess.Popen([sys.executable, str(script)], env=env, stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline() == b"idle\n"
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=20)  # the worker has the same stdout: this ends when it has ended


class CountedSource:
    """Frames made on the fly, to see what is held in memory and what is read."""

    expects, precut = "", False

    def __init__(self, videos: int, frames: int) -> None:
        self.videos, self.length = videos, frames

    def items(self) -> list[str]:
        return [f"v{n}" for n in range(self.videos)]

    def label(self, item: str) -> str:
        return item

    def files(self, item: str) -> list[Path]:
        return []

    def count(self, item: str) -> int:
        return self.length

    def frames(self, item: str, pace: Pace) -> Iterator[Frame]:
        for number in range(self.length):
            yield Frame(number, np.full((64, 96, 3), number % 256, np.uint8))


def peak_memory(tmp_path: Path, name: str, source: Source) -> int:
    import tracemalloc

    tracemalloc.start()
    run(tmp_path, job(source), out=name)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_does_not_grow_with_the_data(tmp_path):
    small = peak_memory(tmp_path, "small", CountedSource(2, 100))
    large = peak_memory(tmp_path, "large", CountedSource(10, 1000))
    assert large < 2 * small and large < 16 * 2**20  # the data is 50 times as large


def test_a_source_without_files_is_always_read_anew(tmp_path):
    """Nothing tells whether an array in memory has changed."""
    one, two = (extraction._unit_hash("", job(CountedSource(1, 22)), ["v0"], 1) for _ in range(2))
    assert one != two


def test_the_size_of_a_run_is_guessed_from_a_sample_of_headers(tmp_path):
    counted: list[str] = []

    class Slow(CountedSource):
        def count(self, item: str) -> int:
            counted.append(item)
            return 22

    parts = list(extraction._parted(job(Slow(10_000, 22)), Slow(10_000, 22).items(), 1))
    assert sum(map(len, parts)) == 10_000 and max(map(len, parts)) == 2
    assert len(counted) < 150


def test_a_full_disk_is_one_line_and_keeps_what_is_done(tmp_path, monkeypatch):
    source = make_mixed(tmp_path / "a")

    def full(self: object, clip: object) -> bool:
        raise OSError(28, "No space left on device", "frames_000.npy")

    monkeypatch.setattr(extraction.ShardWriter, "append", full)
    with pytest.raises(OSError, match="No space left"):
        run(tmp_path, job(source), policy=SKIP)
    assert_nothing_half_written(tmp_path)


def test_the_manifest_is_plain_and_says_what_was_skipped(tmp_path):
    source = make_mixed(tmp_path / "a", videos=3)
    (tmp_path / "a" / "v1" / "image_0.png").write_bytes(b"")
    (store,) = run(tmp_path, job(source), policy=SKIP)
    manifest = json.loads((store.folder / "manifest.json").read_text())
    assert manifest["skipped"] == store.skipped and manifest["skipped"][0]["video"] == "v1"
    assert str(os.getpid()) not in manifest["skipped"][0]["reason"]
