"""Run a stage by the launcher of this machine, as dvc.yaml does: `python -m vdp.launch STAGE`.

`launcher` and the number of processes are settings of the machine. They are in no command and no params of
dvc.yaml, so that another number of processes reruns nothing.
"""

import os
import shlex
import shutil
import sys
from pathlib import Path

from vdp.config.yaml_file import read_file
from vdp.core.checkout import project_root
from vdp.core.errors import UserError
from vdp.launch.resume import clear_finished

ALONE = ("simulate", "score")  # stages of one process


def command(launcher: object, stage: str) -> list[str]:
    """Return the command that runs a stage; `python` is the interpreter of this process.

    Raises:
        UserError: if the launcher is no command or is not installed.
    """
    try:
        words = shlex.split(launcher) if isinstance(launcher, str) else []
    except ValueError:  # an open quote
        words = []
    if not words:
        raise UserError(
            f"launcher={launcher}: expected a command that starts Python programs, such as python, "
            "torchrun --nproc-per-node 8, or srun python"
        )
    program = sys.executable if words[0] == "python" else shutil.which(words[0])
    if program is None:
        raise UserError(
            f"launcher={launcher}: {words[0]} is not found; install it, or set launcher to python"
        )
    return [program, *words[1:], "-m", f"stages.{stage}"]


def main() -> None:
    try:
        (stage,) = sys.argv[1:]
        words = command("python" if stage in ALONE else read_file().get("launcher"), stage)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    clear_finished(project_root(), stage, Path("dvc.lock"))
    os.execv(words[0], words)


if __name__ == "__main__":
    main()
