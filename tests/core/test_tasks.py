import numpy as np
import pytest
import torch

from vdp.core.context_frames import anchor_frames, blended_frames, distance, nearest_frames, nearest_known
from vdp.core.tasks import STRIDE, degraded_around, draw_between, draw_degraded, draw_free, draw_hop, in_turn


def test_a_change_is_measured_from_the_nearest_known_frame():
    known = torch.tensor([[0.0, 1.0, 2.0, 9.0], [5.0, 4.0, 3.0, 2.0]])
    targets = torch.tensor([[4.0, 8.0, -3.0], [2.4, 6.0, 4.1]])
    assert nearest_known(known, targets).tolist() == [[2, 3, 0], [3, 0, 1]]


@pytest.mark.parametrize("known", [[4.0, 6.0], [6.0, 4.0], [0.0, 6.0, 4.0]])
def test_of_two_known_frames_equally_near_the_later_one_is_taken(known):
    position = nearest_known(torch.tensor([known]), torch.tensor([[5.0]])).item()
    assert known[position] == 6


def test_the_tie_is_too_small_to_make_a_farther_frame_the_nearest():
    known = torch.tensor([[4.0, 6.001]])
    assert nearest_known(known, torch.tensor([[5.0]])).item() == 0


def test_distances_are_in_frames_and_a_known_target_is_at_none():
    far = distance(torch.tensor([[0.0, 2.0, 3.5]]), torch.tensor([[2.0]]))
    torch.testing.assert_close(far, torch.tensor([[[2.0, 0.0, 1.5]]]), atol=1e-3, rtol=0)
    assert far[0, 0, 1] == 0


def test_without_a_known_frame_there_is_nothing_to_measure_a_change_from():
    with pytest.raises(ValueError, match="expected at least one"):
        nearest_known(torch.zeros(1, 0), torch.zeros(1, 1))


def test_the_anchor_of_each_target_is_its_own_clip_s_frame():
    known = torch.arange(2 * 3 * 4).reshape(2, 1, 12, 1, 1).float()[:, :, :4].expand(2, 3, 4, 2, 2)
    index = torch.tensor([[0.0, 1.0, 2.0, 3.0], [3.0, 2.0, 1.0, 0.0]])
    target_index = torch.tensor([[7.0, 0.2], [7.0, 0.2]])
    anchor = anchor_frames(known, index, target_index)
    assert anchor.shape == (2, 3, 2, 2, 2)
    assert anchor[:, 0, :, 0, 0].tolist() == [[3, 0], [12, 15]]


# --- Hops of a rollout, for training ---------------------------------------------------------------------

FITS = [(22, 11, (1, 2), 5), (22, 6, (1, 2), 5), (12, 11, (1, 2), 5), (22, 1, (1, 3, 11), 5), (8, 3, (2,), 0)]


@pytest.mark.parametrize(("frames", "known", "gaps", "max_hops"), FITS)
def test_every_hop_lies_in_the_clip_and_could_be_one_of_a_rollout(frames, known, gaps, max_hops):
    rng = np.random.default_rng(0)
    for _ in range(500):
        before, (target,) = draw_hop(rng, frames, known, gaps, max_hops, 1)
        assert len(before) == known
        assert min(before) >= 0 and max(before) < target < frames
        assert before == sorted(before, reverse=True)  # nearest first
        assert target - before[0] in gaps
        steps = [later - earlier for later, earlier in zip(before, before[1:], strict=False)]
        strided = sum(step == STRIDE for step in steps)
        assert strided <= max_hops
        # what the rollout made is strided and nearest; what it was given is dense and behind
        assert steps == [STRIDE] * strided + [1] * (known - 1 - strided)


def test_every_place_gap_and_number_of_hops_comes_up():
    rng = np.random.default_rng(0)
    hops = [draw_hop(rng, 22, 6, (1, 2), 5, 1) for _ in range(3000)]
    assert {target for _, (target,) in hops} == set(range(6, 22))
    assert {min(before) for before, _ in hops} >= {0, 5, 10, 15}
    assert {target - before[0] for before, (target,) in hops} == {1, 2}
    strided = {sum(a - b == STRIDE for a, b in zip(x, x[1:], strict=False)) for x, _ in hops}
    assert strided == {0, 1, 2, 3, 4, 5}


def test_the_skip_frame_rollout_s_own_hops_are_among_those_drawn():
    """Known frames nearest first, 0-based, and the target, for frame numbers 13, 15, 17, 19, 21 and 22."""
    made = [12, 14, 16, 18, 20, 21]
    given = list(range(10, -1, -1))
    wanted = {(tuple([*made[:hop][::-1], *given][:6]), target) for hop, target in enumerate(made)}
    rng = np.random.default_rng(0)
    drawn = {
        (tuple(before), target)
        for before, (target,) in (draw_hop(rng, 22, 6, (1, 2), 5, 1) for _ in range(4000))
    }
    assert wanted <= drawn


def test_gaps_too_long_for_the_clips_are_not_drawn():
    rng = np.random.default_rng(0)
    hops = [draw_hop(rng, 8, 6, (1, 2, 3), 2, 1) for _ in range(200)]
    assert {target - before[0] for before, (target,) in hops} == {1, 2}


def test_several_targets_of_one_context_lie_at_different_gaps_where_gaps_suffice():
    rng = np.random.default_rng(0)
    for _ in range(300):
        before, targets = draw_hop(rng, 22, 6, (1, 2, 5), 3, 3)
        assert [target - before[0] for target in targets] == [1, 2, 5]
        assert min(before) >= 0 and targets[-1] < 22
        before, targets = draw_hop(rng, 22, 6, (1, 2), 3, 4)
        assert len(targets) == 4 and {target - before[0] for target in targets} <= {1, 2}
        before, targets = draw_hop(rng, 8, 4, (1, 3), 5, 2)  # the farthest target leaves room for one stride
        assert min(before) >= 0 and targets[-1] < 8


