"""Model folders: `model.safetensors` and a `config.json` to rebuild the model from; nothing is unpickled.

Other weights of the same network are beside it, such as `best.safetensors` and those of kept steps.
"""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vdp.config.schema import Params, add_left_out
from vdp.core.empty import empty_reason
from vdp.core.errors import UserError
from vdp.core.files import replacing
from vdp.core.model_files import CONFIG, WEIGHTS, kept_name, weights_file

Config = TypeVar("Config", bound=Params)


def save_model(
    folder: Path,
    network: nn.Module | None,
    config: Params,
    extra_weights: Mapping[str, Mapping[str, Tensor]] | None = None,
    kept: Mapping[int, Mapping[str, Tensor]] | None = None,
) -> None:
    """Write a model folder under a temporary name, then rename it over the old one.

    The network is None for a codec without weights; `extra_weights` are further files, by their stems, and
    `kept` those of single steps.
    """
    with replacing(folder) as part:
        if network is not None:
            _save_weights(network.state_dict(), part / WEIGHTS)
        for name, weights in (extra_weights or {}).items():
            _save_weights(weights, part / f"{name}.safetensors")
        for step, weights in (kept or {}).items():
            _save_weights(weights, part / f"{kept_name(step)}.safetensors")
        text = json.dumps(config.model_dump(mode="json"), indent=2, sort_keys=True)
        (part / CONFIG).write_text(text + "\n")


def _save_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, path)


def is_trained(folder: Path) -> bool:
    """Whether a folder holds the weights of a model: not that of the segmenter where no clip has masks."""
    return (folder / WEIGHTS).is_file()


def load_config(folder: Path, schema: type[Config]) -> Config:
    """Read the `config.json` of a model folder.

    Raises:
        FileNotFoundError: if the folder holds no model.
        UserError: if the file does not match `schema`, or the model's stage had nothing to train on.
    """
    path = folder / CONFIG
    if reason := empty_reason(folder):
        raise UserError(f"{folder}: holds no model, as {reason}; add masks to clips and train it again")
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: no model found; train it with `dvc repro`")
    text = path.read_text()
    with suppress(json.JSONDecodeError):  # the schema reports it
        text = json.dumps(add_left_out(schema, json.loads(text)))
    try:
        return schema.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{path}: {where}: {first['msg']}; expected a {schema.__name__} of this version; "
            "train the model again with `dvc repro --force`"
        ) from None


def load_weights(network: nn.Module, folder: Path, checkpoint: int | None = None) -> None:
    """Load the weights of a model folder; all names and shapes must match.

    `checkpoint` is the step of kept weights; None for those that the training's `keep` names.

    Raises:
        FileNotFoundError: if there are no weights.
        UserError: if the file is damaged or holds the weights of another network, or the step is not kept.
    """
    path = weights_file(folder, checkpoint)
    advice = "copy the whole folder again, or train the model again with `dvc repro --force`"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found beside its {CONFIG}; {advice}")
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path}: is damaged ({error}); {advice}") from None
    expected = {name: value.shape for name, value in network.state_dict().items()}
    found = {name: value.shape for name, value in weights.items()}
    mismatched = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
    if mismatched:
        raise UserError(f"{path}: weights do not match its {CONFIG}, such as {min(mismatched)}; {advice}")
    network.load_state_dict(weights)


def fingerprint(network: nn.Module) -> str:
    """Hash the weights and their names; independent of their files."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
