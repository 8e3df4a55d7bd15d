import pytest
import torch

from vdp.core.context_frames import blended_frames, distance, nearest_context, nearest_frames


def frames_of(index: torch.Tensor) -> torch.Tensor:
    """Latents (B, 2, K, 1, 1) whose values are their frame indices (B, K)."""
    return index[:, None, :, None, None].expand(-1, 2, -1, 1, 1)


def nearest(index: list[list[float]], targets: list[list[float]]) -> list[list[float]]:
    """Frame indices of the context frames nearest to the targets."""
    times = torch.tensor(index)
    return nearest_context(frames_of(times), times, torch.tensor(targets))[:, 1, :, 0, 0].tolist()


def test_the_nearest_context_frame_of_each_target_is_selected_in_its_own_clip():
    index = [[0.0, 1.0, 2.0, 9.0], [5.0, 4.0, 3.0, 2.0]]
    targets = [[4.0, 8.0, -3.0], [2.4, 6.0, 4.1]]
    assert nearest(index, targets) == [[2, 9, 0], [2, 5, 4]]


@pytest.mark.parametrize("index", [[4.0, 6.0], [6.0, 4.0], [0.0, 6.0, 4.0]])
def test_of_two_equally_near_frames_the_later_one_is_selected(index):
    assert nearest([index], [[5.0]]) == [[6]]


def test_the_tie_bonus_does_not_make_a_farther_frame_the_nearest():
    assert nearest([[4.0, 6.001]], [[5.0]]) == [[4]]


def test_without_context_the_nearest_frame_is_zero():
    known, index = torch.ones(2, 3, 0, 4, 5), torch.zeros(2, 0)
    assert torch.equal(nearest_context(known, index, torch.ones(2, 2)), torch.zeros(2, 3, 2, 4, 5))


def test_distances_are_in_frames_and_zero_at_the_target():
    far = distance(torch.tensor([[0.0, 2.0, 3.5]]), torch.tensor([[2.0]]))
    torch.testing.assert_close(far, torch.tensor([[[2.0, 0.0, 1.5]]]), atol=1e-3, rtol=0)
    assert far[0, 0, 1] == 0


def test_the_nearest_frames_are_sorted_with_their_indices_and_levels():
    frames = torch.arange(2 * 5).reshape(2, 1, 5, 1, 1).float()
    index = torch.tensor([[0.0, 4.0, 2.0, 9.0, 6.0]]).expand(2, -1)
    level, target = index / 10, torch.tensor([[7.0], [1.5]])
    near, times, levels = nearest_frames(frames, index, level, target, 3, given=5, kept=0)
    assert times.tolist() == [[6, 9, 4], [2, 0, 4]]
    assert near[:, 0, :, 0, 0].tolist() == [[4, 3, 1], [7, 5, 6]]
    assert torch.equal(levels, times / 10)
    assert nearest_frames(frames, index, level, target, 9, given=5, kept=0)[1].shape == (2, 5)


def test_a_blend_is_linear_between_context_frames_and_constant_beyond_them():
    index = torch.tensor([[8.0, 2.0, 4.0, 9.0]])
    target = torch.tensor([[5.0, 7.5, 4.0, 8.5, 1.0, 30.0, 3.0]])
    blend = blended_frames(10 * frames_of(index), index, target)[0, 1, :, 0, 0]
    torch.testing.assert_close(blend, torch.tensor([50.0, 75.0, 40.0, 85.0, 20.0, 90.0, 30.0]))


GIVEN = [*range(11)]
PREDICTED = [12, 14, 16, 18, 20]


def selected(target: float, count: int, kept: int, given: int = 11) -> list[float]:
    """Indices of the context frames of a rollout from 11 frames that has predicted five."""
    index = torch.tensor([[float(n) for n in [*GIVEN, *PREDICTED]]])
    frames, times, levels = nearest_frames(
        frames_of(index), index, index / 10, torch.tensor([[target]]), count, given, kept
    )
    assert torch.equal(frames[:, 1, :, 0, 0], times) and torch.equal(levels, times / 10)
    return times[0].tolist()


@pytest.mark.parametrize(
    ("count", "kept", "expected"),
    [
        (3, 0, [20, 18, 16]),
        (3, 1, [20, 18, 10]),
        (3, 2, [20, 10, 9]),
        (3, 3, [10, 9, 8]),
        (1, 1, [10]),
        (7, 1, [20, 18, 16, 14, 12, 10, 9]),
        (99, 2, [*reversed(PREDICTED), *reversed(GIVEN)]),
    ],
)
def test_the_nearest_given_frames_never_leave_the_context(count, kept, expected):
    assert selected(21.0, count, kept) == expected


def test_given_frames_among_the_nearest_are_not_selected_twice():
    assert selected(11.0, 3, 2) == [12, 10, 9]
    assert selected(5.5, 4, 2) == [6, 5, 7, 4]
    assert selected(21.0, 4, 3, given=2) == [20, 18, 1, 0]  # no more are given


def test_given_frames_are_kept_in_each_clip_by_its_own_target():
    index = torch.tensor([[0.0, 1.0, 2.0, 8.0, 9.0]]).expand(2, -1)
    target = torch.tensor([[10.0], [0.4]])
    _, times, _ = nearest_frames(frames_of(index), index, index, target, 2, given=3, kept=1)
    assert times.tolist() == [[9, 2], [0, 1]]
