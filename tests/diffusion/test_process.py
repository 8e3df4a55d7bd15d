import pytest
import torch
from torch import Tensor

from tests.processes import (
    NOISE_AT_END,
    PREDICTIONS,
    every_prediction,
    every_schedule,
    process_of,
    schedule_of,
)
from vdp.diffusion.process import Process, add_noise, alpha_sigma, min_snr_weight, predict_x0_eps, target


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def times(*clips: list[float]) -> Tensor:
    return torch.tensor(clips, dtype=torch.float64)


INSIDE = times([0.001, 0.02, 0.3, 0.5, 0.7], [0.8, 0.9, 0.95, 0.99, 0.999])
X0, NOISE = normal(0, 2, 3, 5, 4, 6), normal(1, 2, 3, 5, 4, 6)


# --- Noise and training targets --------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "left"), [("linear", 0.0064), ("cosine", 5e-5), ("sigmoid", 0.0064)])
def test_other_schedules_keep_some_signal_at_time_one(name, left):
    xt = add_noise(X0, torch.zeros_like(X0), torch.ones(2, 5, dtype=torch.float64), schedule_of(name))
    torch.testing.assert_close(xt, left * X0, rtol=0.05, atol=0)


@every_schedule
def test_targets_have_one_definition_on_every_schedule(name):
    alpha, sigma = alpha_sigma(INSIDE, schedule_of(name))
    expected = {"flow": NOISE - X0, "v": alpha * NOISE - sigma * X0, "eps": NOISE, "x0": X0}
    for prediction in PREDICTIONS:
        assert torch.equal(target(X0, NOISE, INSIDE, process_of(name, prediction)), expected[prediction])


@every_schedule
def test_each_frame_of_each_clip_is_noised_to_its_own_time(name):
    schedule = schedule_of(name)
    xt = add_noise(X0, NOISE, INSIDE, schedule)
    for clip in range(2):
        for frame in range(5):
            at = (slice(clip, clip + 1), slice(None), slice(frame, frame + 1))
            single = add_noise(X0[at], NOISE[at], INSIDE[clip : clip + 1, frame : frame + 1], schedule)
            torch.testing.assert_close(single, xt[at])


@pytest.mark.parametrize("shape", [(2, 4), (3, 5), (2,), (2, 1)])
def test_times_of_another_shape_are_rejected(shape):
    x0 = torch.zeros(2, 3, 5, 4, 6)
    with pytest.raises(ValueError, match=r"t: expected .*\(2, 5\)"):
        add_noise(x0, x0, torch.zeros(shape), schedule_of("flow"))


# --- Predicted x0 and eps --------------------------------------------------------------------------------


def recovered(process: Process, t: Tensor) -> tuple[Tensor, Tensor]:
    """x0 and eps of a perfect network."""
    xt = add_noise(X0, NOISE, t, process.schedule)
    return predict_x0_eps(xt, target(X0, NOISE, t, process), t, process)


@every_schedule
@every_prediction
def test_x0_and_eps_are_recovered_from_the_target(name, prediction):
    clean, eps = recovered(process_of(name, prediction), INSIDE)
    torch.testing.assert_close(clean, X0, atol=1e-9, rtol=0)
    torch.testing.assert_close(eps, NOISE, atol=1e-9, rtol=0)


@every_schedule
@pytest.mark.parametrize("prediction", ["flow", "v"])
@pytest.mark.parametrize("t", [0.0, 1.0])
def test_velocities_determine_x0_and_eps_at_both_ends_of_time(name, prediction, t):
    clean, eps = recovered(process_of(name, prediction), torch.full((2, 5), t, dtype=torch.float64))
    torch.testing.assert_close(clean, X0, atol=1e-12, rtol=0)
    torch.testing.assert_close(eps, NOISE, atol=1e-12, rtol=0)


@every_schedule
def test_eps_determines_x0_at_time_zero_and_x0_determines_eps_at_time_one(name):
    start, end = torch.zeros(2, 5, dtype=torch.float64), torch.ones(2, 5, dtype=torch.float64)
    assert torch.equal(recovered(process_of(name, "eps"), start)[0], X0)
    clean, eps = recovered(process_of(name, "x0"), end)
    assert torch.equal(clean, X0)
    torch.testing.assert_close(eps, NOISE, atol=1e-12, rtol=0)


