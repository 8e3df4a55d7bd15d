"""A user id without a name, as in a container."""

import getpass
import os
import pwd
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from vdp.core.user import name_user

NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME", "HOME")


@pytest.fixture
def nameless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No name and no home; the folder of temporary files."""

    def unknown(uid: int) -> pwd.struct_passwd:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that the changes of the test are undone
        monkeypatch.delenv(name)
    return tmp_path


def test_a_user_id_without_a_name_gets_a_name_and_a_private_home(nameless):
    with pytest.raises((KeyError, OSError)):
        getpass.getuser()
    with pytest.raises(RuntimeError):
        Path.home()
    name_user()
    name_user()
    assert getpass.getuser() == f"uid{os.getuid()}"
    assert Path.home().parent == nameless and stat.S_IMODE(Path.home().stat().st_mode) == 0o700


def test_a_name_and_a_home_in_the_environment_stay(nameless, monkeypatch):
    monkeypatch.setenv("USER", "me")
    monkeypatch.setenv("HOME", "/somewhere")
    name_user()
    assert getpass.getuser() == "me" and Path.home() == Path("/somewhere") and not list(nameless.iterdir())


def test_importing_the_package_names_the_user(tmp_path):
    """Before torch, whose compiler asks for the name when it is imported."""
    code = (
        "import pwd\n"
        "def unknown(uid): raise KeyError(uid)\n"
        "pwd.getpwuid = unknown\n"
        "import vdp, getpass; print(getpass.getuser())"
    )
    env = {"PYTHONPATH": str(Path(__file__).parents[2]), "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout == f"uid{os.getuid()}\n", done.stderr
