"""Clips through an encoder, one clip in memory at a time."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vdp.core.device import autocast
from vdp.core.pixels import to_pixels, to_uint8
from vdp.data.stores.clips import ClipStore, Pixels
from vdp.data.stores.latents import Half, Moments

Encode = Callable[[Tensor], Tensor]  # (B, 3, T, H, W) -> (B, C, T, h, w)
Decode = Callable[[Tensor], Tensor]  # (B, C, T, h, w) -> (B, 3, T, H, W)
Views = Callable[
    [np.ndarray, int], Iterable[np.ndarray]
]  # frames (T, H, W, 3) and number of a clip -> its views
Degrade = Callable[
    [Pixels, int, int], Pixels
]  # frames (T, H, W, 3), number of a clip, which of its conditions


def encode_frames(encode: Encode, frames: np.ndarray, batch_frames: int, device: torch.device) -> Tensor:
    """Raw latents of uint8 frames (T, H, W, 3), `batch_frames` at a time: (C, T, h, w), fp32, on `device`."""
    pixels = to_pixels(frames).to(device)
    parts = []
    with torch.inference_mode(), autocast(device):
        for chunk in pixels.split(batch_frames):
            parts.append(encode(chunk[None].transpose(1, 2))[0])
    return torch.cat(parts, dim=1)


def encode_clips(
    encode: Encode,
    store: ClipStore,
    views: Views,
    batch_frames: int,
    device: torch.device,
    moments: Moments | None,
) -> Iterator[Half]:
    """Latents of every clip of a store, each (V, T, C, h, w) float16.

    Args:
        encode: the codec's.
        store: where the clips are.
        views: the V forms in which each clip is encoded; a codec does not commute with mirrors or crops.
        batch_frames: frames encoded at once.
        device: where the codec is.
        moments: takes in the latents, for their statistics; None where they must not count.
    """
    label = f"encode {store.folder.name}"
    for i in tqdm(range(len(store)), desc=label, unit="clip", file=sys.stderr, mininterval=2):
        encoded = [encode_frames(encode, view, batch_frames, device) for view in views(store.frames(i), i)]
        latents = _half(encoded)
        if moments is not None:
            moments.add(latents)
        yield latents


def encode_conditions(
    encode: Encode,
    store: ClipStore,
    views: Views,
    degrade: Degrade,
    degraded: int,
    batch_frames: int,
    device: torch.device,
) -> Iterator[Half]:
    """Degraded latents of every clip of a store, each (D, T, C, h, w) float16; one view in memory at a time.

    Condition d belongs to view d % V, the clean form that it is to be restored to. Clips with degraded frames
    of their own have these in that view; the frames of the others are degraded as the view shows them.

    Args:
        encode: the codec's.
        store: where the clips are.
        views: the V forms of a clip, as for `encode_clips`.
        degrade: makes conditions.
        degraded: D, the conditions of each clip; 1 or more.
        batch_frames: frames encoded at once.
        device: where the codec is.
    """
    paired = set(store.paired.tolist())
    for i in range(len(store)):
        own = i in paired
        shown = _over_again(views, store.conditions(i) if own else store.frames(i), i)
        encoded = [
            encode_frames(encode, view if own else degrade(view, i, d), batch_frames, device)
            for d, view in zip(range(degraded), shown, strict=False)
        ]
        yield _half(encoded)


def _over_again(views: Views, frames: np.ndarray, clip: int) -> Iterator[np.ndarray]:
    """The views of a clip, from the first one again after the last, without end; none is kept."""
    while True:
        yield from views(frames, clip)


def _half(encoded: list[Tensor]) -> Half:
    """Latents (C, T, h, w) of one clip's forms as they are written, (V, T, C, h, w)."""
    return torch.stack(encoded).transpose(1, 2).to(torch.float16).cpu().numpy()


def encode_known(
    encode: Encode, store: ClipStore, clips: Sequence[int], known: int, device: torch.device
) -> Tensor:
    """Raw latents of the first `known` frames of some clips, (B, C, K, h, w) in fp32 on `device`."""
    frames = [encode_frames(encode, store.frames(i)[:known], known, device) for i in clips]
    return torch.stack(frames)


def decode_frames(decode: Decode, latents: Tensor, device: torch.device) -> np.ndarray:
    """uint8 frames of raw latents, (B, C, T, h, w) -> (B, T, H, W, 3)."""
    with torch.inference_mode(), autocast(device):
        pixels = decode(latents)
    return to_uint8(pixels.transpose(1, 2))
