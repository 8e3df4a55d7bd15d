"""Recipes: a set of params for one purpose, kept as an overlay over params.yaml."""

import io
import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import JsonValue
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from vdp.config.read import check_data
from vdp.config.renames import has_key
from vdp.config.schema import PARAMS_FILE
from vdp.config.yaml_file import read_file
from vdp.core.errors import UserError
from vdp.core.files import write_text

RECIPES = Path("recipes")


def recipe_names() -> list[str]:
    """List the recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def read_recipe(name: str) -> dict[str, JsonValue]:
    """Read a recipe and check it together with ./params.yaml.

    Raises:
        UserError: if there is no such recipe, or params.yaml would be invalid with it.
    """
    path = RECIPES / f"{name}.yaml"
    if name not in recipe_names():
        raise UserError(f"{name} is not a recipe in {RECIPES}/: known: {', '.join(recipe_names())}")
    overlay = read_file(path)
    try:
        check_data(merged(read_file(), overlay))
    except UserError as error:
        raise UserError(f"{path} over {error}") from None
    return overlay


def merged(data: Mapping[str, JsonValue], overlay: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Merge `overlay` into `data`, section by section; a list is replaced as a whole."""
    result = dict(data)
    for key, value in overlay.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def changes(
    data: Mapping[str, JsonValue], overlay: Mapping[str, JsonValue], prefix: str = ""
) -> dict[str, tuple[JsonValue, JsonValue]]:
    """Return (old value, new value) by dotted name of what the overlay changes."""
    found: dict[str, tuple[JsonValue, JsonValue]] = {}
    for key, value in overlay.items():
        old = data.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            found |= changes(old, value, f"{prefix}{key}.")
        elif old != value or key not in data:
            found[f"{prefix}{key}"] = (old, value)
    return found


def apply_recipe(name: str) -> dict[str, tuple[JsonValue, JsonValue]]:
    """Write a recipe into ./params.yaml, keeping its comments and order, and return the `changes`.

    Raises:
        UserError: as `read_recipe`; the file is then unchanged.
    """
    overlay = read_recipe(name)
    changed = changes(read_file(), overlay)
    if changed:
        yaml = _round_trip()
        document = yaml.load(PARAMS_FILE.read_text(encoding="utf-8"))
        _write_into(document, overlay)
        text = io.StringIO()
        yaml.dump(document, text)
        write_text(PARAMS_FILE, text.getvalue())
    return changed


def recipe_flags(name: str) -> str:
    """Return a recipe as `-S` flags for `dvc exp run $(...)`, to be split at spaces by a shell."""
    now = read_file()
    flags = []
    for key, (_, value) in changes(now, read_recipe(name)).items():
        shown = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        if not shown or set(shown) & set(" \t'\"*?$"):
            raise UserError(f"{RECIPES / name}.yaml: {key}={shown!r} cannot be a flag; use `recipe {name}`")
        flags.append(f"-S {'' if has_key(now, key) else '+'}{key}={shown}")
    return " ".join(flags)


def _round_trip() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096  # keep long lines
    # ruamel writes nothing for null by default
    yaml.representer.add_representer(
        type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    return yaml


def _write_into(document: CommentedMap, overlay: Mapping[str, JsonValue]) -> None:
    """Change values in place; comments are attached to the containers."""
    for key, value in overlay.items():
        old = document.get(key)
        if isinstance(old, CommentedMap) and isinstance(value, dict):
            _write_into(old, value)
        elif isinstance(old, CommentedSeq) and isinstance(value, list):
            old[:] = value
        elif isinstance(value, list):
            document[key] = CommentedSeq(value)
            document[key].fa.set_flow_style()
        elif old != value:
            document[key] = value
