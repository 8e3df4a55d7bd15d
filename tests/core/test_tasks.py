import numpy as np
import pytest

from vdp.core.tasks import (
    GROUP_STRIDE,
    STRIDE,
    degraded_around,
    draw_generate_hop,
    draw_interpolate_hop,
    draw_predict_hop,
    draw_restore_hop,
    interleave,
)

FITS = [(22, 11, (1, 2), 5), (22, 6, (1, 2), 5), (12, 11, (1, 2), 5), (22, 1, (1, 3, 11), 5), (8, 3, (2,), 0)]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


# --- predict -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("frames", "context", "offsets", "max_hops"), FITS)
def test_a_predict_hop_lies_in_the_clip_and_could_be_one_of_a_rollout(
    rng, frames, context, offsets, max_hops
):
    for _ in range(500):
        before, (target,) = draw_predict_hop(rng, frames, context, offsets, max_hops, 1, 0, None)
        assert len(before) == context
        assert min(before) >= 0 and max(before) < target < frames
        assert target - before[0] in offsets
        steps = [later - earlier for later, earlier in zip(before, before[1:], strict=False)]
        strided = sum(step == STRIDE for step in steps)
        assert strided <= max_hops
        # predicted frames are nearest and strided, given ones are dense
        assert steps == [STRIDE] * strided + [1] * (context - 1 - strided)


def test_hops_of_latent_frames_of_several_frames_follow_each_other(rng):
    hops = [draw_predict_hop(rng, 7, 3, (1,), 5, 1, 0, None, GROUP_STRIDE) for _ in range(300)]
    for before, (target,) in hops:
        assert before == [target - 1, target - 2, target - 3]
    assert {target for _, (target,) in hops} == {3, 4, 5, 6}


def test_every_position_offset_and_number_of_hops_is_drawn(rng):
    hops = [draw_predict_hop(rng, 22, 6, (1, 2), 5, 1, 0, None) for _ in range(3000)]
    assert {target for _, (target,) in hops} == set(range(6, 22))
    assert {min(before) for before, _ in hops} >= {0, 5, 10, 15}
    assert {target - before[0] for before, (target,) in hops} == {1, 2}
    strided = {sum(a - b == STRIDE for a, b in zip(x, x[1:], strict=False)) for x, _ in hops}
    assert strided == {0, 1, 2, 3, 4, 5}


def test_the_hops_of_the_skip_frame_rollout_are_among_those_drawn(rng):
    predicted = [12, 14, 16, 18, 20, 21]  # 0-based, of frame numbers 13, 15, 17, 19, 21 and 22
    given = list(range(10, -1, -1))
    rollout = {(tuple([*predicted[:hop][::-1], *given][:6]), target) for hop, target in enumerate(predicted)}
    hops = (draw_predict_hop(rng, 22, 6, (1, 2), 5, 1, 0, None) for _ in range(4000))
    assert rollout <= {(tuple(before), target) for before, (target,) in hops}


def test_offsets_that_do_not_fit_into_the_clip_are_not_drawn(rng):
    hops = [draw_predict_hop(rng, 8, 6, (1, 2, 3), 2, 1, 0, None) for _ in range(200)]
    assert {target - before[0] for before, (target,) in hops} == {1, 2}


def test_targets_of_one_context_have_different_offsets_while_they_last(rng):
    for _ in range(300):
        before, targets = draw_predict_hop(rng, 22, 6, (1, 2, 5), 3, 3, 0, None)
        assert [target - before[0] for target in targets] == [1, 2, 5]
        assert min(before) >= 0 and targets[-1] < 22
        before, targets = draw_predict_hop(rng, 22, 6, (1, 2), 3, 4, 0, None)
        assert len(targets) == 4 and {target - before[0] for target in targets} <= {1, 2}
        before, targets = draw_predict_hop(
            rng, 8, 4, (1, 3), 5, 2, 0, None
        )  # the clip has room for one stride
        assert min(before) >= 0 and targets[-1] < 8


def test_a_predict_hop_that_does_not_fit_is_refused(rng):
    with pytest.raises(ValueError, match="lower train_denoiser.context_frames or .*target_offsets"):
        draw_predict_hop(rng, 11, 11, (1, 2), 5, 1, 0, None)


SKIP = [12, 14, 16, 18, 20, 21]  # 0-based, of frame numbers 13, 15, 17, 19, 21 and 22


def rollout_hops(context: int, kept: int) -> set[tuple[tuple[int, ...], int]]:
    """Context frames and target of each hop of the skip-frame rollout from 11 frames."""
    hops = set()
    for hop, target in enumerate(SKIP):
        predicted = SKIP[:hop][::-1][: context - min(kept, context)]
        hops.add(((*predicted, *range(10, 10 - context + len(predicted), -1)), target))
    return hops


