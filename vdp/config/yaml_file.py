"""Read YAML 1.2 files with the parser of DVC; reject duplicate keys and unbounded anchors."""

from pathlib import Path
from typing import Any

from pydantic import JsonValue
from ruamel.yaml import YAML
from ruamel.yaml.constructor import ConstructorError, DuplicateKeyError, SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import Node

from vdp.config.messages import shown
from vdp.config.schema import PARAMS_FILE
from vdp.core.errors import UserError

MAX_VALUES = 100_000  # of a file with its anchors expanded
MAX_BITS = 1023  # of an integer; more overflow a float


def read_file(path: Path = PARAMS_FILE) -> dict[str, JsonValue]:
    """Read a YAML 1.2 file of sections: `1e-3` is a number, `no` is text.

    Raises:
        UserError: if the file is missing, is not YAML, has a duplicate key, is not a mapping, or has
            recursive anchors or more than `MAX_VALUES` values.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file in {Path.cwd()}; run from its folder")
    try:
        value = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8 text") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected sections such as `clip:`, got {shown(value)}")
    return value


def parse_yaml(text: str, name: str) -> JsonValue:
    """Parse YAML 1.2, as `read_file`; `name` is that of the text in messages."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = _Constructor
    try:
        value: JsonValue = yaml.load(text)
    except YAMLError as error:
        raise UserError(f"{name}: {_syntax_message(error)}") from None
    except RecursionError:
        raise UserError(f"{name}: is nested too deeply; close the brackets") from None
    if _count_values(value, {}) > MAX_VALUES:
        raise UserError(f"{name}: anchors expand to more than {MAX_VALUES} values; write them out")
    return value


class _Constructor(SafeConstructor):
    """Construct JSON values only."""

    yaml_constructors = {
        tag: constructor
        for tag, constructor in SafeConstructor.yaml_constructors.items()
        if tag is None or tag.rpartition(":")[2] in ("null", "bool", "int", "float", "str", "seq", "map")
    }

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
            if isinstance(value, int) and value.bit_length() > MAX_BITS:
                raise ValueError
            return value
        except (ValueError, LookupError):  # also a tag on an unsuitable value: !!int x, !!float ''
            text, kind = shown(str(node.value)), str(node.tag).rpartition(":")[2]
            raise ConstructorError(None, None, f"{text} is not a usable {kind}", node.start_mark) from None


_Constructor.add_constructor("tag:yaml.org,2002:timestamp", SafeConstructor.construct_yaml_str)


def _count_values(value: JsonValue, counts: dict[int, int]) -> int:
    """Count the values in a value with its anchors expanded; `counts` caches them by id."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in counts:
        counts[id(value)] = MAX_VALUES + 1  # of a value inside itself
        parts = value.values() if isinstance(value, dict) else value
        counts[id(value)] = 1 + sum(_count_values(part, counts) for part in parts)
    return counts[id(value)]


def _syntax_message(error: YAMLError) -> str:
    if not isinstance(error, MarkedYAMLError) or error.problem_mark is None:
        return f"{' '.join(str(error).split())}; remove it"
    mark, begun = error.problem_mark, error.context_mark
    if isinstance(error, DuplicateKeyError):
        return f"line {mark.line + 1}: {error.problem.partition(' with value')[0]}; keep one"
    since = f" {error.context} from line {begun.line + 1} on" if begun and error.context else ""
    return (
        f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}{since}; "
        "check the indentation, colons and quotes there"
    )
