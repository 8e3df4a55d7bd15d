"""Recipes: a full set of params for one purpose, kept as an overlay over params.yaml."""

import io
import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import JsonValue
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import RoundTripRepresenter

from vdp.config.read import check_data
from vdp.config.schema import PARAMS_FILE
from vdp.config.yaml_file import read_file
from vdp.core.errors import UserError

RECIPES = Path("recipes")


def recipe_names() -> list[str]:
    """Names of the recipes there are."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def read_recipe(name: str) -> dict[str, JsonValue]:
    """The overlay of one recipe, checked together with the params.yaml it goes over.

    Raises:
        UserError: if there is no such recipe, or if params.yaml would not be valid with it.
    """
    path = RECIPES / f"{name}.yaml"
    if name not in recipe_names():
        raise UserError(f"{name} is not a recipe in {RECIPES}/: known: {', '.join(recipe_names())}")
    overlay = read_file(path)
    try:
        check_data(merged(read_file(), overlay))
    except UserError as error:
        raise UserError(f"{path} does not fit: {error}") from None
    return overlay


def merged(data: Mapping[str, JsonValue], overlay: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """The values of `overlay` over those of `data`, section by section; a list is replaced as a whole."""
    result = dict(data)
    for key, value in overlay.items():
        under = result.get(key)
        result[key] = merged(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return result


def changes(
    data: Mapping[str, JsonValue], overlay: Mapping[str, JsonValue], prefix: str = ""
) -> dict[str, tuple[JsonValue, JsonValue]]:
    """Dotted name to (value now, value in the overlay) of what the overlay would change."""
    found: dict[str, tuple[JsonValue, JsonValue]] = {}
    for key, value in overlay.items():
        under = data.get(key)
        if isinstance(under, dict) and isinstance(value, dict):
            found |= changes(under, value, f"{prefix}{key}.")
        elif under != value or key not in data:
            found[f"{prefix}{key}"] = (under, value)
    return found


def apply_recipe(name: str) -> dict[str, tuple[JsonValue, JsonValue]]:
    """Write a recipe into ./params.yaml, keeping its comments and order; returns what has changed.

    Raises:
        UserError: as `read_recipe`; the file is then as it was.
    """
    overlay = read_recipe(name)
    changed = changes(read_file(), overlay)
    if changed:
        yaml = _round_trip()
        document = yaml.load(PARAMS_FILE.read_text(encoding="utf-8"))
        _write_into(document, overlay)
        text = io.StringIO()
        yaml.dump(document, text)
        new = PARAMS_FILE.with_name(PARAMS_FILE.name + ".new")
        new.write_text(text.getvalue(), encoding="utf-8")
        new.replace(PARAMS_FILE)
    return changed


def recipe_flags(name: str) -> str:
    """A recipe as `-S` flags for `dvc exp run $(...)`: a shell splits them at spaces and unquotes nothing."""
    now = read_file()
    flags = []
    for key, (before, value) in changes(now, read_recipe(name)).items():
        shown = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        if not shown or set(shown) & set(" \t'\"*?$"):
            raise UserError(f"{RECIPES / name}.yaml: {key}={shown!r} cannot be a flag: use `recipe {name}`")
        sign = "" if before is not None or _has(now, key) else "+"
        flags.append(f"-S {sign}{key}={shown}")
    return " ".join(flags)


def _has(data: Mapping[str, JsonValue], dotted: str) -> bool:
    section, _, rest = dotted.partition(".")
    inside = data.get(section)
    return section in data and (not rest or (isinstance(inside, dict) and _has(inside, rest)))


def _round_trip() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096  # no line is broken that was not
    # ruamel would leave the place of a null empty
    yaml.representer.add_representer(type(None), _null)
    return yaml


def _null(representer: RoundTripRepresenter, value: None) -> ScalarNode:
    return representer.represent_scalar("tag:yaml.org,2002:null", "null")


def _write_into(document: CommentedMap, overlay: Mapping[str, JsonValue]) -> None:
    """Change values in place: the comments hang on the containers, so containers stay."""
    for key, value in overlay.items():
        under = document.get(key)
        if isinstance(under, CommentedMap) and isinstance(value, dict):
            _write_into(under, value)
        elif isinstance(under, CommentedSeq) and isinstance(value, list):
            under[:] = value
        elif isinstance(value, list):
            document[key] = CommentedSeq(value)
            document[key].fa.set_flow_style()
        elif under != value:
            document[key] = value
