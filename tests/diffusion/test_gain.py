import pytest
import torch
from torch import Tensor

from tests.oracle import Oracle, OracleContext, moving_clips
from tests.processes import objective_of
from vdp.diffusion.gain import HeldOutClips, fit_gains, gain_rows, gains_at

KNOWN, LATER = 5, 3
TRUTH = moving_clips(batch=3, channels=2, height=4, width=5)
FLOW = objective_of("flow", "flow", torch.tensor([0.5, 2.0]), True)
TIMES = torch.arange(float(KNOWN + LATER)).expand(3, -1)
FRAMES = TRUTH(TIMES)
COMPOSED = FRAMES[:, :, KNOWN - 1 : KNOWN] + 0.3 * torch.randn(
    (3, 2, LATER, 4, 5), generator=torch.Generator().manual_seed(0)
)


@pytest.mark.parametrize("share", [(1.0, 1.0, 1.0), (0.8, 0.5, 0.0), (0.9, -0.5, 1.4)])
def test_the_gain_of_a_frame_is_the_part_of_its_change_that_is_true(share):
    """The network predicts the whole change to its own frames; of each, a share is true."""
    own = FRAMES[:, :, KNOWN:]
    truth = COMPOSED + torch.tensor(share)[None, None, :, None, None] * (own - COMPOSED)
    oracle = Oracle(TRUTH, FLOW)
    clips = HeldOutClips(FRAMES[:, :, :KNOWN], COMPOSED, truth)
    gains = fit_gains(oracle, clips, FLOW, steps=2, context_frames=3, given_frames=2)
    assert gains == pytest.approx([min(max(s, 0.0), 1.0) for s in share], abs=1e-3)
    # the composed frame, then the nearest of the others, two of them given
    assert oracle.indices == [[5, 4, 3, 2], [6, 5, 4, 3], [7, 6, 4, 3]]


class Inexact(Oracle):
    """Errs by a constant in its output, and does not know frames far from those of the training."""

    error = 0.01

    def __call__(self, xt: Tensor, t: Tensor, context: OracleContext) -> Tensor:
        return super().__call__(xt.clamp(-5, 5), t, context) + self.error


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_a_network_that_predicts_eps_is_used_where_its_changes_are_true(name):
    """At pure noise the smallest error of eps would be an error of x0 of thousands."""
    objective = objective_of(name, "eps", torch.tensor([0.5, 2.0]), True)
    clips = HeldOutClips(FRAMES[:, :, :KNOWN], COMPOSED, FRAMES[:, :, KNOWN:])
    gains = fit_gains(Inexact(TRUTH, objective), clips, objective, 10, context_frames=3, given_frames=2)
    assert gains is not None and min(gains) > 0.8


@pytest.mark.parametrize("error", [float("nan"), float("inf"), 1e30])
def test_predictions_that_are_not_finite_have_no_gains(error):
    network = Inexact(TRUTH, FLOW)
    network.error = error
    clips = HeldOutClips(FRAMES[:, :, :KNOWN], COMPOSED, FRAMES[:, :, KNOWN:])
    assert fit_gains(network, clips, FLOW, steps=2, context_frames=3, given_frames=2) is None


@pytest.mark.parametrize(("count", "measured"), [(0, 0), (1, 1), (7, 7), (8, 4), (9, 4), (100, 50)])
def test_half_of_the_held_out_clips_are_kept_for_scores_where_there_are_enough(count, measured):
    assert gain_rows(count) == range(measured)


def test_later_frames_than_measured_have_the_last_gain():
    steps = torch.tensor([[1.0, 2.0, 9.0]])
    assert gains_at([0.9, 0.4], steps)[0].tolist() == pytest.approx([0.9, 0.4, 0.4])
