"""params.yaml: its values, and the message for each kind of mistake."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vdp.config.choices import limits, sampling_levels
from vdp.config.messages import validate
from vdp.config.read import check_data, check_file, read_section, read_value, run_script, run_stage
from vdp.config.renames import RENAMED
from vdp.config.schema import SECTIONS, ClipParams, schema
from vdp.config.yaml_file import read_file
from vdp.core.errors import UserError
from vdp.sampling.params import PredictParams

REPO = Path(__file__).parents[2]


@pytest.fixture
def broken(toy_project: Path) -> Callable[[str, str], str]:
    """Message about params.yaml after one replacement in it."""

    def replace(old: str, new: str) -> str:
        file = toy_project / "params.yaml"
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new, 1))
        with pytest.raises(UserError) as caught:
            check_file()
        message = str(caught.value)
        assert message.startswith("params.yaml: ") and "\n" not in message
        return message.removeprefix("params.yaml: ")

    return replace


def test_a_valid_file_is_read_into_typed_frozen_objects(toy_project):
    check_file()
    clip = read_section(ClipParams, "clip")
    assert (clip.frames, clip.known, clip.height, clip.width) == (22, 11, 64, 96)
    assert read_value("seed") == 7
    predict = read_section(schema("predict"), "predict").model_dump()
    assert predict["hops"] == (13, 22)
    assert predict["folders"] == {"simulated": Path("data/raw")}
    with pytest.raises(ValueError, match="frozen"):
        clip.frames = 3


def test_a_nested_section_is_read_by_its_dotted_name(toy_project):
    optim = schema("vae").model_fields["optim"].annotation
    assert read_section(optim, "vae.optim").lr == 1e-3


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("no", "no"),
        ("010", 10),
        ("0x10", 16),
        ("1_000", 1000),
        ("22:30", "22:30"),
        ("~", None),
        (".5", 0.5),
        ("-1.5E+3", -1500.0),
        ("2026-01-02", "2026-01-02"),
        ("{b: &one [1, 2], c: *one}", {"b": [1, 2], "c": [1, 2]}),
    ],
)
def test_scalars_are_read_as_dvc_reads_them(tmp_path, text, value):
    file = tmp_path / "some.yaml"
    file.write_text(f"a: {text}\n")
    assert read_file(file) == {"a": value}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: small", "name: smal", 'vae.name="smal": expected one of small, large; did you mean small?'),
        ("steps: 10", "steps: 0", "predict.steps=0: expected an integer >= 1"),
        ("lr: 1e-3", "lr: 2", "vae.optim.lr=2: expected a number > 0 and <= 1"),
        ("lr: 1e-3", "lr: .nan", "vae.optim.lr=NaN: expected a number > 0 and <= 1"),
        ("steps: 10", "steps: ten", 'predict.steps="ten": expected an integer >= 1'),
        ("steps: 10", "steps: '10'", 'predict.steps="10": expected an integer >= 1'),
        ("steps: 10", "steps: 10.0", "predict.steps=10.0: expected an integer >= 1"),
        ("flip: true", "flip: no", 'predict.flip="no": expected true or false or null'),
        ("hops: [13, 22]", "hops: [0, 22]", "predict.hops[0]=0: expected an integer >= 1"),
        ("hops: [13, 22]", "hops: 22", "predict.hops=22: expected a list, each an integer >= 1"),
        ("simulated: data/raw", "simulated: 3", "predict.folders.simulated=3: expected a path"),
        ("  base_channels: 32\n", "", "vae.base_channels is missing; add it (an integer >= 1: finest level)"),
        ("seed: 7", "", "seed is missing; add it (an integer 0..2147483647)"),
        ("[0.9, 0.99]", "[0.99, 0.9]", "vae.optim.betas: expected the smaller one first"),
        ("known: 11", "known: 23", "clip.known=23: expected <= clip.frames=22; lower it"),
        (
            "steps: 10",
            "steps: 10\n  zzz: 1",
            "predict.zzz is not a known key; known: steps, hops, folders, flip",
        ),
    ],
)
def test_a_wrong_value_is_reported_with_its_key_and_the_allowed_range(broken, old, new, message):
    assert broken(old, new) == message


@pytest.mark.parametrize(
    ("old", "new", "nearest"),
    [
        ("base_channels", "bse", "vae.base_channels"),
        ("steps", "step", "predict.steps"),
        ("lr:", "learning_rate:", "vae.optim.lr"),
        ("predict:", "predicts:", "predict"),
        ("seed:", "sed:", "seed"),
        ("known:", "knwon:", "clip.known"),
    ],
)
def test_an_unknown_key_is_reported_with_the_nearest_known_one(broken, old, new, nearest):
    message = broken(old, new)
    section, dot, _ = nearest.rpartition(".")
    wrong = section + dot + new.rstrip(":")
    assert message.startswith(f"{wrong} is not a known key; did you mean {nearest}? known: ")


@pytest.mark.parametrize("old", RENAMED)
def test_a_renamed_key_is_reported_with_its_new_name(old):
    data = read_file(REPO / "params.yaml")
    section, (*path, key) = data, RENAMED[old].split(".")
    for name in path:
        section = section[name]
    section[old.rpartition(".")[2]] = section.pop(key)
    with pytest.raises(UserError, match=f"^params.yaml: {old} was renamed; use {RENAMED[old]}$"):
        check_data(data)


def test_the_former_decay_of_a_baseline_is_an_unknown_key():
    """It is chosen on the val clips."""
    data = read_file(REPO / "params.yaml")
    data["score"]["decay"] = 0.9
    with pytest.raises(UserError, match=r"^params.yaml: score.decay is not a known key.* known: strips"):
        check_data(data)


def test_a_missing_section_is_reported_with_its_keys(toy_project):
    file = toy_project / "params.yaml"
    file.write_text(file.read_text().partition("predict:")[0] + "launcher: python\n")
    with pytest.raises(UserError, match="section predict is missing.* keys steps, hops, folders, flip"):
        check_file()


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ("  known: 11", "  known: 11\n  known: 12", 'line 7: found duplicate key "known"; keep one'),
        ("seed: 7", "seed: 7\nseed: 8", 'line 3: found duplicate key "seed"; keep one'),
        ("lr: 1e-3,", "lr: 1e-3, lr: 1e-4,", 'line 13: found duplicate key "lr"; keep one'),
        ("hops: [13, 22]", "hops: [13, 22", "line 18, column 3: expected ',' or ']'"),
        ("name: small", "name: !!python/object:os.x {}", "line 11, column 9: could not determine a construc"),
        ("flip: true", "flip: !!bool x", 'line 20, column 9: "x" is not a usable bool'),
        ("lr: 1e-3", "lr: !!float ''", 'line 13, column 15: "" is not a usable float'),
        ("seed: 7", "seed: " + "9" * 5000, 'line 2, column 7: "999'),
        ("seed: 7", "seed: 0x" + "f" * 5000, 'line 2, column 7: "0xff'),
        ("seed: 7", "seed: " + "[" * 700, "is nested too deeply"),
        ("seed: 7", "seed: &itself [*itself]", "anchors expand to more than 100000 values"),
        ("predict:\n", "predict: 3\nold:\n", "old is not a known key"),
    ],
)
def test_invalid_yaml_is_reported_with_its_line(broken, old, new, part):
    assert broken(old, new).startswith(part)


def test_nested_anchors_are_limited_to_a_number_of_values(toy_project):
    lines = [f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]" for a, b in zip("abcdef", "bcdefg", strict=True)]
    (toy_project / "params.yaml").write_text("\n".join(["a: &a x", *lines]))
    with pytest.raises(UserError, match="anchors expand to more than 100000 values"):
        read_file()


@pytest.mark.parametrize("content", [b"", b"- 1\n- 2\n", b"just words\n", b"seed: \xff\n"])
def test_a_file_without_sections_is_reported_in_one_line(toy_project, content):
    (toy_project / "params.yaml").write_bytes(content)
    with pytest.raises(UserError, match=r"^params\.yaml: [^\n]+$"):
        check_file()


def test_a_missing_file_is_reported_with_its_folder(toy_project):
    (toy_project / "params.yaml").unlink()
    with pytest.raises(UserError, match=re.escape(str(toy_project))):
        check_file()


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("a.b=3 is wrong:\n  use 4"), "error: a.b=3 is wrong: use 4\n"),
        (
            FileNotFoundError(2, "No such file or directory", "x.npy"),
            "error: x.npy: no such file or folder\n",
        ),
        (FileNotFoundError("data/x is not there"), "error: data/x is not there\n"),
        (OSError(36, "File name too long", "a\nb\x1b[31m"), "error: a b\\x1b[31m: file name too long\n"),
        (OSError(5, "Input/output error"), "error: input/output error\n"),
        (ValueError("caf\udce9  x: not\u2028here"), "error: caf\\udce9  x: not here\n"),
    ],
)
def test_a_stage_ends_on_a_user_error_with_one_line_and_code_1(toy_project, capsys, error, line):
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as exit_:
        run_stage(main)
    assert exit_.value.code == 1
    assert capsys.readouterr().err == line


def test_a_stage_does_not_start_with_an_invalid_file(toy_project, capsys):
    file = toy_project / "params.yaml"
    file.write_text(file.read_text().replace("flip: true", "flip: 3"))
    with pytest.raises(SystemExit):
        run_stage(lambda: pytest.fail("started"))
    assert "predict.flip=3" in capsys.readouterr().err


def test_a_stage_refuses_arguments_and_does_not_start(toy_project, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["score.py", "--steps", "two words"])
    with pytest.raises(SystemExit) as exit_:
        run_script(lambda: pytest.fail("started"))
    assert exit_.value.code == 1
    assert capsys.readouterr().err.startswith(
        "error: --steps 'two words': expected no arguments, as stages read"
    )


@pytest.mark.parametrize("script", sorted((REPO / "stages").glob("*.py")), ids=lambda path: path.stem)
def test_every_stage_is_run_as_a_script_without_arguments(script):
    text = script.read_text()
    assert not text or text.endswith('if __name__ == "__main__":\n    run_script(main)\n')


def test_an_internal_error_keeps_its_traceback(toy_project):
    def main() -> None:
        raise TypeError("a bug")

    with pytest.raises(TypeError):
        run_stage(main)


def test_the_check_of_the_default_params_does_not_import_torch():
    code = (
        "import sys\nfrom vdp.config.read import check_file\ncheck_file()\n"
        "heavy = {'torch', 'mlflow', 'cv2', 'mujoco'} & set(sys.modules)\nassert not heavy, heavy"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=REPO)


@pytest.mark.parametrize("section", SECTIONS)
def test_no_schema_has_a_default_value(section):
    for name, field in schema(section).model_fields.items():
        assert field.is_required(), f"{section}.{name}"


# --- Choices of sampling -----------------------------------------------------------------------------------


def test_limits_are_those_of_params_yaml():
    assert limits("steps") == (1, 1000) and limits("seed") == (0, 2**31 - 1)
    for name in ("steps", "temperature", "guidance", "eta"):
        low, high = limits(name)
        predict = read_file(REPO / "params.yaml")["predict"] | {"sampler": "ddim"}
        for value in (low, high):
            validate(PredictParams, predict | {name: value}, "predict")
        for value in (low - 1, high + 1):
            with pytest.raises(UserError, match=rf"predict\.{name}={value}: expected .* {low}\.\.{high}"):
                validate(PredictParams, predict | {name: value}, "predict")


def test_leading_spacing_starts_below_the_last_level_and_trailing_at_it():
    assert sampling_levels(4, "trailing", 1000) == [1000, 750, 500, 250, 0]
    assert sampling_levels(4, "leading", 1000) == [751, 501, 251, 1, 0]
