"""params.yaml: what is read, and what is said about each kind of mistake."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from vdp.config import checks
from vdp.config.checks import _signal, check_single_frames
from vdp.config.messages import validate
from vdp.config.read import check_data, check_file, read_section, read_value, run_stage
from vdp.config.schema import SECTIONS, ClipParams, schema
from vdp.config.yaml_file import read_file
from vdp.core import tasks
from vdp.core.errors import UserError
from vdp.core.tasks import frame_groups, hop_offsets
from vdp.diffusion.params import DiffusionParams
from vdp.diffusion.schedules import make_process
from vdp.sampling.params import PredictParams

REPO = Path(__file__).parents[2]


@pytest.fixture
def broken(toy_project: Path) -> Callable[[str, str], str]:
    """What is said about params.yaml after one replacement in it."""

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


def test_a_section_inside_a_section_is_read_by_its_dotted_name(toy_project):
    optim = schema("vae").model_fields["optim"].annotation
    assert read_section(optim, "vae.optim").lr == 1e-3


def test_numbers_and_words_are_read_as_dvc_reads_them(tmp_path):
    file = tmp_path / "some.yaml"
    file.write_text(
        "a: 1e-3\nb: no\nc: 010\nd: 0x10\ne: 1_000\nf: 22:30\ng: ~\nh: .5\ni: -1.5E+3\nj: 2026-01-02\n"
    )
    assert read_file(file) == {
        "a": 1e-3,
        "b": "no",
        "c": 10,
        "d": 16,
        "e": 1000,
        "f": "22:30",
        "g": None,
        "h": 0.5,
        "i": -1500.0,
        "j": "2026-01-02",
    }


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: small", "name: smal", 'vae.name="smal": expected one of small, large; did you mean small?'),
        ("steps: 10", "steps: 0", "predict.steps=0 is out of range: expected an integer >= 1"),
        ("lr: 1e-3", "lr: 2", "vae.optim.lr=2 is out of range: expected a number > 0 and <= 1"),
        ("lr: 1e-3", "lr: .nan", "vae.optim.lr=NaN: expected a number > 0 and <= 1"),
        ("steps: 10", "steps: ten", 'predict.steps="ten": expected an integer >= 1'),
        ("steps: 10", "steps: '10'", 'predict.steps="10": expected an integer >= 1'),
        ("steps: 10", "steps: 10.0", "predict.steps=10.0: expected an integer >= 1"),
        ("flip: true", "flip: no", 'predict.flip="no": expected true or false or null'),
        ("hops: [13, 22]", "hops: [0, 22]", "predict.hops[0]=0 is out of range: expected an integer >= 1"),
        ("hops: [13, 22]", "hops: 22", "predict.hops=22: expected a list, each an integer >= 1"),
        ("simulated: data/raw", "simulated: 3", "predict.folders.simulated=3: expected a path"),
        ("  base_channels: 32\n", "", "vae.base_channels is missing: add it (an integer >= 1: finest level)"),
        ("seed: 7", "", "seed is missing: add it (an integer >= 0 and <= 2147483647)"),
        ("[0.9, 0.99]", "[0.99, 0.9]", "vae.optim.betas: expected the smaller one first"),
    ],
)
def test_a_wrong_value_is_told_with_its_full_name_and_the_allowed_range(broken, old, new, message):
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
def test_an_unknown_key_is_told_with_the_nearest_known_one(broken, old, new, nearest):
    message = broken(old, new)
    wrong = nearest.rpartition(".")[0] + "." + new.rstrip(":") if "." in nearest else new.rstrip(":")
    assert message.startswith(f"{wrong} is not a known key; did you mean {nearest}? known: ")


def test_a_key_like_no_other_is_told_with_all_known_ones(broken):
    assert broken("steps: 10", "steps: 10\n  zzz: 1") == (
        "predict.zzz is not a known key; known: steps, hops, folders, flip"
    )


def test_a_missing_section_is_told_with_its_keys(toy_project):
    file = toy_project / "params.yaml"
    file.write_text(file.read_text().partition("predict:")[0] + "launcher: python\n")
    with pytest.raises(
        UserError, match="section predict is missing: add it with the keys steps, hops, folders, flip"
    ):
        check_file()


def test_a_section_that_is_a_value_is_refused(broken):
    message = broken("predict:\n", "predict: 3\nold:\n")
    assert "old is not a known key" in message


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ("  known: 11", "  known: 11\n  known: 12", "clip.known is given twice, on lines 6 and 7: keep one"),
        ("seed: 7", "seed: 7\nseed: 8", "seed is given twice, on lines 2 and 3: keep one"),
        ("lr: 1e-3,", "lr: 1e-3, lr: 1e-4,", "vae.optim.lr is given twice, on lines 13 and 13: keep one"),
        (
            "hops: [13, 22]",
            "hops: [13, 22",
            "line 18, column 3: expected ',' or ']', but got '<scalar>' while parsing a flow",
        ),
        (
            "name: small",
            "name: !!python/object:os.x {}",
            "line 11, column 9: could not determine a constructor",
        ),
        ("flip: true", "flip: !!bool x", "line 20, column 9: 'x' is not a usable bool"),
        ("lr: 1e-3", "lr: !!float ''", "line 13, column 15: '' is not a usable float"),
        ("seed: 7", "seed: " + "9" * 5000, "line 2, column 7: '999"),
        ("seed: 7", "seed: 0x" + "f" * 5000, "line 2, column 7: '0xff"),
        ("seed: 7", "seed: " + "[" * 700, "is nested too deeply"),
        ("seed: 7", "seed: &itself [*itself]", "its anchors stand for more than 100000 values"),
    ],
)
def test_what_is_not_yaml_is_told_with_its_line(broken, old, new, part):
    assert broken(old, new).startswith(part)


def test_anchors_are_read_unless_they_unfold_without_measure(toy_project):
    file = toy_project / "params.yaml"
    file.write_text("a: &one [1, 2]\nb: *one\n")
    assert read_file(file) == {"a": [1, 2], "b": [1, 2]}
    lines = [f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]" for a, b in zip("abcdef", "bcdefg", strict=True)]
    file.write_text("\n".join(["a: &a x", *lines]))
    with pytest.raises(UserError, match="params.yaml: its anchors stand for more than 100000 values"):
        read_file(file)


@pytest.mark.parametrize("content", [b"", b"- 1\n- 2\n", b"just words\n", b"seed: \xff\n"])
def test_a_file_without_sections_is_one_line_too(toy_project, content):
    (toy_project / "params.yaml").write_bytes(content)
    with pytest.raises(UserError, match=r"^params\.yaml: [^\n]+$"):
        check_file()


def test_a_missing_file_says_where_it_was_looked_for(toy_project):
    (toy_project / "params.yaml").unlink()
    with pytest.raises(UserError, match=re.escape(str(toy_project))):
        check_file()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[13, 22]", "[15, 13, 22]", "expected frame numbers in ascending order, each once"),
        ("[13, 22]", "[13, 13, 22]", "expected frame numbers in ascending order, each once"),
        ("[13, 22]", "[11, 22]", "expected frame numbers above clip.known=11: known frames need no hop"),
        ("[13, 22]", "[13, 21]", "expected the scored frame last; end the list with 22"),
        ("[13, 22]", "[]", "expected frame numbers above clip.known=11: known frames need no hop"),
    ],
)
def test_hops_that_do_not_lead_to_the_scored_frame_are_refused(broken, old, new, message):
    assert broken(old, new) == f"predict.hops={new}: {message}"


def test_a_clip_without_an_unknown_frame_is_refused(broken):
    assert broken("known: 11", "known: 22") == (
        "clip.known=22 leaves nothing to predict: expected < clip.frames=22"
    )


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("a.b=3 is wrong:\n  use 4"), "error: a.b=3 is wrong: use 4\n"),
        (
            FileNotFoundError("data/x is not there; run simulate"),
            "error: data/x is not there; run simulate\n",
        ),
        (
            FileNotFoundError(2, "No such file or directory", "x.npy"),
            "error: x.npy: no such file or folder\n",
        ),
        (OSError(36, "File name too long", "a\nb\x1b[31m"), "error: a b\\x1b[31m: file name too long\n"),
        (OSError(5, "Input/output error"), "error: input/output error\n"),
        (ValueError("caf\udce9  x: not\u2028here"), "error: caf\\udce9  x: not here\n"),
    ],
)
def test_a_stage_ends_on_a_users_mistake_with_one_line_and_code_1(toy_project, capsys, error, line):
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as exit_:
        run_stage(main)
    assert exit_.value.code == 1
    assert capsys.readouterr().err == line


def test_a_stage_does_not_start_with_a_mistake_anywhere_in_the_file(toy_project, capsys):
    file = toy_project / "params.yaml"
    file.write_text(file.read_text().replace("flip: true", "flip: 3"))
    with pytest.raises(SystemExit):
        run_stage(lambda: pytest.fail("started"))
    assert "predict.flip=3" in capsys.readouterr().err


def test_an_error_of_the_program_keeps_its_traceback(toy_project):
    def main() -> None:
        raise TypeError("a bug")

    with pytest.raises(TypeError):
        run_stage(main)


def test_every_section_has_a_schema_and_none_of_them_loads_torch():
    code = (
        "import sys\nfrom vdp.config.schema import SECTIONS, Params, schema\n"
        "assert all(issubclass(schema(name), Params) for name in SECTIONS)\n"
        "heavy = {'torch', 'mlflow', 'cv2', 'mujoco'} & set(sys.modules)\nassert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(REPO)})


@pytest.mark.parametrize("section", SECTIONS)
def test_no_schema_has_a_default_value(section):
    """A run's settings are read in one file."""
    for name, field in schema(section).model_fields.items():
        assert field.is_required(), f"{section}.{name}"


