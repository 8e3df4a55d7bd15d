"""Save checkpoints of a training, stop it on a signal, and resume it."""

import sys
import time
from collections.abc import Mapping
from typing import Generic

from lightning_fabric import Fabric
from torch import Tensor

from vdp.core.errors import Interrupted, one_line
from vdp.launch.interrupts import StopRequest
from vdp.training.checkpoint import TrainingCheckpoints
from vdp.training.definition import Network
from vdp.training.engine import max_over_processes
from vdp.training.state import TrainingState
from vdp.training.weights import gather_state_dict


class CheckpointSaver(Generic[Network]):
    """Saves and restores the state of a training; `checkpoints=None` does neither."""

    def __init__(
        self, state: TrainingState[Network], checkpoints: TrainingCheckpoints | None, fabric: Fabric
    ) -> None:
        self.state, self.checkpoints, self.fabric = state, checkpoints, fabric
        self.saved_at = time.monotonic()
        self._kept: dict[int, dict[str, Tensor]] = {}  # without a folder

    def restore(self) -> None:
        """Resume from the newest intact checkpoint, if there is one."""
        found = self.checkpoints.newest() if self.checkpoints and self.fabric.is_global_zero else None
        step = max_over_processes(found[1]["progress"]["step"] if found else 0, self.fabric)
        if step == 0 or self.checkpoints is None:
            return
        self.state.load(*(found or self.checkpoints.read(step)))
        if self.fabric.is_global_zero:
            done = f"{self.state.name}: resumed after step {step} of {self.state.params.total_steps}"
            print(f"{done} ({self.checkpoints.folder})", file=sys.stderr)

    def keep_if_due(self) -> None:
        """Keep the averaged weights of every `keep_every`-th step for the model folder."""
        step, every = self.state.progress.step, self.state.params.keep_every
        if every is None or step % every:
            return
        weights = gather_state_dict(self.state.ema.module)
        if self.checkpoints is None:
            self._kept[step] = weights
        elif self.fabric.is_global_zero:
            self.checkpoints.keep(step, weights)

    def kept(self) -> Mapping[int, Mapping[str, Tensor]]:
        """The kept weights by step; read when they are used."""
        return self._kept if self.checkpoints is None else self.checkpoints.kept()

    def save_if_due(self, stop: StopRequest) -> None:
        """Save a checkpoint if one is due; save and raise Interrupted if a signal has requested a stop."""
        step, steps, engine = self.state.progress.step, self.state.params.total_steps, self.state.engine
        due = time.monotonic() - self.saved_at >= 60 * engine.save_minutes
        due = due or (engine.save_steps is not None and step % engine.save_steps == 0)
        # 0: continue, 1: save, above: stop by the signal; all processes do the same at the same step
        action = max_over_processes(1 + stop.signal if stop.signal else int(due), self.fabric)
        if action == 0 or (step == steps and action == 1):
            return
        saved = self._save()
        if action > 1:
            folder = self.checkpoints.folder if self.checkpoints else ""
            resume = f"run again to resume ({folder})" if saved else "no checkpoint was saved"
            message = f"{self.state.name}: stopped after step {step} of {steps}; {resume}"
            raise Interrupted(action - 1, message, is_main=self.fabric.is_global_zero)

    def _save(self) -> bool:
        """Save a checkpoint; return whether it was written. A full disk does not end a training."""
        self.saved_at = time.monotonic()
        if self.checkpoints is None:
            return False
        self.state.check_finite()
        self.state.average_sums()
        tensors, step, failed = self.state.tensors(), self.state.progress.step, 0
        if self.fabric.is_global_zero:
            try:
                self.checkpoints.save(step, tensors, self.state.metadata())
            except OSError as error:
                failed = 1
                lost = f"{self.state.name}: the checkpoint after step {step} was not saved: {one_line(error)}"
                print(f"warning: {lost}; the one before is kept; free disk space", file=sys.stderr)
        return not max_over_processes(failed, self.fabric)
