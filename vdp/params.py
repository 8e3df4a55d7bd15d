"""Typed, strict reading of params.yaml: every mistake in it becomes one line that says what to change.

The schema of a section lives beside the code it configures and is found by name in `SECTIONS`, so that a
stage has the whole file checked without importing (and, for DVC, depending on) the other stages' code. The
checks over several sections are found by name too: they let a run start or not, and change nothing in it.
"""

import difflib
import importlib.util
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator
from yaml.constructor import ConstructorError

PARAMS_FILE = Path("params.yaml")
PATIENCE = 5.0  # seconds; of other processes than the main one, which ends them if it has the same to tell
MAX_VALUES = 100_000  # in a file, when every anchor is written out
MAX_BITS = 1023  # of an integer: more than a float can hold
BROKEN = re.compile(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*")  # where a text goes on in the next line

SECTIONS = {
    "clip": "vdp.params:ClipParams",
    "simulate": "vdp.data.simulator.params:SimulateParams",
    "extract_frames": "vdp.data.params:ExtractParams",
    "augment": "vdp.data.augment_params:AugmentParams",
    "degrade": "vdp.data.degrade_params:DegradeParams",
    "codec": "vdp.models.codecs.params:CodecParams",
    "vae": "vdp.models.codecs.params:VaeParams",
    "engine": "vdp.training.params:EngineParams",
    "pretrain_vae": "vdp.training.params:PretrainVaeParams",
    "encode_latents": "vdp.models.codecs.params:EncodeParams",
    "denoiser": "vdp.models.denoisers.params:DenoiserParams",
    "diffusion": "vdp.diffusion.params:DiffusionParams",
    "train_denoiser": "vdp.training.params:TrainDenoiserParams",
    "segmenter": "vdp.models.segmenters.params:SegmenterParams",
    "train_segmenter": "vdp.training.params:TrainSegmenterParams",
    "predict": "vdp.sampling.params:PredictParams",
    "segment": "vdp.models.segmenters.params:SegmentParams",
    "score": "vdp.metrics.params:ScoreParams",
    "evaluate_tasks": "vdp.metrics.params:EvaluateTasksParams",
}


class UserError(ValueError):
    """A mistake the user can put right, told in one line: what is wrong, what was expected, what to do."""


class Interrupted(KeyboardInterrupt):
    """Work was stopped by a signal; the message says how to go on.

    Of several processes one tells the message. The others end as if all were well: whoever has started them
    would else take it for a crash and kill that one.
    """

    def __init__(self, signal: int, message: str, tells: bool) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal if tells else 0
        self.tells = tells


class Params(BaseModel):
    """A section of params.yaml: frozen, no unknown keys, no guessing of types, no defaults in subclasses."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ScalarParams(Params):
    """The keys of params.yaml that stand outside every section."""

    seed: int = Field(ge=0, le=2**31 - 1)
    launcher: str = Field(
        min_length=1
    )  # what starts the training stages: python, torchrun or srun with options


class ClipParams(Params):
    """Section `clip` of params.yaml."""

    frames: int = Field(ge=2, le=65536)  # frames of a clip
    known: int = Field(ge=1)  # how many of them, from the first on, are given
    height: int = Field(ge=8, le=16384)  # pixels
    width: int = Field(ge=8, le=16384)  # pixels

    @model_validator(mode="after")
    def some_frame_is_unknown(self) -> Self:
        if self.known >= self.frames:
            raise ValueError(
                f"clip.known={self.known} leaves nothing to predict: expected < clip.frames={self.frames}"
            )
        return self


P = TypeVar("P", bound=Params)


# --- Reading ---------------------------------------------------------------------------------------------


def read_section(cls: type[P], name: str) -> P:
    """Read one section of ./params.yaml.

    Args:
        cls: the schema of the section.
        name: the section's key; `a.b` is the section `b` inside the section `a`.

    Raises:
        UserError: if the file or the section is missing or has a mistake.
    """
    value: JsonValue = read_file()
    walked: list[str] = []
    for key in name.split("."):
        walked.append(key)
        if not isinstance(value, dict) or key not in value:
            missing = ".".join(walked)
            raise UserError(f"{PARAMS_FILE}: section {missing} is missing: add it with {_key_list(cls)}")
        value = value[key]
    return validate(cls, value, name)


def read_value(key: str) -> int:
    """Read a key of ./params.yaml that stands outside every section, such as `seed`."""
    known = list(ScalarParams.model_fields)
    if key not in known:
        raise ValueError(f"{key!r} stands in a section: expected one of {', '.join(known)}")
    scalars: JsonValue = {name: value for name, value in read_file().items() if name in known}
    return getattr(validate(ScalarParams, scalars, ""), key)


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
        raise UserError(f"{path}: expected sections such as `clip:`, got {_shown(value)}")
    return value


def check_file() -> None:
    """Check the whole of ./params.yaml, each section alone and then together.

    Raises:
        UserError: for the first mistake found.
    """
    check_data(read_file())


def check_data(data: dict[str, JsonValue]) -> None:
    """As `check_file`, for the content of a params.yaml that is not (yet) on disk."""
    scalars = list(ScalarParams.model_fields)
    for key in data:
        if key not in SECTIONS and key not in scalars:
            raise UserError(f"{PARAMS_FILE}: {_unknown(str(key), '', [*scalars, *SECTIONS])}")
    validate(ScalarParams, {key: data[key] for key in scalars if key in data}, "")
    for name in SECTIONS:
        cls = schema(name)
        if name not in data:
            raise UserError(f"{PARAMS_FILE}: section {name} is missing: add it with {_key_list(cls)}")
        validate(cls, data[name], name)
    _module("vdp.checks").check_together(data)


def schema(section: str) -> type[Params]:
    """The schema of a section, from where `SECTIONS` says it is.

    Its file is loaded by itself: its package would load the networks beside it, seconds for nothing.
    """
    name, class_name = SECTIONS[section].split(":")
    return getattr(_module(name), class_name)


def _module(name: str) -> ModuleType:
    """A module by its name, loaded from its file where it is not loaded yet."""
    module = sys.modules.get(name)
    if module is None:
        path = Path(__file__).parents[1].joinpath(*name.split(".")).with_suffix(".py")
        spec = importlib.util.spec_from_file_location(f"loaded_for_params.{name}", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def run_stage(main: Callable[[], None]) -> None:
    """Run a stage: check params.yaml first, and end on a user's mistake with one line and exit code 1.

    With VDP_TRACEBACK=1 in the environment the traceback is shown instead.
    """
    try:
        check_file()
        main()
    except (ValueError, OSError) as error:
        if os.environ.get("VDP_TRACEBACK"):
            raise
        if number := process_number():
            time.sleep(PATIENCE)
            print(f"\nerror in process {number}: {one_line(error)}", file=sys.stderr)
        else:
            print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(1)
    except Interrupted as stopped:
        if stopped.tells:
            print(stopped, file=sys.stderr)
        sys.exit(stopped.exit_code)
    except KeyboardInterrupt:
        if process_number() == 0:
            print("interrupted", file=sys.stderr)
        sys.exit(130)


def process_number() -> int:
    """Which one of a distributed training's processes this is; 0 is the main one, or the only one.

    torchrun gives each process its RANK. Where Lightning starts the processes, they have a LOCAL_RANK, and
    a NODE_RANK on several machines. SLURM numbers those that it starts itself.
    """
    if "RANK" in os.environ:
        names = ["RANK"]
    else:
        names = ["LOCAL_RANK", "NODE_RANK"] if "LOCAL_RANK" in os.environ else ["SLURM_PROCID"]
    return max(int(os.environ.get(name, 0)) for name in names)


def one_line(error: ValueError | OSError) -> str:
    """The message of an error, on one line."""
    text = str(error)
    if isinstance(error, FileNotFoundError) and error.filename:
        text = f"{error.filename}: no such file or folder"
    elif isinstance(error, OSError) and error.strerror:
        text = f"{error.filename or ''}: {error.strerror.lower()}".removeprefix(": ")
    return printable(text) or type(error).__name__


def printable(text: str) -> str:
    """The text on one line that a terminal can show: broken lines are joined, `\\x1b` is written out."""
    return "".join(c if c.isprintable() else _escaped(c) for c in BROKEN.sub(" ", text).strip())


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


# --- From pydantic's errors to lines ---------------------------------------------------------------------

_RANGE_ERRORS = {"greater_than", "greater_than_equal", "less_than", "less_than_equal", "multiple_of"}


def validate(cls: type[P], value: JsonValue, name: str) -> P:
    """A section's object from its raw content; `name` is its name in messages ('' for the top level)."""
    if not isinstance(value, dict):
        raise UserError(f"{PARAMS_FILE}: {name}={_shown(value)}: expected a section with {_key_list(cls)}")
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
    name = _dotted(section, path)
    if kind == "extra_forbidden":
        present = _at(data, path)
        return _unknown(str(loc[-1]), name, sorted(keys, key=lambda key: key in present))
    if kind == "missing":
        return f"{name} is missing: add it ({_expected(rule)}{_meaning(rule)})"
    if kind in ("value_error", "assertion_error"):
        text = str(error["ctx"]["error"])
        return text if section and f"{section}." in text else f"{name}: {text}"
    if kind in _RANGE_ERRORS:
        return f"{name}={_shown(value)} is out of range: expected {_expected(rule)}"
    return f"{name}={_shown(value)}: expected {_expected(rule)}{_nearest_value(value, rule)}"


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


def _unknown(key: str, section: str, known: list[str]) -> str:
    near = _nearest(key, known)
    hint = f"did you mean {_dotted(section, [near])}? " if near else ""
    return f"{_dotted(section, [key])} is not a known key; {hint}known: {', '.join(known)}"


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


def _key_list(cls: type[Params]) -> str:
    return "the keys " + ", ".join(cls.model_fields)


def _dotted(section: str, path: Any) -> str:
    """`predict` and [`hops`, 0] to `predict.hops[0]`."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in path]
    return (section + "".join(parts)).removeprefix(".")


def _shown(value: JsonValue) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


# --- YAML 1.2 --------------------------------------------------------------------------------------------


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
        name, line = _dotted(section, [str(key.value)]), key.start_mark.line + 1
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
