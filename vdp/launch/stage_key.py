"""The key of what a stage keeps under `.resume/`: a hash of its params, code and inputs."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import JsonValue

from vdp.config.schema import PARAMS_FILE
from vdp.config.yaml_file import read_file
from vdp.core.errors import UserError

PIPELINE, LOCK, IGNORE = Path("dvc.yaml"), Path("dvc.lock"), Path(".dvcignore")


def stage_key(stage: str, initial: Path | None = None) -> str:
    """Hash what a stage depends on: params and deps of its stage, initial weights, torch, the device.

    Outputs of other stages are hashed by their hash in dvc.lock; outside of DVC, where dvc.lock may be
    outdated, by names, sizes and times of the files. Files in .dvcignore are left out.
    """
    stages = _stages(PIPELINE)
    if stage not in stages:
        raise UserError(f"{PIPELINE}: stages.{stage} is missing; a stage has the name of its script")
    # random numbers differ between devices
    parts: list[JsonValue] = [torch.__version__, "cuda" if torch.cuda.is_available() else "cpu"]
    params = read_file(PARAMS_FILE)
    parts += [[name, _value(params, name)] for name in stages[stage].get("params", [])]
    outs = [out for other in stages.values() for out in other.get("outs", [])]
    locked = _locked_hashes()
    for name in stages[stage].get("deps", []):
        parts.append([name, locked.get(name) or _hash_files(Path(name), by_content=name not in outs)])
    if initial is not None:
        with initial.open("rb") as file:
            parts.append(hashlib.file_digest(file, "sha256").hexdigest())
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _locked_hashes() -> dict[str, str]:
    """Hashes of the outputs in dvc.lock; empty outside of DVC."""
    if "DVC_STAGE" not in os.environ or not LOCK.is_file():
        return {}
    outs = [out for stage in _stages(LOCK).values() for out in stage.get("outs", [])]
    return {out["path"]: out["md5"] for out in outs if "md5" in out}


def _stages(path: Path) -> dict[str, dict[str, Any]]:
    return cast(dict[str, dict[str, Any]], read_file(path).get("stages") or {})


def _hash_files(path: Path, by_content: bool) -> str:
    """Hash a file or folder by content (code) or by names, sizes and times (data)."""
    ignored = IGNORE.read_text().splitlines() if IGNORE.is_file() else []
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file() and "__pycache__" not in file.parts and f"/{file.as_posix()}" not in ignored:
            stat = file.stat()
            content = file.read_bytes() if by_content else f"{stat.st_size} {stat.st_mtime_ns}".encode()
            digest.update(file.as_posix().encode() + b"\0" + hashlib.sha256(content).digest())
    return digest.hexdigest()


def _value(params: dict[str, JsonValue], dotted: str) -> JsonValue:
    value: JsonValue = params
    for key in dotted.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value
