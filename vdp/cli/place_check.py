"""Check the folder of a project for what DVC refuses, in part after the work."""

import os
import subprocess
from pathlib import Path

from vdp.core.errors import UserError

OUTPUTS = ("data", "data/raw", "data/clips", "data/models", "results")  # folders of the stages' outputs
UNSAFE = "?#%"  # in a path: DVC addresses the temporary copies of its experiments by a URL


def check_place() -> list[str]:
    """Check the current folder, a project; return a line for each limit of it.

    Raises:
        UserError: if DVC would refuse the outputs of the stages after they have run.
    """
    here, notices = Path.cwd(), []
    for name in OUTPUTS:
        if os.path.islink(name):
            raise UserError(
                f"{name}: is a link to {os.path.realpath(name)}, expected a folder: DVC refuses outputs "
                "outside of the project; replace the link, or move the cache alone: dvc cache dir PATH"
            )
    if not _in_repository():
        notices.append(
            f"{here}: not a git repository, which dvc needs; install git, and run git init && "
            "git add --all && git commit --message start"
        )
    if unsafe := [letter for letter in UNSAFE if letter in str(here)]:
        notices.append(
            f"{here}: has {' and '.join(unsafe)} in its path: dvc exp run --temp and --queue fail, dvc repro "
            "and dvc exp run work; rename the folder"
        )
    return notices


def _in_repository() -> bool:
    try:
        return not subprocess.run(["git", "rev-parse", "--git-dir"], capture_output=True).returncode
    except FileNotFoundError:
        return False
