"""Predictions of one test set on disk: arrays that may exceed memory, written in parts."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from vdp.config.choices import KeptFrames
from vdp.data.stores.arrays import write_parts

FRAMES = "frames.npy"  # (N, S, hops, H, W, 3) uint8; of the last hop alone where not all are kept
EARLIER = "earlier.npy"  # with keep=hops: (N, 1, hops - 1, H, W, 3) uint8, the other hops of the first sample
LATENTS = "latents.npy"  # (N, S, C, h, w) float16, raw latents of the last hop
LISTING = "predictions.json"


def write_predictions(
    folder: Path,
    names: Sequence[str],
    hops: Sequence[int],
    samples: int,
    parts: Iterable[Mapping[str, np.ndarray]],
) -> None:
    """Write the predictions of N clips to a new folder.

    Args:
        names: of the clips.
        hops: 1-based numbers of the predicted frames that are written.
        samples: S of each clip.
        parts: arrays of `kept_arrays` of some clips each, in the order of `names`.
    """
    write_parts(folder, parts, len(names))
    listing = {"clips": list(names), "hops": list(hops), "samples": samples}
    (folder / LISTING).write_text(json.dumps(listing, indent=1) + "\n")


def kept_arrays(frames: np.ndarray, latents: np.ndarray, keep: KeptFrames) -> dict[str, np.ndarray]:
    """Return the arrays to write of some clips by the names of their files, by `predict.keep`.

    Args:
        frames: of all hops, (B, S, hops, H, W, 3) uint8.
        latents: of the last hop, (B, S, C, h, w).
    """
    arrays = {"latents": latents.astype(np.float16, copy=False)}
    if keep == "all":
        return {"frames": frames, **arrays}
    if keep == "hops" and frames.shape[2] > 1:
        arrays["earlier"] = frames[:, :1, :-1]
    return {"frames": frames[:, :, -1:], **arrays}


def kept_hops(hops: Sequence[int], keep: KeptFrames) -> list[int]:
    """Return the numbers of the frames that are written of all hops."""
    return list(hops[-1:] if keep == "last" else hops)


def read_latents(folder: Path) -> np.ndarray:
    """Memory-map the raw latents of the last hop, (N, S, C, h, w) float16."""
    path = folder / LATENTS
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; run `dvc repro predict`")
    return np.load(path, mmap_mode="r")
