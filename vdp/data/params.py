"""Params of the stage that cuts sources into clips."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from vdp.config.schema import Params

MAX_NUMBER = 2**31 - 1  # of a frame: no video has more
MAX_NAME = 100  # characters of the name of a test set

CLIPS = Path("data/clips")  # what the stage writes

Kind = Literal["auto", "competition", "videos", "images", "clevrer", "pairs", "huggingface"]
Interval = Annotated[int, Field(ge=1, le=MAX_NUMBER)]
Fps = Annotated[float, Field(ge=0.001, le=1000)]
Offset = Annotated[int, Field(ge=0, le=MAX_NUMBER)]
Stride = Annotated[int, Field(ge=1, le=MAX_NUMBER)]
Name = Annotated[str, Field(min_length=1)]


class SourceParams(Params):
    """One source with settings of its own; a key that is left out is as in the section.

    The only schema with defaults: what is not written here is written in the section.
    """

    folder: Path | None = Field(default=None, description="folder, video file or list of pairs")
    hub: Name | None = Field(
        default=None, description="instead of folder: a data set of the Hugging Face hub"
    )
    revision: Name | None = Field(default=None, description="of a hub's data set: commit, tag or branch")
    config: Name | None = Field(default=None, description="of a hub's data set that has several")
    kind: Kind = Field(default="auto", description="what it holds; auto looks")
    interval: Interval | None = Field(default=None, description="take every n-th frame")
    fps: Fps | None = Field(default=None, description="take frames at this rate instead; frames per second")
    offset: Offset | None = Field(default=None, description="leave out frames at the start of each video")
    stride: Stride | None = Field(default=None, description="taken frames from clip to clip")

    @model_validator(mode="after")
    def one_place(self) -> Self:
        if (self.folder is None) == (self.hub is None):
            raise ValueError("a source needs folder or hub, and not both")
        if self.hub is not None and self.kind not in ("auto", "huggingface"):
            raise ValueError(f"kind={self.kind} does not go with hub; leave kind out")
        if self.hub is None and (self.revision or self.config):
            raise ValueError("revision and config are of a data set of the hub; leave them out")
        return self

    @property
    def place(self) -> str:
        """How messages name it."""
        return str(self.folder) if self.folder is not None else f"hub:{self.hub}"


def _branch(value: object) -> str:
    """A mapping is a source with settings: what is wrong in it is told, not that it is no path."""
    if value is None:
        return "none"
    return "settings" if isinstance(value, dict | SourceParams) else "path"


_Path = Annotated[Path, Tag("path")]
_Settings = Annotated[SourceParams, Tag("settings")]
SourceOrPath = Annotated[_Path | _Settings, Discriminator(_branch)]
SourceOrNone = Annotated[_Path | _Settings | Annotated[None, Tag("none")], Discriminator(_branch)]


class ExtractParams(Params):
    """Section `extract_frames` of params.yaml. Paths are relative to the project's root."""

    train: SourceOrNone = Field(description="source to train on, or null")
    val: SourceOrNone = Field(description="source to validate on, or null: a part of train's")
    val_share: float = Field(ge=0, lt=1, description="where val is null: share of train's videos")
    unlabeled: SourceOrNone = Field(description="more to train the video models on, or null")
    test_sets: dict[str, SourceOrPath] = Field(description="name: source of each test set; {} for none")
    interval: Interval = Field(description="take every n-th frame")
    fps: Fps | None = Field(description="take frames at this rate instead, or null; frames per second")
    offset: Offset = Field(description="leave out frames at the start of each video")
    stride: Stride = Field(description="taken frames from the start of a clip to the next")
    fit: Literal["crop", "stretch"] = Field(
        description="how a frame of another aspect ratio becomes a clip's"
    )
    on_bad_video: Literal["error", "skip"] = Field(
        description="stop at a video that cannot be used, or go on"
    )
    max_bad_share: float = Field(ge=0, le=1, description="largest share of a source's videos to skip")
    shard_mb: int = Field(ge=1, le=65536, description="MiB of frames in one file of the clip store, at most")
    workers: int = Field(ge=0, le=256, description="processes that decode; 0 is one for each core")

    @field_validator("test_sets")
    @classmethod
    def names_can_be_file_names(cls, value: dict[str, Path | SourceParams]) -> dict[str, Path | SourceParams]:
        for name in value:
            usable = name.replace("_", "").replace("-", "").isalnum() and name.isascii()
            if not usable or len(name) > MAX_NAME:
                raise ValueError(
                    f"extract_frames.test_sets: {name!r} is not a usable name: "
                    f"expected up to {MAX_NAME} letters, digits, - and _ (results are filed under it)"
                )
        return value

    @model_validator(mode="after")
    def some_source_is_named(self) -> Self:
        if not self.splits():
            raise ValueError(
                "extract_frames names no source: give train, val, unlabeled or a test set a folder"
            )
        return self

    @model_validator(mode="after")
    def no_source_is_the_project(self) -> Self:
        for split, source in self.splits().items():
            if source.folder in (Path(), Path("data")):
                raise ValueError(
                    f"{key_of(split)}={str(source.folder)!r} is the project's own folder: "
                    "expected a folder of videos, or null"
                )
            if source.folder is not None and source.folder.absolute().is_relative_to(CLIPS.absolute()):
                raise ValueError(
                    f"{key_of(split)}={str(source.folder)!r} lies in {CLIPS}, which each run replaces: "
                    "move it somewhere else"
                )
        return self

    @model_validator(mode="after")
    def one_pace(self) -> Self:
        paces = {key_of(split): (source.interval, source.fps) for split, source in self.splits().items()}
        for key, (interval, fps) in {"extract_frames": (self.interval, self.fps), **paces}.items():
            if fps is not None and (interval or 1) > 1:
                raise ValueError(
                    f"{key}.interval={interval} and {key}.fps={fps:g} both say which frames to take: "
                    "set interval to 1 or fps to null"
                )
        return self

    def splits(self) -> dict[str, SourceParams]:
        """Source of each split that names one: `train`, `val`, `unlabeled`, `test/<name>`; complete."""
        named = {"train": self.train, "val": self.val, "unlabeled": self.unlabeled}
        tests = {f"test/{name}": source for name, source in sorted(self.test_sets.items())}
        return {split: self._full(source) for split, source in (named | tests).items() if source is not None}

    def _full(self, source: Path | SourceParams) -> SourceParams:
        if isinstance(source, Path):
            source = SourceParams(folder=source)
        own_pace = source.interval is not None or source.fps is not None
        return source.model_copy(
            update={
                "interval": (source.interval or 1) if own_pace else self.interval,
                "fps": source.fps if own_pace else self.fps,
                "offset": self.offset if source.offset is None else source.offset,
                "stride": source.stride or self.stride,
            }
        )


