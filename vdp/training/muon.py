"""Muon: orthogonalised momentum (Jordan et al. 2024, kellerjordan.github.io/posts/muon).

Biases and norms are trained by AdamW at the same learning rate: the update of a matrix is scaled to the root
mean square of AdamW's (Liu et al. 2025, arXiv:2502.16982, section 2.2).
`torch.optim.Muon` takes matrices only and computes in bf16, which plain CPUs emulate.
Shapes: a kernel (A, ...) is the matrix (A, B).
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from vdp.training.weights import copy_whole, local_tensor, whole_tensor

MOMENTUM = 0.95
SCALE = 0.2  # root mean square of AdamW's updates, in learning rates
EPS = 1e-7
ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # the steepest at 0; singular values end in about 0.7..1.2


class Muon(torch.optim.Optimizer):
    """Muon for `matrices`, AdamW for `others`; works on sharded weights too.

    Group 0 has the matrices, group 1 the others; both follow their 'lr'.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        others: Iterable[nn.Parameter],
        lr: float,
        weight_decay: float,
        betas: tuple[float, float],
        fused: bool,
    ) -> None:
        groups = [
            {"params": list(matrices), "weight_decay": weight_decay},
            {"params": list(others), "weight_decay": 0.0},
        ]
        super().__init__(groups, {"lr": lr})
        # without any, torch refuses the list
        rest = self.param_groups[1]["params"]
        self.adamw = (
            torch.optim.AdamW(rest, lr=lr, betas=betas, weight_decay=0.0, fused=fused) if rest else None
        )
        if self.adamw is not None:
            self.adamw.state = self.state  # one state, saved and loaded as a whole

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all weights that have a gradient."""
        group, rest = self.param_groups
        for parameter in group["params"]:
            if parameter.grad is not None:
                self._update(parameter, group["lr"], group["weight_decay"])
        if self.adamw is not None:
            self.adamw.param_groups[0]["lr"] = rest["lr"]
            self.adamw.step()

    def _update(self, parameter: nn.Parameter, lr: float, weight_decay: float) -> None:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        direction = whole_tensor(gradient.lerp(momentum, MOMENTUM))  # Nesterov
        matrix = orthogonalise(direction.flatten(1).float())
        change = torch.empty_like(parameter)
        copy_whole(change, (SCALE * max(matrix.shape) ** 0.5 * matrix).view_as(direction))
        local_tensor(parameter).mul_(1 - lr * weight_decay).sub_(local_tensor(change), alpha=lr)

    def flops(self) -> float:
        """FLOPs of the orthogonalisations of a step."""
        shapes = [(len(p), p[0].numel()) for p in self.param_groups[0]["params"] if p.requires_grad]
        return float(sum(orthogonalise_flops(min(shape), max(shape)) for shape in shapes))


def orthogonalise(matrix: Tensor) -> Tensor:
    """Set all singular values of a matrix to about 1 by Newton-Schulz iterations, (A, B) -> (A, B).

    Iterates on the Gram matrix of the shorter side: kernels are several times as long as wide.
    """
    if len(matrix) > matrix.shape[1]:
        return orthogonalise(matrix.mT).mT
    a, b, c = COEFFICIENTS
    matrix = matrix / (matrix.norm() + EPS)
    gram, factor = matrix @ matrix.mT, None
    for iteration in range(ITERATIONS):
        # the singular values x become a x + b x^3 + c x^5
        polynomial = torch.addmm(b * gram, gram, gram, alpha=c)
        polynomial.diagonal().add_(a)
        factor = polynomial if factor is None else polynomial @ factor
        if iteration + 1 < ITERATIONS:
            gram = polynomial @ gram @ polynomial
    assert factor is not None
    return factor @ matrix


def orthogonalise_flops(short: int, long: int) -> int:
    """FLOPs of `orthogonalise`: of two products with the matrix, and of those of Gram matrices."""
    return 4 * short**2 * long + 2 * short**3 * (4 * ITERATIONS - 3)
