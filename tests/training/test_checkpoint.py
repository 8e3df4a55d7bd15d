"""A training that was stopped goes on where it was and ends as one that never was."""

import errno
import os
import resource
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.training.small import Notes, engine_of, fitted, params_of, regression, training_of
from vdp.core.errors import Interrupted, UserError
from vdp.core.rng import BatchRng
from vdp.training import checkpoint as resume
from vdp.training.checkpoint import States, training_key
from vdp.training.trainer import training_seed

Run = tuple[dict[str, Tensor], dict[str, Tensor], list[tuple[int, dict[str, float]]]]


class Killed(BaseException):
    """What no code in between catches, as none outlives a SIGKILL."""


def run(states: States | None, stop_at: int | None = None, by: int | None = None) -> Run:
    """A training of 20 steps, killed (or sent a signal) in the middle of a step, before it is counted."""
    training_seed(0)

    def loss(network: nn.Linear, batch: Tensor, batch_rng: BatchRng) -> dict[str, Tensor]:
        parts.append(1)
        if stop_at is not None and len(parts) == 2 * stop_at:
            if by is None:
                raise Killed
            os.kill(os.getpid(), by)
        dropped = nn.functional.dropout(batch, 0.1)  # a network may have batch_rng of its own
        return regression(network, dropped, batch_rng)

    parts: list[int] = []
    notes = Notes()
    params = params_of(log_every=3, validate_every=7, accumulate=2)
    result = fitted(training_of(loss), params, notes=notes, engine=engine_of(save_steps=4), states=states)
    return result.network.state_dict(), result.spare["best"], notes.lines


def assert_same(one: Run, other: Run) -> None:
    for mine, theirs in zip(one[:2], other[:2], strict=True):
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert one[2] == other[2]


def folder_of(tmp_path: Path) -> States:
    return States(tmp_path / "a_training-0123")


# --- Going on --------------------------------------------------------------------------------------------


def test_states_change_nothing_in_a_training_that_is_not_stopped(tmp_path):
    assert_same(run(folder_of(tmp_path)), run(None))


@pytest.mark.parametrize("stop_at", [1, 4, 5, 6, 12, 20])
def test_a_killed_training_ends_in_the_same_weights_and_curves(tmp_path, stop_at):
    expected = run(None)
    with pytest.raises(Killed):
        run(folder_of(tmp_path), stop_at)
    assert_same(run(folder_of(tmp_path)), expected)


def test_a_training_that_is_killed_again_and_again_ends_in_the_same_weights(tmp_path):
    for _ in range(3):  # each time four steps are new, and one more is lost
        with pytest.raises(Killed):
            run(folder_of(tmp_path), stop_at=6)
    assert_same(run(folder_of(tmp_path)), run(None))


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_step_saves_and_leaves(tmp_path, by, capsys):
    before = signal.getsignal(by)
    with pytest.raises(Interrupted, match="stopped after step 6 of 20.*goes on from there") as stopped:
        run(folder_of(tmp_path), stop_at=6, by=by)
    assert stopped.value.exit_code == 128 + by and stopped.value.tells
    assert signal.getsignal(by) is before
    assert_same(run(folder_of(tmp_path)), run(None))
    assert "goes on after step 6 of 20" in capsys.readouterr().err


def test_a_signal_at_the_last_step_loses_nothing(tmp_path):
    with pytest.raises(Interrupted, match="stopped after step 20 of 20"):
        run(folder_of(tmp_path), stop_at=20, by=signal.SIGTERM)
    assert_same(run(folder_of(tmp_path)), run(None))


def test_without_states_a_signal_says_that_none_was_saved():
    with pytest.raises(Interrupted, match="stopped after step 6 of 20; no state was saved"):
        run(None, stop_at=6, by=signal.SIGTERM)


# --- Damage ----------------------------------------------------------------------------------------------


def killed_at_step_13(tmp_path: Path) -> States:
    """The states of a training that was killed: those of steps 8 and 12."""
    with pytest.raises(Killed):
        run(folder_of(tmp_path), stop_at=14)
    return folder_of(tmp_path)