def test_the_projects_own_params_are_valid(monkeypatch):
    monkeypatch.chdir(REPO)
    check_file()


def test_a_clip_that_latents_do_not_tile_is_refused():
    data = read_file(REPO / "params.yaml")
    data["clip"] = {**data["clip"], "width": 97}
    with pytest.raises(
        UserError, match=r"clip\.width=97 is not a multiple of vae\.spatial_factor=4: set it to 96 or 100"
    ):
        check_data(data)
    data["codec"] = {"name": "pixel"}
    data["segment"] = {**data["segment"], "codec_vote": 0.0}
    check_data(data)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"predict.hops": [22]},
            r"predict\.hops=\[22\] jumps 11 frames, which train_denoiser\.gaps=\[1, 2\] does not",
        ),
        (
            {"train_denoiser.context_frames": 21},
            r"known=21 and a gap of 2 do not fit into clip\.frames=22: lower one of them by 1",
        ),
        ({"denoiser.unet.context_slots": 9}, r"context_frames=9 is more than train_denoiser\.known=5"),
        (
            {"predict.hops": [13, [15, 18], 19, 21, 22]},
            r"predict\.hops=.* jumps 5 frames, which train_denoiser\.gaps=\[1, 2\] does not",
        ),
        (
            {"predict.hops": [13, [15, 14], 22]},
            r"predict\.hops=.*: expected frame numbers in ascending order",
        ),
        (
            {"denoiser.unet.temporal": True, "predict.hops": [13, 15, 17, 19, 20, [21, 22]]},
            r"predict\.hops=.* has a hop of 2 frames, .* knows hops of train_denoiser\.targets=1",
        ),
        (
            {
                "denoiser.name": "dit",
                "denoiser.dit.attention": "block",
                "predict.hops": [13, 15, 17, 19, 20, [21, 22]],
            },
            r"predict\.hops=.* has a hop of 2 frames, .* knows hops of train_denoiser\.targets=1",
        ),
        (
            {"train_denoiser.scheduled_sampling": 0.5, "train_denoiser.scheduled_sampling_frames": 5},
            r"scheduled_sampling_frames=5 leaves none of train_denoiser\.known=5 to make them from: raise known to 6, or",
        ),
        (
            {"train_denoiser.tasks.restore": 0.1},
            r"tasks\.restore=0\.1 needs degraded clips to learn from: set encode_latents\.degraded to 1",
        ),
        (
            {"train_denoiser.tasks.interpolate": 0.1, "train_denoiser.max_span": 19},
            r"train_denoiser\.span=19: expected 2 to 18, so that gaps hold train_denoiser\.targets=1 and fit",
        ),
        (
            {
                "train_denoiser.tasks.interpolate": 0.1,
                "train_denoiser.targets": 2,
                "train_denoiser.max_span": 2,
            },
            r"train_denoiser\.span=2: expected 3 to 18",
        ),
        (
            {
                "train_denoiser.tasks.interpolate": 0.1,
                "train_denoiser.context_frames": 1,
                "denoiser.unet.context_slots": 1,
            },
            r"tasks\.interpolate=0\.1 needs known frames on both sides: raise train_denoiser\.known=1 to 2",
        ),
        (
            {
                "train_denoiser.tasks.generate": 0.1,
                "train_denoiser.target_offsets": [2, 3],
                "predict.hops": [13, 15, 17, 19, 22],
            },
            r"tasks\.generate=0\.1 rolls clips out frame by frame, and train_denoiser\.gaps=\[2, 3\] lacks 1",
        ),
        (
            {
                "train_denoiser.tasks.restore": 0.1,
                "encode_latents.degraded": 1,
                "train_denoiser.targets": 30,
            },
            r"train_denoiser\.targets=30 is more than clip\.frames=22: lower it",
        ),
        (
            {"evaluate_tasks.between": [1, 21], "train_denoiser.tasks.interpolate": 0.1},
            r"evaluate_tasks\.between=\[1, 21\]: expected gaps of 1 to 20 frames, .* leave out 21",
        ),
        (
            {"evaluate_tasks.steps": 20, "diffusion.num_timesteps": 19, "predict.steps": 19},
            r"evaluate_tasks\.steps=20 is more than diffusion\.num_timesteps=19",
        ),
        (
            {"train_denoiser.tasks.predict": 0.0},
            r"train_denoiser\.tasks\.predict=0\.0 is out of range: expected a number > 0",
        ),
        (
            {"diffusion.num_timesteps": 9},
            r"predict\.steps=10 is more than diffusion\.num_timesteps=9: lower it, or raise the other",
        ),
        (
            {
                "diffusion.schedule": "cosine",
                "diffusion.prediction": "eps",
                "train_denoiser.scheduled_sampling": 0.0,
            },
            r"predict\.spacing=trailing does not go with diffusion\.prediction=eps.* set spacing to leading",
        ),
        (
            {
                "diffusion.schedule": "cosine",
                "diffusion.prediction": "eps",
                "predict.spacing": "leading",
                "train_denoiser.scheduled_sampling": 0.5,
            },
            r"scheduled_sampling=0\.5 does not go with diffusion\.prediction=eps.* or scheduled_sampling to 0",
        ),
        (
            {
                "train_denoiser.scheduled_sampling": 0.5,
                "train_denoiser.target_offsets": [2, 4],
                "predict.hops": [13, 15, 17, 19, 22],
            },
            r"predict\.hops=.* jumps 3 frames",
        ),
        (
            {
                "train_denoiser.scheduled_sampling": 0.5,
                "train_denoiser.target_offsets": [2, 3],
                "predict.hops": [13, 15, 17, 19, 22],
            },
            r"scheduled_sampling=0\.5 makes known frames, which lie 1 apart, a distance that gaps=\[2, 3\] does not",
        ),
        (
            {
                "train_denoiser.scheduled_sampling": 0.5,
                "train_denoiser.targets": 2,
                "denoiser.unet.temporal": True,
                "predict.hops": [[12, 13], [14, 15], [16, 17], [18, 19], [20, 21], [22, 23]],
                "clip.frames": 23,
            },
            r"scheduled_sampling=0\.5 makes frames one by one, which a network of hops of train_denoiser\.targets=2",
        ),
        (
            {"diffusion.schedule": "linear", "diffusion.prediction": "v", "diffusion.num_timesteps": 100},
            r"num_timesteps=100 and beta_end=0\.02 leave 60% of the signal at .* zero_terminal_snr",
        ),
        (
            {"predict.spacing": "leading", "predict.steps": 2},
            r"predict\.steps=2 with predict\.spacing=leading starts at time 0\.50, far from the pure noise",
        ),
        (
            {
                "diffusion.schedule": "linear",
                "diffusion.prediction": "eps",
                "diffusion.beta_end": 0.5,
                "predict.spacing": "leading",
            },
            r"prediction=eps cannot tell the picture where sampling starts, level 901 of .*=1000",
        ),
        (
            {"predict.eta": 0.5, "predict.sampler": "dpmpp"},
            r"predict\.eta=0\.5 is of sampler ddim alone, and predict\.sampler=dpmpp: set eta to 0, or",
        ),
        (
            {"diffusion.zero_terminal_snr": True},
            r"zero_terminal_snr=true is for linear, cosine and sigmoid: .* set it to false",
        ),
        ({"denoiser.unet.channel_mults": [0, 1, 2]}, r"channel_mults\[0\]=0 is out of range: expected .*1"),
        (
            {"denoiser.unet.temporal": True, "train_denoiser.targets": 2},
            r"predict\.hops=.* has a hop of 1 frames, .* knows hops of train_denoiser\.targets=2",
        ),
        (
            {"predict.guidance": 1.5},
            r"predict\.guidance=1\.5 needs a network .* set train_denoiser\.context_dropout above 0",
        ),
        (
            {"predict.guidance": 0.5},
            r"predict\.guidance=0\.5 needs a network .* set train_denoiser\.context_dropout above 0",
        ),
        (
            {
                "train_denoiser.context_frames": 1,
                "train_denoiser.scheduled_sampling": 0.5,
                "train_denoiser.scheduled_sampling_frames": 1,
                "denoiser.unet.context_slots": 1,
            },
            r"known=1 to make them from: raise known to 2, or make fewer",
        ),
        (
            {"clip.height": 66},
            r"clip\.height=66 is not a multiple of vae\.spatial_factor=4: set it to 64 or 68",
        ),
        (
            {"predict.context_noise": 0.2},
            r"predict\.context_noise=0\.2 is more than train_denoiser\.context_noise=0\.1 has trained",
        ),
        (
            {"diffusion.prediction": "eps"},
            r"diffusion\.prediction=eps does not go with diffusion\.schedule=flow: .* set prediction to v or",
        ),
        (
            {"diffusion.beta_end": 1e-5},
            r"diffusion\.beta_start=0\.0001 is not below diffusion\.beta_end=1e-05",
        ),
        (
            {"denoiser.unet.attention_levels": [3]},
            r"attention_levels=\[3\] names level 3: expected 0\.\.2, as denoiser\.unet\.channel_mults has 3",
        ),
        (
            {"extract_frames.val": None, "extract_frames.val_share": 0.0},
            r"extract_frames\.val is null: training needs it; name a folder of videos",
        ),
        ({"simulate.unlabeled": 0}, r"simulate\.unlabeled=0 leaves empty: set it to null"),
        ({"codec.name": "pixel"}, r"segment\.codec_vote=0\.7 needs a codec with a trained mask head"),
        (
            {"pretrain_vae.mask_weight": 0.0},
            r"segment\.codec_vote=0\.7 needs a codec with a trained mask head",
        ),
    ],
)
def test_sections_that_do_not_go_together_are_refused_before_any_work(changes, message):
    with pytest.raises(UserError, match=message):
        check_data(changed(changes))


