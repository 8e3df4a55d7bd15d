"""What sharding, activation checkpointing, compilation and gradient averaging require of `blocks()`."""

from collections.abc import Callable
from functools import cache, partial

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.models.denoiser_cases import CHANNELS, VARIANTS, new_denoiser, normal
from tests.models.test_motion import GROUND, NAMES, latents
from tests.models.test_motion import params as motion_params
from vdp.models.classifiers.crops import CropClassifier, crop_loss
from vdp.models.classifiers.params import ClassifierParams
from vdp.models.codecs.params import VAEParams
from vdp.models.codecs.vae import VAE, vae_loss
from vdp.models.denoisers.factory import DiT, UNet
from vdp.models.factored_classes import NUM_LOGITS
from vdp.models.motion.factory import InteractionNetwork, MotionModel, MotionTransformer, build_motion
from vdp.models.segmenters.params import SegmenterParams
from vdp.models.segmenters.unetpp import UNetPlusPlus

pytestmark = pytest.mark.slow

Network = DiT | UNet | VAE | UNetPlusPlus | CropClassifier | MotionModel


def vae(temporal_factor: int, has_masks: bool) -> VAE:
    params = {"spatial_factor": 4, "latent_channels": 4, "base_channels": 8, "num_res_blocks": 2}
    time = {"temporal_factor": temporal_factor, "convolutions": "factorised"}
    return VAE(VAEParams.model_validate(params | time), has_masks)


def segmenter(encoder: str, depth: int = 3) -> UNetPlusPlus:
    return UNetPlusPlus(
        SegmenterParams(
            encoder=encoder,
            encoder_depth=depth,
            decoder_channels=[8] * depth,
            upsample=1,
            size=None,
            weights=None,
        )
    )


def classifier() -> CropClassifier:
    return CropClassifier(ClassifierParams(crop=12, crop_scale=0.5, base_channels=8))


def motion(name: str) -> MotionModel:
    return build_motion(motion_params(name), GROUND)


NETWORKS: dict[str, Callable[[], Network]] = {
    **{name: partial(new_denoiser, name) for name in VARIANTS},
    "unet-one-level": partial(new_denoiser, "unet-features", head_levels=1, head_blocks=2),
    "vae": partial(vae, 1, True),
    "vae-temporal": partial(vae, 4, True),
    "vae-without-masks": partial(vae, 1, False),
    "segmenter": partial(segmenter, "resnet18"),
    "segmenter-backbone": partial(segmenter, "conv8", 2),
    "segmenter-timm": partial(segmenter, "tu-resnet10t"),
    "segmenter-unused-stage-runs": partial(segmenter, "efficientnet-b0"),
    "segmenter-bypassed-forward": partial(segmenter, "densenet121"),
    "classifier": classifier,
    **{f"motion-{name}": partial(motion, name) for name in NAMES},
}
every_network = pytest.mark.parametrize("name", NETWORKS)
UNTRAINED = {"vae-without-masks": "decoder.mask.", "segmenter-unused-stage-runs": "network.encoder."}


def make(name: str) -> Network:
    """A network without constant weights, so that zero-initialised branches pass gradients."""
    torch.manual_seed(0)
    network = NETWORKS[name]()
    for parameter in network.parameters():
        if parameter.unique().numel() == 1:
            nn.init.normal_(parameter, mean=parameter.flatten()[0].item(), std=0.1)
    return network


