"""Read and check params.yaml; run a stage with one-line errors."""

import os
import sys
import time
from collections.abc import Callable

from pydantic import JsonValue

from vdp.config.checks import check_together
from vdp.config.messages import key_list, unknown, validate
from vdp.config.schema import PARAMS_FILE, SECTIONS, P, ScalarParams, schema
from vdp.config.yaml_file import read_file
from vdp.core.errors import Interrupted, UserError, one_line
from vdp.core.rank import process_rank

PATIENCE = 5.0  # seconds; of other processes than the main one, which ends them if it has the same to tell


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
            raise UserError(f"{PARAMS_FILE}: section {missing} is missing: add it with {key_list(cls)}")
        value = value[key]
    return validate(cls, value, name)


def read_value(key: str) -> int:
    """Read a key of ./params.yaml that stands outside every section, such as `seed`."""
    known = list(ScalarParams.model_fields)
    if key not in known:
        raise ValueError(f"{key!r} stands in a section: expected one of {', '.join(known)}")
    scalars: JsonValue = {name: value for name, value in read_file().items() if name in known}
    return getattr(validate(ScalarParams, scalars, ""), key)


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
            raise UserError(f"{PARAMS_FILE}: {unknown(str(key), '', [*scalars, *SECTIONS])}")
    validate(ScalarParams, {key: data[key] for key in scalars if key in data}, "")
    for name in SECTIONS:
        cls = schema(name)
        if name not in data:
            raise UserError(f"{PARAMS_FILE}: section {name} is missing: add it with {key_list(cls)}")
        validate(cls, data[name], name)
    check_together(data)


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
        if number := process_rank():
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
        if process_rank() == 0:
            print("interrupted", file=sys.stderr)
        sys.exit(130)
