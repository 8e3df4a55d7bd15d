"""What a training step and a prediction cost, beside other libraries' video denoisers.

    pip install -r requirements-dev.txt -r bench/requirements.txt
    OMP_NUM_THREADS=1 python -m bench.denoisers

Seconds are processor time of one thread, the least of several rounds in which all rows take turns; the ratios
are to the first row, that of params.yaml as it stands. Weights are untrained: these are costs, not qualities.
All rows work on square frames of 64x64, as video-diffusion-pytorch takes no others, in fp32 (`--bf16`: under
autocast).

This project's rows are whole: one training step of a hop, with as many known frames as
`train_denoiser.context_frames`; and the prediction of frame 22 as the stage `predict` makes it, from the encoding of
the given frames over the rollout of `predict.hops` to the decoding of all frames made, one future unless the
row says more.

The peers are given known frames as parts of the clip that they denoise: the 11 given ones and the target are
one clip of 12, and every sampling step passes all of it. Their predictions are products: one measured pass
times the sampling steps of `predict.steps` times the hops, the same for all rows, without the work of a
sampler or a codec. Beside pixels they are measured on latents of the size that this project's denoisers see,
and there also on no more frames than these. One row tells the cost of video-diffusion-pytorch's own sampler,
1000 ancestral steps a hop. A training step of theirs learns all frames of its clip, one of this project its
target.

Memory is the peak of a fresh process that runs one training step and one prediction (one pass, for products)
of the row alone. The last row is a process that does neither.
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
from vdp.models.denoisers.factory import build_denoiser
from vdp.models.denoisers.params import DenoiserParams
from vdp.sampling.params import PredictParams
from vdp.sampling.predict import predict
from vdp.sampling.rollout import Strategy
from vdp.sampling.samplers import make_sampler, time_grid
from vdp.training.params import TrainDenoiserParams

SIDE = 64  # pixels; the peers' frames are square
OWN_STEPS = 1000  # of video-diffusion-pytorch's sampler, ancestral
PEER_BATCH = 4  # clips a step on latents; on pixels one clip fills a core, and more fill the memory
TURN_SECONDS = 0.3  # short works are repeated within a turn


@dataclass(frozen=True)
class Subject:
    """A denoiser at work."""

    network: nn.Module
    train: Callable[[int], None]  # one step on so many clips
    batch: int  # clips of a step as one would train it
    predict: Callable[[], None]  # what is measured of a prediction
    times: int  # how often a prediction does it; 1: it is the whole


# --- This project ----------------------------------------------------------------------------------------


def ours(name: str, samples: int, known: int | None) -> Subject:
    """A denoiser of params.yaml between the encoder and the decoder of the VAE.

    Args:
        name: `denoiser.name`.
        samples: futures.
        known: known frames of a hop, at most; None: as params.yaml has it.
    """
    clip = read_section(ClipParams, "clip")
    diffusion = read_section(DiffusionParams, "diffusion")
    training = read_section(TrainDenoiserParams, "train_denoiser")
    rules = read_section(PredictParams, "predict")
    used = known or training.known
    codec = VAE(read_section(VAEParams, "vae"), has_masks=False).eval()
    params = read_section(DenoiserParams, "denoiser").model_copy(update={"name": name})
    network = build_denoiser(params, codec.channels)
    objective = Objective(make_process(diffusion), torch.ones(codec.channels), diffusion.residual)
    strategy = Strategy(
        hops=tuple(tuple(frame - 1.0 for frame in group) for group in rules.frame_groups),
        sampler=make_sampler(rules.sampler, rules.eta),
        times=time_grid(rules.steps, rules.spacing, diffusion.num_timesteps),
        temperature=rules.temperature,
        guidance=rules.guidance,
        context_noise=rules.context_noise,
        context_frames=used,
    )
    side = SIDE // codec.factor
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)

    def train(clips: int) -> None:
        hops = Hops(
            known=torch.randn(clips, codec.channels, used, side, side),
            index=torch.arange(used, 0, -1.0).expand(clips, -1),
            target=torch.randn(clips, codec.channels, 1, side, side),
            target_index=torch.full((clips, 1), used + 2.0),
        )
        loss = diffusion_loss(
            network,
            hops,
            objective,
            diffusion.min_snr_gamma,
            t=torch.rand(clips, 1),
            noise=torch.randn_like(hops.target),
            level=torch.zeros(clips, used),
            context_noise=torch.zeros_like(hops.known),
            dropped=torch.zeros(clips, dtype=torch.bool),
        )
        step(loss, optimizer)

    frames = torch.rand(1, 3, clip.known, SIDE, SIDE) * 2 - 1

    @torch.inference_mode()
    def whole() -> None:
        made = predict(network, codec.encode(frames), [0], objective, strategy, samples, seed=0)
        codec.decode(made.flatten(0, 1))

    return Subject(network, train, training.batch_size, whole, times=1)


# --- Others ----------------------------------------------------------------------------------------------


def unet3d(channels: int, side: int, frames: int) -> Subject:
    """video_diffusion_pytorch.Unet3D as its README builds it, with half of the width there."""
    from video_diffusion_pytorch import Unet3D  # type: ignore[import-not-found,import-untyped,unused-ignore]

    network = Unet3D(dim=32, dim_mults=(1, 2, 4, 8), channels=channels)
    return peer(network, network, channels, side, frames)


def unet3d_condition(channels: int, side: int, frames: int) -> Subject:
    """diffusers.UNet3DConditionModel, about as small as it goes with its four resolutions.

    It demands a text embedding: one token of zeros. Attention over positions is left out at the finest
    resolution, where it would be most of the cost; `attention_head_dim` is the number of heads (sic).
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
    network = cast(nn.Module, model)  # whose own types do not say that it can be called

    def forward(x: Tensor, t: Tensor) -> Tensor:
        return network(x, t, torch.zeros(len(x), 1, 32)).sample

    return peer(network, forward, channels, side, frames)


