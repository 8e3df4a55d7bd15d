"""Locate the files of the project, in a checkout and in an installed package."""

from pathlib import Path

from vdp.config.schema import PARAMS_FILE

PACKAGE = Path(__file__).parents[1]  # the folder vdp


def project_files() -> Path:
    """Return the folder of params.yaml, dvc.yaml, requirements.txt, recipes/ and stages/.

    A wheel ships them as `vdp/project` (see setup.py); in a checkout they are beside `vdp`.

    Raises:
        FileNotFoundError: if neither folder has them.
    """
    for folder in (PACKAGE / "project", PACKAGE.parent):
        if (folder / PARAMS_FILE).is_file():
            return folder
    raise FileNotFoundError(f"{PACKAGE}: the project's files are missing; install vdp again")