@every_schedule
def test_eps_of_prediction_x0_is_zero_at_time_zero_with_a_finite_gradient(name):
    t = times([0.0, 0.5, 0.0, 1.0, 0.2], [0.0, 0.1, 1.0, 0.0, 0.9])
    output = NOISE.clone().requires_grad_()
    clean, eps = predict_x0_eps(X0, output, t, process_of(name, "x0"))
    assert torch.equal(clean, output)
    noiseless = (t == 0)[:, None, :, None, None].expand_as(eps)
    assert torch.equal(eps == 0, noiseless)
    (gradient,) = torch.autograd.grad(eps.sum(), output)
    assert gradient.isfinite().all()
    assert torch.equal(gradient == 0, noiseless | (alpha_sigma(t, schedule_of(name))[0] == 0).expand_as(eps))


@every_schedule
@every_prediction
@pytest.mark.parametrize("other", PREDICTIONS)
def test_predictions_convert_into_each_other(name, prediction, other):
    process, converted = process_of(name, prediction), process_of(name, other)
    xt = add_noise(X0, NOISE, INSIDE, process.schedule)
    x0, eps = predict_x0_eps(xt, normal(2, *X0.shape), INSIDE, process)
    torch.testing.assert_close(add_noise(x0, eps, INSIDE, process.schedule), xt, atol=1e-9, rtol=0)
    again = predict_x0_eps(xt, target(x0, eps, INSIDE, converted), INSIDE, converted)
    torch.testing.assert_close(again, (x0, eps), atol=1e-7, rtol=1e-9)


# --- Min-SNR weight --------------------------------------------------------------------------------------


@every_schedule
@every_prediction
@pytest.mark.parametrize("gamma", [0.5, 5.0])
def test_min_snr_weight_is_the_clamped_snr_in_units_of_x0(name, prediction, gamma):
    """If a change d of the output changes x0 by e, then weight d^2 = min(SNR, gamma) e^2."""
    process = process_of(name, prediction)
    xt, output, change = X0, NOISE, 0.1
    x0, _ = predict_x0_eps(xt, output, INSIDE, process)
    moved, _ = predict_x0_eps(xt, output + change, INSIDE, process)
    alpha, sigma = process.schedule(INSIDE)
    expected = (alpha / sigma).square().clamp(max=gamma) * (moved - x0)[:, 0, :, 0, 0].square()
    torch.testing.assert_close(
        min_snr_weight(INSIDE, process, gamma) * change**2, expected, rtol=1e-6, atol=1e-15
    )


@every_schedule
@every_prediction
def test_min_snr_weight_is_finite_and_nonnegative_at_all_times(name, prediction):
    t = torch.linspace(0, 1, 101)[None]
    weight = min_snr_weight(t, process_of(name, prediction), 5.0)
    assert weight.shape == t.shape
    assert weight.dtype == t.dtype
    assert weight.isfinite().all()
    assert (weight >= 0).all()


@pytest.mark.parametrize(
    ("prediction", "clean", "pure_noise"), [("x0", 5, 0), ("eps", 0, 1), ("v", 0, 0), ("flow", 0, 0)]
)
@pytest.mark.parametrize("name", NOISE_AT_END)
def test_min_snr_weight_at_both_ends_of_time(name, prediction, clean, pure_noise):
    weight = min_snr_weight(times([0.0, 1.0]), process_of(name, prediction), 5.0)
    assert weight.tolist() == [[clean, pure_noise]]


def test_gamma_clamps_the_snr():
    process = process_of("flow", "x0")
    alpha, sigma = process.schedule(INSIDE)
    torch.testing.assert_close(min_snr_weight(INSIDE, process, 1e9), (alpha / sigma).square())
    assert torch.equal(min_snr_weight(INSIDE, process, 1e-9), torch.full_like(INSIDE, 1e-9))
