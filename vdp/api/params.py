"""Sections of the project's params.yaml as objects, with values of the user's own."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import numpy as np
from pydantic import JsonValue, ValidationError

from vdp.config.messages import first_error
from vdp.config.project import project_files
from vdp.config.recipes import merged
from vdp.config.schema import PARAMS_FILE, P, Params
from vdp.config.yaml_file import read_file
from vdp.core.errors import UserError
from vdp.diffusion.params import DiffusionParams
from vdp.launch.params import EngineParams
from vdp.models.codecs.params import EncodeParams, VAEParams
from vdp.models.denoisers.params import DenoiserParams, DiTParams, MoverParams, UNetParams
from vdp.training.params import PretrainVAEParams, TrainDenoiserParams

SECTIONS: dict[type[Params], str] = {
    VAEParams: "vae",
    DenoiserParams: "denoiser",
    UNetParams: "denoiser.unet",
    DiTParams: "denoiser.dit",
    MoverParams: "denoiser.mover",
    DiffusionParams: "diffusion",
    PretrainVAEParams: "pretrain_vae",
    EncodeParams: "encode_latents",
    TrainDenoiserParams: "train_denoiser",
    EngineParams: "engine",
}


def params(schema: type[P], changes: Mapping[str, JsonValue] | None = None) -> P:
    """Return a section of the project's params.yaml, with some values changed.

    Args:
        schema: class of the section, such as `UNetParams`; params.yaml documents its keys.
        changes: values by key; a mapping, such as `tasks`, is merged into the present one.

    Raises:
        UserError: for another schema, an unknown key, or a value out of its range.
    """
    if schema not in SECTIONS:
        known = ", ".join(each.__name__ for each in SECTIONS)
        raise UserError(f"schema={schema.__name__}: expected one of {known}")
    section = SECTIONS[schema]
    values: JsonValue = read_file(project_files() / PARAMS_FILE)
    for key in section.split("."):
        assert isinstance(values, dict)
        values = values[key]
    assert isinstance(values, dict)
    changed = merged(values, changes or {})
    try:
        text = json.dumps(changed, default=_plain)
    except TypeError as error:
        raise UserError(f"{section}: expected numbers, texts, lists and mappings of them ({error})") from None
    try:
        return schema.model_validate_json(text)  # as JSON: strict types accept lists for tuples
    except ValidationError as error:
        raise UserError(first_error(schema, changed, error, section)) from None


def _plain(value: object) -> JsonValue:
    """Return a number or array of numpy, or a path, as JSON has it; a TypeError for another type."""
    if isinstance(value, np.generic | np.ndarray):
        return cast(JsonValue, value.tolist())
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"got {type(value).__name__}")
