"""The command of dvc.yaml: stages are started by the launcher of the machine."""

import sys

import pytest

from vdp.core.errors import UserError
from vdp.launch.__main__ import command


def test_python_is_the_interpreter_of_the_pipeline():
    assert command("python", "predict") == [sys.executable, "-m", "stages.predict"]


def test_the_words_of_a_launcher_come_before_the_module(tmp_path, monkeypatch):
    program = tmp_path / "torchrun"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    words = command("torchrun --nproc-per-node 2 --log-dir 'a b'", "predict")
    assert words == [str(program), "--nproc-per-node", "2", "--log-dir", "a b", "-m", "stages.predict"]


@pytest.mark.parametrize("launcher", ["", "  ", "srun 'python", None, 3, ["python"]])
def test_what_is_no_command_is_refused(launcher):
    with pytest.raises(UserError, match="launcher=.*: expected a command that starts Python programs"):
        command(launcher, "predict")


def test_a_launcher_that_is_not_installed_is_named():
    with pytest.raises(UserError, match="launcher=mpiexec-3 -n 2: mpiexec-3 is not found; install it, or"):
        command("mpiexec-3 -n 2", "predict")
