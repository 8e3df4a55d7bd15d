"""Jobs of an extraction from params.yaml, and a check of them before the work."""

from collections.abc import Mapping
from contextlib import closing

from vdp.config.schema import ClipParams
from vdp.data.extract.cut import cut_clips
from vdp.data.extract.plan import UNUSABLE, ExtractJob, ExtractPolicy, check_skipped, error_line, unique_stems
from vdp.data.extract.workers import silenced_libraries
from vdp.data.params import ExtractParams
from vdp.data.sources.protocols import ClipRule, Pace
from vdp.data.sources.select import Selection
from vdp.data.video.decode import quiet_decoder

CHECKED_VIDEOS = 8  # videos of a split whose first clip is cut by `check_jobs`


def make_jobs(
    clip: ClipParams, params: ExtractParams, selected: Mapping[str, Selection]
) -> dict[str, ExtractJob]:
    """Build the job of each split; only test clips may end with the context frames, without a score."""
    return {split: _make_job(clip, params, chosen) for split, chosen in selected.items()}


def make_policy(params: ExtractParams) -> ExtractPolicy:
    """Build the settings of the extraction."""
    return ExtractPolicy(params.shard_mb, params.on_bad_video == "skip", params.max_bad_share, params.workers)


def check_jobs(jobs: Mapping[str, ExtractJob], policy: ExtractPolicy) -> None:
    """Check the names of all videos, and cut the first clip of some of each split.

    Raises:
        UserError: for a video that cannot be used, unless the policy skips it.
    """
    if policy.skip:
        return
    quiet_decoder()
    with silenced_libraries():
        for job in jobs.values():
            items, skipped = unique_stems(job)
            check_skipped(job, skipped, policy)
            for item in items[:: max(1, -(-len(items) // CHECKED_VIDEOS))]:
                try:
                    with closing(cut_clips(job.source, item, job.rule)) as clips:
                        next(clips)
                except UNUSABLE as error:
                    reason = error_line(job.source.label(item), error)
                    check_skipped(job, [{"video": item, "reason": reason}], policy)


def _make_job(clip: ClipParams, params: ExtractParams, chosen: Selection) -> ExtractJob:
    settings = chosen.params
    # ExtractParams.splits has filled in the defaults
    assert settings.interval is not None and settings.offset is not None and settings.stride is not None
    rule = ClipRule(
        frames=clip.frames,
        min_frames=clip.known if chosen.role == "test" else clip.frames,
        height=clip.height,
        width=clip.width,
        fit=params.fit,
        scene_cut=params.scene_cut,
        pace=Pace(settings.interval, settings.fps, settings.offset),
        stride=settings.stride,
        repair_masks=params.on_bad_masks == "repair",
    )
    return ExtractJob(chosen.source, chosen.videos, rule, chosen.key, chosen.left_out)
