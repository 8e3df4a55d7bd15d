"""Counting FLOPs, and its effect on the results of the networks."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.models.denoiser_cases import denoiser_params, randomise
from tests.training.networks import CHANNELS, SEGMENTER, VAE_SECTION, draw_objects, make_training
from vdp.core.flops import flop_counter, format_tflop
from vdp.models.codecs.params import VAEParams
from vdp.models.codecs.vae import VAE
from vdp.models.denoisers.factory import build_denoiser
from vdp.models.segmenters.params import SegmenterParams
from vdp.models.segmenters.unetpp import UNetPlusPlus

pytestmark = pytest.mark.slow

Randomised = TypeVar("Randomised", bound=torch.nn.Module)


def randomised(network: Randomised) -> Randomised:
    """Layers initialised to zero would hide a difference."""
    torch.manual_seed(0)
    randomise(network)
    return network.eval()


def codec() -> Callable[[], list[Tensor]]:
    network = randomised(VAE(VAEParams.model_validate(VAE_SECTION), has_masks=True))
    clip = torch.linspace(-1, 1, 2 * 3 * 2 * 16 * 24).reshape(2, 3, 2, 16, 24)

    def run() -> list[Tensor]:
        latents = network.encode(clip)
        return [latents, network.decode(latents), network.mask_logits(latents)]

    return run


def denoiser(name: str) -> Callable[[], list[Tensor]]:
    network = randomised(build_denoiser(denoiser_params(name), CHANNELS, moved=False))
    known, xt = (torch.linspace(-1, 1, 2 * CHANNELS * t * 48).reshape(2, CHANNELS, t, 6, 8) for t in (3, 1))
    index, at = torch.tensor([[2.0, 1.0, 0.0]] * 2), torch.full((2, 1), 4.0)

    def run() -> list[Tensor]:
        context = network.context(known, index, torch.zeros(2, 3), torch.zeros(2, dtype=torch.bool), at)
        return [network(xt, torch.full((2, 1), 0.5), context)]

    return run


def segmenter() -> Callable[[], list[Tensor]]:
    network = randomised(UNetPlusPlus(SegmenterParams.model_validate(SEGMENTER)))
    return lambda: [network(torch.linspace(-1, 1, 2 * 3 * 16 * 24).reshape(2, 3, 16, 24))]


def classifier() -> Callable[[], list[Tensor]]:
    network = randomised(make_training("classifier").network)
    return lambda: [network(torch.linspace(-1, 1, 2 * 3 * 12 * 12).reshape(2, 3, 12, 12))]


def motion(name: str) -> Callable[[], list[Tensor]]:
    network, hops = randomised(make_training(name).network), draw_objects(np.random.default_rng(0), 3)
    none = torch.zeros(3, dtype=torch.bool)

    def run() -> list[Tensor]:
        context = network.context(hops.known, hops.index, 0 * hops.index, none, hops.target_index)
        return [network(hops.target[:, :3], torch.full((3, hops.target.shape[2]), 0.5), context)]

    return run


NETWORKS = {
    "codec": codec,
    "unet": partial(denoiser, "unet-features"),
    "dit": partial(denoiser, "dit-one_way"),
    "segmenter": segmenter,
    "classifier": classifier,
    "transformer": partial(motion, "transformer"),
    "interaction": partial(motion, "interaction"),
}


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_counting_does_not_change_the_bytes_of_a_result(name, bf16):
    run = NETWORKS[name]()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        plain = run()
        with flop_counter() as counter:
            counted = run()
    assert all(torch.equal(a, b) for a, b in zip(plain, counted, strict=True))
    assert plain[0].std() > 0
    assert counter.get_total_flops() > 0


@pytest.mark.parametrize(
    ("tflop", "text"),
    [(0.00123, "0.0012"), (0.314, "0.31"), (4.72, "4.7"), (31.24, "31.2"), (123.4, "123"), (1234.5, "1,234")],
)
def test_tflop_have_two_or_three_digits(tflop, text):
    assert format_tflop(tflop) == text
