"""Cost of a training step and of a prediction, compared with the video denoisers of other libraries.

    pip install -r requirements.txt -r requirements-dev.txt -r bench/requirements.txt
    OMP_NUM_THREADS=1 python -m bench.denoisers

Seconds are processor time of one thread, the minimum over several rounds in which all rows take turns; ratios
are to the first row, the denoiser of params.yaml. Weights are untrained. Frames are 64x64 in fp32, as
video-diffusion-pytorch requires square frames (`--bf16`: under autocast).

Rows of this project are measured end to end: a training step of a hop with `train_denoiser.context_frames`
context frames, and the prediction of frame 22 as in the stage `predict`: encoding, the rollout of
`predict.hops`, decoding; one sample unless the row names more.

The other libraries denoise whole clips: context and target are one clip of 12 frames, and every sampling step
processes all of it. Their predictions are products: one measured forward pass times `predict.steps` times the
number of hops, without sampler and codec. They are measured on pixels, on latents of the size that this
project's denoisers process, and on latents with no more frames than these. One row is for the sampler of
video-diffusion-pytorch, 1000 ancestral steps per hop. Their training step learns all frames of a clip, that
of this project the target.

Memory is the peak of a new process that runs one training step and one prediction (or forward pass) of the
row. The last row is a process that only imports.
"""

import argparse
import math
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vdp.config.read import read_section
from vdp.config.schema import ClipParams
from vdp.core.context_frames import Hops
from vdp.diffusion.loss import diffusion_loss
from vdp.diffusion.objective import Objective
from vdp.diffusion.params import DiffusionParams
from vdp.diffusion.schedules import make_process
from vdp.models.codecs.params import VAEParams
from vdp.models.codecs.vae import VAE
from vdp.models.denoisers.factory import DiT, UNet, build_denoiser
from vdp.models.denoisers.params import DenoiserParams
from vdp.sampling.params import PredictParams
from vdp.sampling.predict import make_strategy, predict
from vdp.training.params import TrainDenoiserParams

SIDE = 64  # pixels; square, see above
ANCESTRAL_STEPS = 1000  # of video-diffusion-pytorch's sampler
OTHER_BATCH = 4  # clips of a step on latents; on pixels one clip uses a core fully
TURN_SECONDS = 0.3  # short calls are repeated within a turn


@dataclass(frozen=True)
class Subject:
    """A denoiser to measure."""

    network: nn.Module
    train: Callable[[int], None]  # one step on a batch of this size
    batch: int  # batch size of a usual training
    predict: Callable[[], None]  # the measured part of a prediction
    times: int  # how often a prediction runs it; 1: it is the whole


# --- This project ----------------------------------------------------------------------------------------


def vdp_subject(name: str, samples: int, context_frames: int | None) -> Subject:
    """A denoiser of params.yaml with the VAE.

    Args:
        name: `denoiser.name`.
        samples: samples per clip.
        context_frames: of a hop; None: those of params.yaml.
    """
    clip = read_section(ClipParams, "clip")
    diffusion = read_section(DiffusionParams, "diffusion")
    training = read_section(TrainDenoiserParams, "train_denoiser")
    used = context_frames or training.context_frames
    codec = VAE(read_section(VAEParams, "vae"), has_masks=False).eval()
    params = read_section(DenoiserParams, "denoiser").model_copy(update={"name": name})
    network = build_denoiser(params, codec.channels, moved=False)
    objective = Objective(make_process(diffusion), torch.ones(codec.channels), diffusion.residual)
    given = min(training.given_frames, used)
    strategy = make_strategy(read_section(PredictParams, "predict"), diffusion.num_timesteps, used, given)
    frames = torch.rand(1, 3, clip.known, SIDE, SIDE) * 2 - 1

    @torch.inference_mode()
    def whole() -> None:
        known = codec.encode(frames)
        predicted = predict(network, known, range(clip.known), [0], objective, strategy, samples, seed=0)
        codec.decode(predicted.flatten(0, 1))

    side = SIDE // codec.factor
    train = hop_training(network, (codec.channels, side, side), used, targets=1)
    return Subject(network, train, training.batch_size, whole, times=1)


