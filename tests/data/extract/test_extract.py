"""Extraction: the same bytes whatever the number of processes and interruptions; one line per error."""

import hashlib
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.data.sources.source_contract import RULE, clips_of, make_picture_folder, make_video_file
from vdp.core.files import locked
from vdp.data.extract import plan, unit
from vdp.data.extract.cut import cut_clips
from vdp.data.extract.extract import ExtractJob, ExtractPolicy, extract
from vdp.data.sources.competition import CompetitionSource
from vdp.data.sources.images import ImageFolderSource
from vdp.data.sources.joined import SpanSource
from vdp.data.sources.protocols import ClipRule, Frame, Pace, Source
from vdp.data.sources.videos import VideoSource
from vdp.data.stores.clips import Clip, ClipStore, ShardWriter
from vdp.data.video.write import write_frames

pytestmark = pytest.mark.slow

STOP = ExtractPolicy(shard_mb=1, skip=False, max_bad_share=0.0, workers=1)
SKIP = replace(STOP, skip=True, max_bad_share=0.5)
BIG = replace(RULE, height=64, width=96)  # 0.39 MiB a clip: two fill a shard of 1 MiB


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units of a few clips, as large sources have."""
    monkeypatch.setattr(plan, "MIN_UNIT_MB", 0)
    monkeypatch.setattr(plan, "UNITS", 3)


def job(source: Source, rule: ClipRule = BIG) -> ExtractJob:
    return ExtractJob(source, source.items(), rule, "extract_frames.train")


def run(tmp_path: Path, *jobs: ExtractJob, policy: ExtractPolicy = STOP, out: str = "out") -> list[ClipStore]:
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


def stop_at(video: str, tmp_path: Path, source: Source) -> None:
    """Run until a broken picture of a video stops the run, then repair the picture."""
    bad = tmp_path / "a" / video / "image_0.png"
    good, times = bad.read_bytes(), bad.stat()
    bad.write_bytes(b"")
    with pytest.raises(ValueError, match=video):
        run(tmp_path, job(source), out="stopped")
    assert_nothing_half_written(tmp_path, "stopped")
    bad.write_bytes(good)
    os.utime(bad, ns=(times.st_atime_ns, times.st_mtime_ns))


def assert_nothing_half_written(tmp_path: Path, out: str = "out") -> None:
    assert not list((tmp_path / out).rglob("manifest.json"))


@pytest.mark.parametrize("rule", [BIG, RULE], ids=["one video per unit", "several videos per unit"])
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


def test_no_shard_exceeds_its_maximum_size(tmp_path):
    (store,) = run(tmp_path, job(make_mixed(tmp_path / "a")))
    sizes = [path.stat().st_size for path in store.folder.glob("frames_*.npy")]
    assert max(sizes) <= 2**20 and len(sizes) >= len(store) / 2


def test_the_number_of_processes_changes_no_byte(tmp_path):
    source = make_mixed(tmp_path / "a")
    run(tmp_path, job(source), out="one")
    run(tmp_path, job(source), job(source), policy=replace(STOP, workers=2), out="two")
    assert content(tmp_path / "one" / "split0") == content(tmp_path / "two" / "split0")
    assert content(tmp_path / "two" / "split0") == content(tmp_path / "two" / "split1")


@pytest.mark.parametrize("workers", [1, 2])
def test_an_unusable_video_stops_the_run_with_one_line(tmp_path, workers):
    source = make_mixed(tmp_path / "a")
    (tmp_path / "a" / "v5" / "image_30.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="extract_frames.train: .*v5/image_30.png") as error:
        run(tmp_path, job(source), policy=replace(STOP, workers=workers))
    assert "\n" not in str(error.value) and "on_bad_video" in str(error.value)
    assert_nothing_half_written(tmp_path)


@pytest.mark.parametrize(("workers", "rule"), [(1, BIG), (1, RULE), (2, RULE)])
def test_a_skipped_video_leaves_only_its_reason(tmp_path, capfd, workers, rule):
    """v5 breaks in its second clip: the first is rolled back."""
    source = make_mixed(tmp_path / "a")
    (tmp_path / "a" / "v5" / "image_30.png").write_bytes(b"no picture")
    (store,) = run(tmp_path, job(source, rule), policy=replace(SKIP, workers=workers))
    assert [entry["video"] for entry in store.skipped] == ["v5"]
    assert "v5/image_30.png: not a readable picture" in store.skipped[0]["reason"]
    assert "skipped: " in capfd.readouterr().err
    others = {
        clip.name: clip for item in source.items() if item != "v5" for clip in cut_clips(source, item, rule)
    }
    assert sorted(store.names) == sorted(others)
    for index, name in enumerate(store.names):
        np.testing.assert_array_equal(store.frames(index), others[name].frames)


def test_too_many_skipped_videos_stop_the_run(tmp_path):
    source = make_mixed(tmp_path / "a", videos=4)
    for n in (0, 1, 2):
        (tmp_path / "a" / f"v{n}" / "image_0.png").write_bytes(b"")
    with pytest.raises(ValueError, match="3 of 4 videos .*max_bad_share=0.5"):
        run(tmp_path, job(source), policy=SKIP)
    assert_nothing_half_written(tmp_path)


def test_a_split_without_any_usable_video_stops_the_run(tmp_path):
    make_picture_folder(tmp_path / "a" / "v0", frames=3)
    with pytest.raises(ValueError, match="extract_frames.train: none of its 1 videos"):
        run(tmp_path, job(ImageFolderSource(tmp_path / "a")), policy=replace(SKIP, max_bad_share=1.0))


def test_a_second_video_of_one_name_is_refused_before_any_is_read(tmp_path, monkeypatch):
    make_video_file(tmp_path / "a" / "x.mp4")
    make_video_file(tmp_path / "a" / "x.avi")
    source = VideoSource(tmp_path / "a")
    (store,) = run(tmp_path, job(source), policy=SKIP, out="skipped")
    assert store.names == ["x_000000", "x_000022"]
    assert "same names as those of" in store.skipped[0]["reason"]
    monkeypatch.setattr(unit, "cut_clips", None)
    with pytest.raises(ValueError, match=r"x.mp4: .* same names .*x.avi"):
        run(tmp_path, job(source))


def test_videos_decoded_before_a_stop_are_not_decoded_again(tmp_path, monkeypatch):
    source = make_mixed(tmp_path / "a")
    run(tmp_path, job(source), out="whole")
    stop_at("v6", tmp_path, source)
    read: list[str] = []
    monkeypatch.setattr(unit, "cut_clips", lambda s, item, r: [read.append(item), cut_clips(s, item, r)][1])
    run(tmp_path, job(source), out="again")
    assert content(tmp_path / "again") == content(tmp_path / "whole")
    assert "v6" in read and "v0" not in read


def test_an_interrupted_unit_resumes_after_its_last_full_shard(tmp_path, monkeypatch):
    """A long video is interrupted at each of its clips in turn; shards hold two."""
    make_picture_folder(tmp_path / "a" / "long", frames=22 * 5)
    source = ImageFolderSource(tmp_path / "a")
    run(tmp_path, job(source), out="whole")
    append = ShardWriter.append
    for stop in range(1, 5):
        appended: list[str] = []

        def interrupted(*args: object, stop: int = stop) -> Iterator[Clip]:
            for number, clip in enumerate(cut_clips(*args)):
                if number == stop:
                    raise KeyboardInterrupt
                yield clip
            return []

        def recorded(self: ShardWriter, clip: Clip, names: list[str] = appended) -> bool:
            names.append(clip.name)
            return append(self, clip)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(unit, "cut_clips", interrupted)
            run(tmp_path, job(source), out=f"stopped{stop}")
        assert_nothing_half_written(tmp_path, f"stopped{stop}")
        with monkeypatch.context() as patch:
            patch.setattr(ShardWriter, "append", recorded)
            run(tmp_path, job(source), out=f"again{stop}")
        assert content(tmp_path / f"again{stop}") == content(tmp_path / "whole")
        assert len(appended) <= 5 - (stop - 1) // 2 * 2


def test_a_unit_is_named_after_everything_its_bytes_depend_on(tmp_path):
    source = make_mixed(tmp_path / "a", videos=2)
    both = ["v0", "v1"]
    names = {
        plan.unit_hash("code", job(source), both, 1),
        plan.unit_hash("other code", job(source), both, 1),
        plan.unit_hash("code", job(source), ["v0"], 1),
        plan.unit_hash("code", job(source), ["v1", "v0"], 1),
        plan.unit_hash("code", job(source), both, 2),
        plan.unit_hash("code", job(source, replace(BIG, stride=11)), both, 1),
        plan.unit_hash("code", job(source, replace(BIG, pace=Pace(2))), both, 1),
        plan.unit_hash("code", job(VideoSource(tmp_path / "a")), both, 1),
    }
    assert len(names) == 8


def test_a_unit_with_a_lost_file_is_decoded_again_and_may_be_interrupted(tmp_path, monkeypatch):
    """As when a run is killed while it moves its shards, and the next one while it decodes the unit."""
    source = make_mixed(tmp_path / "a")
    run(tmp_path, job(source), out="whole")
    stop_at("v7", tmp_path, source)
    (lost,) = (path for path in (tmp_path / "work").glob("*/unit.json") if '["v2_' in path.read_text())
    (lost.parent / "frames_000.npy").unlink()

    def killed(source: Source, item: str, rule: ClipRule) -> Iterator[Clip]:
        left_out = yield from cut_clips(source, item, rule)
        if item == "v2":  # its files are all there, but not complete
            raise KeyboardInterrupt
        return left_out

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(unit, "cut_clips", killed)
        run(tmp_path, job(source), out="killed")
    run(tmp_path, job(source), out="again")
    assert content(tmp_path / "again") == content(tmp_path / "whole")


@pytest.mark.parametrize("name", ["unit.json", "journal.json", "frames_000.npy"])
def test_a_damaged_unit_is_decoded_again(tmp_path, name):
    source = make_mixed(tmp_path / "a")
    run(tmp_path, job(source), out="whole")
    stop_at("v7", tmp_path, source)
    damaged = list((tmp_path / "work").glob(f"*/{name}"))
    assert damaged
    for path in damaged:
        os.truncate(path, path.stat().st_size // 2)
    run(tmp_path, job(source), out="again")
    assert content(tmp_path / "again") == content(tmp_path / "whole")


def test_one_process_at_a_time_decodes_a_unit(tmp_path):
    """A worker of a killed run may still be running when the next run starts."""
    source = make_mixed(tmp_path / "a", videos=1)
    folder = tmp_path / "work" / "unit"
    part = plan.Unit("split0", ["v0"], folder)
    with ThreadPoolExecutor(1) as pool:
        with locked(folder.with_suffix(".lock")):
            waiting = pool.submit(unit.decode_unit, job(source), part, STOP, bool, lambda: None)
            time.sleep(0.3)
            assert not folder.exists() and not waiting.done()
        assert waiting.result().shards


def test_a_changed_file_is_decoded_again(tmp_path):
    source = make_mixed(tmp_path / "a", videos=6)
    stop_at("v5", tmp_path, source)
    changed = tmp_path / "a" / "v0" / "image_3.png"
    changed.write_bytes((tmp_path / "a" / "v0" / "image_9.png").read_bytes())
    os.utime(changed, ns=(1, 1))
    (store,) = run(tmp_path, job(source), out="again")
    assert store.frames(0)[3].mean() == 90


class GeneratedSource:
    """Frames generated on the fly; the second video blocks after 22 frames where asked."""

    layout, precut = "", False

    def __init__(self, videos: int, frames: int, block: bool = False) -> None:
        self.videos, self.length, self.block = videos, frames, block

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
            if self.block and item == "v1":
                time.sleep(60)
            yield Frame(number, np.full((64, 96, 3), number % 256, np.uint8))


SCRIPT = """
import sys
from pathlib import Path
from tests.data.extract.test_extract import STOP, GeneratedSource, ImageFolderSource, job, plan, replace, run
plan.MIN_UNIT_MB, plan.UNITS = 0, 3
if __name__ == "__main__":
    root = Path(sys.argv[1])
    source = GeneratedSource(2, 66, block=True) if sys.argv[3] == "block" else ImageFolderSource(root / "a")
    run(root, job(source), policy=replace(STOP, workers=2), out=sys.argv[2])
