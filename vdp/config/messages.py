"""Validate a section of params.yaml; a pydantic error becomes one line that names the key and its range."""

import difflib
import json
from typing import Any

from pydantic import JsonValue, ValidationError

from vdp.config.schema import PARAMS_FILE, P, Params
from vdp.core.errors import UserError

_TYPES = {
    "string": "text",
    "boolean": "true or false",
    "null": "null",
    "integer": "an integer",
    "number": "a number",
}
_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def validate(cls: type[P], value: JsonValue, name: str) -> P:
    """Validate the content of a section; `name` is its name in messages, '' for the top level.

    Raises:
        UserError: for the first mistake.
    """
    if not isinstance(value, dict):
        raise UserError(f"{PARAMS_FILE}: {name}={shown(value)}: expected a section with {key_list(cls)}")
    try:
        # As JSON, so that strict types accept a list for a tuple and text for a path.
        return cls.model_validate_json(json.dumps(value))
    except ValidationError as error:
        raise UserError(f"{PARAMS_FILE}: {first_error(cls, value, error, name)}") from None


def first_error(cls: type[Params], data: object, error: ValidationError, section: str) -> str:
    """Describe the first mistake in the content of a section, and count the others."""
    # Unknown keys first: a misspelt key is also missing under its right name.
    found = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return _message(cls, data, found[0], section) + more


def _message(cls: type[Params], data: Any, error: Any, section: str) -> str:
    loc, kind, value = error["loc"], error["type"], error.get("input")
    path, rule, keys = _find(cls, loc)
    name = dotted(section, path)
    if kind == "extra_forbidden":
        for part in path:
            data = data[part]
        return unknown(str(loc[-1]), name, sorted(keys, key=lambda key: key in data))
    if kind == "missing":
        meaning = f": {rule['description']}" if "description" in rule and rule.get("type") != "object" else ""
        return f"{name} is missing; add it ({_expected(rule)}{meaning})"
    if kind in ("value_error", "assertion_error"):
        text = str(error["ctx"]["error"])
        if not name or f"{section}." in text:
            return text
        return f"{name}.{text}" if text.partition("=")[0] in keys else f"{name}: {text}"
    near = (
        _nearest(value, [str(choice) for choice in rule.get("enum", [])]) if isinstance(value, str) else None
    )
    hint = f"; did you mean {near}?" if near else ""
    return f"{name}={shown(value)}: expected {_expected(rule)}{hint}"


def _find(cls: type[Params], loc: tuple[str | int, ...]) -> tuple[list[str | int], Any, list[str]]:
    """Follow the location of an error through the JSON schema; return its path, rule and known keys."""
    root = cls.model_json_schema()
    path: list[str | int] = []
    rule = root
    for part in loc:
        inner = next((i for o in _options(root, rule) if (i := _inside(o, part)) is not None), None)
        if inner is not None:  # else it is the name of a branch of a union, or the unknown key
            rule = _resolve(root, inner)
            path.append(part)
    keys = [key for option in _options(root, rule) for key in option.get("properties", {})]
    return path, {**rule, "$defs": root.get("$defs", {})}, keys


def _inside(rule: Any, part: str | int) -> Any:
    """Return the rule of a key or position inside a rule, or None."""
    if isinstance(part, str):
        others = rule.get("additionalProperties")
        return rule.get("properties", {}).get(part, others if isinstance(others, dict) else None)
    items = rule.get("prefixItems", [])
    return items[part] if part < len(items) else rule.get("items")


def _options(root: Any, rule: Any) -> list[Any]:
    """Return the branches of a union, or a list of the rule."""
    return [_resolve(root, option) for option in rule.get("anyOf", rule.get("oneOf", [rule]))]


def _resolve(root: Any, rule: Any) -> Any:
    if "$ref" not in rule:
        return rule
    target = root["$defs"][rule["$ref"].removeprefix("#/$defs/")]
    return {**target, **{key: value for key, value in rule.items() if key != "$ref"}}


def _expected(rule: Any) -> str:
    """Describe the values that a JSON-schema rule accepts, such as `an integer 1..8`."""
    defs = {"$defs": rule.get("$defs", {})}
    rule = _resolve(defs, rule)
    if "anyOf" in rule or "oneOf" in rule:
        return " or ".join(_expected({**option, **defs}) for option in rule.get("anyOf", rule.get("oneOf")))
    if "enum" in rule:
        return "one of " + ", ".join(map(str, rule["enum"]))
    if "const" in rule:
        return str(rule["const"])
    if rule.get("type") == "array":
        low, high = rule.get("minItems", 0), rule.get("maxItems")
        count = f" of {low}" if low and low == high else f" of {low} or more" if low else ""
        items = [rule["items"]] if isinstance(rule.get("items"), dict) else rule.get("prefixItems", [])
        each = ", ".join(dict.fromkeys(_expected({**item, **defs}) for item in items))
        return f"a list{count}" + (f", each {each}" if each else "")
    if rule.get("type") == "object":
        return "a section with " + (", ".join(rule.get("properties", {})) or "names and values")
    words = "a path" if rule.get("format", "").endswith("path") else _TYPES.get(rule.get("type"), "a value")
    return f"{words} {_bounds(rule)}".strip()


def _bounds(rule: Any) -> str:
    if "minimum" in rule and "maximum" in rule:
        return f"{rule['minimum']}..{rule['maximum']}"
    bounds = [f"{sign} {rule[key]}" for key, sign in _BOUNDS.items() if key in rule]
    if "multipleOf" in rule:
        bounds.append(f"a multiple of {rule['multipleOf']}")
    if rule.get("minLength"):
        bounds.append("not empty")
    return " and ".join(bounds)


def unknown(key: str, section: str, known: list[str]) -> str:
    """Describe an unknown key, with the nearest known one."""
    near = _nearest(key, known)
    hint = f"did you mean {dotted(section, [near])}? " if near else ""
    return f"{dotted(section, [key])} is not a known key; {hint}known: {', '.join(known)}"


def _nearest(word: str, known: list[str]) -> str | None:
    """Return the known word nearest in spelling, or of which one abbreviates the other."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    short = [key for key in known if _abbreviates(word, key) or _abbreviates(key, word)]
    loose = difflib.get_close_matches(word, known, n=1, cutoff=0.4)
    return next(iter(close or short or loose), None)


def _abbreviates(short: str, long: str) -> bool:
    """Whether `short` is a subsequence of `long` with the same first letter: bse, base_channels."""
    rest = iter(long)
    return short[:1] == long[:1] and all(letter in rest for letter in short)


def key_list(cls: type[Params]) -> str:
    """List the keys of a schema, for messages."""
    return "the keys " + ", ".join(cls.model_fields)


def dotted(section: str, path: Any) -> str:
    """Join `predict` and [`hops`, 0] to `predict.hops[0]`."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in path]
    return (section + "".join(parts)).removeprefix(".")


def shown(value: JsonValue) -> str:
    """Format a value for messages, at most 60 characters."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
