"""The DiT: who sees whom, and that a context encoded once gives what encoding it anew would give."""

import pytest
import torch
from einops import rearrange, repeat
from torch import Tensor

from vdp.core.context_frames import anchor_frames
from vdp.models.denoisers.dit import ROPE_BASE, Block, DiT
from vdp.models.denoisers.params import DiTParams

CHANNELS = 3
ATTENTIONS = ("one_way", "block", "joint")
every_attention = pytest.mark.parametrize("attention", ATTENTIONS)
either_way = pytest.mark.parametrize("factorised", [False, True], ids=["at once", "factorised"])


def random(attention: str, factorised: bool, stem: int = 8, depth: int = 2) -> DiT:
    """A DiT with no weight left at zero: what starts as the identity or as nothing has a say too."""
    torch.manual_seed(0)
    params = DiTParams.model_validate(
        {
            "patch_size": 2,
            "hidden_dim": 32,
            "depth": depth,
            "num_heads": 2,
            "stem_channels": stem,
            "attention": attention,
            "factorised": factorised,
        }
    )
    network = DiT(params, CHANNELS)
    for parameter in network.parameters():
        if parameter.unique().numel() == 1:
            # ones are weights of a norm: doubled, attention is far from even
            torch.nn.init.normal_(parameter, mean=2 * parameter.flatten()[0].item(), std=0.2)
    return network.eval()


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Case:
    """Inputs of a DiT: known frames, times of some targets, and noised draws of these."""

    def __init__(
        self, known: int = 4, targets: int = 2, draws: int = 2, height: int = 4, width: int = 6
    ) -> None:
        self.frames = normal(2, CHANNELS, known, height, width, seed=1)
        self.index = torch.arange(known).float().expand(2, -1) * 1.5
        self.level = 0.3 * normal(2, known, seed=2).abs()
        self.dropped = torch.zeros(2, dtype=torch.bool)
        # one after the known frames and others among them, so that each has an anchor of its own
        self.target_index = 1.5 * known + 0.75 - 2.0 * torch.arange(targets).float().expand(2, -1)
        self.xt = normal(2, CHANNELS, targets * draws, height, width, seed=3)
        self.t = torch.linspace(0, 1, targets * draws).expand(2, -1)

    @property
    def given(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        return self.frames, self.index, self.level, self.dropped, self.target_index

    def output(self, network: DiT) -> Tensor:
        return network(self.xt, self.t, network.context(*self.given))


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def changed(network: DiT, case: Case, before: Tensor) -> list[bool]:
    """Which noised frames the change of a case has reached, beyond rounding."""
    difference = (case.output(network) - before).abs().amax(dim=(0, 1, 3, 4))
    assert ((difference > 1e-4) | (difference < 1e-5)).all()
    return (difference > 1e-4).tolist()


# --- Against a pass over all tokens under a mask -----------------------------------------------------------


def turned(x: Tensor, place: Tensor) -> Tensor:
    """RoPE in complex numbers: x (B, H, L, D/H) by places (B, L, 3), as rates per axis."""
    pairs = x.shape[-1] // 2
    rates = torch.zeros(3, pairs)
    at = 0
    for axis, count in enumerate((pairs // 2, pairs // 4, pairs // 4)):
        for i in range(count):
            rates[axis, at + i] = ROPE_BASE ** (-i / count)
        at += count
    angle = (place @ rates)[:, None]
    z = torch.complex(x[..., :pairs], x[..., pairs:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([z.real, z.imag], dim=-1)


def masked(block: Block, x: Tensor, embedding: Tensor, place: Tensor, sees: Tensor, frame: Tensor) -> Tensor:
    """A block over all tokens (B, L, D) in one sequence, who sees whom told by a mask (L, L)."""
    parts = rearrange(block.modulation(embedding), "b l (p three d) -> p three b l d", three=3, d=x.shape[-1])
    where = place[0, :, 1:]
    here = (where[:, None] == where[None]).all(dim=-1)
    attentions = [(block.frames, sees)]
    if block.space is not None:
        attentions = [(block.space, frame[:, None] == frame[None]), (block.frames, sees & here)]
    norm = block.norm
    for (weights, mask), (shift, scale, gate) in zip(attentions, parts[:-1], strict=True):
        q, k, v = weights.qkv(norm(x) * (1 + scale) + shift).chunk(3, dim=-1)
        q, k, v = (rearrange(y, "b l (h d) -> b h l d", h=weights.heads) for y in (q, k, v))
        q, k = turned(weights.query_norm(q), place), turned(weights.key_norm(k), place)
        scores = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).masked_fill(~mask, -torch.inf)
        x = x + gate * weights.proj(rearrange(scores.softmax(dim=-1) @ v, "b h l d -> b l (h d)"))
    shift, scale, gate = parts[-1]
    return x + gate * block.mlp(norm(x) * (1 + scale) + shift)


def single_pass(network: DiT, case: Case) -> Tensor:
    """The DiT without cache or groups: all known and all noised tokens side by side under one mask."""
    count, known, targets = case.xt.shape[2], case.frames.shape[2], case.target_index.shape[1]
    draws = count // targets
    anchor = repeat(
        anchor_frames(case.frames, case.index, case.target_index), "b c n h w -> b c (n r) h w", r=draws
    )
    before, _ = network.known_in(case.frames)
    after, local = network.noisy_in(torch.cat([case.xt, anchor], dim=1))
    patches = before.shape[2]
    x = torch.cat([before, after], dim=1).flatten(1, 2)
    level = torch.cat([network._embed(case.level, 0), network._embed(case.t, 1)], dim=1)
    embedding = repeat(level, "b f d -> b (f n) d", n=patches)
    times = torch.cat([case.index, repeat(case.target_index, "b n -> b (n r)", r=draws)], dim=1)
    columns = -(-case.xt.shape[4] // network.out.patch)
    token = torch.arange(patches)
    plane = torch.stack([token // columns, token % columns], dim=-1).float()
    place = torch.cat(
        [
            repeat(times, "b f -> b (f n) 1", n=patches),
            repeat(plane, "n two -> b (f n) two", b=2, f=known + count),
        ],
        dim=-1,
    )
    frame = torch.arange(known + count).repeat_interleave(patches)
    group = frame - known  # one_way: each noised frame alone
    if network.attention != "one_way":
        group = group % draws  # the targets of one draw together
    sees = (frame[None] < known) | ((frame[:, None] >= known) & (group[:, None] == group[None]))
    if network.attention == "joint":
        assert draws == 1, "known frames that read one draw are not those that read another"
        sees = torch.ones_like(sees)
    for block in network.layers:
        x = masked(block, x, embedding, place, sees, frame)
    shift, scale = network.modulation(embedding).chunk(2, dim=-1)
    x = (network.norm(x) * (1 + scale) + shift)[:, known * patches :]
    frames = network.out(rearrange(x, "b (f n) d -> (b f) n d", f=count), local)
    gate = network.pass_noise(level[:, known:]).transpose(1, 2)[..., None, None]
    return rearrange(frames, "(b f) c h w -> b c f h w", b=2) + gate * case.xt


@every_attention
@either_way
@pytest.mark.parametrize("depth", [1, 3])
@torch.no_grad()
def test_the_output_is_that_of_one_pass_over_all_tokens_under_a_mask(attention, factorised, depth):
    network = random(attention, factorised, depth=depth)
    case = Case(targets=3, draws=1 if attention == "joint" else 2, height=3, width=5)
    assert_close(case.output(network), single_pass(network, case))


@pytest.mark.parametrize("attention", ["one_way", "block"])
@either_way
@torch.no_grad()
def test_fifty_steps_from_one_context_are_those_that_encode_it_each_time(attention, factorised):
    """As in sampling: the next step's input comes from the last step's output."""
    network, case = random(attention, factorised), Case(draws=1)
    cache = network.context(*case.given)
    once = again = case.xt
    for step in range(50, 0, -1):
        case.t = torch.full_like(case.t, step / 50)
        once = once - 0.02 * network(once, case.t, cache)
        case.xt = again
        again = again - 0.02 * single_pass(network, case)
    assert (once - normal(*once.shape, seed=3)).abs().max() > 0.1
    assert_close(once, again)


# --- Who sees whom -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attention", "reached"),
    [
        ("one_way", [True, False, False, False, False, False]),
        ("block", [True, False, True, False, True, False]),  # target-major: the first draw of each target
        ("joint", [True, False, True, False, True, False]),
    ],
)
@either_way
@torch.no_grad()
def test_a_noised_frame_is_seen_by_the_targets_of_its_draw_or_by_itself_alone(attention, reached, factorised):
    network, case = random(attention, factorised), Case(targets=3)
    before = case.output(network)
    case.xt = case.xt.clone()
    case.xt[:, :, 0] += 1
    assert changed(network, case, before) == reached


@every_attention
def test_a_network_says_whether_its_targets_see_each_other(attention):
    assert random(attention, factorised=False).joint == (attention != "one_way")


@every_attention
@either_way
@torch.no_grad()
def test_a_known_frame_is_seen_by_all(attention, factorised):
    network, case = random(attention, factorised), Case(targets=1)
    before = case.output(network)
    case.frames = case.frames.clone()
    case.frames[:, :, 0] += 1  # the anchor is another
    assert changed(network, case, before) == [True, True]


@pytest.mark.parametrize(("attention", "reads"), [("block", False), ("joint", True)])
@torch.no_grad()
def test_only_in_joint_attention_do_known_frames_read_the_noised_ones(attention, reads):
    """Told by what the first block makes of the known frames, under two different noised ones."""
    network, case = random(attention, factorised=False), Case(draws=1)
    seen: list[Tensor] = []
    known = case.frames.shape[2]
    network.layers[0].register_forward_hook(lambda block, given, made: seen.append(made[0]))
    for value in (0.0, 1.0):
        case.xt = case.xt.clone()
        case.xt[:, :, 1] = value
        case.output(network)
    states = [x for x in seen if x.shape[1] >= known]  # those with known frames among them
    assert ((states[0] - states[1])[:, :known].abs().max() > 1e-4) == reads


@every_attention
@either_way
@torch.no_grad()
def test_each_draw_is_as_if_alone(attention, factorised):
    network, case = random(attention, factorised), Case(draws=3)
    before = case.output(network)
    for draw in range(3):
        alone = Case(draws=1)
        alone.xt, alone.t = case.xt[:, :, draw::3], case.t[:, draw::3]
        assert_close(alone.output(network), before[:, :, draw::3])


@every_attention
@either_way
@torch.no_grad()
def test_clips_do_not_see_each_other(attention, factorised):
    network, case = random(attention, factorised), Case()
    before = case.output(network)
    case.frames[1], case.xt[1] = 5.0, -5.0
    assert_close(case.output(network)[0], before[0])


# --- Withheld pictures -------------------------------------------------------------------------------------


@every_attention
@either_way
@torch.no_grad()
def test_of_a_dropped_clip_the_network_knows_the_times_but_no_picture(attention, factorised):
    network, case, other = random(attention, factorised), Case(), Case()
    plain = case.output(network)
    for each in (case, other):
        each.dropped = torch.tensor([True, False])
    dropped = case.output(network)
    assert_close(dropped[1], plain[1])
    assert (dropped[0] - plain[0]).abs().max() > 1e-3
    other.frames, other.level = other.frames.clone(), other.level.clone()
    other.frames[0], other.level[0] = torch.nan, 0.9
    assert torch.equal(other.output(network)[0], dropped[0])
    other.index = other.index + 0.5
    assert (other.output(network)[0] - dropped[0]).abs().max() > 1e-4


@torch.no_grad()
def test_withheld_pictures_are_not_black_ones():
    network, case = random("one_way", factorised=False), Case()
    case.frames, case.level = torch.zeros_like(case.frames), torch.zeros_like(case.level)
    black = case.output(network)
    case.dropped = torch.ones(2, dtype=torch.bool)
    assert (case.output(network) - black).abs().max() > 1e-4


# --- Sizes, times, precision -------------------------------------------------------------------------------


@every_attention
@either_way
@pytest.mark.parametrize("stem", [0, 8])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 5), (2, 9)])
@torch.no_grad()
def test_any_size_will_do(attention, factorised, stem, height, width):
    case = Case(known=1, targets=3, draws=1, height=height, width=width)
    output = case.output(random(attention, factorised, stem))
    assert output.shape == case.xt.shape
    assert output.isfinite().all()


@every_attention
@either_way
@torch.no_grad()
def test_only_differences_of_time_matter(attention, factorised):
    network, case = random(attention, factorised), Case()
    before = case.output(network)
    case.index, case.target_index = case.index + 4096, case.target_index + 4096
    assert_close(case.output(network), before)  # exactly, however far from zero
    case.index = case.index + 0.5
    assert (case.output(network) - before).abs().max() > 1e-3


@every_attention
@either_way
@torch.no_grad()
def test_the_order_of_known_frames_does_not_matter(attention, factorised):
    network, case = random(attention, factorised), Case()
    before = case.output(network)
    order = torch.tensor([2, 0, 3, 1])
    case.frames, case.index, case.level = case.frames[:, :, order], case.index[:, order], case.level[:, order]
    assert_close(case.output(network), before)


@every_attention
@either_way
@pytest.mark.parametrize("stem", [0, 8])
def test_gradients_reach_every_parameter_and_every_role(attention, factorised, stem):
    network, case = random(attention, factorised, stem), Case()
    case.dropped = torch.tensor([True, False])
    case.output(network).square().mean().backward()
    silent = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []
    assert network.role.grad.any(dim=1).all()


@every_attention
@either_way
def test_in_bf16_the_output_is_near_that_of_fp32_and_of_its_type(attention, factorised):
    network, case = random(attention, factorised), Case()
    expected = case.output(network)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = case.output(network)
    assert output.dtype == torch.float32
    assert (output - expected).abs().max() < 0.1 * expected.abs().max()
    output.square().mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


@every_attention
@either_way
@pytest.mark.parametrize("stem", [0, 8])
@torch.no_grad()
def test_a_new_network_passes_the_noise_and_nothing_else(attention, factorised, stem):
    """adaLN-Zero: each frame's output is its own input, channel by channel, times one number."""
    torch.manual_seed(0)
    settings = {"patch_size": 2, "hidden_dim": 32, "depth": 2, "num_heads": 2, "stem_channels": stem}
    params = DiTParams.model_validate({**settings, "attention": attention, "factorised": factorised})
    case = Case()
    ratio = case.output(DiT(params, CHANNELS)) / case.xt
    assert_close(ratio, ratio[..., :1, :1].expand_as(ratio))


@torch.no_grad()
def test_a_stem_carries_detail_past_the_patches():
    """With the tokens silenced, the output still follows the positions of a patch one by one."""
    network, case = random("one_way", factorised=False), Case(targets=1, draws=1)
    torch.nn.init.zeros_(network.out.patches.weight)
    torch.nn.init.zeros_(network.pass_noise.weight)
    torch.nn.init.zeros_(network.pass_noise.bias)
    before = case.output(network)
    case.xt = case.xt.clone()
    case.xt[..., 0, 0] += 1
    difference = (case.output(network) - before).abs().amax(dim=(0, 1, 2))
    assert difference[0, 0] > 1e-4
    assert difference[:, 4:].max() == 0  # three 3x3 convolutions reach three positions
