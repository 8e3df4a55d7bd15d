"""Validate a section of params.yaml; a pydantic error becomes one line that names the key and its range."""

import difflib
import json
from typing import Any

from pydantic import JsonValue, ValidationError

from vdp.config.schema import PARAMS_FILE, P, Params
from vdp.core.errors import UserError

_RANGE_ERRORS = {"greater_than", "greater_than_equal", "less_than", "less_than_equal", "multiple_of"}


def validate(cls: type[P], value: JsonValue, name: str) -> P:
    """A section's object from its raw content; `name` is its name in messages ('' for the top level)."""
    if not isinstance(value, dict):
        raise UserError(f"{PARAMS_FILE}: {name}={shown(value)}: expected a section with {key_list(cls)}")
    try:
        # As JSON, so that strict types still take a list for a tuple and text for a path.
        return cls.model_validate_json(json.dumps(value))
    except ValidationError as error:
        # Unknown keys first: a misspelt key is the reason why the right one is missing.
        found = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise UserError(f"{PARAMS_FILE}: {_message(cls, value, found[0], name)}{more}") from None


def _message(cls: type[Params], data: Any, error: Any, section: str) -> str:
    """One pydantic error in words, with the full dotted name of its key."""
    loc, kind, value = error["loc"], error["type"], error.get("input")
    path, rule, keys = _find(cls, loc)
    name = dotted(section, path)
    if kind == "extra_forbidden":
        present = _at(data, path)
        return unknown(str(loc[-1]), name, sorted(keys, key=lambda key: key in present))
    if kind == "missing":
        return f"{name} is missing: add it ({_expected(rule)}{_meaning(rule)})"
    if kind in ("value_error", "assertion_error"):
        text = str(error["ctx"]["error"])
        return text if section and f"{section}." in text else f"{name}: {text}"
    if kind in _RANGE_ERRORS:
        return f"{name}={shown(value)} is out of range: expected {_expected(rule)}"
    return f"{name}={shown(value)}: expected {_expected(rule)}{_nearest_value(value, rule)}"


def _find(cls: type[Params], loc: tuple[str | int, ...]) -> tuple[list[str | int], Any, list[str]]:
    """Follow an error's place through the schema: the path in the file, the rule and the known keys there."""
    root = cls.model_json_schema()
    path: list[str | int] = []
    rule = root
    for part in loc:
        inner = next((i for o in _options(root, rule) if (i := _inside(o, part)) is not None), None)
        if inner is not None:  # else it is the name of a union's branch, or the unknown key itself
            rule = _resolve(root, inner)
            path.append(part)
    keys = [key for option in _options(root, rule) for key in option.get("properties", {})]
    return path, {**rule, "$defs": root.get("$defs", {})}, keys


def _inside(rule: Any, part: str | int) -> Any:
    """The rule for one key or one position inside a JSON-schema rule; None where it has no such part."""
    if isinstance(part, str):
        others = rule.get("additionalProperties")
        return rule.get("properties", {}).get(part, others if isinstance(others, dict) else None)
    places = rule.get("prefixItems", [])
    return places[part] if part < len(places) else rule.get("items")


def _options(root: Any, rule: Any) -> list[Any]:
    """The branches of a rule that is a union, else the rule alone."""
    return [_resolve(root, option) for option in rule.get("anyOf", rule.get("oneOf", [rule]))]


def _resolve(root: Any, rule: Any) -> Any:
    if "$ref" not in rule:
        return rule
    target = root["$defs"][rule["$ref"].removeprefix("#/$defs/")]
    return {**target, **{key: value for key, value in rule.items() if key != "$ref"}}


def _at(data: Any, path: list[str | int]) -> Any:
    for part in path:
        data = data[part]
    return data


_TYPES = {
    "string": "text",
    "boolean": "true or false",
    "null": "null",
    "integer": "an integer",
    "number": "a number",
}


_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def _expected(rule: Any) -> str:
    """What a JSON-schema rule asks for, in words: `an integer >= 1 and <= 8`."""
    defs = {"$defs": rule.get("$defs", {})}
    rule = _resolve(defs, rule)
    if "anyOf" in rule or "oneOf" in rule:
        return " or ".join(_expected({**option, **defs}) for option in rule.get("anyOf", rule.get("oneOf")))
    if "enum" in rule:
        return "one of " + ", ".join(map(str, rule["enum"]))
    if "const" in rule:
        return str(rule["const"])
    if rule.get("type") == "array":
        return _expected_list(rule, defs)
    if rule.get("type") == "object":
        return "a section with " + (
            ", ".join(rule["properties"]) if "properties" in rule else "names and values"
        )
    words = "a path" if rule.get("format", "").endswith("path") else _TYPES.get(rule.get("type"), "a value")
    return f"{words} {_bounds(rule)}".strip()


def _bounds(rule: Any) -> str:
    bounds = [f"{sign} {rule[key]}" for key, sign in _BOUNDS.items() if key in rule]
    if "multipleOf" in rule:
        bounds.append(f"a multiple of {rule['multipleOf']}")
    if rule.get("minLength"):
        bounds.append("not empty")
    return " and ".join(bounds)


def _expected_list(rule: Any, defs: Any) -> str:
    low, high = rule.get("minItems", 0), rule.get("maxItems")
    count = f" of {low}" if low and low == high else f" of {low} or more" if low else ""
    items = [rule["items"]] if isinstance(rule.get("items"), dict) else rule.get("prefixItems", [])
    each = ", ".join(dict.fromkeys(_expected({**item, **defs}) for item in items))
    return f"a list{count}" + (f", each {each}" if each else "")


def unknown(key: str, section: str, known: list[str]) -> str:
    near = _nearest(key, known)
    hint = f"did you mean {dotted(section, [near])}? " if near else ""
    return f"{dotted(section, [key])} is not a known key; {hint}known: {', '.join(known)}"


def _nearest(word: str, known: list[str]) -> str | None:
    """The known word nearest to a misspelt one: by spelling, else one of the two abbreviates the other."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    short = [key for key in known if _abbreviates(word, key) or _abbreviates(key, word)]
    loose = difflib.get_close_matches(word, known, n=1, cutoff=0.4)
    return next(iter(close or short or loose), None)


def _abbreviates(short: str, long: str) -> bool:
    """Whether `short` has only letters of `long`, in order and from the first on: bse, base_channels."""
    rest = iter(long)
    return short[:1] == long[:1] and all(letter in rest for letter in short)


def _nearest_value(value: JsonValue, rule: Any) -> str:
    choices = [str(choice) for choice in rule.get("enum", [])]
    near = _nearest(value, choices) if isinstance(value, str) and value else None
    return f"; did you mean {near}?" if near else ""


def _meaning(rule: Any) -> str:
    return f": {rule['description']}" if "description" in rule and rule.get("type") != "object" else ""


def key_list(cls: type[Params]) -> str:
    return "the keys " + ", ".join(cls.model_fields)


def dotted(section: str, path: Any) -> str:
    """`predict` and [`hops`, 0] to `predict.hops[0]`."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in path]
    return (section + "".join(parts)).removeprefix(".")


def shown(value: JsonValue) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
