"""The DiT against one masked pass over all tokens; the protocol is tested in test_denoisers.py."""

import pytest
import torch
from einops import rearrange, repeat
from torch import Tensor

from tests.models.denoiser_cases import Case, assert_close, every_dit, new_denoiser, random_denoiser
from vdp.core.context_frames import nearest_context
from vdp.models.denoisers.dit import ROPE_BASE, Block, DiT

pytestmark = pytest.mark.slow


def complex_rope(x: Tensor, position: Tensor) -> Tensor:
    """RoPE in complex numbers: x (B, H, L, D/H) at positions (B, L, 3)."""
    pairs = x.shape[-1] // 2
    rates = torch.zeros(3, pairs)
    at = 0
    for axis, count in enumerate((pairs // 2, pairs // 4, pairs // 4)):
        for i in range(count):
            rates[axis, at + i] = ROPE_BASE ** (-i / count)
        at += count
    angle = (position @ rates)[:, None]
    z = torch.complex(x[..., :pairs], x[..., pairs:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([z.real, z.imag], dim=-1)


def masked_block(
    block: Block, x: Tensor, embedding: Tensor, position: Tensor, mask: Tensor, frame: Tensor
) -> Tensor:
    """A block over all tokens (B, L, D) in one sequence under an attention mask (L, L)."""
    parts = rearrange(block.modulation(embedding), "b l (p three d) -> p three b l d", three=3, d=x.shape[-1])
    plane = position[0, :, 1:]
    same_patch = (plane[:, None] == plane[None]).all(dim=-1)
    attentions = [(block.frames, mask)]
    if block.space is not None:
        attentions = [(block.space, frame[:, None] == frame[None]), (block.frames, mask & same_patch)]
    norm = block.norm
    for (weights, allowed), (shift, scale, gate) in zip(attentions, parts[:-1], strict=True):
        q, k, v = weights.qkv(norm(x) * (1 + scale) + shift).chunk(3, dim=-1)
        q, k, v = (rearrange(y, "b l (h d) -> b h l d", h=weights.heads) for y in (q, k, v))
        q, k = complex_rope(weights.query_norm(q), position), complex_rope(weights.key_norm(k), position)
        scores = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).masked_fill(~allowed, -torch.inf)
        x = x + gate * weights.proj(rearrange(scores.softmax(dim=-1) @ v, "b h l d -> b l (h d)"))
    shift, scale, gate = parts[-1]
    return x + gate * block.mlp(norm(x) * (1 + scale) + shift)


def single_pass(network: DiT, case: Case) -> Tensor:
    """The DiT without cache or groups: all context and all noised tokens in one sequence under one mask."""
    count, known, targets = case.xt.shape[2], case.frames.shape[2], case.target_index.shape[1]
    draws = count // targets
    anchor = nearest_context(case.frames, case.index, case.target_index)
    anchor = repeat(anchor, "b c n h w -> b c (n r) h w", r=draws)
    before, _ = network.known_in(case.frames)
    after, local = network.noisy_in(torch.cat([case.xt, anchor], dim=1))
    patches = before.shape[2]
    x = torch.cat([before, after], dim=1).flatten(1, 2)
    level = torch.cat([network._embed(case.level, 0), network._embed(case.t, 1)], dim=1)
    embedding = repeat(level, "b f d -> b (f n) d", n=patches)
    times = torch.cat([case.index, repeat(case.target_index, "b n -> b (n r)", r=draws)], dim=1)
    columns = -(-case.xt.shape[4] // network.out.patch[1])
    token = torch.arange(patches)
    plane = torch.stack([token // columns, token % columns], dim=-1).float()
    plane = repeat(plane, "n two -> b (f n) two", b=2, f=known + count)
    position = torch.cat([repeat(times, "b f -> b (f n) 1", n=patches), plane], dim=-1)
    frame = torch.arange(known + count).repeat_interleave(patches)
    group = frame - known  # one_way: each noised frame is a group
    if network.attention != "one_way":
        group = group % draws
    mask = (frame[None] < known) | ((frame[:, None] >= known) & (group[:, None] == group[None]))
    if network.attention == "joint":
        assert draws == 1, "with joint attention the context frames depend on the draw"
        mask = torch.ones_like(mask)
    for block in network.layers:
        x = masked_block(block, x, embedding, position, mask, frame)
    shift, scale = network.modulation(embedding).chunk(2, dim=-1)
    x = (network.norm(x) * (1 + scale) + shift)[:, known * patches :]
    frames = network.out(rearrange(x, "b (f n) d -> (b f) n d", f=count), local)
    gate = network.pass_noise(level[:, known:]).transpose(1, 2)[..., None, None]
    return rearrange(frames, "(b f) c h w -> b c f h w", b=2) + gate * case.xt


@every_dit
@pytest.mark.parametrize("depth", [1, 3])
@torch.no_grad()
def test_output_equals_one_pass_over_all_tokens_under_a_mask(name, depth):
    network = random_denoiser(name, depth=depth)
    case = Case(targets=3, draws=1 if "joint" in name else 2, height=3, width=5)
    assert_close(case.output(network), single_pass(network, case))


@pytest.mark.parametrize(("name", "depends"), [("dit-block", False), ("dit-joint", True)])
@torch.no_grad()
def test_context_tokens_depend_on_noised_frames_in_joint_attention_only(name, depends):
    network, case = random_denoiser(name), Case(draws=1)
    outputs: list[Tensor] = []
    known = case.frames.shape[2]
    network.layers[0].register_forward_hook(lambda block, inputs, output: outputs.append(output[0]))
    for value in (0.0, 1.0):
        case.xt[:, :, 1] = value
        case.output(network)
    first, second = (x[:, :known] for x in outputs if x.shape[1] >= known)
    assert ((first - second).abs().max() > 1e-4) == depends


@every_dit
def test_gradients_reach_every_role(name):
    network, case = random_denoiser(name), Case()
    case.dropped = torch.tensor([True, False])
    case.output(network).square().mean().backward()
    assert network.role.grad.any(dim=1).all()


@every_dit
@torch.no_grad()
def test_a_new_network_scales_the_noise_of_each_channel(name):
    """adaLN-Zero."""
    case = Case()
    ratio = case.output(new_denoiser(name)) / case.xt
    assert_close(ratio, ratio[..., :1, :1].expand_as(ratio))


@torch.no_grad()
def test_the_stem_passes_detail_around_the_patches():
    network, case = random_denoiser("dit-one_way"), Case(targets=1, draws=1)
    torch.nn.init.zeros_(network.out.patches.weight)
    torch.nn.init.zeros_(network.pass_noise.weight)
    torch.nn.init.zeros_(network.pass_noise.bias)
    before = case.output(network)
    case.xt[..., 0, 0] += 1
    difference = (case.output(network) - before).abs().amax(dim=(0, 1, 2))
    assert difference[0, 0] > 1e-4
    assert difference[:, 4:].max() == 0  # three 3x3 convolutions reach three positions


def test_patches_of_two_sides_cover_rows_and_columns():
    """Of 6 rows and 9 columns, patches of 1 x 4 are 6 x 3 tokens; the output has the size of the input."""
    network, case = random_denoiser("dit-patches-of-two-sides"), Case()
    assert case.context(network).tokens.x.shape[2] == 18
    tokens, _ = network.known_in(case.frames)
    changed = case.frames.clone()
    changed[..., 2, 4:8] += 1  # all of the second patch of the third row, of latents without a stem
    without = random_denoiser("dit-patches-of-two-sides", stem_channels=0)
    before, after = (without.known_in(frames)[0] for frames in (case.frames, changed))
    assert ((before != after).any(dim=-1).sum(dim=-1) == 1).all() and tokens.shape == before.shape
    assert (before != after).any(dim=-1)[0, 0].nonzero().item() == 2 * 3 + 1


def test_equal_sides_as_a_pair_are_the_same_network():
    one, pair = (random_denoiser("dit-one_way", patch_size=size) for size in (2, (2, 2)))
    assert torch.equal(Case().output(one), Case().output(pair))
