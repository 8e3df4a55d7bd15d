"""The motion model on clips of objects: the contract of a denoiser of objects."""

from dataclasses import asdict

import numpy as np
import pytest
import torch

from vdp.core.ground import Ground
from vdp.core.objects import CHANNELS, FEATURES, SEEN, X, Y
from vdp.data.batches.motion import object_latents
from vdp.models.checkpoint import save_model
from vdp.models.motion.config import GroundConfig, MotionConfig
from vdp.models.motion.factory import build_motion, load_motion_model
from vdp.models.motion.params import MotionParams

K, T = 5, 4
GROUND = Ground(
    0.2, 0.1, 2.0, (0.03, 0.02, 0.03), diameter=1.0, restitution=0.7, border=0.75,
    reach=((0.5, 0.6), (0.4, 0.4), (0.5, 0.6)), entry=((0.2, 0.0), (0.1, 0.3), (0.0, -0.2)),
)  # fmt: skip
NAMES = ("transformer", "interaction")


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def params(name: str = "transformer", **changes: int) -> MotionParams:
    values = {
        "name": name, "schedule": "flow", "prediction": "flow",
        "hidden_dim": 32, "pair_dim": 8, "depth": 2, "head_depth": 2, "num_heads": 4,
        "context_slots": 6, "target_slots": 6,
    }  # fmt: skip
    return MotionParams(**{**values, **changes})


def network(name: str) -> torch.nn.Module:
    """A network whose zero-initialised output has random weights."""
    torch.manual_seed(0)
    model = build_motion(params(name), GROUND)
    torch.nn.init.normal_(model.targets.out.weight, std=0.5)
    return model.eval()


