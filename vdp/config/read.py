"""Read and check params.yaml; run a stage with one-line errors."""

import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence

from pydantic import JsonValue

from vdp.config.checks import check_sections
from vdp.config.messages import key_list, unknown, validate
from vdp.config.renames import renamed_keys
from vdp.config.schema import PARAMS_FILE, SECTIONS, P, ScalarParams, schema
from vdp.config.yaml_file import read_file
from vdp.core.errors import Interrupted, UserError, one_line
from vdp.core.rank import process_rank

PATIENCE = 5.0  # seconds for the main process to print the same error and end this one


def read_section(cls: type[P], name: str) -> P:
    """Read one section of ./params.yaml.

    Args:
        cls: schema of the section.
        name: key of the section; `a.b` is the section `b` inside the section `a`.

    Raises:
        UserError: if the file or the section is missing or invalid.
    """
    value: JsonValue = read_file()
    walked: list[str] = []
    for key in name.split("."):
        walked.append(key)
        if not isinstance(value, dict) or key not in value:
            raise UserError(_missing_section(".".join(walked), cls))
        value = value[key]
    return validate(cls, value, name)


def read_value(key: str) -> int:
    """Read a top-level key of ./params.yaml, such as `seed`."""
    known = list(ScalarParams.model_fields)
    if key not in known:
        raise ValueError(f"key={key!r}: expected one of {', '.join(known)}; read a section with read_section")
    return getattr(validate(ScalarParams, _scalars(read_file()), ""), key)


def check_file() -> None:
    """Check ./params.yaml; as `check_data`."""
    check_data(read_file())


def check_data(data: dict[str, JsonValue]) -> None:
    """Check the content of a params.yaml, each section alone and then together.

    Args:
        data: sections and top-level keys.

    Raises:
        UserError: for the first mistake.
    """
    if renamed := renamed_keys(data):
        raise UserError(f"{PARAMS_FILE}: {'. '.join(renamed)}")
    known = [*ScalarParams.model_fields, *SECTIONS]
    for key in data:
        if key not in known:
            raise UserError(f"{PARAMS_FILE}: {unknown(str(key), '', known)}")
    validate(ScalarParams, _scalars(data), "")
    sections = {}
    for name in SECTIONS:
        cls = schema(name)
        if name not in data:
            raise UserError(_missing_section(name, cls))
        sections[name] = validate(cls, data[name], name)
    check_sections(sections)


def _scalars(data: dict[str, JsonValue]) -> dict[str, JsonValue]:
    return {name: data[name] for name in ScalarParams.model_fields if name in data}


def _missing_section(name: str, cls: type[P]) -> str:
    return f"{PARAMS_FILE}: section {name} is missing; add it with {key_list(cls)}"


def run_script(main: Callable[[], None]) -> None:
    """Run a stage as a script: as `run_stage`; arguments, which it would ignore, are refused."""
    run_stage(main, sys.argv[1:])


def run_stage(main: Callable[[], None], arguments: Sequence[str] = ()) -> None:
    """Check params.yaml and run a stage; a user error ends it with one line and exit code 1.

    A stage without arguments of its own refuses the `arguments` of the command line.

    VDP_TRACEBACK=1 in the environment shows the traceback instead.
    """
    try:
        if arguments:
            raise UserError(
                f"{shlex.join(arguments)}: expected no arguments, as stages read {PARAMS_FILE}; change a "
                "value there, or by `dvc exp run --set-param`"
            )
        check_file()
        main()
    except (ValueError, OSError) as error:
        if os.environ.get("VDP_TRACEBACK"):
            raise
        if rank := process_rank():
            time.sleep(PATIENCE)
            print(f"\nerror in process {rank}: {one_line(error)}", file=sys.stderr)
        else:
            print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(1)
    except Interrupted as stopped:
        if stopped.is_main:
            print(stopped, file=sys.stderr)
        sys.exit(stopped.exit_code)
    except KeyboardInterrupt:
        if process_rank() == 0:
            print("interrupted", file=sys.stderr)
        sys.exit(130)
