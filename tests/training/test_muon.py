"""Muon: orthogonal updates of matrices, AdamW for the rest, and exact resume."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tests.training.process import Job, run
from tests.training.small import fit_params
from vdp.training.muon import ITERATIONS, Muon, orthogonalise, orthogonalise_flops
from vdp.training.optim import BETAS, make_optimizer

MUON: dict[str, object] = {"optimizer": "muon", "steps": 10, "validate_every": 5}


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(8, 8), (8, 72), (72, 8), (1, 9)])
def test_an_orthogonalised_matrix_has_singular_values_near_one(shape):
    values = torch.linalg.svdvals(orthogonalise(noise(*shape)))
    assert values.min() > 0.6 and values.max() < 1.25


def test_orthogonalising_keeps_the_singular_vectors():
    """The result is an odd polynomial of the matrix: U f(S) V^T with each f of s > 0 positive."""
    matrix = noise(6, 20)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    inner = left.mT @ orthogonalise(matrix) @ right.mT
    torch.testing.assert_close(inner, torch.diag(inner.diagonal()), atol=1e-5, rtol=0)
    assert (inner.diagonal() > 0.6).all()


def test_the_iterations_on_the_gram_matrix_equal_those_on_the_matrix():
    x = matrix = noise(16, 144)
    x = x / x.norm()
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    torch.testing.assert_close(orthogonalise(matrix), x, atol=1e-4, rtol=1e-3)


def test_the_scale_of_a_gradient_does_not_matter():
    torch.testing.assert_close(orthogonalise(1e4 * noise(4, 9)), orthogonalise(noise(4, 9)))


@pytest.mark.parametrize("shape", [(8, 72), (72, 8), (8, 8)])
def test_flops_are_those_that_torch_counts(shape):
    with FlopCounterMode(display=False) as counter:
        orthogonalise(noise(*shape))
    assert counter.get_total_flops() == orthogonalise_flops(min(shape), max(shape))


def test_an_update_of_a_kernel_has_the_root_mean_square_of_adamw():
    """Of orthogonal rows, times 0.2 sqrt(the longer side): about 0.2 for any shape."""
    kernel = nn.Parameter(torch.zeros(16, 8, 3, 3))
    kernel.grad = noise(16, 8, 3, 3)
    Muon([kernel], [], 1e-2, 0.0, BETAS, fused=True).step()
    assert kernel.square().mean().sqrt().item() == pytest.approx(0.2e-2, rel=0.2)


def test_biases_are_updated_as_by_adamw_and_matrices_decay():
    results = {}
    for optimizer in ("adamw", "muon"):
        network = nn.Linear(3, 2)
        with torch.no_grad():
            network.weight.fill_(1.0), network.bias.fill_(1.0)
        network.weight.grad, network.bias.grad = torch.zeros(2, 3), noise(2)
        make_optimizer(network, fit_params(optimizer=optimizer, weight_decay=0.5)).step()
        results[optimizer] = (network.weight.detach(), network.bias.detach())
    torch.testing.assert_close(results["muon"], results["adamw"])
    torch.testing.assert_close(results["muon"][0], torch.full((2, 3), 1 - 0.05 * 0.5))


def test_the_learning_rate_of_both_groups_is_that_of_the_step():
    network = nn.Linear(3, 2)
    before = [p.detach().clone() for p in network.parameters()]
    optimizer = make_optimizer(network, fit_params(optimizer="muon"))
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    network.weight.grad, network.bias.grad = noise(2, 3), noise(2)
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_a_resumed_training_matches_an_uninterrupted_run(tmp_path: Path):
    saved = {"save_steps": 4}
    run(Job("vae", saved, MUON, str(tmp_path), fault="leave"))
    assert run(Job("vae", saved, MUON, str(tmp_path))) == run(Job("vae", saved, MUON))


def test_its_arithmetic_counts():
    adamw, muon = (run(Job("vae", params={**MUON, "optimizer": name}))["flops"] for name in ("adamw", "muon"))
    assert muon > adamw
