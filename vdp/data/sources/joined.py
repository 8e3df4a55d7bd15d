"""Several sources read as one, and a part of a video."""

import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from vdp.data.sources.protocols import Frame, Pace, Source


class JoinedSource:
    """Videos of several sources, in their order; a video that several of them hold is taken once.

    Args:
        sources: each with a prefix of the names of its videos, '' for none.

    Raises:
        ValueError: if some hold clips that are cut already and others videos, or two videos have one name.
    """

    precut: bool  # that of the sources

    def __init__(self, sources: Sequence[tuple[str, Source]]) -> None:
        kinds = {source.precut for _, source in sources}
        if len(kinds) > 1:
            raise ValueError(
                "folders of clips that are cut already cannot be joined with videos; name one kind"
            )
        self.precut = kinds.pop()
        self.layout = sources[0][1].layout
        self._videos: dict[str, tuple[Source, str]] = {}
        seen: set[str] = set()
        for prefix, source in sources:
            for item in source.items():
                label = source.label(item)
                if (place := os.path.realpath(label)) in seen:
                    continue
                seen.add(place)
                name = f"{prefix}/{item}" if prefix else item
                if name in self._videos:
                    other, inner = self._videos[name]
                    raise ValueError(
                        f"{label}: has the same name as {other.label(inner)}; name the folder above both"
                    )
                self._videos[name] = (source, item)

    def items(self) -> list[str]:
        return list(self._videos)

    def label(self, item: str) -> str:
        source, inner = self._videos[item]
        return source.label(inner)

    def files(self, item: str) -> list[Path]:
        source, inner = self._videos[item]
        return source.files(inner)

    def count(self, item: str) -> int:
        source, inner = self._videos[item]
        return source.count(inner)

    def frames(self, item: str, pace: Pace) -> Iterator[Frame]:
        source, inner = self._videos[item]
        return source.frames(inner, pace)


class SpanSource:
    """A span of the selected frames of each video: those at positions start..stop-1 (None: to the end)."""

    precut = False

    def __init__(self, source: Source, start: int, stop: int | None) -> None:
        self.source, self.start, self.stop = source, start, stop
        self.layout = source.layout

    def items(self) -> list[str]:
        return self.source.items()

    def label(self, item: str) -> str:
        return self.source.label(item)

    def files(self, item: str) -> list[Path]:
        return self.source.files(item)

    def count(self, item: str) -> int:
        return self.source.count(item)

    def frames(self, item: str, pace: Pace) -> Iterator[Frame]:
        return islice(self.source.frames(item, pace), self.start, self.stop)
