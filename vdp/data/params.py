"""Params of the stage that cuts a source into clips."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from vdp.params import Params


class ExtractParams(Params):
    """Section `extract_frames` of params.yaml. Paths are relative to the project's root."""

    train: Path | None = Field(description="folder to train on, or null")
    val: Path | None = Field(description="folder to validate on, or null")
    unlabeled: Path | None = Field(description="more folders to train the video models on, or null")
    test_sets: dict[str, Path] = Field(description="name: folder of each test set; {} for none")
    interval: int = Field(ge=1, description="a clip takes every n-th frame of a video file")
    stride: int = Field(ge=1, description="taken frames from the start of a clip of a video file to the next")
    fit: Literal["crop", "stretch"] = Field(
        description="how a frame of another aspect ratio becomes a clip's"
    )
    shard_mb: int = Field(ge=1, description="MiB of frames in one file of the clip store")

    @field_validator("test_sets")
    @classmethod
    def names_can_be_file_names(cls, value: dict[str, Path]) -> dict[str, Path]:
        for name in value:
            if not name.replace("_", "").replace("-", "").isalnum() or not name.isascii():
                raise ValueError(
                    f"extract_frames.test_sets: {name!r} is not a usable name: "
                    "expected letters, digits, - and _ (results are filed under it)"
                )
        return value

    @model_validator(mode="after")
    def some_source_is_named(self) -> Self:
        if not self.splits():
            raise ValueError(
                "extract_frames names no source: give train, val, unlabeled or a test set a folder"
            )
        return self

    def splits(self) -> dict[str, Path]:
        """Source folder of each split that has one: `train`, `val`, `unlabeled`, `test/<name>`."""
        named = {"train": self.train, "val": self.val, "unlabeled": self.unlabeled}
        tests = {f"test/{name}": path for name, path in sorted(self.test_sets.items())}
        return {split: path for split, path in named.items() if path is not None} | tests