def hop_training(
    network: UNet | DiT, shape: tuple[int, int, int], known: int, targets: int
) -> Callable[[int], None]:
    """A training step on hops of `known` context and `targets` target frames with latents (C, h, w)."""
    diffusion = read_section(DiffusionParams, "diffusion")
    channels, height, width = shape
    objective = Objective(make_process(diffusion), torch.ones(channels), diffusion.residual)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)

    def train(clips: int) -> None:
        hops = Hops(
            known=torch.randn(clips, channels, known, height, width),
            index=torch.arange(float(known)).expand(clips, -1),
            target=torch.randn(clips, channels, targets, height, width),
            target_index=(known + 1 + torch.arange(float(targets))).expand(clips, -1),
        )
        losses = diffusion_loss(
            network,
            hops,
            objective,
            diffusion.min_snr_gamma,
            t=torch.rand(clips, targets),
            noise=torch.randn_like(hops.target),
            level=torch.zeros(clips, known),
            context_noise=torch.zeros_like(hops.known),
            dropped=torch.zeros(clips, dtype=torch.bool),
        )
        optimizer_step(losses["loss"], optimizer)

    return train


def optimizer_step(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


# --- Other libraries -------------------------------------------------------------------------------------


def unet3d(channels: int, side: int, frames: int) -> Subject:
    """video_diffusion_pytorch.Unet3D as in its README, at half the width."""
    from video_diffusion_pytorch import Unet3D  # type: ignore[import-not-found,import-untyped,unused-ignore]

    network = Unet3D(dim=32, dim_mults=(1, 2, 4, 8), channels=channels)
    return other_subject(network, network, channels, side, frames)


def unet3d_condition(channels: int, side: int, frames: int) -> Subject:
    """diffusers.UNet3DConditionModel with four resolutions, near its minimal width.

    The text embedding is one token of zeros. The finest resolution, where it would dominate the cost, has no
    spatial attention; `attention_head_dim` is the number of heads (sic).
    """
    from diffusers import UNet3DConditionModel  # type: ignore[import-not-found,import-untyped,unused-ignore]

    model = UNet3DConditionModel(
        in_channels=channels,
        out_channels=channels,
        down_block_types=("DownBlock3D", "CrossAttnDownBlock3D", "CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D", "CrossAttnUpBlock3D", "UpBlock3D"),
        block_out_channels=(32, 64, 64, 64),
        norm_num_groups=8,
        cross_attention_dim=32,
        attention_head_dim=2,
    )
    network = cast(nn.Module, model)  # its types lack __call__

    def forward(x: Tensor, t: Tensor) -> Tensor:
        return network(x, t, torch.zeros(len(x), 1, 32)).sample

    return other_subject(network, forward, channels, side, frames)


def other_subject(
    network: nn.Module, forward: Callable[[Tensor, Tensor], Tensor], channels: int, side: int, frames: int
) -> Subject:
    """A denoiser of whole clips: (B, C, T, H, W) and integer times (B,) to the shape of the clips."""
    rules = read_section(PredictParams, "predict")
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)

    def train(clips: int) -> None:
        clip = torch.randn(clips, channels, frames, side, side)
        noise, t = torch.randn_like(clip), torch.randint(ANCESTRAL_STEPS, (clips,))
        network.train()
        optimizer_step(F.mse_loss(forward((clip + noise) / 2**0.5, t), noise), optimizer)

    @torch.inference_mode()
    def one_pass() -> None:
        network.eval()
        forward(torch.randn(1, channels, frames, side, side), torch.full((1,), ANCESTRAL_STEPS // 2))

    batch = 1 if side == SIDE else OTHER_BATCH
    return Subject(network, train, batch, one_pass, times=rules.steps * len(rules.frame_groups))


def rows() -> dict[str, Callable[[], Subject]]:
    """The subjects by name in the table; ratios are to the first."""
    clip, training = read_section(ClipParams, "clip"), read_section(TrainDenoiserParams, "train_denoiser")
    rules, vae = read_section(PredictParams, "predict"), read_section(VAEParams, "vae")
    name = read_section(DenoiserParams, "denoiser").name
    other = "dit" if name == "unet" else "unet"
    side = SIDE // vae.spatial_factor
    few, many = training.context_frames + 1, clip.known + 1
    shapes = {
        f"pixels {SIDE}x{SIDE}, {many} frames": (3, SIDE, many),
        f"latents {side}x{side}, {many} frames": (vae.latent_channels, side, many),
        f"latents {side}x{side}, {few} frames": (vae.latent_channels, side, few),
    }
    return {
        f"vdp {name}": partial(vdp_subject, name, 1, None),
        f"vdp {name}, {rules.samples} samples": partial(vdp_subject, name, rules.samples, None),
        f"vdp {other}": partial(vdp_subject, other, 1, None),
        f"vdp dit, {clip.known} context frames": partial(vdp_subject, "dit", 1, clip.known),
        **{f"Unet3D, {what}": partial(unet3d, *shape) for what, shape in shapes.items()},
        **{
            f"UNet3DConditionModel, {what}": partial(unet3d_condition, *shape)
            for what, shape in shapes.items()
        },
    }


# --- Measuring -------------------------------------------------------------------------------------------


def min_seconds(works: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Minimum processor time of each call over rounds in which they take turns; the first round warms up."""
    fastest = dict.fromkeys(works, float("inf"))
    for turn in range(1, rounds + 1):
        for name, work in works.items():
            begin = time.process_time()
            while True:
                started = time.process_time()
                work()
                ended = time.process_time()
                fastest[name] = min(fastest[name], ended - started)
                if ended - begin > TURN_SECONDS:
                    break
            print(f"round {turn} of {rounds}, {name}: {fastest[name]:.4f} s", file=sys.stderr, flush=True)
    return fastest


def peak_mb(name: str, bf16: bool) -> float:
    """Peak memory of a process that runs one row alone, in MB."""
    command = [sys.executable, "-m", "bench.denoisers", "--alone", name, *(["--bf16"] if bf16 else [])]
    peak = float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    print(f"peak memory, {name or 'imports'}: {peak:.0f} MB", file=sys.stderr, flush=True)
    return peak


def own_peak_mb() -> float:
    """Peak resident memory of this process; `ru_maxrss` includes that of its parent before exec."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 2**10


def markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table with text in the first column and numbers in the others."""
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [heads, rule, *lines])


def number(value: float) -> str:
    """A number above 0 with at least three digits, without exponent."""
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}"


@dataclass(frozen=True)
class Cost:
    """Measurements of a row, in seconds and MB."""

    parameters: int
    step: float  # of training, on one clip
    batch: int
    batch_step: float  # of training, on `batch` clips
    measured: float  # of a prediction
    times: int  # repetitions in a prediction
    memory: float


def table(costs: Mapping[str, Cost], floor: float) -> str:
    """Format the costs, with ratios to the first; `floor` is the memory of a process that only imports."""
    heads = [
        "denoiser", "parameters, M", "training step of 1 clip, s", "ratio", "a clip of a batch (of), s",
        "frame 22, s", "product", "ratio", "peak memory, MB",
    ]  # fmt: skip
    first = next(iter(costs.values()))
    lines = [
        [
            name,
            f"{cost.parameters / 1e6:.2f}",
            number(cost.step),
            number(cost.step / first.step),
            f"{number(cost.batch_step / cost.batch)} ({cost.batch})",
            number(cost.times * cost.measured),
            "whole" if cost.times == 1 else f"{cost.times} x {number(cost.measured)}",
            number(cost.times * cost.measured / (first.times * first.measured)),
            f"{cost.memory:.0f}",
        ]
        for name, cost in costs.items()
    ]
    nothing = ["a process that only imports", *["-"] * (len(heads) - 2), f"{floor:.0f}"]
    return markdown(heads, [*lines, nothing])


def bench(rounds: int, bf16: bool) -> str:
    """Measure all rows."""
    makers = rows()
    memory = {name: peak_mb(name, bf16) for name in makers}
    floor = peak_mb("", bf16)
    subjects = {name: make() for name, make in makers.items()}
    works: dict[str, Callable[[], object]] = {}
    for name, subject in subjects.items():
        works[f"{name}: step"] = partial(subject.train, 1)
        works[f"{name}: prediction"] = subject.predict
        if subject.batch > 1:
            works[f"{name}: batch"] = partial(subject.train, subject.batch)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        seconds = min_seconds(works, rounds)

    costs: dict[str, Cost] = {}
    for name, subject in subjects.items():
        one = seconds[f"{name}: step"]
        cost = Cost(
            parameters=sum(p.numel() for p in subject.network.parameters()),
            step=one,
            batch=subject.batch,
            batch_step=seconds.get(f"{name}: batch", one),
            measured=seconds[f"{name}: prediction"],
            times=subject.times,
            memory=memory[name],
        )
        costs[name] = cost
        if name.startswith("Unet3D, pixels"):
            hops = len(read_section(PredictParams, "predict").frame_groups)
            costs[f"{name}, ancestral, {ANCESTRAL_STEPS} steps"] = replace(cost, times=hops * ANCESTRAL_STEPS)
    return table(costs, floor)


def run_alone(name: str, bf16: bool) -> None:
    """Run one step and one prediction of a row, and print the peak memory; started by `peak_mb`."""
    if name:
        subject = rows()[name]()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            subject.train(1)
            subject.predict()
    print(own_peak_mb())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bf16", action="store_true", help="all rows under autocast")
    parser.add_argument("--alone", metavar="ROW", help="run one row and print the peak memory in MB")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if args.alone is not None:
        run_alone(args.alone, args.bf16)
    else:
        print(bench(args.rounds, args.bf16))


if __name__ == "__main__":
    main()
