"""Read YAML 1.2 files as DVC does; reject duplicate keys and unbounded anchors."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import JsonValue
from yaml.constructor import ConstructorError

from vdp.config.messages import dotted, shown
from vdp.config.schema import PARAMS_FILE
from vdp.core.errors import UserError

MAX_VALUES = 100_000  # in a file, when every anchor is written out


MAX_BITS = 1023  # of an integer: more than a float can hold


def read_file(path: Path = PARAMS_FILE) -> dict[str, JsonValue]:
    """Read a YAML file of sections, by the rules of YAML 1.2 (DVC's own): `1e-3` is a number, `no` is text.

    Raises:
        UserError: if the file is missing, is not YAML, gives a key twice, is not a mapping, or has anchors
            that hold themselves or unfold to more than `MAX_VALUES`.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file in {Path.cwd()}: run from the folder that holds it")
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        if _unfolded(node, {}) > MAX_VALUES:
            raise UserError(f"{path}: its anchors stand for more than {MAX_VALUES} values: write them out")
        for message in _duplicates(node, "", set()):
            raise UserError(f"{path}: {message}")
        value = loader.construct_document(node) if node else None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8: save the file as UTF-8 text") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: {_syntax_message(error)}") from None
    except RecursionError:
        raise UserError(f"{path}: is nested too deeply: close the brackets where they should end") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected sections such as `clip:`, got {shown(value)}")
    return value


class _Loader(yaml.SafeLoader):
    """YAML 1.2, as DVC reads it. PyYAML alone is 1.1: 1e-3 is text there, `no` is false and 010 is 8."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    yaml_constructors = {
        tag: make
        for tag, make in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.rpartition(":")[2] in ("null", "bool", "int", "float", "str", "seq", "map")
    }

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError):  # a tag on what it does not fit: !!int x, !!bool x, !!float ''
            kind = node.tag.rpartition(":")[2]
            text = str(node.value)
            shown = text if len(text) <= 60 else text[:57] + "..."
            raise ConstructorError(None, None, f"{shown!r} is not a usable {kind}", node.start_mark) from None


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node).replace("_", "")
    value = int(text, 0 if text.lstrip("+-")[:2] in ("0x", "0o") else 10)
    if value.bit_length() > MAX_BITS:
        raise ValueError("too large")
    return value


_SCALARS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
}
for _kind, (_pattern, _first) in _SCALARS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"^(?:{_pattern})$"), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _integer)


def _unfolded(node: yaml.Node | None, known: dict[int, int]) -> int:
    """How many values a node stands for, when every anchor is written out; `known` are those of others."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in known:
        known[id(node)] = MAX_VALUES + 1  # should it hold itself, it has no end
        parts = [part for entry in node.value for part in (entry if isinstance(entry, tuple) else [entry])]
        known[id(node)] = 1 + sum(_unfolded(part, known) for part in parts)
    return known[id(node)]


def _duplicates(node: yaml.Node | None, section: str, seen: set[int]) -> Iterator[str]:
    """One message for each key that a mapping anywhere in the document gives twice; `seen` are its nodes."""
    if id(node) in seen:  # an anchor's
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _duplicates(item, section, seen)
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[str, int] = {}
    for key, value in node.value:
        name, line = dotted(section, [str(key.value)]), key.start_mark.line + 1
        if name in lines:
            yield f"{name} is given twice, on lines {lines[name]} and {line}: keep one"
        lines[name] = line
        yield from _duplicates(value, name, seen)


def _syntax_message(error: yaml.YAMLError) -> str:
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return f"{' '.join(str(error).split())}: remove it"
    mark, begun = error.problem_mark, error.context_mark
    since = f" {error.context} from line {begun.line + 1} on" if begun and error.context else ""
    return (
        f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}{since}: "
        "check the indentation, colons and quotes there"
    )
