import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vdp.data.sources.walk import in_order, list_folder, natural, walk

quick = settings(derandomize=True, database=None, deadline=None, max_examples=50)


def make_files(folder: Path, *paths: str) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()


@quick
@given(st.lists(st.integers(0, 10**30), unique=True), st.integers(0, 5))
def test_numbers_in_names_are_sorted_as_numbers(numbers, zeros):
    names = [f"image_{'0' * zeros}{number}.png" for number in numbers]
    assert in_order(names) == [f"image_{'0' * zeros}{number}.png" for number in sorted(numbers)]


@quick
@given(st.permutations(["a1", "a01", "a001", "a1b", "a", "b0", "b", "é 2", "é 10"]))
def test_the_order_depends_only_on_the_names(names):
    assert in_order(names) == ["a", "a001", "a01", "a1", "a1b", "b", "b0", "é 2", "é 10"]


def test_leading_zeros_do_not_count_and_numbers_may_have_thousands_of_digits():
    assert natural("video_1") == natural("video_001") != natural("video_10")
    assert natural("video_0") == natural("video_000") < natural("video_1")
    assert natural("9" * 5000) < natural("1" + "0" * 5000)


def test_every_folder_is_visited_once_from_the_top_in_natural_order(tmp_path):
    make_files(tmp_path, "b10/z", "b9/y/x", "b9/y2", "f10", "f9", "c d/ü")
    assert list(walk(tmp_path)) == [
        (".", ["b9", "b10", "c d"], ["f9", "f10"]),
        ("b9", ["y"], ["y2"]),
        ("b9/y", [], ["x"]),
        ("b10", [], ["z"]),
        ("c d", [], ["ü"]),
    ]


def test_a_folder_removed_from_the_list_is_not_listed(tmp_path, monkeypatch):
    make_files(tmp_path, "a/x", "b/x")
    scanned = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: scanned.append(Path(path).name) or scandir(path))
    for _, folders, _ in walk(tmp_path):
        folders[:] = [name for name in folders if name != "a"]
    assert scanned == [tmp_path.name, "b"]


def test_hidden_names_and_pipes_are_skipped(tmp_path):
    make_files(tmp_path, ".DS_Store", ".git/config", "a/._image_0.png", "a/image_0.png")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "to_pipe").symlink_to(tmp_path / "pipe")
    assert list(walk(tmp_path)) == [(".", ["a"], []), ("a", [], ["image_0.png"])]


def test_links_to_folders_and_files_are_followed(tmp_path):
    make_files(tmp_path / "disk", "a/x")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a").symlink_to(tmp_path / "disk" / "a")
    (tmp_path / "source" / "y").symlink_to(tmp_path / "disk" / "a" / "x")
    assert list(walk(tmp_path / "source")) == [(".", ["a"], ["y"]), ("a", [], ["x"])]


def test_loops_of_links_end(tmp_path):
    make_files(tmp_path, "a/x", "b/y")
    for link, target in (("a/top", ""), ("a/self", "a"), ("a/to_b", "b"), ("b/to_a", "a")):
        (tmp_path / link).symlink_to(tmp_path / target)
    assert [path for path, _, _ in walk(tmp_path)] == [".", "a", "a/to_b", "b", "b/to_a"]


def test_a_broken_link_is_a_file(tmp_path):
    """A missing frame or video must not be dropped silently."""
    (tmp_path / "broken").symlink_to(tmp_path / "gone")
    (tmp_path / "itself").symlink_to(tmp_path / "itself")
    assert list_folder(tmp_path) == ([], ["broken", "itself"])


def test_names_need_not_be_valid_text(tmp_path):
    try:
        (tmp_path / os.fsdecode(b"caf\xe9")).touch()
    except OSError:
        pytest.skip("this file system accepts only valid text")
    ((_, _, [name]),) = walk(tmp_path)
    assert (tmp_path / name).is_file()


@pytest.mark.slow
def test_folders_may_be_nested_deeper_than_the_recursion_limit(tmp_path):
    folders = [tmp_path / "a"]
    while len(folders) < 1200:
        folders.append(folders[-1] / "a")
    try:
        for folder in folders:
            folder.mkdir()
        assert sum(1 for _ in walk(tmp_path)) == 1201
    finally:
        for folder in reversed(folders):  # pytest's own removal is recursive
            folder.rmdir()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may list every folder")
def test_a_closed_folder_is_named(tmp_path):
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(PermissionError, match="closed"):
        list(walk(tmp_path))


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone"):
        list(walk(tmp_path / "gone"))
