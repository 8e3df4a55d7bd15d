"""What is saved by encoding the known frames once: `OMP_NUM_THREADS=1 python -m bench.context`.

Reads params.yaml (sections denoiser, diffusion) of the working directory. Latents are of the default codec at
64x96, 8x16x24; 11 frames are known. Seconds are processor time of one thread, the least of several rounds in
which all rows of a table take turns; fp32, or with `--bf16` under autocast. Weights are random, none at zero.

Sampling: one target of one clip by DDIM, with the context encoded once a hop, as the rollout does, or anew at
every step; and the DiT with `attention: joint`, where known frames see the noised one and nothing can be
kept; the DiT of params.yaml, and a larger one. The difference is the largest between the samples, in standard
deviations of a sample. `joint` is another network, with none to compare.

Training: steps (forward, backward, AdamW) of the DiT in which so many targets share one context, in targets a
second. Targets of one clip are less different than targets of many: this is cost, not worth.
"""

import argparse
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from bench.denoisers import least_seconds, markdown, number, step
from vdp.config.read import read_section
from vdp.core.context_frames import Hops
from vdp.diffusion.loss import diffusion_loss
from vdp.diffusion.objective import Objective
from vdp.diffusion.params import DiffusionParams
from vdp.diffusion.process import predict_x0_eps
from vdp.diffusion.schedules import make_process
from vdp.models.denoisers.factory import DiT, UNet, build_denoiser
from vdp.models.denoisers.params import DenoiserParams
from vdp.sampling.samplers import ddim, time_grid

SHAPE = (8, 16, 24)  # of a frame's latents
KNOWN = 11
TARGETS = (1, 4, 8)  # that share a context
LARGER = {"hidden_dim": 256, "depth": 8}  # a DiT whose steps are more arithmetic and less overhead
SPREAD = 0.02  # of what is added to all weights: new networks have zeros where it would not show what is lost


def dit(attention: str, size: Mapping[str, int]) -> DiT:
    params = read_section(DenoiserParams, "denoiser")
    changed = params.dit.model_copy(update={"attention": attention, **size})
    network = built(params.model_copy(update={"name": "dit", "dit": changed}))
    assert isinstance(network, DiT)
    return network


def unet(conditioning: str) -> UNet:
    params = read_section(DenoiserParams, "denoiser")
    changed = params.unet.model_copy(update={"conditioning": conditioning})
    network = built(params.model_copy(update={"name": "unet", "unet": changed}))
    assert isinstance(network, UNet)
    return network


def built(params: DenoiserParams) -> UNet | DiT:
    torch.manual_seed(0)
    network = build_denoiser(params, SHAPE[0])
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=SPREAD)
    return network


@torch.inference_mode()
def sample(network: UNet | DiT, steps: int, every_step: bool) -> Tensor:
    """One target of one clip, its context encoded once or at every step."""
    generator = torch.Generator().manual_seed(0)
    channels, height, width = SHAPE
    diffusion = read_section(DiffusionParams, "diffusion")
    process = make_process(diffusion)
    frames = torch.randn(1, channels, KNOWN, height, width, generator=generator)
    noise = torch.randn(1, channels, 1, height, width, generator=generator)
    index, target_index = torch.arange(float(KNOWN))[None], torch.full((1, 1), KNOWN + 1.0)
    nothing = torch.zeros(1, dtype=torch.bool)
    encode: Callable[[], object] = partial(
        network.context, frames, index, torch.zeros_like(index), nothing, target_index
    )
    kept = None if every_step else encode()

    def denoise(xt: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        per_frame = t.expand(1, 1)
        output = network(xt, per_frame, encode() if kept is None else kept)
        return predict_x0_eps(xt, output, per_frame, process)

    times = time_grid(steps, "trailing", diffusion.num_timesteps)
    return ddim(0.0)(denoise, noise, times, process.schedule, lambda: torch.zeros_like(noise))


def trainer(clips: int, targets: int) -> Callable[[], None]:
    """A training step of the DiT."""
    network, diffusion = dit("one_way", {}), read_section(DiffusionParams, "diffusion")
    channels, height, width = SHAPE
    objective = Objective(make_process(diffusion), torch.ones(channels), diffusion.residual)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)

    def train() -> None:
        hops = Hops(
            known=torch.randn(clips, channels, KNOWN, height, width),
            index=torch.arange(float(KNOWN)).expand(clips, -1),
            target=torch.randn(clips, channels, targets, height, width),
            target_index=(KNOWN + torch.arange(float(targets))).expand(clips, -1),
        )
        loss = diffusion_loss(
            network,
            hops,
            objective,
            diffusion.min_snr_gamma,
            t=torch.rand(clips, targets),
            noise=torch.randn_like(hops.target),
            level=torch.zeros(clips, KNOWN),
            context_noise=torch.zeros_like(hops.known),
            dropped=torch.zeros(clips, dtype=torch.bool),
        )
        step(loss, optimizer)

    return train


def sampling_table(networks: dict[str, UNet | DiT], rounds: int, steps: int) -> str:
    """Once and at every step for each network; for a DiT with joint attention there is no once."""
    works: dict[str, Callable[[], Tensor]] = {}
    for name, network in networks.items():
        if not (isinstance(network, DiT) and network.attention == "joint"):
            works[f"{name}, context once"] = partial(sample, network, steps, False)
            works[f"{name}, context at every step"] = partial(sample, network, steps, True)
        else:  # its context is what no step changes; all blocks run at every step
            works[name] = partial(sample, network, steps, False)
    seconds = least_seconds(works, rounds)
    lines, first, base = [], torch.empty(0), 1.0
    for name, work in works.items():
        made = work()
        if name.endswith("context once"):
            first, base, difference = made, seconds[name], "0"
        elif name.endswith("every step"):
            difference = f"{((made - first).abs().max() / first.std()).item():.1g}"
        else:
            difference = "-"
        lines.append([name, number(seconds[name]), number(seconds[name] / base), difference])
    return markdown([f"{steps} sampling steps", "seconds", "ratio", "largest difference"], lines)


def training_table(rounds: int, clips: int) -> str:
    seconds = least_seconds({str(count): trainer(clips, count) for count in TARGETS}, rounds)
    rates = {name: clips * int(name) / value for name, value in seconds.items()}
    base = rates[str(TARGETS[0])]
    lines = [[name, number(seconds[name]), number(rate), number(rate / base)] for name, rate in rates.items()]
    heads = [f"targets a context, {clips} clips a step", "seconds a step", "targets a core-second", "ratio"]
    return markdown(heads, lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=50, help="sampling steps")
    parser.add_argument("--clips", type=int, default=4, help="clips of a training step")
    parser.add_argument("--bf16", action="store_true", help="under autocast, as stages run where it pays")
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
