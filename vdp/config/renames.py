"""Keys of earlier versions of params.yaml and their new names."""

from collections.abc import Mapping

from pydantic import JsonValue

RENAMED = {
    "pretrain_vae.schedule": "pretrain_vae.lr_schedule",
    "denoiser.unet.context_frames": "denoiser.unet.context_slots",
    "train_denoiser.schedule": "train_denoiser.lr_schedule",
    "train_denoiser.gaps": "train_denoiser.target_offsets",
    "train_denoiser.span": "train_denoiser.max_span",
    "train_denoiser.known": "train_denoiser.context_frames",
    "train_denoiser.drop_context": "train_denoiser.context_dropout",
    "train_denoiser.own_context": "train_denoiser.scheduled_sampling",
    "train_denoiser.own_frames": "train_denoiser.scheduled_sampling_frames",
    "train_denoiser.own_steps": "train_denoiser.scheduled_sampling_steps",
    "train_denoiser.own_temperature": "train_denoiser.scheduled_sampling_temperature",
    "train_segmenter.schedule": "train_segmenter.lr_schedule",
    "predict.batch_clips": "predict.batch_size",
    "evaluate_tasks.between": "evaluate_tasks.interpolate_frames",
    "evaluate_tasks.shown": "evaluate_tasks.figures",
}


def has_key(data: Mapping[str, JsonValue], name: str) -> bool:
    """Whether nested sections contain a dotted name."""
    section, _, rest = name.partition(".")
    inside = data.get(section)
    return section in data and (not rest or (isinstance(inside, dict) and has_key(inside, rest)))


def renamed_keys(data: Mapping[str, JsonValue]) -> list[str]:
    """Return one message for each old key in the content of a params.yaml."""
    return [f"{old} was renamed; use {new}" for old, new in RENAMED.items() if has_key(data, old)]
