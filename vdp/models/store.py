"""Model folders: `model.safetensors` and `config.json`, the params that built the model; nothing is unpickled."""

import json
from pathlib import Path

from pydantic import JsonValue
from safetensors.torch import load_file, save_file
from torch import nn

from vdp.files import replacing

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


def save_model(folder: Path, network: nn.Module | None, config: dict[str, JsonValue]) -> None:
    """Write a model folder whole: built under a temporary name, then renamed over the old one.

    Args:
        folder: where to; replaced if it exists.
        network: whose weights to write; None for a codec without any.
        config: plain values from which the network can be built again.
    """
    with replacing(folder) as part:
        if network is not None:
            weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
            save_file(weights, part / WEIGHTS)
        (part / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def load_config(folder: Path) -> dict[str, JsonValue]:
    """The params that a model was built from.

    Raises:
        FileNotFoundError: if the folder holds no model, naming the command that makes one.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: no model there; make it with `dvc repro`")
    config = json.loads(path.read_text())
    assert isinstance(config, dict)  # save_model wrote it
    return config


def load_weights(network: nn.Module, folder: Path) -> None:
    """Fill a network with the weights of a model folder; every name and shape must match."""
    network.load_state_dict(load_file(folder / WEIGHTS))
