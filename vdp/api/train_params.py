"""Params of a training outside DVC: the project's, under recipe `own`, a recipe and single values."""

import math
from collections.abc import Mapping
from pathlib import Path

from pydantic import JsonValue

from vdp.config.messages import validate
from vdp.config.project import project_files
from vdp.config.read import check_data
from vdp.config.recipes import RECIPES, merged
from vdp.config.schema import PARAMS_FILE, ClipParams, schema
from vdp.config.yaml_file import read_file
from vdp.core.errors import UserError
from vdp.core.model_files import TRAINED, initial_file
from vdp.models.codecs.params import VAEParams
from vdp.training.params import FitParams

OWN = "own"  # the recipe under every training of the user's own videos
# values without masks: there is no mask head to train
WITHOUT_MASKS: dict[str, JsonValue] = {
    "pretrain_vae": {"mask_weight": 0.0},
    "segment": {"codec_vote": 0.0},
}
MIN_SIDE = 16  # pixels, of a frame size that is chosen
PIXELS_WEIGHT = 0.5  # of the number of pixels beside the aspect ratio where a frame size is chosen


def training_params(recipe: str | None, changes: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Merge recipe `own`, another recipe and single values into the project's params.

    Args:
        recipe: name of a file of recipes/, without .yaml; None for `own` alone.
        changes: values by their names in params.yaml: {"train_denoiser.steps": 500}.

    Raises:
        UserError: for an unknown recipe, or a value that the schema refuses.
    """
    project, overlays = project_files(), [_recipe(OWN)]
    if recipe is not None and recipe != OWN:
        overlays.append(_recipe(recipe))
    overlays += [_nested(name, value) for name, value in changes.items()]
    data = read_file(project / PARAMS_FILE)
    for overlay in overlays:
        data = merged(data, overlay)
    check_data(data)
    return data


def sets_frame_size(recipe: str | None, changes: Mapping[str, JsonValue]) -> bool:
    """Whether the caller has chosen the frame size."""
    overlays = [_nested(name, value) for name, value in changes.items()]
    overlays += [] if recipe is None else [_recipe(recipe)]
    clips = [overlay.get("clip") for overlay in overlays]
    return any(isinstance(clip, dict) and {"height", "width"} & clip.keys() for clip in clips)


def with_aspect(params: Mapping[str, JsonValue], aspect: float) -> dict[str, JsonValue]:
    """Change the frame size to an aspect ratio (width / height) at about the same number of pixels."""
    clip = validate(ClipParams, params["clip"], "clip")
    vae = validate(VAEParams, params["vae"], "vae")
    height, width = frame_size(aspect, clip.height * clip.width, 2 * vae.spatial_factor)
    return merged(params, {"clip": {"height": height, "width": width}})


def initial_files(params: Mapping[str, JsonValue], models: Path) -> dict[str, Path]:
    """Return the weights that trainings start from (`init_from`), by section; `models` is where they write.

    Raises:
        UserError: for a folder without weights.
    """
    files = {}
    for section, name in TRAINED.items():
        training = validate(schema(section), params[section], section)
        assert isinstance(training, FitParams)
        if file := initial_file(section, training.init_from, models / name):
            files[section] = file
    return files


def with_initial(params: Mapping[str, JsonValue], models: Path) -> dict[str, JsonValue]:
    """Replace each `init_from` by the path of its weights, as the trainings run in another folder."""
    files = initial_files(params, models)
    return merged(params, {name: {"init_from": str(file.absolute())} for name, file in files.items()})


def frame_size(aspect: float, pixels: int, multiple: int) -> tuple[int, int]:
    """Return height and width, multiples of `multiple`, nearest to an aspect ratio and number of pixels."""

    def error(size: tuple[int, int]) -> float:
        height, width = size
        off = abs(math.log(width / height / aspect))
        return off + PIXELS_WEIGHT * abs(math.log(height * width / pixels))

    low = -(-MIN_SIDE // multiple)
    high = max(low, math.ceil(2 * math.sqrt(pixels / min(aspect, 1.0)) / multiple))
    heights = range(low * multiple, (high + 1) * multiple, multiple)
    sizes = [(height, max(low, round(height * aspect / multiple)) * multiple) for height in heights]
    return min(sizes, key=error)


def _recipe(name: str) -> dict[str, JsonValue]:
    folder = project_files() / RECIPES
    path = folder / f"{name}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
        raise UserError(f"recipe={name!r}: expected one of {names}")
    return read_file(path)


def _nested(name: str, value: JsonValue) -> dict[str, JsonValue]:
    if not isinstance(value, str | int | float | bool | list | dict | None):
        raise UserError(f"changes: {name}={value!r}: expected a plain value, as in params.yaml")
    for key in reversed(name.split(".")):
        value = {key: value}
    assert isinstance(value, dict)
    return value
