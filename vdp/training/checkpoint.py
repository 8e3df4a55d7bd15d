"""Files of the checkpoints that a training resumes from.

A checkpoint is `<step>.safetensors` and `<step>.json`, with the metadata and the hash of the first.
The JSON is written last: without it a checkpoint is incomplete. Two are kept, in case one is damaged.
Beside them are the averaged weights of `keep_every`, `kept_<step>.safetensors`, for the model folder.
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, load_file, save
from torch import Tensor

from vdp.core.errors import UserError, one_line
from vdp.core.files import locked
from vdp.launch.resume import resume_folder
from vdp.launch.stage_key import stage_key

MAX_KEPT = 2
KEPT = "kept_"  # prefix of the names of averaged weights
Metadata = dict[str, Any]  # content of the JSON file, without the hash


class TrainingCheckpoints:
    """The folder of one training's checkpoints."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the folder against another run of the training; UserError if it cannot be written."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "lock").touch()
        except OSError as error:
            reason = f"checkpoints cannot be written ({one_line(error)})"
            raise UserError(f"{self.folder}: {reason}: make it writable, or remove it") from None
        waiting = f"another process runs the same training ({self.folder}); waiting for it to end"
        with locked(self.folder / "lock", waiting):
            yield

    def save(self, step: int, tensors: Mapping[str, Tensor], metadata: Metadata) -> None:
        """Write a checkpoint; keep it and the one before. Later ones were damaged and are deleted.

        Raises:
            OSError: if it cannot be written; the others stay as they were.
        """
        content = save({name: value.contiguous() for name, value in tensors.items()})
        summary = {"sha256": hashlib.sha256(content).hexdigest(), "notes": metadata}
        self.folder.mkdir(parents=True, exist_ok=True)
        weights = self._weights(step)
        try:
            _write(weights, content)
            _write(weights.with_suffix(".json"), json.dumps(summary).encode())
        except OSError:
            for path in (*self.folder.glob("*.part"), weights):
                path.unlink(missing_ok=True)
            raise
        steps = self._steps()
        for old in [later for later in steps if later > step] + [at for at in steps if at <= step][MAX_KEPT:]:
            self._weights(old).with_suffix(".json").unlink()  # first: without it a checkpoint is incomplete
            self._weights(old).unlink(missing_ok=True)

    def newest(self) -> tuple[dict[str, Tensor], Metadata] | None:
        """Read the newest intact checkpoint to the CPU; None without one. Print which ones are damaged."""
        for step in self._steps():
            try:
                return self.read(step)
            except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
                reason = one_line(ValueError(str(error)))
                print(f"warning: {self._weights(step)}: skipped, it is damaged ({reason})", file=sys.stderr)
        return None

    def read(self, step: int) -> tuple[dict[str, Tensor], Metadata]:
        """Read a checkpoint; ValueError if its hash differs."""
        weights = self._weights(step)
        summary = json.loads(weights.with_suffix(".json").read_text())
        content = weights.read_bytes()
        if hashlib.sha256(content).hexdigest() != summary["sha256"]:
            raise ValueError("its hash differs from the one in its JSON file")
        return load(content), summary["notes"]

    def keep(self, step: int, weights: Mapping[str, Tensor]) -> None:
        """Write the averaged weights of a step for the model folder; UserError if that fails."""
        path = self.folder / f"{KEPT}{step:09d}.safetensors"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _write(path, save({name: value.contiguous() for name, value in weights.items()}))
        except OSError as error:
            path.with_suffix(path.suffix + ".part").unlink(missing_ok=True)
            raise UserError(
                f"{path}: the weights of step {step} cannot be kept ({one_line(error)}); free disk space, or "
                "raise keep_every"
            ) from None

    def kept(self) -> "KeptWeights":
        """The kept weights by step."""
        paths = sorted(self.folder.glob(f"{KEPT}*.safetensors"))
        return KeptWeights({int(path.stem.removeprefix(KEPT)): path for path in paths})

    def clear(self) -> None:
        """Delete the checkpoints of a finished training."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _weights(self, step: int) -> Path:
        return self.folder / f"{step:09d}.safetensors"

    def _steps(self) -> list[int]:
        return sorted((int(path.stem) for path in self.folder.glob("[0-9]*.json")), reverse=True)


def stage_checkpoints(stage: str, root: Path, initial: Path | None = None) -> TrainingCheckpoints:
    """Return the checkpoints of a stage of dvc.yaml with the current params, code and inputs.

    Args:
        stage: name of its script.
        root: the main checkout, so that a run in a temporary one can be resumed.
        initial: file of the weights that it starts from, which DVC does not know.
    """
    return TrainingCheckpoints(resume_folder(root, stage, stage_key(stage, initial)))


class KeptWeights(Mapping[int, Mapping[str, Tensor]]):
    """State dicts in files, by step, each read when it is used."""

    def __init__(self, paths: Mapping[int, Path]) -> None:
        self.paths = paths

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        return load_file(self.paths[step])

    def __iter__(self) -> Iterator[int]:
        return iter(self.paths)

    def __len__(self) -> int:
        return len(self.paths)


def _write(path: Path, content: bytes) -> None:
    """Write a file atomically and sync it to the disk."""
    part = path.with_suffix(path.suffix + ".part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
