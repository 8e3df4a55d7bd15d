import pytest

from vdp.core.files import replacing


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "old.txt").write_text("old")
    with replacing(folder) as part:
        (part / "new.txt").write_text("new")
        assert (folder / "old.txt").is_file()  # until the end the old one stands
    assert [path.name for path in folder.iterdir()] == ["new.txt"]
    assert list(tmp_path.iterdir()) == [folder]


def test_parents_are_made(tmp_path):
    with replacing(tmp_path / "a" / "b") as part:
        (part / "x").write_text("")
    assert (tmp_path / "a" / "b" / "x").is_file()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_an_error_the_old_folder_stands_and_nothing_half_written_is_left(tmp_path, error):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "old.txt").write_text("old")
    with pytest.raises(error), replacing(folder) as part:
        (part / "new.txt").write_text("new")
        raise error
    assert (folder / "old.txt").read_text() == "old"
    assert list(tmp_path.iterdir()) == [folder]


def test_what_a_killed_run_left_behind_is_not_taken_over(tmp_path):
    (tmp_path / "out.part").mkdir()
    (tmp_path / "out.part" / "stale.txt").write_text("stale")
    with replacing(tmp_path / "out") as part:
        (part / "new.txt").write_text("new")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["new.txt"]
