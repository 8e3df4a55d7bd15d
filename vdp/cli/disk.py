"""Estimate the disk space of a run from params.yaml and the numbers of its clips; no network is built."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from vdp.cli.cost import RunParams, chosen_base, latent_size, latent_time, num_views
from vdp.cli.data_size import DataSize, data_size, max_objects
from vdp.core.objects import FEATURES

GB = 1e9
COPIES = 2  # of each file: in data/ and, unless DVC is set up to link, in its cache
HALF, FLOAT = 2, 4  # bytes of a value of latents and of states
KINDS = 4  # masks of the target: of the prediction, of the true frame by two methods, and of a round trip


def run_disk_line() -> str | None:
    """Return `disk_line` of a run of ./params.yaml; None while the number of its clips is unknown."""
    params = RunParams.read()
    size = data_size(params.clip, params.extract_frames, params.simulate)
    return None if size is None else disk_line(disk_estimate(params, size))


def disk_estimate(params: RunParams, size: DataSize) -> dict[str, float]:
    """Estimate the bytes of the large folders under `data/`; of a folder that is not written, none."""
    clip = params.clip
    pixels = clip.height * clip.width
    splits = size.splits.values()
    frames = sum(split.frames for split in splits) + size.test_clips * clip.frames
    # masks of all frames of a clip; test clips as if all had some
    labelled = sum(split.labelled for split in splits) + (size.test_clips if size.labelled else 0)
    folders = {"clips": pixels * (3.0 * frames + labelled * clip.frames)}
    folders["latents"] = _latents(params, size)
    if not clip.predicts:
        return folders
    folders["predictions"] = size.test_clips * _prediction(params)
    if size.labelled:
        hops, samples = len(params.predict.frames), params.sample_motion.samples
        states = FLOAT * len(FEATURES) * max_objects(params.simulate)  # of a frame
        labelled_frames = sum(split.labelled for split in splits) * clip.frames
        tracked = size.test_clips * clip.known
        folders["tracks"] = states * (labelled_frames + tracked) + 2.0 * tracked * pixels
        folders["motion"] = size.test_clips * pixels * (3.0 * hops + samples + 1)
        folders["masks"] = size.test_clips * pixels * (KINDS + 1 + 2.0 * clip.known)
    return folders


def disk_line(folders: Mapping[str, float], folder: Path = Path()) -> str:
    """Return one line with the sizes, the free space, and a warning if that is not enough."""
    free, needed = shutil.disk_usage(folder).free, COPIES * sum(folders.values())
    sizes = ", ".join(f"{name} {size / GB:.2g}" for name, size in folders.items())
    line = f"disk, GB: {sizes}; {needed / GB:.2g} with DVC's copies, {free / GB:.2g} free"
    if needed <= free:
        return line
    return f"{line}: not enough; free some, or set predict.keep to last, encode_latents.degraded to less"


def _latents(params: RunParams, size: DataSize) -> float:
    augment, time = params.augment.denoiser, latent_time(params)
    channels = params.vae.latent_channels if params.codec.name == "vae" else 3
    height, width = latent_size(params)
    base = chosen_base(params.diffusion.base, size.labelled, time.factor == 1, params.clip.predicts)
    frames = 0
    for name, split in size.splits.items():
        views = num_views(augment.val if name == "val" else augment.train)
        frames += (views + params.encode_latents.degraded) * split.clips * time.count(params.clip.frames)
        frames += views * {"composed": split.composed_frames, "optical_flow": split.later_frames}.get(base, 0)
    return float(HALF * frames * channels * height * width)


def _prediction(params: RunParams) -> float:
    """Bytes of the predictions of a clip."""
    predict, (height, width) = params.predict, latent_size(params)
    channels = params.vae.latent_channels if params.codec.name == "vae" else 3
    hops = len(predict.frames)
    kept = {"last": predict.samples, "hops": predict.samples + hops - 1, "all": predict.samples * hops}
    latents = HALF * predict.samples * channels * height * width
    return 3.0 * kept[predict.keep] * params.clip.height * params.clip.width + latents
