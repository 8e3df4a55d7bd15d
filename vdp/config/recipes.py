"""Recipes: a set of params for one purpose, kept as an overlay over params.yaml.

A mapping of an overlay is merged into the one of params.yaml. With the key `_replace: true` it takes its
place: `test_sets: {_replace: true, mine: data/mine}`.
"""

import io
import json
from collections.abc import Mapping
from enum import Enum
from pathlib import Path

from pydantic import JsonValue
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import CommentMark
from ruamel.yaml.tokens import CommentToken

from vdp.config.read import check_data
from vdp.config.renames import has_key
from vdp.config.schema import PARAMS_FILE
from vdp.config.yaml_file import parse_yaml, read_file
from vdp.core.errors import UserError
from vdp.core.files import write_text

RECIPES = Path("recipes")
REPLACE = "_replace"  # key of a mapping that takes the place of another


class Removed(Enum):
    """In place of the new value of a key that an overlay removes."""

    REMOVED = "removed"


Changes = dict[str, tuple[JsonValue, JsonValue | Removed]]  # old and new value by dotted name


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
    """Merge `overlay` into `data`, section by section; a list is replaced as a whole.

    Raises:
        UserError: for a `_replace` other than true.
    """
    result = dict(data)
    for key, value in overlay.items():
        old = result.get(key)
        if isinstance(value, dict):
            result[key] = merged(
                {} if _replaces(value) or not isinstance(old, dict) else old, _content(value)
            )
        else:
            result[key] = value
    return result


def _replaces(value: Mapping[str, JsonValue]) -> bool:
    """Whether a mapping of an overlay takes the place of another."""
    if value.get(REPLACE, True) is not True:
        raise UserError(f"{REPLACE}={json.dumps(value[REPLACE])}: expected true; or leave the key out")
    return REPLACE in value


def _content(value: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """The values of a mapping of an overlay; mappings in one that takes the place of another do so too."""
    mark: dict[str, JsonValue] = {REPLACE: True} if _replaces(value) else {}
    return {
        key: {**mark, **part} if isinstance(part, dict) else part
        for key, part in value.items()
        if key != REPLACE
    }


def changes(data: Mapping[str, JsonValue], overlay: Mapping[str, JsonValue], prefix: str = "") -> Changes:
    """Return (old value, new value) by dotted name of what the overlay changes."""
    found: Changes = {}
    for key, value in overlay.items():
        old = data.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            content = _content(value)
            gone = [name for name in old if name not in content] if _replaces(value) else []
            found |= {f"{prefix}{key}.{name}": (old[name], Removed.REMOVED) for name in gone}
            found |= changes(old, content, f"{prefix}{key}.")
        elif old != value or key not in data:
            found[f"{prefix}{key}"] = (old, merged({}, {key: value})[key])
    return found


def apply_recipe(name: str) -> Changes:
    """Write a recipe into ./params.yaml, keeping its comments and order, and return the `changes`.

    Raises:
        UserError: as `read_recipe`, or if the file shares values by anchors; the file is then unchanged.
    """
    overlay, data = read_recipe(name), read_file()
    changed = changes(data, overlay)
    if changed:
        yaml = _round_trip()
        document = yaml.load(PARAMS_FILE.read_text(encoding="utf-8"))
        _write_into(document, overlay)
        text = io.StringIO()
        yaml.dump(document, text)
        if parse_yaml(text.getvalue(), str(PARAMS_FILE)) != merged(data, overlay):
            raise UserError(
                f"{PARAMS_FILE}: recipe {name} changes a value that has an anchor, and so others too; write "
                "the value out at each place"
            )
        write_text(PARAMS_FILE, text.getvalue())
    return changed


def recipe_flags(name: str) -> str:
    """Return a recipe as `-S` flags for `dvc exp run $(...)`, to be split at spaces by a shell."""
    now = read_file()
    flags = []
    for key, (_, value) in changes(now, read_recipe(name)).items():
        if isinstance(value, Removed):
            flags.append(f"-S ~{key}")
            continue
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
            content = _content(value)
            gone = [name for name in old if _replaces(value) and name not in content]
            below = _take_lines_below(old) if gone else ""
            for name in gone:
                del old[name]
                old.ca.items.pop(name, None)
            _write_into(old, content)
            if not old:
                old.fa.set_flow_style()  # {}
            if below:
                _add_lines_below(*(_last(old) if old else (document, key)), below)
        elif isinstance(value, dict):
            document[key] = merged({}, {key: value})[key]
        elif isinstance(old, CommentedSeq) and isinstance(value, list):
            old[:] = value
        elif isinstance(value, list):
            document[key] = CommentedSeq(value)
            document[key].fa.set_flow_style()
        elif old != value or key not in document:
            document[key] = value


def _take_lines_below(mapping: CommentedMap) -> str:
    """Remove the comment lines and blank lines below a mapping, which ruamel keeps with its last key."""
    holder, key = _last(mapping)
    token = holder.ca.items.get(key, [None] * 3)[2]
    if token is None:
        return ""
    own, _, below = token.value.partition("\n")
    token.value = f"{own}\n"
    return str(below)


def _add_lines_below(holder: CommentedMap, key: str, below: str) -> None:
    tokens = holder.ca.items.setdefault(key, [None, None, None, None])
    if tokens[2] is None:
        tokens[2] = CommentToken(f"\n{below}", CommentMark(0))
    else:
        tokens[2].value = f"{tokens[2].value.rstrip(chr(10))}\n{below}"


def _last(mapping: CommentedMap) -> tuple[CommentedMap, str]:
    """The innermost mapping with the last line of a mapping, and its last key."""
    key = next(reversed(mapping))
    value = mapping[key]
    return _last(value) if isinstance(value, CommentedMap) and value else (mapping, key)
