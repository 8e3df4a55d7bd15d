"""What training relies on to shard, recompute and compile networks part by part, and to average gradients."""

from collections.abc import Callable
from functools import partial

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vdp.models.codecs.params import VAEParams
from vdp.models.codecs.vae import VAE, vae_loss
from vdp.models.denoisers.factory import DiT, UNet
from vdp.models.denoisers.params import DiTParams, UNetParams
from vdp.models.factored_classes import NUM_LOGITS
from vdp.models.segmenters.params import SegmenterParams
from vdp.models.segmenters.unetpp import UNetPlusPlus

Network = DiT | UNet | VAE | UNetPlusPlus
CHANNELS = 3


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def dit(attention: str, factorised: bool) -> DiT:
    settings = {"patch_size": 2, "hidden_dim": 32, "depth": 2, "num_heads": 2, "stem_channels": 8}
    return DiT(
        DiTParams.model_validate({**settings, "attention": attention, "factorised": factorised}), CHANNELS
    )


def unet(conditioning: str, temporal: bool, head_levels: int = 2) -> UNet:
    settings = {
        "base_channels": 8,
        "channel_mults": [1, 2, 2],
        "num_res_blocks": 1,
        "attention_levels": [1, 2],
        "context_frames": 4,
        "head_levels": head_levels,
        "head_blocks": 2,
    }
    given = {"conditioning": conditioning, "temporal": temporal}
    return UNet(UNetParams.model_validate({**settings, **given}), CHANNELS)


def vae(temporal_factor: int, has_masks: bool) -> VAE:
    params = VAEParams.model_validate(
        {
            "spatial_factor": 4,
            "temporal_factor": temporal_factor,
            "latent_channels": 4,
            "base_channels": 8,
            "num_res_blocks": 2,
        }
    )
    return VAE(params, has_masks)


def segmenter(encoder: str, depth: int = 3) -> UNetPlusPlus:
    return UNetPlusPlus(
        SegmenterParams(encoder=encoder, encoder_depth=depth, decoder_channels=[8] * depth, upsample=1)
    )


NETWORKS: dict[str, Callable[[], Network]] = {
    **{
        f"dit-{attention}{'-factorised' * factorised}": partial(dit, attention, factorised)
        for attention in ("one_way", "block", "joint")
        for factorised in (False, True)
    },
    **{
        f"unet-{conditioning}{'-temporal' * temporal}": partial(unet, conditioning, temporal)
        for conditioning in ("features", "spade", "concat")
        for temporal in (False, True)
    },
    "unet-one-level": partial(unet, "features", False, head_levels=1),
    "vae": partial(vae, 1, True),
    "vae-in-time": partial(vae, 4, True),
    "vae-without-masks": partial(vae, 1, False),
    "segmenter": partial(segmenter, "resnet18"),
    "segmenter-of-timm": partial(segmenter, "tu-resnet10t"),
    "segmenter-runs-in-vain": partial(segmenter, "efficientnet-b0"),
    "segmenter-opens-transitions": partial(segmenter, "densenet121"),
}
every_network = pytest.mark.parametrize("name", NETWORKS)
UNTRAINED = {"vae-without-masks": "decoder.mask.", "segmenter-runs-in-vain": "network.encoder."}


def make(name: str) -> Network:
    """A network with no weight left at zero: what starts as the identity passes gradients on."""
    torch.manual_seed(0)
    network = NETWORKS[name]()
    for parameter in network.parameters():
        if parameter.unique().numel() == 1:
            nn.init.normal_(parameter, mean=parameter.flatten()[0].item(), std=0.1)
    return network


