"""A training that was stopped resumes and ends with the same bytes."""

import errno
import os
import resource
import signal
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.training.small import MemoryLogger, engine_params, fit_line, fit_params, line_training, regression
from vdp.core.errors import Interrupted, UserError
from vdp.core.rng import BatchRng
from vdp.launch.stage_key import stage_key
from vdp.training.checkpoint import TrainingCheckpoints, stage_checkpoints
from vdp.training.seeds import seed_weights

pytestmark = pytest.mark.slow

Run = tuple[dict[str, Tensor], dict[str, Tensor], list[tuple[int, dict[str, float]]]]
STATE_12 = "000000012.safetensors"


class Killed(BaseException):
    """Not caught by any code, as SIGKILL."""


def run(checkpoints: TrainingCheckpoints | None, stop_at: int | None = None, by: int | None = None) -> Run:
    """Train 20 steps; in the middle of step `stop_at` be killed or get a signal."""
    seed_weights(0)
    parts: list[int] = []

    def loss(network: nn.Module, batch: Tensor, batch_rng: BatchRng) -> dict[str, Tensor]:
        parts.append(1)
        if stop_at is not None and len(parts) == 2 + 2 * stop_at:  # the first two count FLOPs
            if by is None:
                raise Killed
            os.kill(os.getpid(), by)
        return regression(network, nn.functional.dropout(batch, 0.1), batch_rng)

    logger, params = MemoryLogger(), fit_params(log_every=3, validate_every=7, accumulate=2)
    engine = engine_params(save_steps=4)
    result = fit_line(line_training(loss), params, 0, logger, engine, checkpoints)
    return result.network.state_dict(), result.other_weights["best"], logger.points


@cache
def uninterrupted() -> Run:
    return run(None)


def assert_same(one: Run, other: Run) -> None:
    for mine, theirs in zip(one[:2], other[:2], strict=True):
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert one[2] == other[2]


@pytest.fixture
def checkpoints(tmp_path: Path) -> TrainingCheckpoints:
    return TrainingCheckpoints(tmp_path / "a_training-0123")


@pytest.fixture
def killed(checkpoints: TrainingCheckpoints) -> TrainingCheckpoints:
    """Checkpoints of steps 8 and 12, of a training killed in step 14."""
    with pytest.raises(Killed):
        run(checkpoints, stop_at=14)
    return checkpoints


# --- Resuming --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stops", [(), (1,), (4,), (5,), (6, 6, 6), (12,), (20,)])
def test_resume_matches_an_uninterrupted_run(checkpoints, stops):
    for stop_at in stops:
        with pytest.raises(Killed):
            run(checkpoints, stop_at)
    assert_same(run(checkpoints), uninterrupted())


@pytest.mark.parametrize(("by", "step"), [(signal.SIGTERM, 6), (signal.SIGINT, 6), (signal.SIGTERM, 20)])
def test_a_signal_ends_the_step_and_saves_a_checkpoint(checkpoints, by, step, capsys):
    before = signal.getsignal(by)
    with pytest.raises(Interrupted, match=f"stopped after step {step} of 20; run again") as stopped:
        run(checkpoints, stop_at=step, by=by)
    assert stopped.value.exit_code == 128 + by and stopped.value.is_main
    assert signal.getsignal(by) is before
    assert_same(run(checkpoints), uninterrupted())
    assert f"resumed after step {step} of 20" in capsys.readouterr().err


def test_a_signal_without_checkpoints_reports_that_none_was_saved():
    with pytest.raises(Interrupted, match="stopped after step 6 of 20; no checkpoint was saved"):
        run(None, stop_at=6, by=signal.SIGTERM)


# --- Damage ----------------------------------------------------------------------------------------------


def test_the_two_newest_checkpoints_are_kept(killed):
    names = {path.name for path in killed.folder.iterdir()}
    assert names == {"000000008.json", "000000008.safetensors", "000000012.json", STATE_12, "lock"}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 4
    path.write_bytes(content)


