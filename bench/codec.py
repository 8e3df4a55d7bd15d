"""Round trips and mask head of a trained codec on labelled clips: `python -m bench.codec`.

The first, middle and last frame of each clip; all frames with --all, or of a codec that compresses time. PSNR
is of the error pooled over all frames, and over the pixels of objects. The masks are read from the latents of
true frames by the codec's head: Jaccard of 49 classes from one confusion matrix, and intersection over union
of objectness. GFLOP are per frame.
"""

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vdp.config.read import run_stage
from vdp.core.classes import NUM_CLASSES
from vdp.core.device import autocast, pick_device
from vdp.core.errors import UserError
from vdp.core.flops import flop_counter
from vdp.core.pixels import to_pixels, to_uint8
from vdp.data.stores.clips import ClipStore, Pixels
from vdp.evaluation.frame import MAX_PSNR
from vdp.evaluation.mask import confusion_matrix, jaccard
from vdp.models.codecs.factory import load_codec
from vdp.models.codecs.pixel import PixelCodec
from vdp.models.codecs.vae import VAE
from vdp.models.factored_classes import class_log_probs


@dataclass(frozen=True)
class CodecScore:
    """PSNR in dB, scores of the masks (NaN without a mask head), GFLOP per frame."""

    psnr: float
    psnr_objects: float
    jaccard: float
    foreground: float  # intersection over union of objectness above one half
    encode_gflop: float
    decode_gflop: float


def codec_score(codec: VAE | PixelCodec, clips: Iterable[tuple[Pixels, Pixels]]) -> CodecScore:
    """Score a codec on frames (T, H, W, 3) and masks (T, H, W) of clips, each coded as one clip.

    Raises:
        ValueError: if there are no clips.
    """
    device = pick_device()
    squared, pixels = np.zeros(2), np.zeros(2)  # of all pixels, of those of objects
    confusion = np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64)
    overlap = union = frames_seen = 0
    flops = [0.0, 0.0]
    with torch.inference_mode(), autocast(device):
        for frames, masks in clips:
            with flop_counter() as encoding:
                latents = codec.encode(to_pixels(frames).transpose(0, 1)[None].to(device))
            with flop_counter() as decoding:
                decoded = codec.decode(latents)
            flops = [flops[0] + encoding.get_total_flops(), flops[1] + decoding.get_total_flops()]
            frames_seen += len(frames)
            decoded = decoded[:, :, : len(frames)]  # without those that complete the last group
            error = to_uint8(decoded[0].transpose(0, 1)).astype(np.float64) - frames
            for index, where in enumerate((np.ones_like(masks, dtype=bool), masks > 0)):
                squared[index] += np.square(error[where]).sum()
                pixels[index] += 3 * where.sum()
            if codec.has_masks:
                logits = codec.mask_logits(latents)[0].transpose(0, 1)[: len(frames)]
                classes = class_log_probs(logits).argmax(dim=1).byte()
                confusion += confusion_matrix(classes.cpu().numpy(), masks)
                objects = (logits[:, 0] > 0).cpu().numpy()
                overlap += int((objects & (masks > 0)).sum())
                union += int((objects | (masks > 0)).sum())
    if not frames_seen:
        raise ValueError("clips: expected at least one to score, got none")
    return CodecScore(
        *(_psnr(s, n) for s, n in zip(squared, pixels, strict=True)),
        jaccard(confusion) if codec.has_masks else float("nan"),
        overlap / max(union, 1) if codec.has_masks else float("nan"),
        *(total / frames_seen / 1e9 for total in flops),
    )


def _psnr(squared: float, pixels: float) -> float:
    return 10 * float(np.log10(255.0**2 * pixels / squared)) if squared else MAX_PSNR


def every_frame(store: ClipStore, clips: int) -> Iterable[tuple[Pixels, Pixels]]:
    """All frames and masks of each of the first labelled clips of a store."""
    for index in store.labelled[:clips]:
        yield np.asarray(store.frames(index)), np.asarray(store.masks(index))


def first_middle_last(store: ClipStore, clips: int) -> Iterable[tuple[Pixels, Pixels]]:
    """Three frames and masks of each of the first labelled clips of a store."""
    for index in store.labelled[:clips]:
        length = store.num_frames(index)
        taken = [0, (length - 1) // 2, length - 1]
        yield np.asarray(store.frames(index))[taken], np.asarray(store.masks(index))[taken]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--codec", type=Path, default=Path("data/models/codec"), help="folder of the codec")
    parser.add_argument("--folder", type=Path, default=Path("data/clips/val"), help="store of labelled clips")
    parser.add_argument("--clips", type=int, default=100, help="max number of clips, >= 1")
    parser.add_argument("--all", action="store_true", help="score all frames of each clip")
    args = parser.parse_args()
    if args.clips < 1:
        parser.error(f"--clips={args.clips}: expected >= 1")
    store = ClipStore(args.folder)
    if not store.num_labelled:
        raise UserError(f"{args.folder}: expected clips with masks; choose another --folder")
    codec = load_codec(args.codec).to(pick_device())
    taken = every_frame if args.all or codec.temporal_factor > 1 else first_middle_last
    score = codec_score(codec, taken(store, args.clips))
    print(
        "| PSNR, dB | of objects, dB | Jaccard of masks | IoU of objectness | GFLOP to encode | to decode |"
    )
    print("|---:|---:|---:|---:|---:|---:|")
    cells = [f"{score.psnr:.2f}", f"{score.psnr_objects:.2f}", f"{score.jaccard:.3f}"]
    cells += [f"{score.foreground:.3f}", f"{score.encode_gflop:.3f}", f"{score.decode_gflop:.3f}"]
    print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    run_stage(main)