def loss_of(network: Network) -> Tensor:
    """A loss of the kind that training has; what drops out at random is seeded."""
    torch.manual_seed(1)
    if isinstance(network, VAE):
        frames = 1 if network.temporal_factor == 1 else 1 + 2 * network.temporal_factor
        clips = normal(2, 3, frames, 16, 24, seed=2).tanh()
        masks = torch.arange(2 * frames * 16 * 24).reshape(2, frames, 16, 24) % 49
        noise = normal(*network.posterior(clips)[0].shape, seed=3)
        mask_weight = 0.3 * network.has_masks
        return vae_loss(network, clips, masks, torch.tensor([2.0, 0.0]), noise, 1e-2, 5.0, mask_weight)[
            "loss"
        ]
    if isinstance(network, UNetPlusPlus):
        return network(normal(2, 3, 16, 24, seed=2)).square().mean()
    frames, xt = normal(2, CHANNELS, 4, 6, 8, seed=2), normal(2, CHANNELS, 4, 6, 8, seed=3)
    index, target_index = torch.arange(4.0).expand(2, -1), 5 + torch.arange(2.0).expand(2, -1)
    dropped = torch.tensor([True, False])
    context = network.context(frames, index, torch.full((2, 4), 0.1), dropped, target_index)
    return network(xt, torch.linspace(0, 1, 4).expand(2, -1), context).square().mean()


@every_network
def test_every_block_runs_and_its_parts_run_only_inside_of_it(name):
    network = make(name)
    blocks, ran, inside = network.blocks(), set(), []

    def enter(block: nn.Module, *_: object) -> None:
        ran.add(block)
        inside.append(block)

    def leave(*_: object) -> None:
        inside.pop()

    def inner(block: nn.Module, *_: object) -> None:
        assert inside == [block], "a part of a block was called past it"

    for block in blocks:
        for part in block.modules():
            if part is not block:
                part.register_forward_pre_hook(partial(inner, block))
        block.register_forward_pre_hook(enter)
        block.register_forward_hook(leave)
    loss_of(network)
    assert blocks and ran == set(blocks)


@every_network
def test_no_block_holds_another_or_comes_twice(name):
    blocks = make(name).blocks()
    assert len(set(blocks)) == len(blocks)
    for block in blocks:
        assert not set(block.modules()) & set(blocks) - {block}


@every_network
def test_blocks_computed_again_in_the_backward_pass_leave_loss_and_gradients_as_they_are(name):
    plain, again = make(name), make(name)
    for block in again.blocks():
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    losses = [loss_of(network) for network in (plain, again)]
    for loss in losses:
        loss.backward()
    assert torch.equal(*losses)
    for (key, one), other in zip(plain.named_parameters(), again.parameters(), strict=True):
        if one.requires_grad:
            torch.testing.assert_close(other.grad, one.grad, atol=1e-7, rtol=1e-5, msg=key)


@every_network
def test_every_parameter_has_a_part_in_the_loss_or_is_kept_out_of_training(name):
    """Processes that average their gradients wait for those of every parameter."""
    network = make(name)
    loss_of(network).backward()
    for key, parameter in network.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, key
        assert parameter.requires_grad or key.startswith(UNTRAINED.get(name, "?")), key


# --- The segmenter, a network of a library ---------------------------------------------------------------


@pytest.mark.parametrize("encoder", ["resnet18", "efficientnet-b0"])
def test_a_segmenter_without_what_it_never_uses_computes_what_the_library_does(encoder):
    torch.manual_seed(0)
    network = segmenter(encoder)
    drawn = torch.rand(1)
    torch.manual_seed(0)
    library = smp.UnetPlusPlus(
        encoder, encoder_depth=3, encoder_weights=None, decoder_channels=[8] * 3, classes=NUM_LOGITS
    )
    assert torch.equal(torch.rand(1), drawn)
    state = library.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in network.network.state_dict().items())
    assert network.training and network.network.training
    frames = normal(2, 3, 16, 24)
    assert torch.equal(network.eval()(frames), library.eval()(frames))


def test_stages_below_the_depth_of_a_segmenter_are_not_there():
    names = [name for name, _ in segmenter("resnet18").named_parameters()]
    assert any("encoder.layer2" in name for name in names)
    assert not any("encoder.layer3" in name or "encoder.layer4" in name for name in names)
