"""A name and a home for a user id that the system does not list, as in containers (`docker run -u`)."""

import getpass
import os
import tempfile
from pathlib import Path


def name_user() -> None:
    """Set LOGNAME and HOME where the system knows neither: PyTorch, DVC and MLflow ask for them.

    The environment is that of this process and of those that it starts.
    """
    if not hasattr(os, "getuid"):
        return
    name = f"uid{os.getuid()}"
    try:
        getpass.getuser()
    except (KeyError, OSError):  # OSError from Python 3.13 on
        os.environ["LOGNAME"] = name
    if os.path.expanduser("~") == "~":
        home = Path(tempfile.gettempdir()) / f"home-{name}"
        home.mkdir(mode=0o700, exist_ok=True)
        os.environ["HOME"] = str(home)
