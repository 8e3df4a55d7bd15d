"""The contract of a denoiser, kept by every denoiser that params.yaml can name."""

import pytest
import torch
from torch import Tensor

from tests.processes import diffusion_params, objective_of
from vdp.core.context_frames import Hops
from vdp.core.errors import UserError
from vdp.core.tasks import TASKS
from vdp.diffusion.loss import diffusion_loss
from vdp.diffusion.params import DiffusionParams
from vdp.diffusion.process import add_noise, predict_x0_eps
from vdp.models.checkpoint import save_model
from vdp.models.codecs.params import VAEParams
from vdp.models.codecs.pixel import Pixel
from vdp.models.codecs.vae import VAE
from vdp.models.denoisers.factory import DiT, UNet, build_denoiser, load_denoiser
from vdp.models.denoisers.params import DenoiserConfig, DenoiserParams

CHANNELS = 3
STEPS = 110
UNET = {
    "base_channels": 8,
    "channel_mults": [1, 2, 4],
    "num_res_blocks": 1,
    "attention_levels": [2],
    "temporal": False,
    "context_frames": 4,
    "head_levels": 2,
    "head_blocks": 1,
}
DIT = {"patch_size": 2, "hidden_dim": 32, "depth": 2, "num_heads": 2, "stem_channels": 8}
VARIANTS: dict[str, dict[str, object]] = {
    "unet-features": {"conditioning": "features"},
    "unet-spade": {"conditioning": "spade"},
    "unet-concat": {"conditioning": "concat"},
    "unet-temporal": {"conditioning": "features", "temporal": True},
    "dit": {"attention": "one_way", "factorised": False},
    "dit-factorised": {"attention": "one_way", "factorised": True},
    "dit-block": {"attention": "block", "factorised": False},
    "dit-joint": {"attention": "joint", "factorised": False},
}
every_denoiser = pytest.mark.parametrize("name", VARIANTS)
LEARNERS = ["unet-features", "unet-spade", "unet-concat", "dit"]


def denoiser_params(name: str) -> DenoiserParams:
    kind, changed = name.split("-")[0], VARIANTS[name]
    unet = {**UNET, **VARIANTS["unet-features"], **(changed if kind == "unet" else {})}
    dit = {**DIT, **VARIANTS["dit"], **(changed if kind == "dit" else {})}
    return DenoiserParams.model_validate({"name": kind, "unet": unet, "dit": dit})


def make(name: str) -> UNet | DiT:
    """A denoiser as it is before training."""
    torch.manual_seed(0)
    return build_denoiser(denoiser_params(name), CHANNELS)


def random(name: str) -> UNet | DiT:
    """A denoiser with no weight left at zero: what starts as the identity or as nothing has a say too."""
    network = make(name)
    for module in network.modules():
        # weights of a norm are ones; doubled for queries and keys, attention is far from even
        factor = 2 if isinstance(module, torch.nn.RMSNorm) else 1
        for parameter in module.parameters(recurse=False):
            if parameter.unique().numel() == 1:
                torch.nn.init.normal_(parameter, mean=factor * parameter.flatten()[0].item(), std=0.2)
    return network.eval()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Case:
    """Inputs of a denoiser: known frames, times of some targets, and noised draws of these."""

    def __init__(
        self,
        known: int = 5,
        targets: int = 2,
        draws: int = 3,
        height: int = 6,
        width: int = 9,
        batch: int = 2,
    ) -> None:
        self.frames = normal(batch, CHANNELS, known, height, width, seed=1)
        self.index = torch.arange(known).float().expand(batch, -1) * 1.5
        self.level = 0.3 * normal(batch, known, seed=2).abs()
        self.dropped = torch.zeros(batch, dtype=torch.bool)
        # one after the known frames and others among them, so that each has an anchor of its own
        self.target_index = 1.5 * known + 0.75 - 4.1 * torch.arange(targets).float().expand(batch, -1)
        self.xt = normal(batch, CHANNELS, targets * draws, height, width, seed=3)
        self.t = torch.linspace(0, 1, targets * draws).expand(batch, -1)

    def output(self, network: UNet | DiT) -> Tensor:
        context = network.context(self.frames, self.index, self.level, self.dropped, self.target_index)
        return network(self.xt, self.t, context)


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@every_denoiser
@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 5), (4, 13), (8, 12)])
@torch.no_grad()
def test_any_height_and_width_will_do(name, height, width):
    case = Case(height=height, width=width)
    output = case.output(random(name))
    assert output.shape == case.xt.shape
    assert output.isfinite().all()
    assert output.dtype == torch.float32


@every_denoiser
@pytest.mark.parametrize("known", range(1, 13))
@torch.no_grad()
def test_any_number_of_known_frames_will_do(name, known):
    case = Case(known=known, targets=1, draws=1, batch=1)
    output = case.output(random(name))
    assert output.shape == case.xt.shape
    assert output.isfinite().all()