def test_the_nearest_frames_come_nearest_first_with_their_times_and_noise():
    frames = torch.arange(2 * 5).reshape(2, 1, 5, 1, 1).float()
    index = torch.tensor([[0.0, 4.0, 2.0, 9.0, 6.0]]).expand(2, -1)
    level, target = index / 10, torch.tensor([[7.0], [1.5]])
    near, times, levels = nearest_frames(frames, index, level, target, 3)
    assert times.tolist() == [[6, 9, 4], [2, 0, 4]]
    assert near[:, 0, :, 0, 0].tolist() == [[4, 3, 1], [7, 5, 6]]
    assert torch.equal(levels, times / 10)
    assert nearest_frames(frames, index, level, target, 9)[1].shape == (2, 5)


def test_equal_generators_draw_equal_hops():
    first, again = (
        [draw_hop(np.random.default_rng(s), 22, 6, (1, 2), 5, 1) for s in range(9)] for _ in range(2)
    )
    assert first == again


def test_hops_that_do_not_fit_into_the_clips_are_refused():
    with pytest.raises(
        ValueError, match="lower train_denoiser.context_frames or train_denoiser.target_offsets"
    ):
        draw_hop(np.random.default_rng(0), 11, 11, (1, 2), 5, 1)


# --- Other tasks than predict ----------------------------------------------------------------------------


@pytest.mark.parametrize("known", [2, 3, 6])
@pytest.mark.parametrize("targets", [1, 2])
def test_interpolated_frames_lie_in_a_gap_with_known_ones_on_both_sides(known, targets):
    rng, widths, sides = np.random.default_rng(0), set(), set()
    for _ in range(600):
        positions, wanted = draw_between(rng, 22, known, 5, targets)
        before, after = [p for p in positions if p < wanted[0]], [p for p in positions if p > wanted[-1]]
        assert len(before) + len(after) == known == len(set(positions)) and before and after
        assert min(positions) >= 0 and max(positions) < 22
        assert sorted(before) == [*range(min(before), max(before) + 1)]
        assert sorted(after) == [*range(min(after), max(after) + 1)]
        assert wanted == [*range(wanted[0], wanted[0] + targets)]
        widths.add(min(after) - max(before))
        sides.add(len(before))
    assert widths == set(range(targets + 1, 6))
    assert sides == set(range(1, known))


def test_interpolation_reaches_every_frame_but_the_ends():
    rng = np.random.default_rng(0)
    wanted = {draw_between(rng, 8, 3, 4, 1)[1][0] for _ in range(300)}
    assert wanted == set(range(1, 7))


@pytest.mark.parametrize(("frames", "known", "span", "targets"), [(8, 1, 4, 1), (8, 6, 4, 1), (8, 2, 2, 2)])
def test_a_gap_that_does_not_fit_is_refused(frames, known, span, targets):
    with pytest.raises(ValueError, match="change train_denoiser.context_frames or train_denoiser.max_span"):
        draw_between(np.random.default_rng(0), frames, known, span, targets)


def test_nothing_is_known_of_generated_frames():
    rng = np.random.default_rng(0)
    drawn = [draw_free(rng, 6, 2) for _ in range(100)]
    assert all(known == [] for known, _ in drawn)
    assert {tuple(wanted) for _, wanted in drawn} == {(n, n + 1) for n in range(5)}
    with pytest.raises(ValueError, match="hop: 7 frames at once"):
        draw_free(rng, 6, 7)


def test_a_restored_frame_is_among_the_degraded_ones_and_comes_first():
    rng = np.random.default_rng(0)
    for _ in range(100):
        known, (wanted,) = draw_degraded(rng, 9, 4, 1)
        assert known[0] == wanted
        assert sorted(known) == [*range(min(known), min(known) + 4)] and min(known) >= 0 and max(known) < 9


@pytest.mark.parametrize(
    ("wanted", "frames", "count", "around"),
    [
        ([5], 20, 5, [5, 4, 6, 3, 7]),
        ([0], 20, 3, [0, 1, 2]),
        ([19], 20, 3, [19, 18, 17]),
        ([5, 6, 7], 20, 1, [5, 6, 7]),
        ([1], 2, 5, [1, 0]),
    ],
)
def test_degraded_frames_stand_around_their_target_as_far_as_the_clip_goes(wanted, frames, count, around):
    assert degraded_around(wanted, frames, count) == around


def test_items_of_two_lists_come_in_turn():
    assert in_turn([1, 2, 3], [7]) == [1, 7, 2, 3]
    assert in_turn([], [7, 8]) == [7, 8]


def test_where_nothing_is_known_a_target_starts_from_zero():
    known, index = torch.ones(2, 3, 0, 4, 5), torch.zeros(2, 0)
    assert torch.equal(anchor_frames(known, index, torch.ones(2, 2)), torch.zeros(2, 3, 2, 4, 5))


def test_between_known_frames_a_blend_is_the_straight_line_and_beyond_them_the_nearest():
    index = torch.tensor([[8.0, 2.0, 4.0, 9.0]])
    known = 10 * index[:, None, :, None, None].expand(-1, 2, -1, 1, 1)
    target = torch.tensor([[5.0, 7.5, 4.0, 8.5, 1.0, 30.0, 3.0]])
    blend = blended_frames(known, index, target)[0, 1, :, 0, 0]
    torch.testing.assert_close(blend, torch.tensor([50.0, 75.0, 40.0, 85.0, 20.0, 90.0, 30.0]))