DAMAGES = {
    "cut": lambda folder: cut(folder / STATE_12),
    "bit": lambda folder: flip_a_bit(folder / STATE_12),
    "no weights": lambda folder: (folder / STATE_12).unlink(),
    "other weights": lambda folder: save_file({"a": torch.ones(1)}, folder / STATE_12),
    "empty json": lambda folder: (folder / "000000012.json").write_text(""),
    "other json": lambda folder: (folder / "000000012.json").write_text("[1]"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_reported_and_the_one_before_is_used(killed, damage, capsys):
    DAMAGES[damage](killed.folder)
    assert_same(run(killed), uninterrupted())
    printed = capsys.readouterr().err
    assert f"{STATE_12}: skipped, it is damaged" in printed and "resumed after step 8" in printed


def test_without_an_intact_checkpoint_training_starts_anew(killed, capsys):
    for path in killed.folder.glob("*.safetensors"):
        cut(path)
    assert_same(run(killed), uninterrupted())
    printed = capsys.readouterr().err
    assert printed.count("damaged") == 2 and "resumed" not in printed


def test_a_new_checkpoint_replaces_damaged_later_ones(killed):
    for path in killed.folder.glob("*.safetensors"):
        cut(path)
    with pytest.raises(Killed):
        run(killed, stop_at=6)
    tensors, notes = killed.newest()
    assert notes["progress"]["step"] == 4 and tensors
    assert_same(run(killed), uninterrupted())


def test_weights_without_their_json_are_no_checkpoint(killed):
    (killed.folder / "000000012.json").unlink()
    assert_same(run(killed), uninterrupted())


def test_a_checkpoint_of_another_network_is_refused(killed):
    training = line_training(network=nn.Linear(3, 1, bias=False))
    with pytest.raises(ValueError, match="of another network: remove"):
        fit_line(training, fit_params(), checkpoints=killed)


# --- Disks -----------------------------------------------------------------------------------------------


def test_a_full_disk_is_reported_and_the_last_checkpoint_is_kept(killed, capsys):
    """A limit on the size of files stands for a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))
    try:
        finished = run(killed)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_same(finished, uninterrupted())
    warnings = [line for line in capsys.readouterr().err.splitlines() if "was not saved" in line]
    assert len(warnings) == 1 and "after step 16" in warnings[0]
    assert os.strerror(errno.EFBIG).lower() in warnings[0]
    assert killed.newest()[1]["progress"]["step"] == 12
    assert not list(killed.folder.glob("*.part")) and not list(killed.folder.glob("*16*"))


def test_a_folder_that_cannot_be_written_is_refused_before_the_first_step(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written.*make it writable") as error:
        run(TrainingCheckpoints(tmp_path / "file" / "a_training"))
    assert "\n" not in str(error.value)


def test_the_checkpoints_of_a_finished_training_can_be_deleted(killed):
    killed.clear()
    assert not killed.folder.exists()
    killed.clear()


# --- Key -------------------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pipeline of two stages: `learn` reads data/in of `make`, code.py and a folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_STAGE", "learn")
    files = {
        "params.yaml": "seed: 0\nlearn: {rate: 0.1, steps: 3}\nother: {key: 1}\n",
        "dvc.yaml": "stages:\n  make: {cmd: a, outs: [data/in]}\n"
        "  learn: {cmd: b, params: [seed, learn], deps: [data/in, code.py, more], outs: [data/out]}\n",
        "dvc.lock": "stages:\n  make:\n    outs:\n    - {path: data/in, md5: abc}\n",
        "code.py": "a = 1\n",
        "more/code.py": "b = 1\n",
        "more/messages.py": "c = 1\n",
        ".dvcignore": "/more/messages.py\n",
        "data/in/a.bin": "content",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "old", "new", "same"),
    [
        ("params.yaml", "rate: 0.1", "rate: 0.2", False),
        ("params.yaml", "seed: 0", "seed: 1", False),
        ("params.yaml", "key: 1", "key: 2", True),
        ("code.py", "1", "2", False),
        ("code.py", "1", "1", True),  # a new time of the file
        ("more/code.py", "1", "2", False),
        ("more/messages.py", "1", "2", True),  # ignored by DVC
        ("dvc.lock", "abc", "abd", False),
        ("data/in/a.bin", "c", "c", True),  # known by dvc.lock
    ],
)
def test_the_key_depends_on_params_code_and_inputs_of_the_stage(project, file, old, new, same):
    before = stage_key("learn")
    path = project / file
    path.write_text(path.read_text().replace(old, new))
    os.utime(path, (1, 1))
    assert (stage_key("learn") == before) == same


def test_outside_of_dvc_inputs_are_known_by_their_files(project, monkeypatch):
    monkeypatch.delenv("DVC_STAGE")
    before = stage_key("learn")
    assert stage_key("learn") == before
    os.utime(project / "data/in/a.bin", (1, 1))
    assert stage_key("learn") != before


def test_a_stage_that_dvc_yaml_does_not_have_is_refused(project):
    with pytest.raises(UserError, match="dvc.yaml: stages.missing"):
        stage_key("missing")


def test_checkpoints_are_below_the_main_checkout(project, tmp_path_factory):
    root = tmp_path_factory.mktemp("main")
    folder = stage_checkpoints("learn", root).folder
    assert folder.parent == root / ".resume" and folder.name.startswith("learn-")
