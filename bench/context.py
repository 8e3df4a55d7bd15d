"""Time saved by encoding the context frames once: `OMP_NUM_THREADS=1 python -m bench.context`.

Reads params.yaml (sections denoiser, diffusion) of the working directory. Latents are 8x16x24, those of the
default codec at 64x96; 11 frames are the context. Seconds are processor time of one thread, the minimum over
several rounds in which all rows of a table take turns; fp32, or with `--bf16` under autocast. Weights are
random and not zero.

Sampling: one target frame of one clip by DDIM, with the context encoded once per hop, as in the rollout, or
at every step; and the DiT with `attention: joint`, whose context attends to the noised frame and cannot be
cached; each for the DiT of params.yaml and a larger one. The difference is the largest between the samples,
in standard deviations of a sample.

Training: steps (forward, backward, AdamW) of the DiT in which several targets share one context, in targets
per second. Targets of one clip vary less than targets of many clips: this measures cost, not value.
"""

import argparse
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from bench.denoisers import hop_training, markdown, min_seconds, number
from vdp.config.read import read_section
from vdp.diffusion.params import DiffusionParams
from vdp.diffusion.process import predict_x0_eps
from vdp.diffusion.schedules import make_process
from vdp.models.denoisers.factory import DiT, UNet, build_denoiser
from vdp.models.denoisers.params import DenoiserParams
from vdp.sampling.samplers import ddim, time_grid

SHAPE = (8, 16, 24)  # of a frame's latents
KNOWN = 11
TARGETS = (1, 4, 8)  # sharing a context
LARGER = {"hidden_dim": 256, "depth": 8}  # a DiT with a larger share of arithmetic
SPREAD = 0.02  # standard deviation added to all weights: zero-initialised layers would hide differences


def dit(attention: str, size: Mapping[str, int]) -> DiT:
    params = read_section(DenoiserParams, "denoiser")
    changed = params.dit.model_copy(update={"attention": attention, **size})
    network = randomized(params.model_copy(update={"name": "dit", "dit": changed}))
    assert isinstance(network, DiT)
    return network


def unet(conditioning: str) -> UNet:
    params = read_section(DenoiserParams, "denoiser")
    changed = params.unet.model_copy(update={"conditioning": conditioning})
    network = randomized(params.model_copy(update={"name": "unet", "unet": changed}))
    assert isinstance(network, UNet)
    return network


def randomized(params: DenoiserParams) -> UNet | DiT:
    torch.manual_seed(0)
    network = build_denoiser(params, SHAPE[0], moved=False)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=SPREAD)
    return network


@torch.inference_mode()
def sample(network: UNet | DiT, steps: int, every_step: bool) -> Tensor:
    """Sample one target frame of one clip, with its context encoded once or at every step."""
    generator = torch.Generator().manual_seed(0)
    channels, height, width = SHAPE
    diffusion = read_section(DiffusionParams, "diffusion")
    process = make_process(diffusion)
    frames = torch.randn(1, channels, KNOWN, height, width, generator=generator)
    noise = torch.randn(1, channels, 1, height, width, generator=generator)
    index, target_index = torch.arange(float(KNOWN))[None], torch.full((1, 1), KNOWN + 1.0)
    dropped = torch.zeros(1, dtype=torch.bool)
    encode: Callable[[], object] = partial(
        network.context, frames, index, torch.zeros_like(index), dropped, target_index
    )
    cached = None if every_step else encode()

    def denoise(xt: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        per_frame = t.expand(1, 1)
        output = network(xt, per_frame, encode() if cached is None else cached)
        return predict_x0_eps(xt, output, per_frame, process)

    times = time_grid(steps, "trailing", diffusion.num_timesteps)
    return ddim(0.0)(denoise, noise, times, process.schedule, lambda: torch.zeros_like(noise))


def sampling_table(networks: dict[str, UNet | DiT], rounds: int, steps: int) -> str:
    works: dict[str, Callable[[], Tensor]] = {}
    for name, network in networks.items():
        if not (isinstance(network, DiT) and network.attention == "joint"):
            works[f"{name}, context once"] = partial(sample, network, steps, False)
            works[f"{name}, context at every step"] = partial(sample, network, steps, True)
        else:  # only its input projections are cached; all blocks run at every step
            works[name] = partial(sample, network, steps, False)
    seconds = min_seconds(works, rounds)
    lines, first, base = [], torch.empty(0), 1.0
    for name, work in works.items():
        sampled = work()
        if name.endswith("context once"):
            first, base, difference = sampled, seconds[name], "0"
        elif name.endswith("every step"):
            difference = f"{((sampled - first).abs().max() / first.std()).item():.1g}"
        else:
            difference = "-"
        lines.append([name, number(seconds[name]), number(seconds[name] / base), difference])
    return markdown([f"{steps} sampling steps", "seconds", "ratio", "largest difference"], lines)


def training_table(rounds: int, clips: int) -> str:
    works = {
        str(count): partial(hop_training(dit("one_way", {}), SHAPE, KNOWN, count), clips) for count in TARGETS
    }
    seconds = min_seconds(works, rounds)
    rates = {name: clips * int(name) / value for name, value in seconds.items()}
    base = rates[str(TARGETS[0])]
    lines = [[name, number(seconds[name]), number(rate), number(rate / base)] for name, rate in rates.items()]
    heads = [
        f"targets per context, {clips} clips per step",
        "seconds per step",
        "targets per core-second",
        "ratio",
    ]
    return markdown(heads, lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=50, help="sampling steps")
    parser.add_argument("--clips", type=int, default=4, help="clips of a training step")
    parser.add_argument("--bf16", action="store_true", help="under autocast")
    args = parser.parse_args()
    torch.set_num_threads(1)
    dits: dict[str, UNet | DiT] = {
        "DiT, one_way": dit("one_way", {}),
        "DiT, joint": dit("joint", {}),
        "larger DiT, one_way": dit("one_way", LARGER),
        "larger DiT, joint": dit("joint", LARGER),
    }
    unets: dict[str, UNet | DiT] = {f"U-Net, {name}": unet(name) for name in ("features", "spade")}
    with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
        print(sampling_table(dits, args.rounds, args.steps), end="\n\n", flush=True)
        print(training_table(args.rounds, args.clips), end="\n\n", flush=True)
        print(sampling_table(unets, args.rounds, args.steps))


if __name__ == "__main__":
    main()