def peer(
    network: nn.Module, forward: Callable[[Tensor, Tensor], Tensor], channels: int, side: int, frames: int
) -> Subject:
    """A denoiser of whole clips, (B, C, T, H, W) and integer times (B,) to the shape of the clips."""
    rules = read_section(PredictParams, "predict")
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)

    def train(clips: int) -> None:
        clip = torch.randn(clips, channels, frames, side, side)
        noise, t = torch.randn_like(clip), torch.randint(OWN_STEPS, (clips,))
        network.train()
        step(F.mse_loss(forward((clip + noise) / 2**0.5, t), noise), optimizer)

    @torch.inference_mode()
    def one_pass() -> None:
        network.eval()
        forward(torch.randn(1, channels, frames, side, side), torch.full((1,), OWN_STEPS // 2))

    batch = 1 if side == SIDE else PEER_BATCH
    return Subject(network, train, batch, one_pass, times=rules.steps * len(rules.frame_groups))


def step(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def rows() -> dict[str, Callable[[], Subject]]:
    """What is measured, by its name in the table; the first is what the ratios are to."""
    clip, training = read_section(ClipParams, "clip"), read_section(TrainDenoiserParams, "train_denoiser")
    rules, vae = read_section(PredictParams, "predict"), read_section(VAEParams, "vae")
    name = read_section(DenoiserParams, "denoiser").name
    other = "dit" if name == "unet" else "unet"
    side = SIDE // vae.spatial_factor
    few, many = training.known + 1, clip.known + 1
    shapes = {
        f"pixels {SIDE}x{SIDE}, {many} frames": (3, SIDE, many),
        f"latents {side}x{side}, {many} frames": (vae.latent_channels, side, many),
        f"latents {side}x{side}, {few} frames": (vae.latent_channels, side, few),
    }
    return {
        f"vdp {name}": partial(ours, name, 1, None),
        f"vdp {name}, {rules.samples} futures": partial(ours, name, rules.samples, None),
        f"vdp {other}": partial(ours, other, 1, None),
        f"vdp dit, {clip.known} known frames": partial(ours, "dit", 1, clip.known),
        **{f"Unet3D, {what}": partial(unet3d, *shape) for what, shape in shapes.items()},
        **{
            f"UNet3DConditionModel, {what}": partial(unet3d_condition, *shape)
            for what, shape in shapes.items()
        },
    }


# --- Measuring -------------------------------------------------------------------------------------------


def least_seconds(works: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Least processor time of each work over rounds in which they take turns; the first round warms up."""
    least = dict.fromkeys(works, float("inf"))
    for turn in range(1, rounds + 1):
        for name, work in works.items():
            begun = time.process_time()
            while True:
                started = time.process_time()
                work()
                ended = time.process_time()
                least[name] = min(least[name], ended - started)
                if ended - begun > TURN_SECONDS:
                    break
            print(f"round {turn} of {rounds}, {name}: {least[name]:.4f} s", file=sys.stderr, flush=True)
    return least


def peak_mb(name: str, bf16: bool) -> float:
    """Peak memory of a process that runs one row alone, in MB."""
    command = [sys.executable, "-m", "bench.denoisers", "--alone", name, *(["--bf16"] if bf16 else [])]
    peak = float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    print(f"peak memory, {name or 'nothing'}: {peak:.0f} MB", file=sys.stderr, flush=True)
    return peak


def own_peak_mb() -> float:
    """Peak resident memory of this process; `ru_maxrss` would count that of the parent it was forked from."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 2**10


def markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are numbers."""
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [heads, rule, *lines])


def number(value: float) -> str:
    """Three digits or more of a number above 0, without exponents."""
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}"


@dataclass(frozen=True)
class Cost:
    """What was measured of a row, in seconds and MB."""

    parameters: int
    step: float  # of training, on one clip
    batch: int
    batch_step: float  # of training, on `batch` clips
    measured: float  # of a prediction
    times: int  # how many of it a prediction takes
    memory: float


def table(costs: Mapping[str, Cost], floor: float) -> str:
    """The costs as a table, ratios to the first; `floor` is the memory of a process that does nothing."""
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
    """The table of all rows."""
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
        seconds = least_seconds(works, rounds)

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
            costs[f"{name}, its own {OWN_STEPS} steps"] = replace(cost, times=hops * OWN_STEPS)
    return table(costs, floor)


def run_alone(name: str, bf16: bool) -> None:
    """What `peak_mb` starts: one step and one prediction of a row, and the peak of this process on stdout."""
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
    parser.add_argument(
        "--bf16", action="store_true", help="all rows under autocast, as stages run where it pays"
    )
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
