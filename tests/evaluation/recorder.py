"""A tracker that keeps what a stage reports."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Recorder:
    is_main = True
    flops = 0.0

    def __init__(self) -> None:
        self.headlines: dict[str, object] = {}
        self.artifacts: list[str] = []

    @contextmanager
    def track_stage(self, name: str, workers: int | None = None) -> Iterator["Recorder"]:
        yield self

    def counted(self, function: Callable[P, T]) -> Callable[P, T]:
        return function

    def add_flops(self, flops: float) -> None:
        self.flops += flops

    def headline(self, values: Mapping[str, object]) -> None:
        self.headlines.update(values)

    def summary(self, values: Mapping[str, object]) -> None:
        self.headlines.update(values)

    def artifact(self, path: Path, folder: str | None = None) -> None:
        assert path.exists()
        self.artifacts.append(path.name)


def results() -> dict[str, bytes]:
    """All files under results/ by path."""
    return {str(path): path.read_bytes() for path in sorted(Path("results").rglob("*")) if path.is_file()}
