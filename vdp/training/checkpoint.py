"""States to resume a training from: written whole or not at all, checked when read, gone when it is finished.

A state is `<step>.safetensors` and `<step>.json`, which has its numbers and the hash of the other file and is
written last; one without a matching JSON is not a state. The newest two are kept, so that a damaged one costs
the steps since the one before.
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

import torch
from pydantic import JsonValue
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from vdp.config.schema import PARAMS_FILE
from vdp.config.yaml_file import read_file
from vdp.core.errors import UserError, one_line
from vdp.core.files import locked

PIPELINE, LOCK = Path("dvc.yaml"), Path("dvc.lock")
KEPT = 2  # states of one training

Notes = dict[str, Any]  # numbers that go into a JSON file


class States:
    """The states of one training.

    Args:
        folder: of this training alone; it is made at the first need.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from the same training, which would write the same states.

        Raises:
            UserError: if the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "writable").write_bytes(b"")
            (self.folder / "writable").unlink()
        except OSError as error:
            raise UserError(
                f"{self.folder}: cannot be written, and a training keeps there what it would resume from "
                f"({one_line(error)}): make it writable, or remove it"
            ) from None
        waiting = f"the same training is at work in another process ({self.folder}); waiting for it to end"
        with locked(self.folder / "lock", waiting):
            yield

    def save(self, step: int, tensors: Mapping[str, Tensor], notes: Notes) -> None:
        """Write a state after so many steps, and let go of all but it and the `KEPT` - 1 before it.

        Later ones, which a training at this step cannot have written, were damaged and passed over.

        Raises:
            OSError: if it cannot be written; the states before are as they were.
        """
        content = save({name: value.contiguous() for name, value in tensors.items()})
        summary = {"sha256": hashlib.sha256(content).hexdigest(), "notes": notes}
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
        for old in [later for later in steps if later > step] + [at for at in steps if at <= step][KEPT:]:
            self._weights(old).with_suffix(".json").unlink()  # first: without it the other is no state
            self._weights(old).unlink(missing_ok=True)

    def newest(self) -> tuple[dict[str, Tensor], Notes] | None:
        """The newest state that is whole, on the CPU; None if there is none. Says which are damaged."""
        steps = self._steps()
        for place, step in enumerate(steps):
            try:
                return self.read(step)
            except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
                after = f"step {steps[place + 1]}" if place + 1 < len(steps) else "the start"
                reason = one_line(ValueError(str(error)))
                print(
                    f"{self._weights(step)}: this state is damaged ({reason}); going on from {after}",
                    file=sys.stderr,
                )
        return None

    def read(self, step: int) -> tuple[dict[str, Tensor], Notes]:
        """One state.

        Raises:
            ValueError: if it is not what was written.
        """
        weights = self._weights(step)
        summary = json.loads(weights.with_suffix(".json").read_text())
        content = weights.read_bytes()
        if hashlib.sha256(content).hexdigest() != summary["sha256"]:
            raise ValueError("its hash is not the one that was noted")
        return load(content), summary["notes"]

    def clear(self) -> None:
        """Remove all of it: the training is finished and its model written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _weights(self, step: int) -> Path:
        return self.folder / f"{step:09d}.safetensors"

    def _steps(self) -> list[int]:
        """Steps of the states there are, newest first."""
        return sorted((int(path.stem) for path in self.folder.glob("[0-9]*.json")), reverse=True)


def _write(path: Path, content: bytes) -> None:
    """Write a file that is there as a whole, also after a power cut, or not at all."""
    part = path.with_suffix(path.suffix + ".part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


# --- Whose states ----------------------------------------------------------------------------------------


def states_of(stage: str, root: Path) -> States:
    """The states of a stage's training with these params, this code and these inputs.

    Args:
        stage: its name in dvc.yaml.
        root: the main checkout, so that a run in a temporary one is resumed by the next.
    """
    return States(root / ".resume" / f"{stage}-{training_key(stage)}")


def training_key(stage: str) -> str:
    """Hash of what a training's result depends on: all that dvc.yaml names for its stage, and torch.

    Inputs that another stage has made are known by the hash that DVC has noted in dvc.lock; in a stage that
    is run by hand, where dvc.lock may be of other data, by their files' names, sizes and times.
    """
    stages = _section(read_file(PIPELINE), "stages")
    entry = _section(stages, stage)
    params, hashes = read_file(PARAMS_FILE), _noted_hashes()
    # on other hardware other random numbers are drawn
    parts: list[JsonValue] = [torch.__version__, "cuda" if torch.cuda.is_available() else "cpu"]
    parts += [[name, _value(params, name)] for name in _strings(entry, "params")]
    for name in _strings(entry, "deps"):
        parts.append([name, hashes.get(name) or _hash_of(Path(name), _made(name, stages))])
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _noted_hashes() -> dict[str, str]:
    """Path to hash of what the stages before have made, as the DVC that runs this stage has noted it."""
    if "DVC_STAGE" not in os.environ or not LOCK.is_file():
        return {}
    noted: dict[str, str] = {}
    for entry in _section(read_file(LOCK), "stages").values():
        outs = entry.get("outs", []) if isinstance(entry, dict) else []
        for out in outs if isinstance(outs, list) else []:
            if isinstance(out, dict) and "md5" in out:
                noted[str(out["path"])] = str(out["md5"])
    return noted


def _made(name: str, stages: Mapping[str, JsonValue]) -> bool:
    """Whether a path is one that a stage makes."""
    return any(name in _strings(entry, "outs") for entry in stages.values() if isinstance(entry, dict))


def _hash_of(path: Path, made: bool) -> str:
    """Hash of a file or folder: of content where it is code, of names, sizes and times where it is data."""
    digest = hashlib.sha256()
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    for file in files:
        if not file.is_file() or "__pycache__" in file.parts:
            continue
        digest.update(file.as_posix().encode() + b"\0")
        if made:
            stat = file.stat()
            digest.update(f"{stat.st_size} {stat.st_mtime_ns}\0".encode())
        else:
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _section(data: Mapping[str, JsonValue], name: str) -> dict[str, JsonValue]:
    value = data.get(name)
    if not isinstance(value, dict):
        raise UserError(
            f"{PIPELINE}: {name} is not there; a stage's name in it and its script's are the same"
        )
    return value


def _strings(entry: Mapping[str, JsonValue], key: str) -> list[str]:
    value = entry.get(key, [])
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _value(params: dict[str, JsonValue], dotted: str) -> JsonValue:
    value: JsonValue = params
    for key in dotted.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value