def changed(changes: dict[str, object]) -> dict[str, Any]:
    """The project's own params with other values under some dotted names."""
    data = read_file(REPO / "params.yaml")
    for key, value in changes.items():
        *sections, name = key.split(".")
        section = data
        for part in sections:
            section = section[part]
        section[name] = value
    return data


@pytest.mark.parametrize(
    "changes",
    [
        {"denoiser.unet.context_slots": 5},
        {"denoiser.unet.context_slots": 9, "denoiser.name": "dit"},
        {"train_denoiser.context_frames": 20},
        {"denoiser.unet.temporal": True},
        {"diffusion.num_timesteps": 10},
        {"predict.guidance": 1.5, "train_denoiser.context_dropout": 0.1},
        {"predict.context_noise": 0.1},
        {"train_denoiser.scheduled_sampling_frames": 5, "train_denoiser.scheduled_sampling": 0.0},
        {"train_denoiser.scheduled_sampling_frames": 4, "train_denoiser.scheduled_sampling": 0.5},
        {
            "diffusion.schedule": "cosine",
            "diffusion.prediction": "eps",
            "train_denoiser.scheduled_sampling": 0.0,
            "predict.spacing": "leading",
        },
        {"extract_frames.val": None, "extract_frames.val_share": 0.1},
        {"train_denoiser.tasks.interpolate": 0.1, "train_denoiser.max_span": 18},
        {"train_denoiser.max_span": 2000, "evaluate_tasks.between": [21]},
        {"train_denoiser.tasks.restore": 0.1, "encode_latents.degraded": 1},
        {"train_denoiser.tasks.generate": 5.0},
    ],
)
def test_sections_that_just_go_together_are_accepted(changes):
    check_data(changed(changes))


