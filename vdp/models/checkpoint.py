"""Model folders: `model.safetensors`, and `config.json` that rebuilds the model; nothing is unpickled.

Further weights of the same network lie beside it, as `best.safetensors` does where the last ones are in use.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vdp.config.schema import Params
from vdp.core.errors import UserError
from vdp.core.files import replacing

WEIGHTS = "model.safetensors"
CONFIG = "config.json"

Config = TypeVar("Config", bound=Params)


def save_model(
    folder: Path,
    network: nn.Module | None,
    config: Params,
    spare: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> None:
    """Write a model folder whole: built under a temporary name, then renamed over the old one.

    Args:
        folder: where to; replaced if it exists.
        network: whose weights to write; None for a codec without any.
        config: from which the network can be built again.
        spare: other weights of it to keep, by the name of their file.
    """
    with replacing(folder) as part:
        if network is not None:
            _save_weights(network.state_dict(), part / WEIGHTS)
        for name, weights in (spare or {}).items():
            _save_weights(weights, part / f"{name}.safetensors")
        text = json.dumps(config.model_dump(mode="json"), indent=2, sort_keys=True)
        (part / CONFIG).write_text(text + "\n")


def _save_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, path)


def load_config(folder: Path, schema: type[Config]) -> Config:
    """What a model was built from.

    Raises:
        FileNotFoundError: if the folder holds no model, naming the command that makes one.
        UserError: if what it holds is not what `schema` says.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: no model there; make it with `dvc repro`")
    try:
        return schema.model_validate_json(path.read_text())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{path}: {where}: {first['msg']}: it is not a {schema.__name__} of this version; "
            "make the model again with `dvc repro --force`"
        ) from None


def load_weights(network: nn.Module, folder: Path) -> None:
    """Fill a network with the weights of a model folder; every name and shape must match.

    Raises:
        FileNotFoundError: if there are no weights.
        UserError: if the file is damaged, or has the weights of another network.
    """
    path = folder / WEIGHTS
    again = "make the model again with `dvc repro --force`, or copy it whole"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file, beside its {CONFIG}; {again}")
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path}: is damaged ({error}); {again}") from None
    wanted = {name: value.shape for name, value in network.state_dict().items()}
    strange = [name for name in wanted.keys() | weights.keys() if not _fits(name, wanted, weights)]
    if strange:
        raise UserError(
            f"{path}: has not the weights that its {CONFIG} tells of, such as {min(strange)}; {again}"
        )
    network.load_state_dict(weights)


def fingerprint(network: nn.Module) -> str:
    """Hash of all weights by their names: networks of one fingerprint give the same, whatever their file."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _fits(name: str, wanted: Mapping[str, torch.Size], weights: Mapping[str, Tensor]) -> bool:
    return name in wanted and name in weights and wanted[name] == weights[name].shape