def key_of(split: str) -> str:
    """The key of params.yaml that names a split's source, for messages."""
    return f"extract_frames.{split.replace('test/', 'test_sets.')}"


class Changes(Params):
    """What may be changed in a picture; its mask is moved alike."""

    flip: bool  # mirror half of the pictures left-right
    crop_scale: Annotated[float, Field(gt=0, le=1)]  # smallest side of a random crop, as a share; 1: no crops
    brightness: Annotated[float, Field(ge=0, lt=1)]  # largest relative change of brightness and contrast


class FrameAugment(Params):
    """Sections `augment.codec` and `augment.segmenter`, which learn from single frames."""

    train: Changes
    val: Changes


class ClipChanges(Changes):
    """What may be changed in a clip, in all of its frames alike."""

    flip: bool  # encode the mirror image of each clip as well
    random_views: Annotated[int, Field(ge=0, le=64)]  # further encodings, each with changes of its own


class ClipAugment(Params):
    """Section `augment.denoiser`, which learns from clips that are encoded once."""

    train: ClipChanges
    val: ClipChanges

    @model_validator(mode="after")
    def random_views_and_their_changes_go_together(self) -> Self:
        for split, changes in (("train", self.train), ("val", self.val)):
            name = f"augment.denoiser.{split}"
            asked = {"crop_scale": changes.crop_scale} if changes.crop_scale < 1 else {}
            asked |= {"brightness": changes.brightness} if changes.brightness > 0 else {}
            if changes.random_views and not asked:
                raise ValueError(
                    f"{name}.random_views={changes.random_views} would encode the same clip again: set "
                    "crop_scale below 1 or brightness above 0 beside it, or random_views to 0"
                )
            if asked and not changes.random_views:
                key, value = asked.popitem()
                raise ValueError(
                    f"{name}.{key}={value} does nothing without random views: set random_views beside it "
                    f"to 1 or more, or {key} to {0.0 if key == 'brightness' else 1.0}"
                )
        return self


class AugmentParams(Params):
    """Section `augment`, whole; a stage reads the part of its network."""

    codec: FrameAugment
    denoiser: ClipAugment
    segmenter: FrameAugment


LIMITS = {  # least and most strength of each kind, in its own unit: see `vdp.data.degrade.degrade`
    "noise": (0.0, 1.0),
    "low_light": (0.01, 1.0),
    "blur": (0.0, 64.0),
    "compression": (1.0, 100.0),
    "dropped": (0.0, 1.0),
}

Range = tuple[float, float]


class DegradeParams(Params):
    """Section `degrade`: the least and the most strength of each kind; null for a kind that is off."""

    noise: Range | None  # standard deviation of Gaussian noise, a share of the full range of brightness
    low_light: Range | None  # share of the brightness that is left
    blur: Range | None  # standard deviation of a Gaussian blur, pixels
    compression: Range | None  # JPEG quality
    dropped: Range | None  # share of the frames that are lost

    @property
    def ranges(self) -> dict[str, Range]:
        """The ranges of the kinds that are on."""
        found = {kind: getattr(self, kind) for kind in LIMITS}
        return {kind: ends for kind, ends in found.items() if ends is not None}

    @model_validator(mode="after")
    def ranges_make_sense(self) -> Self:
        """Name the kind whose range is reversed or too wide, or say that all are off."""
        if not self.ranges:
            raise ValueError(
                f"every kind is off: give one of {', '.join(LIMITS)} a range, as noise: [0.05, 0.2]"
            )
        for kind, (low, high) in self.ranges.items():
            least, most = LIMITS[kind]
            if not least <= low <= high <= most:
                raise ValueError(
                    f"degrade.{kind}=[{low:g}, {high:g}] is out of range: expected two values in order, "
                    f"{least:g} <= low <= high <= {most:g}"
                )
        return self
