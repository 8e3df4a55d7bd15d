"""Small denoisers of every configuration, and inputs for them."""

import pytest
import torch
from torch import Tensor, nn

from vdp.diffusion.moved import with_moved
from vdp.models.denoisers.dit import DiTContext
from vdp.models.denoisers.factory import DiT, MovedDenoiser, UNet, build_denoiser
from vdp.models.denoisers.params import DenoiserParams
from vdp.models.denoisers.unet import UNetContext

CHANNELS = 3
UNET: dict[str, object] = {
    "conditioning": "features", "base_channels": 8, "channel_mults": [1, 2, 4], "num_res_blocks": 1,
    "attention_levels": [2], "temporal": False, "context_slots": 4, "head_levels": 2, "head_blocks": 1,
    "temporal_heads": None, "time_embedding_dim": None,
}  # fmt: skip
DIT: dict[str, object] = {
    "patch_size": 2, "hidden_dim": 32, "depth": 2, "num_heads": 2, "stem_channels": 8, "attention": "one_way",
    "factorised": False, "time_embedding_dim": None,
}  # fmt: skip
MOVER: dict[str, object] = {"base_channels": 8, "kernel_size": 3, "slots": 3}
CONDITIONINGS = ["features", "spade", "concat"]
ATTENTIONS = ["one_way", "block", "joint"]
UNETS: dict[str, dict[str, object]] = {
    f"unet-{conditioning}{'-temporal' * temporal}": {"conditioning": conditioning, "temporal": temporal}
    for conditioning in CONDITIONINGS
    for temporal in (False, True)
} | {"unet-wide-embedding": {"time_embedding_dim": 40, "temporal": True, "temporal_heads": 4}}
DITS: dict[str, dict[str, object]] = {
    f"dit-{attention}{'-factorised' * factorised}": {"attention": attention, "factorised": factorised}
    for attention in ATTENTIONS
    for factorised in (False, True)
} | {
    "dit-without-stem": {"stem_channels": 0},
    "dit-patches-of-two-sides": {"patch_size": (1, 4)},
    "dit-wide-embedding": {"time_embedding_dim": 40},
}
MOVED: dict[str, dict[str, object]] = {"unet-moved": {}, "dit-moved": {}}
VARIANTS = UNETS | DITS | MOVED

every_denoiser = pytest.mark.parametrize("name", VARIANTS)
every_unet = pytest.mark.parametrize("name", UNETS)
every_dit = pytest.mark.parametrize("name", DITS)


def denoiser_params(name: str, **changed: object) -> DenoiserParams:
    kind, variant = name.split("-")[0], VARIANTS[name] | changed
    unet, dit = (base | variant if kind == key else base for key, base in (("unet", UNET), ("dit", DIT)))
    return DenoiserParams.model_validate({"name": kind, "mover": MOVER, "unet": unet, "dit": dit})


def new_denoiser(name: str, **changed: object) -> UNet | DiT | MovedDenoiser:
    """An untrained denoiser."""
    torch.manual_seed(0)
    return build_denoiser(denoiser_params(name, **changed), CHANNELS, name in MOVED)


def randomise(network: nn.Module) -> None:
    """Replace constant weights, so that layers initialised to zero have an effect."""
    for module in network.modules():
        factor = 2 if isinstance(module, nn.RMSNorm) else 1  # so that attention is uneven
        for parameter in module.parameters(recurse=False):
            if parameter.unique().numel() == 1:
                nn.init.normal_(parameter, mean=factor * parameter.flatten()[0].item(), std=0.2)


def random_denoiser(name: str, **changed: object) -> UNet | DiT | MovedDenoiser:
    network = new_denoiser(name, **changed)
    randomise(network)
    return network.eval()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Case:
    """Inputs of a denoiser: context frames of two clips, and noise draws of target frames."""

    def __init__(
        self, known: int = 5, targets: int = 2, draws: int = 3, height: int = 6, width: int = 9
    ) -> None:
        self.frames = normal(2, CHANNELS, known, height, width, seed=1)
        self.index = torch.arange(known).float().expand(2, -1) * 1.5
        self.level = 0.3 * normal(2, known, seed=2).abs()
        self.dropped = torch.zeros(2, dtype=torch.bool)
        # one after the context frames and others among them, so that each has another nearest frame
        self.target_index = 1.5 * known + 0.75 - 4.125 * torch.arange(targets).float().expand(2, -1)
        self.xt = normal(2, CHANNELS, targets * draws, height, width, seed=3)
        self.t = torch.linspace(0, 1, targets * draws).expand(2, -1)

    def context(self, network: UNet | DiT | MovedDenoiser) -> UNetContext | DiTContext:
        """Encode the context frames, with the moved ones of a network that moves them."""
        given = with_moved(network, self.frames, self.index, self.level, self.target_index)
        return network.context(given.frames, given.index, given.level, self.dropped, self.target_index)

    def output(self, network: UNet | DiT | MovedDenoiser) -> Tensor:
        return network(self.xt, self.t, self.context(network))


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
