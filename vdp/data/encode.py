"""Clips through an encoder, one clip in memory at a time."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vdp.data.clips import ClipStore
from vdp.data.latents import Half, Moments
from vdp.device import autocast
from vdp.pixels import to_pixels, to_uint8

Encode = Callable[[Tensor], Tensor]  # (B, 3, T, H, W) -> (B, C, T, h, w)
Decode = Callable[[Tensor], Tensor]  # (B, C, T, h, w) -> (B, 3, T, H, W)
Views = Callable[
    [np.ndarray, int], Iterable[np.ndarray]
]  # frames (T, H, W, 3) and number of a clip -> its views


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
        latents = torch.stack(encoded).transpose(1, 2).to(torch.float16).cpu().numpy()
        if moments is not None:
            moments.add(latents)
        yield latents


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