def latents(clips: int, objects: int, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    states = rng.normal(0, 0.3, (clips, objects, K, len(FEATURES))).astype(np.float32)
    states[..., SEEN] = 1
    classes = rng.integers(1, 49, (clips, objects)).astype(np.uint8)
    return object_latents(states, classes)


def denoise(model, known, draws=1, seed=0, t=0.4, target_index=None, dropped=False):
    batch, objects = len(known), known.shape[-1]
    index = torch.arange(float(K)).expand(batch, -1)
    if target_index is None:
        target_index = torch.arange(float(K), K + T).expand(batch, -1)
    count = target_index.shape[1]
    generator = torch.Generator().manual_seed(seed)
    xt = torch.randn(batch, 3, count * draws, 1, objects, generator=generator)
    with torch.no_grad():
        context = model.context(
            known, index, torch.zeros_like(index), torch.full((batch,), dropped), target_index
        )
        return model(xt, torch.full((batch, count * draws), t), context), xt


def test_latents_hold_the_features_and_the_class():
    states = np.zeros((1, 2, 3, len(FEATURES)), np.float32)
    states[0, 1, 2] = np.arange(len(FEATURES))
    z = object_latents(states, np.array([[1, 0]], np.uint8))
    assert z.shape == (1, CHANNELS, 3, 1, 2)
    np.testing.assert_array_equal(z[0, : len(FEATURES), 2, 0, 1], np.arange(len(FEATURES)))
    assert z[0, len(FEATURES) :, 0, 0, 0].tolist() == [1, 0, 0, 1, 0]  # class 1: a metal cube
    assert not z[0, len(FEATURES) :, 0, 0, 1].any()  # absent


def test_the_output_permutes_with_the_objects(name):
    model, known, order = network(name), latents(2, 4), torch.tensor([2, 0, 3, 1])
    output, xt = denoise(model, known)
    index = torch.arange(float(K)).expand(2, -1)
    target_index = torch.arange(float(K), K + T).expand(2, -1)
    with torch.no_grad():
        context = model.context(
            known[..., order], index, torch.zeros_like(index), torch.zeros(2, dtype=torch.bool), target_index
        )
        permuted = model(xt[..., order], torch.full((2, T), 0.4), context)
    torch.testing.assert_close(permuted, output[..., order], atol=1e-5, rtol=1e-5)


def test_absent_objects_change_nothing(name):
    model, known = network(name), latents(2, 3)
    padded = torch.cat([known, torch.zeros_like(known)], dim=-1)
    output, xt = denoise(model, known)
    index = torch.arange(float(K)).expand(2, -1)
    target_index = torch.arange(float(K), K + T).expand(2, -1)
    with torch.no_grad():
        context = model.context(
            padded, index, torch.zeros_like(index), torch.zeros(2, dtype=torch.bool), target_index
        )
        more = model(torch.cat([xt, torch.randn_like(xt)], dim=-1), torch.full((2, T), 0.4), context)
    torch.testing.assert_close(more[..., :3], output, atol=1e-5, rtol=1e-5)


def test_draws_of_one_context_are_independent(name):
    model, known = network(name), latents(2, 3)
    output, xt = denoise(model, known, draws=3)
    index = torch.arange(float(K)).expand(2, -1)
    target_index = torch.arange(float(K), K + T).expand(2, -1)
    with torch.no_grad():
        context = model.context(
            known, index, torch.zeros_like(index), torch.zeros(2, dtype=torch.bool), target_index
        )
        second = model(xt[:, :, 1::3], torch.full((2, T), 0.4), context)
    torch.testing.assert_close(second, output[:, :, 1::3], atol=1e-5, rtol=1e-5)


def test_only_the_distance_in_time_counts(name):
    model, known = network(name), latents(2, 3)
    early, _ = denoise(model, known)
    batch = len(known)
    index = torch.arange(float(K)).expand(batch, -1) + 7
    target_index = torch.arange(float(K), K + T).expand(batch, -1) + 7
    xt = denoise(model, known)[1]
    with torch.no_grad():
        context = model.context(
            known, index, torch.zeros_like(index), torch.zeros(batch, dtype=torch.bool), target_index
        )
        late = model(xt, torch.full((batch, T), 0.4), context)
    torch.testing.assert_close(late, early, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("change", ["place", "neighbour", "time", "class"])
def test_the_output_depends_on_each_input(name, change):
    model, known = network(name), latents(1, 3)
    output, _ = denoise(model, known)
    other, t = known.clone(), 0.4
    if change == "place":
        other[:, X, 2, 0, 0] += 0.2
    elif change == "neighbour":
        other[:, Y, :, 0, 1] += 0.2
    elif change == "class":
        other[:, len(FEATURES) :] = other[:, len(FEATURES) :].flip(1)
    else:
        t = 0.8
    changed, _ = denoise(model, other, t=t)
    assert (changed - output)[..., 0].abs().max() > 1e-4


def test_a_dropped_context_hides_every_object(name):
    model = network(name)
    one, _ = denoise(model, latents(1, 3, seed=1), dropped=True)
    other, _ = denoise(model, latents(1, 3, seed=2), dropped=True)
    torch.testing.assert_close(one, other)
    assert torch.isfinite(one).all()


def test_targets_beyond_the_slots_are_refused(name):
    with pytest.raises(ValueError, match="target_slots"):
        denoise(network(name), latents(1, 2), target_index=torch.tensor([[K + 6.0]]))


def test_heads_divide_the_width():
    with pytest.raises(ValueError, match="num_heads"):
        params(hidden_dim=30)


def test_a_saved_model_is_rebuilt_from_its_folder_alone(tmp_path, name):
    model, known = network(name), latents(2, 3)
    ground = GroundConfig(**asdict(GROUND))
    config = MotionConfig(motion=params(name), data_scale=(0.5, 2.0), ground=ground)
    save_model(tmp_path / "motion", model, config)
    loaded = load_motion_model(tmp_path / "motion", torch.device("cpu"))
    assert torch.equal(denoise(loaded.network, known)[0], denoise(model, known)[0])
    assert not loaded.network.training and loaded.network.ground == GROUND
    assert loaded.config == config


def test_gradients_reach_every_weight(name):
    model = network(name).train()
    known = latents(2, 3)
    index = torch.arange(float(K)).expand(2, -1)
    target_index = torch.arange(float(K), K + T).expand(2, -1)
    context = model.context(
        known, index, torch.zeros_like(index), torch.zeros(2, dtype=torch.bool), target_index
    )
    model(torch.randn(2, 3, T, 1, 3), torch.full((2, T), 0.4), context).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