def test_the_two_newest_states_are_kept(tmp_path):
    states = killed_at_step_13(tmp_path)
    names = sorted(path.name for path in states.folder.iterdir())
    assert names == [
        f"00000{n}" for n in ("0008.json", "0008.safetensors", "0012.json", "0012.safetensors")
    ] + ["lock"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 4
    path.write_bytes(content)


DAMAGES = {
    "cut": lambda folder: cut(folder / "000000012.safetensors"),
    "bit": lambda folder: flip_a_bit(folder / "000000012.safetensors"),
    "no weights": lambda folder: (folder / "000000012.safetensors").unlink(),
    "other weights": lambda folder: save_file({"a": torch.ones(1)}, folder / "000000012.safetensors"),
    "empty notes": lambda folder: (folder / "000000012.json").write_text(""),
    "other notes": lambda folder: (folder / "000000012.json").write_text("[1]"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_costs_the_steps_since_the_one_before_and_is_told(tmp_path, damage, capsys):
    states = killed_at_step_13(tmp_path)
    DAMAGES[damage](states.folder)
    assert_same(run(states), run(None))
    told = capsys.readouterr().err
    assert "000000012.safetensors: this state is damaged" in told and "going on from step 8" in told


def test_without_a_state_that_is_whole_training_starts_anew_and_says_so(tmp_path, capsys):
    states = killed_at_step_13(tmp_path)
    for path in states.folder.glob("*.safetensors"):
        cut(path)
    assert_same(run(states), run(None))
    assert "going on from the start" in capsys.readouterr().err


def test_a_state_that_is_written_after_damaged_ones_outlives_them(tmp_path):
    """Those are of later steps: kept for being the newest, they would push out what was just written."""
    states = killed_at_step_13(tmp_path)
    for path in states.folder.glob("*.safetensors"):
        cut(path)
    with pytest.raises(Killed):
        run(states, stop_at=6)
    tensors, notes = states.newest()
    assert notes["progress"]["step"] == 4 and tensors
    assert_same(run(states), run(None))


def test_a_state_of_another_network_is_told(tmp_path):
    states = killed_at_step_13(tmp_path)
    with pytest.raises(ValueError, match="that of another network: remove it"):
        fitted(training_of(network=nn.Linear(3, 1, bias=False)), params_of(), states=states)


def test_weights_without_their_notes_are_no_state(tmp_path):
    """They are written first: a kill in between leaves them."""
    states = killed_at_step_13(tmp_path)
    (states.folder / "000000012.json").unlink()
    assert_same(run(states), run(None))


# --- Disks -----------------------------------------------------------------------------------------------


def test_a_full_disk_is_told_and_leaves_the_last_good_state(tmp_path, capsys):
    """The limit of a file's size stands for the disk's: the third state does not fit."""
    states = killed_at_step_13(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))
    try:
        finished = run(states)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_same(finished, run(None))
    told = [line for line in capsys.readouterr().err.splitlines() if "could not be saved" in line]
    assert len(told) == 1 and "after step 16" in told[0] and os.strerror(errno.EFBIG).lower() in told[0]
    assert states.newest()[1]["progress"]["step"] == 12
    assert not list(states.folder.glob("*.part")) and not list(states.folder.glob("*16*"))


def test_a_folder_that_cannot_be_written_is_refused_before_the_first_step(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written.*make it writable") as error:
        run(States(tmp_path / "file" / "a_training"))
    assert "\n" not in str(error.value)


def test_a_finished_training_leaves_nothing_when_cleared(tmp_path):
    states = folder_of(tmp_path)
    run(states)
    states.clear()
    assert not states.folder.exists()
    states.clear()  # once more is no error


# --- Whose state -----------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pipeline of two stages: `make` makes data/in, from which `learn` learns by code.py and a folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_STAGE", "learn")
    files = {
        "params.yaml": "seed: 0\nlearn: {rate: 0.1, steps: 3}\nother: {key: 1}\n",
        "dvc.yaml": "stages:\n  make: {cmd: a, outs: [data/in]}\n"
        "  learn: {cmd: b, params: [seed, learn], deps: [data/in, code.py, more], outs: [data/out]}\n",
        "dvc.lock": "stages:\n  make:\n    outs:\n    - {path: data/in, md5: abc}\n",
        "code.py": "a = 1\n",
        "more/code.py": "b = 1\n",
        "data/in/a.bin": "content",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("params.yaml", "rate: 0.1", "rate: 0.2"),
        ("params.yaml", "seed: 0", "seed: 1"),
        ("code.py", "1", "2"),
        ("more/code.py", "1", "2"),
        ("dvc.lock", "abc", "abd"),
    ],
)
def test_a_state_is_that_of_its_params_its_code_and_its_inputs(project, file, old, new):
    before = training_key("learn")
    assert training_key("learn") == before
    path = project / file
    path.write_text(path.read_text().replace(old, new))
    assert training_key("learn") != before


def test_params_of_other_stages_and_new_times_of_files_do_not_matter(project):
    before = training_key("learn")
    path = project / "params.yaml"
    path.write_text(path.read_text().replace("key: 1", "key: 2"))
    os.utime(project / "code.py", (1, 1))
    os.utime(project / "data/in/a.bin", (1, 1))  # a temporary checkout of an experiment has its own
    assert training_key("learn") == before


def test_by_hand_inputs_are_known_by_their_files(project, monkeypatch):
    """dvc.lock may then be of other data."""
    monkeypatch.delenv("DVC_STAGE")
    before = training_key("learn")
    assert training_key("learn") == before
    os.utime(project / "data/in/a.bin", (1, 1))
    assert training_key("learn") != before


def test_a_stage_that_the_pipeline_does_not_have_is_told(project):
    with pytest.raises(UserError, match="dvc.yaml: missing is not there"):
        training_key("missing")


def test_states_lie_below_the_main_checkout(project, tmp_path_factory):
    root = tmp_path_factory.mktemp("main")
    folder = resume.states_of("learn", root).folder
    assert folder.parent == root / ".resume" and folder.name.startswith("learn-")
