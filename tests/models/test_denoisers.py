"""Protocol of a denoiser, for every denoiser that params.yaml can name."""

import json

import pytest
import torch

from tests.models.denoiser_cases import (
    CHANNELS,
    MOVED,
    Case,
    assert_close,
    denoiser_params,
    every_denoiser,
    normal,
    random_denoiser,
)
from tests.processes import diffusion_params, objective_of
from vdp.core.context_frames import Hops
from vdp.core.errors import UserError
from vdp.diffusion.loss import diffusion_loss
from vdp.diffusion.moved import with_moved
from vdp.diffusion.params import DiffusionParams
from vdp.diffusion.process import add_noise, predict_x0_eps
from vdp.models.checkpoint import load_config, save_model
from vdp.models.codecs.params import VAEParams
from vdp.models.codecs.pixel import PixelCodec
from vdp.models.codecs.vae import VAE
from vdp.models.denoisers.factory import build_denoiser, load_denoiser
from vdp.models.denoisers.params import DenoiserConfig

pytestmark = pytest.mark.slow


@every_denoiser
@torch.no_grad()
def test_sizes_and_numbers_of_context_frames_target_frames_and_draws_are_free(name):
    network = random_denoiser(name)
    cases = [Case(height=height, width=width) for height, width in [(1, 1), (7, 5), (4, 13), (8, 12)]]
    cases += [Case(known=known, targets=1, draws=1) for known in (1, 2, 4, 7, 12)]
    cases += [Case(targets=targets, draws=draws) for targets, draws in [(3, 1), (7, 1), (1, 4)]]
    for case in cases:
        output = case.output(network)
        assert output.shape == case.xt.shape
        assert output.isfinite().all()
        assert output.dtype == torch.float32


@every_denoiser
@torch.no_grad()
def test_output_depends_on_all_inputs(name):
    network = random_denoiser(name)
    before = Case(known=3).output(network)
    for changed in ("frames", "index", "level", "target_index", "xt", "t"):
        case = Case(known=3)
        value = getattr(case, changed).clone()
        value[..., -1] += 0.4  # indices are real-valued
        setattr(case, changed, value)
        assert (case.output(network) - before).abs().max() > 1e-4, changed


@every_denoiser
@torch.no_grad()
def test_output_depends_on_frame_indices_by_their_differences_only(name):
    network, case = random_denoiser(name), Case()
    before = case.output(network)
    case.index, case.target_index = case.index + 4096, case.target_index + 4096
    assert_close(case.output(network), before)
    case.index = case.index + 0.5
    assert (case.output(network) - before).abs().max() > 1e-3


@every_denoiser
@torch.no_grad()
def test_output_is_invariant_to_the_order_of_context_frames(name):
    network, case = random_denoiser(name), Case(known=6)
    before = case.output(network)
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    case.frames, case.index, case.level = case.frames[:, :, order], case.index[:, order], case.level[:, order]
    assert_close(case.output(network), before)


@every_denoiser
@torch.no_grad()
def test_clips_of_a_batch_are_independent(name):
    network, case = random_denoiser(name), Case()
    before = case.output(network)
    case.frames[1], case.xt[1] = 5.0, -5.0
    assert_close(case.output(network)[0], before[0])


@every_denoiser
@torch.no_grad()
def test_target_frames_of_a_draw_depend_on_each_other_in_joint_denoisers_only(name):
    network, case = random_denoiser(name), Case(targets=3, draws=2)
    before = case.output(network)
    case.xt[0, :, 2] += 1  # first clip, second target frame, first draw
    changed = (case.output(network) - before).abs().amax(dim=(1, 3, 4))
    assert ((changed > 1e-4) | (changed < 1e-5)).all()
    joint = network.joint
    assert (changed > 1e-4).tolist() == [[joint, False, True, False, joint, False], [False] * 6]
    if not joint:
        given = with_moved(network, case.frames, case.index, case.level, case.target_index)
        for target in range(3):
            at, kept = case.target_index[:, target : target + 1], slice(2 * target, 2 * target + 1)
            context = network.context(given.frames, given.index, given.level, case.dropped, at)
            single = network(case.xt[:, :, kept], case.t[:, kept], context)
            assert_close(single, case.output(network)[:, :, kept])


@every_denoiser
@torch.no_grad()
def test_draws_are_adjacent_and_independent(name):
    network, case = random_denoiser(name), Case(targets=2, draws=3)
    before = case.output(network)
    for draw in range(3):
        single = Case(targets=2, draws=1)
        single.xt, single.t = case.xt[:, :, draw::3], case.t[:, draw::3]
        assert_close(single.output(network), before[:, :, draw::3])


