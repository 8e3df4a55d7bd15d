"""Folders that DVC refuses are named before the work."""

import subprocess
from pathlib import Path

import pytest

from vdp.cli.place_check import check_place
from vdp.core.errors import UserError


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "a project"
    folder.mkdir()
    subprocess.run(["git", "init", "--quiet", folder], check=True)
    monkeypatch.chdir(folder)
    return folder


def test_a_repository_with_a_space_in_its_path_has_no_limits(repository):
    (repository / "data").mkdir()
    assert check_place() == []


@pytest.mark.parametrize("name", ["data", "data/raw", "results"])
def test_a_link_in_place_of_a_folder_of_outputs_is_refused(repository, tmp_path, name):
    (tmp_path / "disk").mkdir()
    (repository / name).parent.mkdir(exist_ok=True)
    (repository / name).symlink_to(tmp_path / "disk")
    with pytest.raises(UserError, match=f"^{name}: is a link to .*/disk, expected a folder: DVC refuses"):
        check_place()


@pytest.mark.parametrize("path", ["", "/nowhere"])
def test_a_folder_outside_of_git_or_without_git_is_named(tmp_path, monkeypatch, path):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    if path:
        monkeypatch.setenv("PATH", path)
    (notice,) = check_place()
    assert notice.startswith(f"{tmp_path}: not a git repository, which dvc needs") and "git init" in notice


@pytest.mark.parametrize("name", ["50%", "why?", "take #1"])
def test_a_path_that_the_experiments_of_dvc_cannot_address_is_named(repository, monkeypatch, name):
    folder = repository / name
    folder.mkdir()
    monkeypatch.chdir(folder)
    (notice,) = check_place()
    assert "dvc exp run --temp and --queue fail" in notice
