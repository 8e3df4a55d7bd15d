"""Check the sources of params.yaml before the extraction, and describe what they leave out."""

from pathlib import Path

from vdp.config.read import read_section
from vdp.config.schema import ClipParams
from vdp.data.extract.jobs import check_jobs, make_jobs, make_policy
from vdp.data.params import ExtractParams
from vdp.data.sources.left_out import describe_left_out
from vdp.data.sources.select import select_videos

SIMULATED = Path("data/raw/simulated")  # written by stage simulate


def check_sources() -> list[str]:
    """Check the sources but those that simulate has yet to write; return a line for each with files left out.

    Raises:
        UserError: if extract_frames would refuse a source, or the first clip of some of its videos.
    """
    clip = read_section(ClipParams, "clip")
    params = read_section(ExtractParams, "extract_frames")
    later = [
        split
        for split, source in params.splits().items()
        if source.folder is not None
        and source.folder.is_relative_to(SIMULATED)
        and not source.folder.exists()
    ]
    selected = select_videos(params, later)
    check_jobs(make_jobs(clip, params, selected), make_policy(params))
    return [
        f"{chosen.key}: left out of {chosen.params.place}: {describe_left_out(chosen.left_out)}"
        for chosen in selected.values()
        if chosen.left_out
    ]