@every_denoiser
@torch.no_grad()
def test_dropped_context_frames_affect_the_output_by_their_indices_only(name):
    network, case = random_denoiser(name), Case()
    undropped = case.output(network)
    case.dropped = torch.tensor([True, False])
    before = case.output(network)
    assert_close(before[1], undropped[1])
    assert (before[0] - undropped[0]).abs().max() > 1e-3
    case.frames[0], case.level[0] = torch.nan, 0.9
    assert torch.equal(case.output(network), before)
    case.index = case.index - torch.tensor([[0.5], [0.0]])
    assert (case.output(network)[0] - before[0]).abs().max() > 1e-4


@every_denoiser
@torch.no_grad()
def test_dropped_context_frames_differ_from_black_ones(name):
    network, case = random_denoiser(name), Case()
    case.frames, case.level = torch.zeros_like(case.frames), torch.zeros_like(case.level)
    black = case.output(network)
    case.dropped = torch.ones_like(case.dropped)
    assert (case.output(network) - black).abs().max() > 1e-5


@every_denoiser
@torch.no_grad()
def test_a_context_encoded_once_serves_all_sampling_steps(name):
    network, case = random_denoiser(name), Case(draws=1)
    cache = case.context(network)
    cached = recomputed = case.xt
    for step in range(4, 0, -1):
        t = torch.full_like(case.t, step / 4)
        cached = cached - 0.25 * network(cached, t, cache)
        recomputed = recomputed - 0.25 * network(recomputed, t, case.context(network))
    assert (cached - case.xt).abs().max() > 0.1
    assert_close(cached, recomputed)


@every_denoiser
def test_gradients_reach_every_parameter(name):
    network, case = random_denoiser(name), Case()
    case.dropped[0] = True
    loss, moved = (
        case.output(network).square().mean(),
        network.move(case.frames, case.index, case.target_index),
    )
    (loss if moved is None else loss + moved.square().mean()).backward()  # no other loss reaches the mover
    missing = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert missing == []


@every_denoiser
def test_output_under_bf16_autocast_is_fp32_and_close(name):
    network, case = random_denoiser(name), Case()
    exact = case.output(network)
    with torch.autocast("cpu", torch.bfloat16):
        output = case.output(network)
    assert output.dtype == torch.float32
    assert (output - exact).square().mean() < 0.01 * exact.square().mean()
    output.square().mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


# --- Learning --------------------------------------------------------------------------------------------

CONTEXT_IN_TASK: dict[str, tuple[list[int], int]] = {
    "predict": ([0, 1, 2], 3), "interpolate": ([0, 1, 3], 2), "generate": ([], 2), "restore": ([1, 2, 3], 2),
}  # fmt: skip
LEARNERS = [  # every conditioning, task, codec, schedule and prediction
    ("unet-features", "predict", "vae", "flow", "flow"),
    ("unet-spade", "predict", "pixel", "cosine", "v"),
    ("unet-concat", "predict", "pixel", "cosine", "eps"),
    ("dit-one_way", "predict", "vae", "flow", "x0"),
    ("dit-one_way", "interpolate", "pixel", "flow", "flow"),
    ("unet-concat", "interpolate", "vae", "cosine", "v"),
    ("unet-features", "generate", "vae", "flow", "flow"),
    ("unet-spade", "generate", "pixel", "cosine", "v"),
    ("unet-features", "restore", "pixel", "cosine", "v"),
    ("dit-one_way", "restore", "pixel", "flow", "flow"),
]


def make_codec(name: str) -> VAE | PixelCodec:
    if name == "pixel":
        return PixelCodec()
    torch.manual_seed(0)
    return VAE(
        VAEParams(
            spatial_factor=4,
            temporal_factor=1,
            convolutions="factorised",
            latent_channels=4,
            base_channels=8,
            num_res_blocks=1,
        ),
        has_masks=False,
    )


def random_hops(task: str, codec: VAE | PixelCodec) -> Hops:
    """Four clips of noise, whose target frames can only be memorised."""
    size = 5 * codec.factor
    with torch.no_grad():
        frames = codec.encode(normal(4, 3, 4, size, size, seed=5).clamp(-1, 1))
    frames = (frames - frames.mean()) / frames.std()
    known, target = CONTEXT_IN_TASK[task]
    context = frames[:, :, known]
    if task == "restore":
        context = context + 0.3 * normal(*context.shape, seed=6)
    index = torch.tensor(known).float().expand(4, -1)
    return Hops(context, index, frames[:, :, [target]], torch.full((4, 1), float(target)), task)


