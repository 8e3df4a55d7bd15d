"""Broken input of every kind gives readable clips or a one-line error, and nothing half-written."""

import shutil
from pathlib import Path

import pytest

from tests.data.sources import hostile
from tests.data.sources.small_sources import make_images, params_text
from vdp.core.errors import printable
from vdp.data.stores.clips import ClipStore

pytestmark = pytest.mark.slow

CASES = 250
FURTHER_CASES = 50  # of those of bench.mutations


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostile.build_sources(tmp_path_factory.mktemp("sources"))


@pytest.mark.parametrize("seed", range(CASES))
def test_broken_input_is_read_or_refused_in_one_line(sources, tmp_path, monkeypatch, seed):
    monkeypatch.chdir(tmp_path)
    case = hostile.prepare(sources, seed)
    print(f"{case.kind}: {printable(case.done)}")
    hostile.check(case, hostile.run_here(case.kind))


@pytest.mark.parametrize("seed", range(FURTHER_CASES))
def test_the_check_refuses_nothing_that_the_run_takes(sources, tmp_path, monkeypatch, seed):
    monkeypatch.chdir(tmp_path)
    case = hostile.prepare(sources, seed, further=True)
    print(f"{case.kind}: {printable(case.done)}")
    hostile.run_case(case)


@pytest.mark.parametrize("seed", range(len(hostile.KINDS) - 1))  # params are listed twice
def test_intact_input_is_read(sources, tmp_path, monkeypatch, seed):
    monkeypatch.chdir(tmp_path)
    case = hostile.prepare(sources, seed, broken=False)
    outcome = hostile.run_here(case.kind)
    assert outcome == hostile.Outcome(0, [])
    hostile.check(case, outcome)
    stores = [ClipStore(Path("data/clips") / split) for split in ("train", "val", "test/t")]
    assert min(len(store) for store in stores) > 0
    assert any(store.num_labelled for store in stores) == (case.kind not in ("videos", "containers"))


@pytest.mark.parametrize("name", ["a\nb", "\x1b[31m", "\udcff", "\u2028", "%s {}"])
def test_any_name_of_a_broken_video_is_one_printable_line(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    make_images(Path("raw"))
    for number, folder in enumerate(("walk", "run/left")):
        (Path("raw") / folder).rename(f"raw/{name}{number}")
    Path(f"raw/{name}0/f3.png").write_bytes(b"no picture")
    Path(f"raw/{name}1/0002.jpg").rename(f"raw/{name}1/002.jpg")
    shutil.copy(f"raw/{name}1/0001.jpg", f"raw/{name}1/1.jpg")
    Path("params.yaml").write_text(params_text("raw", skip=True, whole=False))
    outcome = hostile.run_here("images")
    assert outcome.code == 0 and len(outcome.lines) == 4  # two videos in two splits each
    for line in outcome.lines:
        assert line.startswith(f"skipped: raw/{printable(name)}") and line.isprintable()


def test_two_workers_print_one_line(sources, tmp_path, monkeypatch):
    """FFmpeg, which prints lines of its own, is quiet in workers too."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(sources / "videos" / "raw", "raw")
    Path("raw/d.mov").write_bytes(Path("raw/d.mov").read_bytes()[:60])
    text = params_text("raw", skip=False, whole=False).replace("workers: 1", "workers: 2")
    Path("params.yaml").write_text(text)
    outcome = hostile.run_here("videos")
    assert outcome.code == 1 and len(outcome.lines) == 1
    assert outcome.lines[0].startswith("error: extract_frames.")
    assert "raw/d.mov: not a readable" in outcome.lines[0]
    assert not Path("data").exists()