def compute_loss(network: Network) -> Tensor:
    torch.manual_seed(1)  # of dropout
    if isinstance(network, VAE):
        frames = 1 if network.temporal_factor == 1 else 1 + 2 * network.temporal_factor
        clips = normal(2, 3, frames, 16, 24, seed=2).tanh()
        masks = torch.arange(2 * frames * 16 * 24).reshape(2, frames, 16, 24) % 49
        noise = normal(*network.posterior(clips)[0].shape, seed=3)
        mask_weight = 0.3 * network.has_masks
        weight = torch.tensor([2.0, 0.0])
        return vae_loss(network, clips, masks, weight, noise, 1e-2, 5.0, mask_weight)["loss"]
    if isinstance(network, UNetPlusPlus):
        return network(normal(2, 3, 16, 24, seed=2)).square().mean()
    if isinstance(network, CropClassifier):
        return crop_loss(network(normal(2, 3, 12, 12, seed=2)), torch.tensor([3, 40])).mean()
    if isinstance(network, MotionTransformer | InteractionNetwork):
        known, xt = latents(2, 3), normal(2, 3, 4, 1, 3, seed=3)
        index, target_index = torch.arange(5.0).expand(2, -1), 5 + torch.arange(2.0).expand(2, -1)
        dropped = torch.tensor([True, False])
        context = network.context(known, index, torch.zeros_like(index), dropped, target_index)
        return network(xt, torch.tensor([[0.2, 0.7]]).repeat(2, 2), context).square().mean()
    frames, xt = normal(2, CHANNELS, 4, 6, 8, seed=2), normal(2, CHANNELS, 4, 6, 8, seed=3)
    index, target_index = torch.arange(4.0).expand(2, -1), 5 + torch.arange(2.0).expand(2, -1)
    dropped = torch.tensor([True, False])
    context = network.context(frames, index, torch.full((2, 4), 0.1), dropped, target_index)
    loss = network(xt, torch.linspace(0, 1, 4).expand(2, -1), context).square().mean()
    moved = network.move(frames, index, target_index)
    return loss if moved is None else loss + moved.square().mean()


@cache
def backward(name: str) -> tuple[Network, Tensor]:
    """A network with gradients, and its loss."""
    network = make(name)
    loss = compute_loss(network)
    loss.backward()
    return network, loss


@every_network
def test_blocks_are_disjoint_and_run_by_their_forward_only(name):
    network = make(name)
    blocks, ran, inside = network.blocks(), set(), []
    assert len(set(blocks)) == len(blocks)

    def enter(block: nn.Module, *_: object) -> None:
        ran.add(block)
        inside.append(block)

    def leave(*_: object) -> None:
        inside.pop()

    def inner(block: nn.Module, *_: object) -> None:
        assert inside == [block], "a submodule was called outside of its block's forward"

    for block in blocks:
        assert not set(block.modules()) & set(blocks) - {block}
        for part in block.modules():
            if part is not block:
                part.register_forward_pre_hook(partial(inner, block))
        block.register_forward_pre_hook(enter)
        block.register_forward_hook(leave)
    compute_loss(network)
    assert blocks and ran == set(blocks)


@every_network
def test_activation_checkpointing_leaves_loss_and_gradients_unchanged(name):
    (plain, expected), checkpointed = backward(name), make(name)
    for block in checkpointed.blocks():
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    loss = compute_loss(checkpointed)
    loss.backward()
    assert torch.equal(loss, expected)
    for (key, one), other in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        if one.requires_grad:
            torch.testing.assert_close(other.grad, one.grad, atol=1e-7, rtol=1e-5, msg=key)


@every_network
def test_exactly_the_trained_parameters_have_a_gradient(name):
    """DDP waits for the gradient of every trained parameter."""
    network, _ = backward(name)
    for key, parameter in network.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, key
        assert parameter.requires_grad or key.startswith(UNTRAINED.get(name, "?")), key


# --- Unused modules of the segmenter ---------------------------------------------------------------------


@pytest.mark.parametrize("encoder", ["resnet18", "efficientnet-b0"])
def test_a_segmenter_without_unused_modules_equals_the_library_s(encoder):
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


def test_encoder_stages_below_the_depth_are_removed():
    names = [name for name, _ in segmenter("resnet18").named_parameters()]
    assert any("encoder.layer2" in name for name in names)
    assert not any("encoder.layer3" in name or "encoder.layer4" in name for name in names)
