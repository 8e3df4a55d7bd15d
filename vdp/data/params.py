"""Sections `extract_frames`, `augment` and `degrade` of params.yaml."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from vdp.config.schema import Params

MAX_NUMBER = 2**31 - 1  # of a frame
MAX_NAME = 100  # characters of the name of a test set

CLIPS = Path("data/clips")  # output of the stage

Kind = Literal["auto", "competition", "videos", "images", "clevrer", "pairs", "huggingface"]
Interval = Annotated[int, Field(ge=1, le=MAX_NUMBER)]
Fps = Annotated[float, Field(ge=0.001, le=1000)]
Offset = Annotated[int, Field(ge=0, le=MAX_NUMBER)]
SceneCut = Annotated[float, Field(gt=0, le=1)]
Stride = Annotated[int, Field(ge=1, le=MAX_NUMBER)]
Name = Annotated[str, Field(min_length=1)]


class SourceParams(Params):
    """A source with its own settings; a key that is left out has the value of the section."""

    folder: Path | None = Field(default=None, description="folder, video file or list of pairs")
    hub: Name | None = Field(default=None, description="data set of the Hugging Face hub, in place of folder")
    revision: Name | None = Field(default=None, description="of a hub data set: commit, tag or branch")
    config: Name | None = Field(default=None, description="of a hub data set")
    kind: Kind = Field(default="auto", description="layout; auto detects it")
    interval: Interval | None = Field(default=None, description="take every n-th frame")
    fps: Fps | None = Field(default=None, description="frames per second, in place of interval")
    offset: Offset | None = Field(default=None, description="frames to skip at the start of each video")
    stride: Stride | None = Field(default=None, description="frames from the start of a clip to the next")

    @model_validator(mode="after")
    def folder_or_hub(self) -> Self:
        if (self.folder is None) == (self.hub is None):
            raise ValueError("a source needs either folder or hub")
        if self.hub is not None and self.kind not in ("auto", "huggingface"):
            raise ValueError(f"kind={self.kind}: expected auto or huggingface with hub; remove kind")
        if self.hub is None and (self.revision or self.config):
            raise ValueError("revision and config need hub; remove them")
        return self

    @property
    def place(self) -> str:
        """Name of the source in messages."""
        return str(self.folder) if self.folder is not None else f"hub:{self.hub}"


def _branch(value: object) -> str:
    """Pick the branch of a union, so that an error inside a mapping names its key."""
    if value is None:
        return "none"
    return "settings" if isinstance(value, dict | SourceParams) else "path"


_Path = Annotated[Path, Tag("path")]
_Settings = Annotated[SourceParams, Tag("settings")]
SourceOrPath = Annotated[_Path | _Settings, Discriminator(_branch)]
SourceOrNone = Annotated[_Path | _Settings | Annotated[None, Tag("none")], Discriminator(_branch)]


class ExtractParams(Params):
    """Section `extract_frames`. Paths are relative to the root of the project."""

    train: SourceOrNone = Field(description="source to train on, or null")
    val: SourceOrNone = Field(description="source to validate on, or null: a share of train")
    val_share: float = Field(ge=0, lt=1, description="share of the videos of train, where val is null")
    unlabeled: SourceOrNone = Field(description="more videos to train on, or null")
    test_sets: dict[str, SourceOrPath] = Field(description="sources of the test sets by name, or {}")
    interval: Interval = Field(description="take every n-th frame")
    fps: Fps | None = Field(description="frames per second, in place of interval, or null")
    offset: Offset = Field(description="frames to skip at the start of each video")
    stride: Stride = Field(description="frames from the start of a clip to the next")
    group: Name | None = Field(description="regular expression of takes that val_share keeps whole, or null")
    scene_cut: SceneCut | None = Field(description="change of the picture at which clips end, or null")
    fit: Literal["crop", "stretch"] = Field(description="resizing of frames of another aspect ratio")
    on_bad_video: Literal["error", "skip"] = Field(description="stop at an unusable video, or skip it")
    on_bad_masks: Literal["error", "repair"] = Field(description="stop at an invalid mask, or repair it")
    max_bad_share: float = Field(ge=0, le=1, description="max share of the videos of a source to skip")
    shard_mb: int = Field(ge=1, le=65536, description="max MiB of frames in a shard of the clip store")
    workers: int = Field(ge=0, le=256, description="decoding processes; 0 is one per core")

    @field_validator("test_sets")
    @classmethod
    def names_can_be_file_names(cls, value: dict[str, Path | SourceParams]) -> dict[str, Path | SourceParams]:
        for name in value:
            usable = name.replace("_", "").replace("-", "").isalnum() and name.isascii()
            if not usable or len(name) > MAX_NAME:
                raise ValueError(
                    f"extract_frames.test_sets: {name!r} is not a usable name: expected up to {MAX_NAME} "
                    "letters, digits, - and _; rename it"
                )
        return value

    @field_validator("group")
    @classmethod
    def group_is_a_regular_expression(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(
                f"extract_frames.group={value!r}: expected a regular expression ({error}); correct it, or "
                "set it to null"
            ) from None
        return value

    @model_validator(mode="after")
    def some_source_is_named(self) -> Self:
        if not self.splits():
            raise ValueError("extract_frames has no source; set train, val, unlabeled or a test set")
        return self

    @model_validator(mode="after")
    def no_source_is_the_project(self) -> Self:
        for split, source in self.splits().items():
            if source.folder in (Path(), Path("data")):
                raise ValueError(
                    f"{key_of(split)}={str(source.folder)!r}: expected a folder of videos, or null, not the "
                    "folder of the project; change it"
                )
            if source.folder is not None and source.folder.absolute().is_relative_to(CLIPS.absolute()):
                raise ValueError(
                    f"{key_of(split)}={str(source.folder)!r}: expected a folder outside {CLIPS}, which each "
                    "run replaces; move it"
                )
        return self

    @model_validator(mode="after")
    def one_rate(self) -> Self:
        rates = {key_of(split): (source.interval, source.fps) for split, source in self.splits().items()}
        for key, (interval, fps) in {"extract_frames": (self.interval, self.fps), **rates}.items():
            if fps is not None and (interval or 1) > 1:
                raise ValueError(
                    f"{key}.interval={interval}: expected 1 with {key}.fps={fps:g}; set interval to 1 or fps "
                    "to null"
                )
        return self

    def splits(self) -> dict[str, SourceParams]:
        """Sources by split: `train`, `val`, `unlabeled`, `test/<name>`, with the settings of the section."""
        named = {"train": self.train, "val": self.val, "unlabeled": self.unlabeled}
        tests = {f"test/{name}": source for name, source in sorted(self.test_sets.items())}
        return {split: self._full(source) for split, source in (named | tests).items() if source is not None}

    def _full(self, source: Path | SourceParams) -> SourceParams:
        if isinstance(source, Path):
            source = SourceParams(folder=source)
        has_rate = source.interval is not None or source.fps is not None
        return source.model_copy(
            update={
                "interval": (source.interval or 1) if has_rate else self.interval,
                "fps": source.fps if has_rate else self.fps,
                "offset": self.offset if source.offset is None else source.offset,
                "stride": source.stride or self.stride,
            }
        )


def key_of(split: str) -> str:
    """Return the key of the source of a split, for messages."""
    return f"extract_frames.{split.replace('test/', 'test_sets.')}"


OFF = {"crop_scale": 1.0, "brightness": 0.0, "rotation": 0.0, "noise": 0.0, "blur": 0.0}


class Changes(Params):
    """Augmentations of a frame and its mask."""

    flip: bool  # mirror half of the frames left-right
    crop_scale: Annotated[float, Field(gt=0, le=1)]  # min side of a random crop, a share; 1: off
    brightness: Annotated[float, Field(ge=0, lt=1)]  # max relative change of brightness and contrast
    rotation: Annotated[float, Field(ge=0, le=180)]  # max angle, degrees
    noise: Annotated[float, Field(ge=0, le=1)]  # max standard deviation, a share of the brightness range
    blur: Annotated[float, Field(ge=0, le=16)]  # max standard deviation, pixels

    @property
    def active(self) -> dict[str, float]:
        """Random augmentations that are on, but flips, and their values."""
        values = {name: getattr(self, name) for name in OFF}
        return {name: value for name, value in values.items() if value != OFF[name]}


class FrameAugment(Params):
    """Sections `augment.codec` and `augment.segmenter`."""

    train: Changes
    val: Changes


class ClipChanges(Changes):
    """Augmentations of a clip, the same for all of its frames."""

    flip: bool  # also encode the mirror image of each clip
    random_views: Annotated[int, Field(ge=0, le=64)]  # additional encodings, each augmented independently


class ClipAugment(Params):
    """Section `augment.denoiser`; clips are augmented before they are encoded."""

    train: ClipChanges
    val: ClipChanges

    @model_validator(mode="after")
    def random_views_need_augmentations(self) -> Self:
        for split, changes in (("train", self.train), ("val", self.val)):
            name = f"augment.denoiser.{split}"
            active = changes.active
            if changes.random_views and not active:
                raise ValueError(
                    f"{name}.random_views={changes.random_views}: expected 0 without other augmentations; "
                    "set crop_scale below 1, or another one above 0, or random_views to 0"
                )
            if active and not changes.random_views:
                key, value = active.popitem()
                raise ValueError(
                    f"{name}.{key}={value}: expected {OFF[key]} with "
                    f"random_views=0; set random_views to 1 or more, or change {key}"
                )
        return self


class AugmentParams(Params):
    """Section `augment`; a stage reads the part of its network."""

    codec: FrameAugment
    denoiser: ClipAugment
    segmenter: FrameAugment


LIMITS = {  # min and max strength of each kind; units in `DegradeParams`
    "noise": (0.0, 1.0),
    "low_light": (0.01, 1.0),
    "blur": (0.0, 64.0),
    "compression": (1.0, 100.0),
    "dropped": (0.0, 1.0),
}

Range = tuple[float, float]


class DegradeParams(Params):
    """Section `degrade`: min and max strength of each kind of degradation; null is off."""

    noise: Range | None  # standard deviation of Gaussian noise, a share of the full range
    low_light: Range | None  # factor of the brightness
    blur: Range | None  # standard deviation of a Gaussian blur, pixels
    compression: Range | None  # JPEG quality
    dropped: Range | None  # share of lost frames

    @property
    def ranges(self) -> dict[str, Range]:
        """Ranges of the kinds that are on."""
        found = {kind: getattr(self, kind) for kind in LIMITS}
        return {kind: ends for kind, ends in found.items() if ends is not None}

    @model_validator(mode="after")
    def ranges_are_valid(self) -> Self:
        if not self.ranges:
            raise ValueError(
                f"every kind is off; give one of {', '.join(LIMITS)} a range, as noise: [0.05, 0.2]"
            )
        for kind, (low, high) in self.ranges.items():
            lowest, highest = LIMITS[kind]
            if not lowest <= low <= high <= highest:
                raise ValueError(
                    f"degrade.{kind}=[{low:g}, {high:g}]: expected two values in order, "
                    f"{lowest:g} <= low <= high <= {highest:g}"
                )
        return self
