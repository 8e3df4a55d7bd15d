from pathlib import Path

import pytest

from vdp.core.files import replacing, write_text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "old.txt").write_text("old")
    return folder


def test_a_folder_is_replaced_as_a_whole(folder):
    with replacing(folder) as part:
        (part / "new.txt").write_text("new")
        assert (folder / "old.txt").is_file()
    assert [path.name for path in folder.iterdir()] == ["new.txt"]
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_an_error_the_old_folder_is_unchanged_and_alone(folder, error):
    with pytest.raises(error), replacing(folder) as part:
        (part / "new.txt").write_text("new")
        raise error
    assert (folder / "old.txt").read_text() == "old"
    assert list(folder.parent.iterdir()) == [folder]


def test_parents_are_created_and_the_rest_of_a_killed_run_is_deleted(tmp_path):
    stale = tmp_path / "a" / "out.part"
    stale.mkdir(parents=True)
    (stale / "stale.txt").write_text("stale")
    for name in ("a", "b"):
        with replacing(tmp_path / name / "out") as part:
            (part / "new.txt").write_text("new")
        assert [path.name for path in (tmp_path / name / "out").iterdir()] == ["new.txt"]


def test_a_text_file_is_replaced_and_its_folder_created(tmp_path):
    for text in ("old", "new"):
        write_text(tmp_path / "a" / "x.txt", text)
    assert (tmp_path / "a" / "x.txt").read_text() == "new"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x.txt"]