@every_denoiser
@pytest.mark.parametrize(("targets", "draws"), [(1, 1), (3, 1), (1, 4), (2, 3)])
@torch.no_grad()
def test_any_number_of_targets_and_draws_will_do(name, targets, draws):
    case = Case(targets=targets, draws=draws)
    assert case.output(random(name)).shape == (2, CHANNELS, targets * draws, 6, 9)


@every_denoiser
@torch.no_grad()
def test_the_output_depends_on_all_that_is_given(name):
    network, case = random(name), Case(known=3)
    before = case.output(network)
    for changed in ("frames", "index", "level", "target_index", "xt", "t"):
        other = Case(known=3)
        value = getattr(other, changed).clone()
        value[..., -1] += 0.4  # half an index is an index
        setattr(other, changed, value)
        assert (other.output(network) - before).abs().max() > 1e-4, changed


@every_denoiser
@torch.no_grad()
def test_only_differences_of_time_matter(name):
    network, case = random(name), Case()
    before = case.output(network)
    case.index, case.target_index = case.index + 3.25, case.target_index + 3.25
    assert_close(case.output(network), before)


@every_denoiser
@torch.no_grad()
def test_the_order_in_which_known_frames_are_given_does_not_matter(name):
    network, case = random(name), Case(known=6)
    before = case.output(network)
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    case.frames, case.index, case.level = case.frames[:, :, order], case.index[:, order], case.level[:, order]
    assert_close(case.output(network), before)


@every_denoiser
@torch.no_grad()
def test_clips_of_a_batch_do_not_see_each_other(name):
    network, case = random(name), Case()
    before = case.output(network)
    case.frames[1], case.xt[1] = 5.0, -5.0
    assert_close(case.output(network)[0], before[0])


@every_denoiser
@torch.no_grad()
def test_targets_see_each_other_in_a_joint_denoiser_and_in_no_other(name):
    network, case = random(name), Case(targets=3, draws=2)
    before = case.output(network)
    case.xt[:, :, 0] += 1  # the first draw of the first target
    changed = (case.output(network) - before).abs().amax(dim=(0, 1, 3, 4)) > 1e-4
    assert changed.tolist() == [True, False, network.joint, False, network.joint, False]


@pytest.mark.parametrize("name", ["unet-features", "unet-spade", "unet-concat", "dit", "dit-factorised"])
@torch.no_grad()
def test_a_target_is_denoised_as_if_it_were_alone(name):
    network, case = random(name), Case(targets=3, draws=1)
    before = case.output(network)
    for target in range(3):
        alone = Case(targets=3, draws=1)
        alone.xt, alone.t = case.xt[:, :, target : target + 1], case.t[:, target : target + 1]
        alone.target_index = case.target_index[:, target : target + 1]
        assert_close(alone.output(network)[:, :, 0], before[:, :, target])


@every_denoiser
@torch.no_grad()
def test_draws_of_one_target_stand_side_by_side_and_do_not_see_each_other(name):
    network, case = random(name), Case(targets=2, draws=3)
    before = case.output(network)
    for draw in range(3):
        alone = Case(targets=2, draws=1)
        alone.xt, alone.t = case.xt[:, :, draw::3], case.t[:, draw::3]
        assert_close(alone.output(network), before[:, :, draw::3])


@every_denoiser
@torch.no_grad()
def test_withheld_pictures_are_not_seen_and_their_times_are(name):
    network, case = random(name), Case()
    case.dropped[0] = True
    before = case.output(network)
    case.frames[0] += 3
    case.level[0] += 0.3
    assert_close(case.output(network), before)
    case.frames[1] += 3
    after = case.output(network)
    assert_close(after[0], before[0])
    assert (after[1] - before[1]).abs().max() > 1e-3
    case.index[0] -= 2
    assert (case.output(network)[0] - before[0]).abs().max() > 1e-4


@every_denoiser
@torch.no_grad()
def test_a_context_encoded_once_serves_all_sampling_steps(name):
    """As in sampling: the next step's input comes from the last step's output."""
    network, case = random(name), Case(draws=1)
    given = (case.frames, case.index, case.level, case.dropped, case.target_index)
    cache = network.context(*given)
    once = again = case.xt
    for step in range(4, 0, -1):
        t = torch.full_like(case.t, step / 4)
        once = once - 0.25 * network(once, t, cache)
        again = again - 0.25 * network(again, t, network.context(*given))
    assert (once - case.xt).abs().max() > 0.1
    assert_close(once, again)


# --- Learning --------------------------------------------------------------------------------------------


def small(params: DenoiserParams) -> DenoiserParams:
    """Of two resolutions and of one block: enough for four clips."""
    unet = {"channel_mults": [1, 2], "attention_levels": [1], "head_levels": 1}
    return params.model_copy(
        update={
            "unet": params.unet.model_copy(update=unet),
            "dit": params.dit.model_copy(update={"depth": 1}),
        }
    )


def codec_of(name: str) -> VAE | Pixel:
    if name == "pixel":
        return Pixel()
    torch.manual_seed(0)
    return VAE(
        VAEParams(spatial_factor=4, temporal_factor=1, latent_channels=4, base_channels=8, num_res_blocks=1),
        has_masks=False,
    )