@pytest.mark.parametrize(("name", "task", "codec", "schedule", "prediction"), LEARNERS)
def test_denoisers_overfit_four_clips(name, task, codec, schedule, prediction):
    """At t = 0.95 nothing but the context frames identifies the clip."""
    coder = make_codec(codec)
    hops = random_hops(task, coder)
    objective = objective_of(schedule, prediction, torch.ones(coder.channels), residual=True)
    small = {"channel_mults": [1, 2], "attention_levels": [1], "head_levels": 1}
    params = denoiser_params(name, **({"depth": 1} if name.startswith("dit") else small))
    torch.manual_seed(0)
    network = build_denoiser(params, coder.channels, moved=False)
    dropped = torch.zeros(4, dtype=torch.bool)
    clean, no_noise = torch.zeros_like(hops.index), torch.zeros_like(hops.known)
    base = objective.base(hops.known, hops.index, hops.target_index)
    x0 = objective.to_data(hops.target, base)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3, fused=True)  # most of a step is overhead
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        t = 0.05 + 0.9 * torch.rand((4, 4), generator=generator)
        noise = torch.randn((*x0.shape[:2], 4, *x0.shape[3:]), generator=generator)
        loss = diffusion_loss(network, hops, objective, None, t, noise, clean, no_noise, dropped)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    t, noise = torch.tensor([[0.5, 0.95]]).expand(4, -1), normal(*x0.shape, seed=9)
    with torch.no_grad():
        context = network.context(hops.known, hops.index, clean, dropped, hops.target_index)
        xt = add_noise(
            x0.expand(-1, -1, 2, -1, -1), noise.expand(-1, -1, 2, -1, -1), t, objective.process.schedule
        )
        predicted_x0, _ = predict_x0_eps(xt, network(xt, t, context), t, objective.process)
    error = (predicted_x0 - x0).square().mean(dim=(0, 1, 3, 4)) / x0.square().mean()
    assert error[0] < 0.35  # 0.5 for the best linear estimate from xt
    if task in ("predict", "interpolate") and prediction != "eps":  # eps determines x0 badly near t = 1
        assert error[1] < 0.35  # 0.75 for the mean of the clips


# --- Model folders ---------------------------------------------------------------------------------------


def make_config(name: str) -> DenoiserConfig[DiffusionParams]:
    return DenoiserConfig(
        denoiser=denoiser_params(name),
        diffusion=diffusion_params("cosine", "v", residual=False),
        base="moved" if name in MOVED else "nearest",
        codec="0123456789abcdef",
        channels=CHANNELS,
        height=40,
        width=56,
        tasks={"predict": 0.75, "restore": 0.25},
        context_frames=5,
        given_frames=2,
        known=0,
        target_offsets=[1, 2],
        targets=1,
        max_span=6,
        context_dropout=0.0,
        data_scale={"predict": (0.1, 0.2, 0.3), "restore": (0.4, 0.5, 0.6)},
        latent_mean=(0.0, 1.0, 2.0),
        latent_std=(1.0, 2.0, 3.0),
    )


@every_denoiser
@torch.no_grad()
def test_a_saved_denoiser_is_rebuilt_from_its_folder_alone(tmp_path, name):
    network, config = random_denoiser(name), make_config(name)
    save_model(tmp_path / "denoiser", network, config)
    loaded = load_denoiser(tmp_path / "denoiser", torch.device("cpu"), DiffusionParams)
    assert torch.equal(Case().output(loaded.network), Case().output(network))
    assert not loaded.network.training
    assert loaded.config == config
    assert torch.equal(loaded.data_scale("restore"), torch.tensor([0.4, 0.5, 0.6]))


@pytest.mark.parametrize(("name", "written"), [("unet-features", False), ("unet-wide-embedding", True)])
def test_keys_of_later_versions_are_written_where_they_have_a_value_alone(tmp_path, name, written):
    """Models of earlier versions load, and models with the default params have the same bytes."""
    config = make_config(name)
    save_model(tmp_path, random_denoiser(name), config)
    unet = json.loads((tmp_path / "config.json").read_text())["denoiser"]["unet"]
    assert ("time_embedding_dim" in unet, "temporal_heads" in unet) == (written, written)
    assert load_config(tmp_path, DenoiserConfig[DiffusionParams]) == config


def test_a_denoiser_of_another_version_is_rejected(tmp_path):
    save_model(tmp_path / "denoiser", random_denoiser("unet-features"), make_config("unet-features"))
    file = tmp_path / "denoiser" / "config.json"
    file.write_text(file.read_text().replace('"schedule": "cosine"', '"schedule": "quadratic"'))
    with pytest.raises(UserError, match=r"diffusion\.schedule: .*dvc repro --force"):
        load_denoiser(tmp_path / "denoiser", torch.device("cpu"), DiffusionParams)
