"""Check the sources of params.yaml before the extraction: what they leave out, and which have masks."""

from dataclasses import dataclass
from pathlib import Path

from vdp.config.schema import ClipParams
from vdp.core.checkout import from_checkout
from vdp.core.errors import UserError, one_line
from vdp.data.extract.jobs import check_jobs, make_jobs, make_policy
from vdp.data.params import ExtractParams, SourceParams
from vdp.data.sources.left_out import describe_left_out
from vdp.data.sources.protocols import Pace
from vdp.data.sources.select import Selection, select_videos
from vdp.data.video.decode import quiet_decoder

SIMULATED = Path("data/raw/simulated")  # written by the stage simulate
SIMULATED_MASKS = {"train": True, "val": True, "unlabeled": False, "test": True}  # by folder below it
PEEKED = 3  # videos of a split whose first frame is read: the first, the middle one and the last


@dataclass(frozen=True)
class SourceReport:
    """What the sources hold."""

    masks: dict[str, bool]  # whether clips of a split have masks, by a few of its videos
    left_out: list[str]  # a line for each source with files that are left out


def check_sources(clip: ClipParams, params: ExtractParams) -> SourceReport:
    """Check the sources but those that need work first: simulated ones to be written, data sets of the hub.

    Raises:
        UserError: if extract_frames would refuse a source, or the first clip of some of its videos.
    """
    quiet_decoder()
    sources = params.splits()
    simulated = {
        split: SIMULATED_MASKS.get(source.folder.relative_to(SIMULATED).parts[0], True)
        for split, source in sources.items()
        if source.folder is not None and _is_to_be_written(source)
    }
    later = simulated.keys() | {split for split, source in sources.items() if source.hub is not None}
    selected = select_videos(params, sorted(later))
    check_jobs(make_jobs(clip, params, selected), make_policy(params))
    skip = params.on_bad_video == "skip"
    peeked = {split: _has_masks(chosen, skip) for split, chosen in selected.items()}
    return SourceReport(
        {split: masks for split, masks in (simulated | peeked).items() if masks is not None},
        [
            f"{chosen.key}: left out of {chosen.params.place}: {describe_left_out(chosen.left_out)}"
            for chosen in selected.values()
            if chosen.left_out
        ],
    )


def _is_to_be_written(source: SourceParams) -> bool:
    folder = source.folder
    return folder is not None and SIMULATED in folder.parents and not from_checkout(folder).exists()


def _has_masks(chosen: Selection, skip: bool) -> bool | None:
    """Whether some of a few videos have masks; None if none of them can be read and that is allowed."""
    count, found = len(chosen.videos), []
    pace = Pace(chosen.params.interval or 1, chosen.params.fps, chosen.params.offset or 0)
    for position in sorted({round(part * (count - 1) / (PEEKED - 1)) for part in range(PEEKED)}):
        try:
            frame = next(iter(chosen.source.frames(chosen.videos[position], pace)), None)
        except (ValueError, OSError) as error:
            if not skip:
                raise UserError(
                    f"{chosen.key}: {one_line(error)} (or set extract_frames.on_bad_video to skip)"
                ) from None
            continue
        if frame is not None:
            found.append(frame.mask is not None)
    return any(found) if found else None