KNOWN_IN_TASK: dict[str, tuple[list[int], int]] = {
    "predict": ([0, 1, 2], 3), "interpolate": ([0, 1, 3], 2), "generate": ([], 2), "restore": ([1, 2, 3], 2),
}  # fmt: skip


PROCESSES = [("flow", "flow"), ("cosine", "v"), ("cosine", "eps"), ("flow", "x0")]
# what a network is shown differs by task, what it gives by process: not every pair of them
LEARNT = [
    (task, *process) for task in TASKS for process in (PROCESSES if task == "predict" else PROCESSES[:2])
]


def tiny_hops(task: str, codec: VAE | Pixel) -> Hops:
    """Four clips whose targets no rule gives: they have to be learnt by heart."""
    size = 5 * codec.factor
    with torch.no_grad():
        frames = codec.encode(normal(4, 3, 4, size, size, seed=5).clamp(-1, 1))
    frames = (frames - frames.mean()) / frames.std()
    known, target = KNOWN_IN_TASK[task]
    index = torch.tensor(known).float().expand(4, -1)
    seen = frames[:, :, known]
    if task == "restore":
        seen = seen + 0.3 * normal(*seen.shape, seed=6)
    return Hops(seen, index, frames[:, :, [target]], torch.full((4, 1), float(target)), task)


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("codec", ["vae", "pixel"])
@pytest.mark.parametrize(("task", "schedule", "prediction"), LEARNT)
def test_four_clips_are_learnt_by_heart(name, codec, task, schedule, prediction):
    """At half noise the clean target is told by heart, from the frames that the task knows, or from none."""
    coder = codec_of(codec)
    hops = tiny_hops(task, coder)
    objective = objective_of(schedule, prediction, torch.ones(coder.channels), residual=True)
    torch.manual_seed(0)
    network = build_denoiser(small(denoiser_params(name)), coder.channels)
    dropped = torch.zeros(4, dtype=torch.bool)
    clean, none = torch.zeros_like(hops.index), torch.zeros_like(hops.known)
    base = objective.base(hops.known, hops.index, hops.target_index)
    x0 = objective.to_data(hops.target, base)

    def error() -> float:
        t, noise = torch.full((4, 1), 0.5), normal(*x0.shape, seed=9)
        context = network.context(hops.known, hops.index, clean, dropped, hops.target_index)
        xt = add_noise(x0, noise, t, objective.process.schedule)
        told, _ = predict_x0_eps(xt, network(xt, t, context), t, objective.process)
        return ((told - x0).square().mean() / x0.square().mean()).item()

    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3, fused=True)  # most of a step is overhead
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        t = 0.05 + 0.9 * torch.rand((4, 4), generator=generator)
        noise = torch.randn((*x0.shape[:2], 4, *x0.shape[3:]), generator=generator)
        loss = diffusion_loss(network, hops, objective, None, t, noise, clean, none, dropped)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        after = error()
    assert after < 0.35  # what no memory can reach: the best linear guess from the noised target errs by 0.5


@every_denoiser
def test_gradients_reach_every_parameter(name):
    network, case = random(name), Case()
    case.dropped[0] = True
    case.output(network).square().mean().backward()
    silent = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


# --- Store -----------------------------------------------------------------------------------------------


def config_of(name: str) -> DenoiserConfig[DiffusionParams]:
    return DenoiserConfig(
        denoiser=denoiser_params(name),
        diffusion=diffusion_params("cosine", "v", residual=False),
        codec="0123456789abcdef",
        channels=CHANNELS,
        height=40,
        width=56,
        tasks={"predict": 0.75, "restore": 0.25},
        known=5,
        gaps=[1, 2],
        targets=1,
        span=6,
        context_dropout=0.0,
        data_scale={"predict": (0.1, 0.2, 0.3), "restore": (0.4, 0.5, 0.6)},
        latent_mean=(0.0, 1.0, 2.0),
        latent_std=(1.0, 2.0, 3.0),
    )


@every_denoiser
@torch.no_grad()
def test_a_saved_denoiser_is_rebuilt_from_its_folder_alone(tmp_path, name):
    network = random(name)
    config = config_of(name)
    save_model(tmp_path / "denoiser", network, config)
    again = load_denoiser(tmp_path / "denoiser", torch.device("cpu"), DiffusionParams)
    assert torch.equal(Case().output(again.network), Case().output(network))
    assert not again.network.training
    assert again.config == config
    assert torch.equal(again.data_scale("restore"), torch.tensor([0.4, 0.5, 0.6]))


def test_a_denoiser_of_another_version_is_refused_in_one_line(tmp_path):
    network = random("unet-features")
    config = config_of("unet-features")
    save_model(tmp_path / "denoiser", network, config)
    file = tmp_path / "denoiser" / "config.json"
    file.write_text(file.read_text().replace('"schedule": "cosine"', '"schedule": "quadratic"'))
    with pytest.raises(UserError, match=r"diffusion\.schedule: .* make the model again"):
        load_denoiser(tmp_path / "denoiser", torch.device("cpu"), DiffusionParams)
