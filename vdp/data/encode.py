"""Encode and decode clips with a codec, a batch of frames in memory at a time.

A codec that compresses time codes a clip in parts that overlap: a latent frame depends on a few before it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from vdp.core.device import autocast
from vdp.core.latent_time import EVERY_FRAME, LatentTime
from vdp.core.pixels import to_pixels, to_uint8
from vdp.data.stores.clips import ClipStore, Pixels
from vdp.data.stores.latents import Half

PAST = 8  # latent frames before a part that its frames may depend on, beyond the reach of the codec's layers

Encode = Callable[[Tensor], Tensor]  # (B, 3, T, H, W) -> (B, C, N, h, w)
Decode = Callable[[Tensor], Tensor]  # (B, C, N, h, w) -> (B, 3, T, H, W)
Views = Callable[[np.ndarray, int], Iterable[np.ndarray]]  # frames (T, H, W, 3), clip index -> views
Degrade = Callable[[Pixels, int, int], Pixels]  # frames (T, H, W, 3), clip index, form -> degraded frames


def encode_frames(
    encode: Encode, frames: np.ndarray, batch_frames: int, device: torch.device, factor: int = 1
) -> Tensor:
    """Encode uint8 frames (T, H, W, 3), about `batch_frames` at a time: raw latents (C, N, h, w), fp32.

    `factor` is the codec's temporal factor.
    """
    if factor > 1:
        return _encode_groups(encode, frames, batch_frames, device, factor)
    pixels = to_pixels(frames).to(device)
    parts = []
    with torch.inference_mode(), autocast(device):
        for chunk in pixels.split(batch_frames):
            parts.append(encode(chunk[None].transpose(1, 2))[0])
    return torch.cat(parts, dim=1)


def _encode_groups(
    encode: Encode, frames: np.ndarray, batch_frames: int, device: torch.device, factor: int
) -> Tensor:
    """`encode_frames` of a codec that compresses time."""
    count, size = LatentTime(factor, known=1).count(len(frames)), max(1, batch_frames // factor)
    parts = []
    with torch.inference_mode(), autocast(device):
        for start in range(0, count, size):
            first = max(0, start - PAST)  # coded as the first frame of a clip, and left out
            part = frames[first * factor : (start + size - 1) * factor + 1]
            pixels = to_pixels(part).to(device)
            parts.append(encode(pixels[None].transpose(1, 2))[0, :, start - first :])
    return torch.cat(parts, dim=1)


def encode_clips(
    encode: Encode,
    store: ClipStore,
    rows: Sequence[int],
    views: Views,
    batch_frames: int,
    device: torch.device,
    time: LatentTime = EVERY_FRAME,
) -> Iterator[Half]:
    """Encode the V views of clips of a store, (V, N, C, h, w) float16 each.

    Views are encoded, as a codec does not commute with flips or crops. `time` is that of the codec.
    """
    clips = (list(views(store.frames(i), i)) for i in rows)
    yield from _encode_lists(encode, clips, batch_frames, device, time)


def _encode_lists(
    encode: Encode,
    clips: Iterable[list[Pixels]],
    batch_frames: int,
    device: torch.device,
    time: LatentTime = EVERY_FRAME,
) -> Iterator[Half]:
    """Encode the views of each clip, (V, N, C, h, w) float16; several clips share a call of the encoder.

    Views may be fewer than `batch_frames` frames, with which a GPU is idle.
    """
    waiting: list[list[Pixels]] = []
    for clip in clips:
        waiting.append(clip)
        if sum(len(view) for views in waiting for view in views) >= batch_frames:
            yield from _encode_together(encode, waiting, batch_frames, device, time)
            waiting = []
    if waiting:
        yield from _encode_together(encode, waiting, batch_frames, device, time)


def _encode_together(
    encode: Encode, clips: list[list[Pixels]], batch_frames: int, device: torch.device, time: LatentTime
) -> Iterator[Half]:
    if not any(clips):
        yield from (np.empty(0, np.float16) for _ in clips)
        return
    if time.factor > 1:  # the frames of one view are a clip of the codec
        for views in clips:
            padded = (time.pad(view) for view in views)
            coded = [encode_frames(encode, view, batch_frames, device, time.factor) for view in padded]
            yield torch.stack(coded).transpose(1, 2).to(torch.float16).cpu().numpy()
        return
    frames = np.concatenate([view for views in clips for view in views])
    latents = encode_frames(encode, frames, batch_frames, device).transpose(0, 1).to(torch.float16)
    parts = latents.cpu().split([sum(map(len, views)) for views in clips])
    for views, part in zip(clips, parts, strict=True):
        # all views of a clip have its length
        yield (part.unflatten(0, (len(views), -1)) if views else part).numpy()


def encode_conditions(
    encode: Encode,
    store: ClipStore,
    rows: Sequence[int],
    views: Views,
    degrade: Degrade,
    degraded: int,
    batch_frames: int,
    device: torch.device,
    time: LatentTime = EVERY_FRAME,
) -> Iterator[Half]:
    """Encode D = `degraded` degraded forms of clips of a store, (D, N, C, h, w) float16.

    Form d belongs to view d % V, to which it is restored: that view of the degraded frames in the store, or,
    for a clip without any, the degraded view of its frames.
    """
    paired = set(store.paired.tolist())

    def forms(i: int) -> list[Pixels]:
        has_conditions = i in paired
        repeated = _cycle(views, store.conditions(i) if has_conditions else store.frames(i), i)
        shown = zip(range(degraded), repeated, strict=False)
        return [view if has_conditions else degrade(view, i, d) for d, view in shown]

    yield from _encode_lists(encode, map(forms, rows), batch_frames, device, time)


def encode_composed(
    encode: Encode,
    rows: Sequence[int],
    views: Views,
    composed: Iterable[Pixels | None],
    batch_frames: int,
    device: torch.device,
) -> Iterator[Half | None]:
    """Encode the V views of the composed frames of clips of a store, (V, T - K, C, h, w) float16 each.

    Args:
        composed: of each clip, (T - K, H, W, 3); None for a clip without.
    """
    pairs = zip(rows, composed, strict=True)
    shown = ([] if frames is None else list(views(frames, i)) for i, frames in pairs)
    for latents in _encode_lists(encode, shown, batch_frames, device):
        yield latents if len(latents) else None


def _cycle(views: Views, frames: np.ndarray, clip: int) -> Iterator[np.ndarray]:
    """Repeat the views of a clip endlessly, without keeping them in memory."""
    while True:
        yield from views(frames, clip)


def decode_frames(
    decode: Decode, latents: Tensor, device: torch.device, factor: int = 1, first: int = 0
) -> np.ndarray:
    """Decode raw latents (B, C, N, h, w) from latent frame `first` on to uint8 frames (B, T, H, W, 3).

    `factor` is the codec's temporal factor; above 1, frames depend on the latent frames before theirs.
    """
    past = min(first, PAST if factor > 1 else 0)
    with torch.inference_mode(), autocast(device):
        pixels = decode(latents[:, :, first - past :])
    if past:
        pixels = pixels[:, :, 1 + (past - 1) * factor :]
    return to_uint8(pixels.transpose(1, 2))