@pytest.mark.parametrize(("context", "kept"), [(3, 2), (3, 0), (6, 1), (1, 2), (11, 11)])
def test_all_hops_of_the_rollout_from_the_known_frames_are_drawn(rng, context, kept):
    drawn = [draw_predict_hop(rng, 22, context, (1, 2), 5, 1, kept, 11) for _ in range(600)]
    seen = {(tuple(before), target) for before, (target,) in drawn}
    assert rollout_hops(context, kept) <= seen
    assert {target for _, target in seen} == set(range(11, 22))
    for before, target in seen:
        given = [frame for frame in before if frame < 11]
        assert len(before) == context and len(given) >= min(kept, context)
        assert given == [10 - step for step in range(len(given))]
        predicted = before[: context - len(given)]
        assert set(predicted) <= set(SKIP[:5]) and list(predicted) == sorted(predicted, reverse=True)
        assert max(before) < target


@pytest.mark.parametrize("targets", [2, 3])
def test_the_last_hop_of_the_rollout_is_drawn_with_several_targets(rng, targets):
    """It has room for an offset of 1 alone."""
    drawn = [draw_predict_hop(rng, 22, 3, (1, 2), 5, targets, 2, 11) for _ in range(300)]
    seen = {(before[0], *sorted(set(after))) for before, after in drawn}
    assert seen >= {(20, 21), (18, 19, 20), (10, 11, 12)}
    assert all(len(after) == targets and after == sorted(after) and after[-1] < 22 for _, after in drawn)


@pytest.mark.parametrize("kept", [1, 2, 5])
def test_given_frames_are_kept_at_every_position_in_the_clip(rng, kept):
    for _ in range(300):
        before, (target,) = draw_predict_hop(rng, 22, 5, (1, 2), 5, 1, kept, None)
        given = before[-kept:]
        assert given == [given[0] - step for step in range(kept)] and min(before) >= 0 and target < 22
    last = {draw_predict_hop(rng, 22, 5, (1, 2), 5, 1, kept, None)[0][-1] for _ in range(300)}
    assert len(last) > 10


def test_more_context_frames_than_known_ones_are_refused(rng):
    with pytest.raises(ValueError, match="lower train_denoiser.context_frames"):
        draw_predict_hop(rng, 22, 12, (1, 2), 5, 1, 2, 11)


# --- interpolate, generate, restore ------------------------------------------------------------------------


@pytest.mark.parametrize("context", [2, 3, 6])
@pytest.mark.parametrize("targets", [1, 2])
def test_interpolated_frames_have_consecutive_context_frames_on_both_sides(rng, context, targets):
    spans, sides = set(), set()
    for _ in range(600):
        positions, drawn = draw_interpolate_hop(rng, 22, context, 5, targets)
        before, after = [p for p in positions if p < drawn[0]], [p for p in positions if p > drawn[-1]]
        assert len(before) + len(after) == context == len(set(positions)) and before and after
        assert min(positions) >= 0 and max(positions) < 22
        assert sorted(before) == [*range(min(before), max(before) + 1)]
        assert sorted(after) == [*range(min(after), max(after) + 1)]
        assert drawn == [*range(drawn[0], drawn[0] + targets)]
        spans.add(min(after) - max(before))
        sides.add(len(before))
    assert spans == set(range(targets + 1, 6))
    assert sides == set(range(1, context))


def test_every_frame_but_the_first_and_the_last_is_interpolated(rng):
    assert {draw_interpolate_hop(rng, 8, 3, 4, 1)[1][0] for _ in range(300)} == set(range(1, 7))


@pytest.mark.parametrize(("frames", "context", "span", "targets"), [(8, 1, 4, 1), (8, 6, 4, 1), (8, 2, 2, 2)])
def test_a_span_that_does_not_fit_is_refused(rng, frames, context, span, targets):
    with pytest.raises(ValueError, match="change train_denoiser.context_frames or train_denoiser.max_span"):
        draw_interpolate_hop(rng, frames, context, span, targets)


def test_interleaved_lists_alternate_until_the_shorter_one_ends():
    assert interleave([1, 2, 3], [7]) == [1, 7, 2, 3]
    assert interleave([], [7, 8]) == [7, 8]


def test_generated_frames_are_consecutive_and_have_no_context(rng):
    drawn = [draw_generate_hop(rng, 6, 2) for _ in range(100)]
    assert all(context == [] for context, _ in drawn)
    assert {tuple(targets) for _, targets in drawn} == {(n, n + 1) for n in range(5)}
    with pytest.raises(ValueError, match="lower train_denoiser.targets"):
        draw_generate_hop(rng, 6, 7)
    assert draw_generate_hop(rng, 6, 2, from_start=True) == ([], [0, 1])


def test_a_restored_frame_is_the_first_of_the_degraded_ones(rng):
    for _ in range(100):
        degraded, (target,) = draw_restore_hop(rng, 9, 4, 1)
        assert degraded[0] == target
        assert sorted(degraded) == [*range(min(degraded), min(degraded) + 4)]
        assert min(degraded) >= 0 and max(degraded) < 9


@pytest.mark.parametrize(
    ("targets", "frames", "count", "around"),
    [
        ([5], 20, 5, [5, 4, 6, 3, 7]),
        ([0], 20, 3, [0, 1, 2]),
        ([19], 20, 3, [19, 18, 17]),
        ([5, 6, 7], 20, 1, [5, 6, 7]),
        ([1], 2, 5, [1, 0]),
    ],
)
def test_degraded_frames_surround_their_targets_within_the_clip(targets, frames, count, around):
    assert degraded_around(targets, frames, count) == around
