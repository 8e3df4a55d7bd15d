"""Build hook: ship the project's files as vdp/project. Everything else is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = ("params.yaml", "dvc.yaml", "requirements.txt", "recipes/*.yaml", "stages/*.py")
BUILD_INPUTS = ("requirements-dev.txt", "bench/requirements.txt")  # of the extras


class BuildPackage(build_py):
    """Build the package with the files that `vdp.config.project.project_files` finds."""

    def run(self) -> None:
        if not self.editable_mode:
            shutil.rmtree(self.build_lib, ignore_errors=True)  # modules of an earlier build
        super().run()
        if not self.editable_mode:
            for source in matching(SHIPPED):
                target = Path(self.build_lib, "vdp/project", source)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)

    def get_source_files(self) -> list[str]:
        """Files of a source distribution."""
        return [*super().get_source_files(), *map(str, matching(SHIPPED + BUILD_INPUTS))]


def matching(patterns: tuple[str, ...]) -> list[Path]:
    """Files of the project that match glob patterns."""
    return sorted(path for pattern in patterns for path in Path().glob(pattern))


setup(cmdclass={"build_py": BuildPackage})
