from pathlib import Path

import pytest

from vdp.core.checkout import from_checkout, project_root


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a temporary checkout inside the main one, which DVC names in DVC_ROOT."""
    root, copy = tmp_path / "main", tmp_path / "main/.dvc/tmp/exps/standalone/tmp1"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    monkeypatch.setenv("DVC_ROOT", str(root))
    return copy


@pytest.mark.parametrize("path", ["../videos", "untracked/a.mp4"])
def test_a_path_that_a_temporary_checkout_lacks_is_relative_to_the_main_one(copy, path):
    assert from_checkout(Path(path)) == project_root() / path
    assert project_root() == copy.parents[4]


def test_a_path_in_the_temporary_checkout_and_an_absolute_one_stay(copy):
    (copy / "data").mkdir()
    assert from_checkout(Path("data")) == Path("data")
    assert from_checkout(Path("/gone")) == Path("/gone")


def test_in_the_main_checkout_every_path_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    assert from_checkout(Path("gone")) == Path("gone")
