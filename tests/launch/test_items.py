"""The work of a stage in batches: each computed once, whatever stops the stage, and read in order."""

import errno
import os
import signal
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest

from tests.evaluation.recorder import Recorder
from tests.training.small import engine_params
from vdp.core.errors import Interrupted, UserError
from vdp.launch import items
from vdp.launch.items import Parts, SharedWork, share_work, split_rows
from vdp.launch.resume import FINISHED, clear_finished

PIPELINE = "stages: {work: {cmd: x, params: [size]}, next: {cmd: x}}\n"
ROWS, SIZE = 7, 3
TOTAL = 1000.0 * 3  # FLOPs of the batches of `Squares`


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("dvc.yaml").write_text(PIPELINE)
    Path("params.yaml").write_text("size: 1\n")


class Squares:
    """Squares the rows of a batch; counts its calls."""

    def __init__(self, ledger: Recorder, fail_at: int | None = None) -> None:
        self.ledger, self.fail_at = ledger, fail_at
        self.batches: list[list[int]] = []

    def __call__(self, rows):
        self.batches.append(list(rows))
        self.ledger.add_flops(1000.0)
        if self.fail_at in rows:
            raise ValueError(f"row {self.fail_at}: cannot be computed")
        return {"squares": np.array(rows) ** 2, "half": np.array(rows, np.float16) / 2}


def share(ledger: Recorder) -> AbstractContextManager[SharedWork]:
    return share_work("work", Path.cwd(), engine_params(), ledger)


def squares_of(parts: Parts) -> list[int]:
    return np.concatenate([arrays["squares"] for arrays in parts]).tolist()


def run(fail_at: int | None = None) -> tuple[Squares, list[int], Recorder]:
    ledger = Recorder()
    compute = Squares(ledger, fail_at)
    with share(ledger) as work:
        parts = work.compute("all", split_rows(range(ROWS), SIZE), compute)
        assert work.join()
        found = squares_of(parts)
    return compute, found, ledger


def test_batches_have_one_size_but_the_last():
    assert [list(batch) for batch in split_rows(range(ROWS), SIZE)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert split_rows([], SIZE) == []


def test_the_parts_are_read_in_the_order_of_the_rows():
    compute, found, ledger = run()
    assert found == [row**2 for row in range(ROWS)]
    assert compute.batches == [[0, 1, 2], [3, 4, 5], [6]]
    assert ledger.flops == TOTAL


def test_arrays_keep_type_shape_and_values():
    rng = np.random.default_rng(0)
    arrays = {
        "frames": rng.integers(0, 256, (2, 3, 4, 5, 3), dtype=np.uint8),
        "latents": rng.standard_normal((2, 3)).astype(np.float16),
        "names": np.array(["a", "über"]),
        "none": np.zeros((0, 4), bool),
    }
    with share(Recorder()) as work:
        parts = work.compute("all", [[0]], lambda rows: arrays)
        work.join()
        (found,) = parts
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


def test_after_a_failure_only_the_missing_batches_are_computed(capsys):
    with pytest.raises(ValueError, match="row 4"):
        run(fail_at=4)
    compute, found, ledger = run()
    assert compute.batches == [[3, 4, 5], [6]]
    assert found == [row**2 for row in range(ROWS)]
    assert ledger.flops == TOTAL, "those of the first run count as well"
    assert "work all: 1 of 3 batches are those of an earlier run" in capsys.readouterr().err


def test_other_params_compute_all_batches_and_delete_the_others():
    with pytest.raises(ValueError, match="row 4"):
        run(fail_at=4)
    Path("params.yaml").write_text("size: 2\n")
    compute, *_ = run()
    assert len(compute.batches) == 3
    assert len(list(Path(".resume").glob("work-*"))) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_after_the_batch_under_way(number):
    ledger = Recorder()
    compute = Squares(ledger)

    def interrupted(rows):
        os.kill(os.getpid(), number)
        return compute(rows)

    message = "work: stopped after 1 of 4 batches; run again"
    with pytest.raises(Interrupted, match=message) as stopped, share(ledger) as work:
        work.compute("first", split_rows(range(ROWS), SIZE), interrupted)
        work.compute("second", [[0]], compute)
        work.join()
    assert stopped.value.exit_code == 128 + number
    assert compute.batches == [[0, 1, 2]]


def test_the_work_of_a_finished_stage_stays_until_another_one_starts():
    """DVC may be killed before it has kept the outputs."""
    run()
    clear_finished(Path.cwd(), "work", Path("dvc.lock"))
    compute, found, _ = run()
    assert compute.batches == [] and found == [row**2 for row in range(ROWS)]
    clear_finished(Path.cwd(), "next", Path("dvc.lock"))
    assert not list(Path(".resume").iterdir())


def test_the_work_of_a_stage_that_dvc_has_kept_is_done_again():
    run()
    (folder,) = Path(".resume").iterdir()
    Path("dvc.lock").touch()
    later = (folder / FINISHED).stat().st_mtime + 1
    os.utime("dvc.lock", (later, later))
    clear_finished(Path.cwd(), "work", Path("dvc.lock"))
    assert len(run()[0].batches) == 3


def test_unfinished_work_of_other_stages_stays():
    with pytest.raises(ValueError, match="row 4"):
        run(fail_at=4)
    clear_finished(Path.cwd(), "next", Path("dvc.lock"))
    assert len(run()[0].batches) == 2


def test_work_in_use_is_not_deleted():
    with share(Recorder()) as work:
        work.compute("all", [[0]], lambda rows: {})
        (work.folder / FINISHED).touch()
        clear_finished(Path.cwd(), "next", Path("dvc.lock"))
        assert work.folder.is_dir()


def test_a_damaged_file_is_named():
    with pytest.raises(ValueError, match="row 4"):
        run(fail_at=4)
    (file,) = Path(".resume").rglob("*.npz")
    content = bytearray(file.read_bytes())
    content[content.index(b"NUMPY") + 128] ^= 1  # a value of the first array
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"000000\.npz: is damaged \(.*\); delete it and run again"):
        run()


def test_a_full_disk_ends_in_one_line_and_keeps_the_batches_before(monkeypatch):
    save, calls = np.savez, []

    def full(file, **arrays):
        calls.append(arrays)
        if len(calls) == 2:
            file.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(file, **arrays)

    monkeypatch.setattr(items.np, "savez", full)
    with pytest.raises(UserError, match=r"000001\.npz: no space left on device; free disk space and run"):
        run()
    assert [path.name for path in sorted(Path(".resume").rglob("0*"))] == ["000000.npz"]
    assert len(run()[0].batches) == 2


def test_work_in_a_precision_that_the_device_lacks_is_refused_as_trainings_are():
    engine = engine_params(precision=16)
    work = share_work("work", Path.cwd(), engine, Recorder())
    with pytest.raises(UserError, match="engine.precision=16: expected a GPU"), work:
        raise AssertionError("it has started")
    assert not Path(".resume").exists()


def test_two_works_of_one_name_are_refused():
    with share(Recorder()) as work, pytest.raises(ValueError, match="give each its own"):
        for _ in range(2):
            work.compute("all", [[0]], lambda rows: {})