@pytest.mark.parametrize("schedule", ["linear", "cosine", "sigmoid"])
@pytest.mark.parametrize("levels", [50, 1000])
def test_the_signal_that_is_left_is_told_as_the_process_has_it(schedule, levels):
    data = read_file(REPO / "params.yaml")["diffusion"]
    assert isinstance(data, dict)
    data = {**data, "schedule": schedule, "prediction": "v", "num_timesteps": levels}
    process = make_process(DiffusionParams.model_validate(data))
    for level in (1, levels // 2, levels - 1):
        alpha, _ = process.schedule(torch.tensor([level / levels], dtype=torch.float64))
        assert _signal(data, level) == pytest.approx(alpha.item(), rel=1e-9)


def test_what_the_checks_know_of_training_is_what_it_does():
    """The checks do not load torch, so they say it once more."""
    assert checks.STRIDE == tasks.STRIDE


def test_hops_are_groups_of_frames_at_distances_from_the_frame_before_them():
    hops = [13, [14, 16], 22]
    params = validate(PredictParams, read_file(REPO / "params.yaml")["predict"] | {"hops": hops}, "predict")
    assert params.frame_groups == frame_groups(hops) == [[13], [14, 16], [22]]
    assert params.frames == [13, 14, 16, 22]
    assert hop_offsets(hops, 11) == {2, 1, 3, 6} and hop_offsets([12], 11) == {1}


def test_frames_of_one_hop_need_not_be_trained_together_where_they_do_not_see_each_other():
    data = read_file(REPO / "params.yaml")
    data["predict"] = {**data["predict"], "hops": [13, 15, 17, 19, 20, [21, 22]]}
    check_data(data)


def test_a_codec_that_joins_frames_is_trained_and_not_predicted_with():
    data = read_file(REPO / "params.yaml")
    data["vae"] = {**data["vae"], "temporal_factor": 2}
    check_data(data)
    with pytest.raises(UserError, match=r"vae\.temporal_factor=2 does not go with predict.* set it to 1"):
        check_single_frames(data)
    data["codec"] = {"name": "pixel"}
    check_single_frames(data)


def test_one_far_hop_is_a_matter_of_params_alone():
    data = read_file(REPO / "params.yaml")
    data["predict"] = {**data["predict"], "hops": [22]}
    data["train_denoiser"] = {**data["train_denoiser"], "gaps": [11], "scheduled_sampling": 0.0}
    check_data(data)