"""


def run_and_kill(tmp_path: Path, out: str, pattern: str, files: int, source: str = "pictures") -> None:
    """Run in a process, and kill it when there are more than some files."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    child = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path), out, source],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    started = time.monotonic()
    while time.monotonic() < started + 60 and child.poll() is None:
        if len(list((tmp_path / "work").glob(pattern))) > files:
            break
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=20)  # returns when the workers have ended too: they have the same stdout


def test_a_killed_run_resumes_to_the_same_bytes(tmp_path):
    source = make_mixed(tmp_path / "a", videos=12)
    run(tmp_path, job(source), out="whole")
    for number in range(2):
        run_and_kill(tmp_path, f"killed{number}", "split0-*/*.npy", 3 * number)
    run(tmp_path, job(source), out="again")
    assert content(tmp_path / "again") == content(tmp_path / "whole")


def test_idle_workers_end_with_a_killed_run(tmp_path):
    run_and_kill(tmp_path, "killed", "split0-*/unit.json", 0, "block")
    assert len(list((tmp_path / "work").glob("split0-*/unit.json"))) == 1


def test_memory_does_not_grow_with_the_data(tmp_path):
    def peak(name: str, source: Source) -> int:
        tracemalloc.start()
        run(tmp_path, job(source), out=name)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    small, large = peak("small", GeneratedSource(2, 100)), peak("large", GeneratedSource(10, 1000))
    assert large < 2 * small and large < 16 * 2**20  # the data is 50 times as large


