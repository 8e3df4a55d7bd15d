"""State of a training, as stored in a checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from vdp.core.errors import UserError
from vdp.launch.params import EngineParams
from vdp.training.compat import FabricOptimizer, grad_scaler
from vdp.training.definition import Network
from vdp.training.ema import make_ema
from vdp.training.engine import max_over_processes, mean_over_processes, setup_eval_model, setup_model
from vdp.training.muon import Muon
from vdp.training.optim import learning_rate, make_optimizer
from vdp.training.params import FitParams
from vdp.training.weights import all_finite, copy_whole, gather, gather_state_dict, load_whole, strip_prefix

MAX_NAMES = 8  # clips in a message


@dataclass
class Progress:
    """Numbers of a checkpoint, written to its JSON file."""

    step: int = 0  # steps done
    sums: dict[str, float] = field(default_factory=dict)  # of losses since the last point of the curves
    counted: int = 0  # steps in those sums
    skipped: int = 0  # steps with a non-finite gradient
    in_a_row: int = 0  # consecutive skipped steps up to now
    best_loss: float = float("inf")
    curve: list[tuple[int, dict[str, float]]] = field(default_factory=list)  # all points logged


class TrainingState(Generic[Network]):
    """Network, moving average, optimizer and progress of a training.

    Attributes:
        model: the network as set up by Fabric, a `ForwardWrapper`.
        ema: moving average of the network; `ema_model` is its `ForwardWrapper`.
        optimizer_flops: FLOPs of an update beyond a few per weight.
        best: averaged weights of the lowest validation loss, on the CPU; empty before the first validation.
    """

    def __init__(
        self,
        name: str,
        network: Network,
        params: FitParams,
        engine: EngineParams,
        fabric: Fabric,
        own_optimizer: Optimizer | None = None,
        scheduler: LRScheduler | None = None,
    ) -> None:
        self.name, self.params, self.engine, self.fabric = name, params, engine, fabric
        self.network = network.to(fabric.device)
        self.ema = make_ema(self.network, params.ema_decay)
        self.ema_model = setup_eval_model(self.ema.module, fabric)
        self.model = setup_model(self.network, fabric, engine)
        self.scaler = grad_scaler(fabric)
        self.has_own_optimizer, self.scheduler = own_optimizer is not None, scheduler
        bare = own_optimizer or make_optimizer(self.network, params, fused=self.scaler is None)
        self.optimizer_flops = bare.flops() if isinstance(bare, Muon) else 0.0
        optimizer = fabric.setup_optimizers(bare)
        assert isinstance(optimizer, FabricOptimizer)
        self.optimizer = optimizer
        self.progress = Progress()
        self.best: dict[str, Tensor] = {}

    def tensors(self) -> dict[str, Tensor]:
        """Copy all tensors of the state, whole, to the CPU; every process has to call this."""
        tensors = {f"network/{name}": value for name, value in gather_state_dict(self.network).items()}
        tensors |= {f"average/{name}": value for name, value in gather_state_dict(self.ema).items()}
        for name, parameter in self.network.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer/{key}/{name}"] = gather(value)
        return tensors | {f"best/{name}": value for name, value in self.best.items()}

    def metadata(self) -> dict[str, Any]:
        """Return the state without tensors."""
        return {"progress": vars(self.progress), "scaler": self.scaler.state_dict() if self.scaler else {}}

    def load(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
        """Load the state from a checkpoint; ValueError if it is of another network."""
        load_whole(self.network, strip_prefix(tensors, "network/"))
        load_whole(self.ema, strip_prefix(tensors, "average/"))
        parameters = dict(self.network.named_parameters())
        moments = strip_prefix(tensors, "optimizer/")
        for name, value in sorted(moments.items()):  # the order in a file differs between processes
            key, _, parameter_name = name.partition("/")
            parameter = parameters[parameter_name]
            if value.shape == parameter.shape:
                copy_whole(moment := torch.zeros_like(parameter), value)
            else:  # the step counter
                moment = value.to(parameter.device)
            self.optimizer.state[parameter][key] = moment
        self.best = strip_prefix(tensors, "best/")
        self.progress = Progress(**metadata["progress"])
        if self.scaler is not None:
            self.scaler.load_state_dict(metadata["scaler"])

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """Start from weights of the same network, and from the network's own where there are none."""
        own = gather_state_dict(self.network)
        whole = own | {name: value for name, value in weights.items() if name in own}
        load_whole(self.network, whole)
        load_whole(self.ema.module, whole)

    def set_learning_rate(self, step: int) -> float:
        """Set the learning rate of a step, unless the optimizer is the user's own; return it."""
        if not self.has_own_optimizer:
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(step, self.params)
        return float(self.optimizer.param_groups[0]["lr"])

    def step_scheduler(self) -> None:
        """Step the user's scheduler after a step of the optimizer."""
        if self.scheduler is not None and not isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step()

    def step_plateau(self, val_loss: float) -> None:
        """Step a scheduler of the user's that follows the validation loss."""
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(val_loss)

    def average_sums(self) -> None:
        """Average the sums of losses over the processes: a resumed training may have fewer of them."""
        if self.fabric.world_size > 1 and self.progress.sums:
            sums = {name: torch.tensor(total) for name, total in self.progress.sums.items()}
            self.progress.sums = mean_over_processes(sums, self.fabric)

    def skip_step(self, clips: list[str]) -> None:
        """Count a step with a non-finite gradient; UserError after too many in a row."""
        progress, name, max_skipped = self.progress, self.name, self.engine.max_skipped
        progress.skipped += 1
        progress.in_a_row += 1
        if progress.in_a_row < max_skipped:
            return
        more = f" and {len(clips) - MAX_NAMES} more" if len(clips) > MAX_NAMES else ""
        raise UserError(
            f"{name}: the gradient is not finite at step {progress.step} and the {max_skipped - 1} before, "
            f"the clips are {', '.join(clips[:MAX_NAMES])}{more}: lower "
            f"{self._rate()} or grad_clip={self.params.grad_clip}, set "
            "engine.precision to 32, or check these clips"
        )

    def check_finite(self) -> None:
        """Raise a UserError if the weights are not finite."""
        bad = 0 if all_finite(self.network) and all_finite(self.ema) else 1
        if max_over_processes(bad, self.fabric):
            raise UserError(
                f"{self.name}: the weights are not finite after step {self.progress.step}, not saved: lower "
                f"{self._rate()}, or set engine.precision to 32"
            )

    def _rate(self) -> str:
        """Name the learning rate in messages."""
        if self.has_own_optimizer:
            return "the learning rate"
        return f"{self.name}.learning_rate={self.params.learning_rate}"