def test_units_of_a_source_without_files_are_never_reused(tmp_path):
    """A change of an array in memory cannot be detected."""
    one, two = (plan.unit_hash("", job(GeneratedSource(1, 22)), ["v0"], 1) for _ in range(2))
    assert one != two


def test_the_size_of_a_split_is_estimated_from_a_sample_of_headers():
    counted: list[str] = []

    class Counting(GeneratedSource):
        def count(self, item: str) -> int:
            counted.append(item)
            return 22

    parts = list(plan.split_items(job(Counting(10_000, 22)), Counting(10_000, 22).items(), 1))
    assert sum(map(len, parts)) == 10_000 and max(map(len, parts)) == 2
    assert len(counted) < 150


@pytest.mark.parametrize(
    ("pace", "selected"),
    [(Pace(), 44), (Pace(3, offset=4), 14), (Pace(fps=10), 22), (Pace(fps=5, offset=4), 10)],
)
def test_the_selected_frames_of_a_video_and_of_its_spans_are_estimated(tmp_path, pace, selected):
    write_frames(tmp_path / "a.mp4", iter(np.zeros((44, 16, 16, 3), np.uint8)), 20)
    source = VideoSource(tmp_path / "a.mp4")
    (item,) = source.items()
    assert len(list(source.frames(item, pace))) == selected
    for first, last in ((0, None), (0, 5), (7, None), (6, 9), (5, 90)):
        span = SpanSource(source, first, last)
        assert plan.selected_frames(span, item, pace) == len(list(span.frames(item, pace)))
    assert plan.selected_frames(source, item, pace) == selected


def test_an_unknown_length_is_no_estimate():
    unknown = GeneratedSource(3, 0)
    assert plan.estimate_clips(job(unknown)) is None
    assert plan.selected_frames(GeneratedSource(3, 44), "v0", Pace(fps=10)) == 0, "no rate"
    assert plan.selected_frames(SpanSource(unknown, 0, 30), "v0", Pace()) == 30
    assert plan.estimate_clips(job(GeneratedSource(3, 44), replace(BIG, stride=11))) == 9


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    source = make_mixed(tmp_path / "a")

    def full(self: object, clip: object) -> bool:
        raise OSError(28, "No space left on device", "frames_000.npy")

    monkeypatch.setattr(ShardWriter, "append", full)
    with pytest.raises(OSError, match="No space left"):
        run(tmp_path, job(source), policy=SKIP)
    assert_nothing_half_written(tmp_path)
