"""bench.gpu_check: the order of the stages, what is shortened, and the parts that take seconds."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import gpu_check
from bench.gpu_check import Curve, Failed, Waves, out_paths, score_table, shortened, stage_order
from vdp.config.yaml_file import read_file
from vdp.core.errors import UserError

pytestmark = pytest.mark.slow

REPO = Path(__file__).parents[2]
SCRIPT = REPO / "bench/gpu_check.sh"


def test_stages_run_after_those_whose_outputs_they_read():
    stages = read_file(REPO / "dvc.yaml")["stages"]
    backwards = dict(reversed(stages.items()))
    order = stage_order(backwards)
    assert sorted(order) == sorted(stages)
    written: list[str] = []
    for name in order:
        data = [dep for dep in stages[name]["deps"] if dep.startswith("data/")]
        assert all(any(d.startswith(w) or w.startswith(d) for w in written) for d in data), name
        written += out_paths(stages[name])


def test_trainings_are_shortened_and_other_sections_stay():
    data = read_file(REPO / "params.yaml")
    short = shortened(data, 40)
    trainings = {name for name in data if name.startswith(("train_", "pretrain_"))}
    assert {name for name in data if short[name] != data[name]} == trainings
    for name in trainings:
        section = short[name]
        assert (section["steps"], section["validate_every"], section["log_every"]) == (40, 40, 4)
        assert section["warmup_steps"] <= 4


def test_scores_without_a_jaccard_index_fail():
    scores = {
        "jaccard": 0.4, "psnr": 25.0, "clips": 60, "baseline": {"copy_last": 0.2},
        "ceiling": {"segmenter": 0.7}, "interval": None,
    }  # fmt: skip
    _, rows = score_table({"simulated": scores})
    assert rows == [["simulated", "0.4000", "0.2000", "0.7000", "25.00", "60"]]
    with pytest.raises(UserError, match="simulated: no jaccard"):
        score_table({"simulated": {**scores, "jaccard": None}})


def test_waves_move_at_constant_speed_and_rows_do_not_depend_on_each_other():
    batches = Waves((2, 8, 12), known=3, targets=2, batch_size=4)
    hops = batches(0, np.random.default_rng(0), range(4))
    clip = torch.cat([hops.known, hops.target], dim=2)
    assert clip.shape == (4, 2, 5, 8, 12) and hops.target_index.tolist() == [[3, 4]] * 4
    # sin(a + s) + sin(a - s) is 2 cos(s) sin(a): the same factor in all frames
    factor = (clip[:, :, 2:] + clip[:, :, :-2]) / clip[:, :, 1:-1]
    torch.testing.assert_close(factor.amin(dim=(2, 3, 4)), factor.amax(dim=(2, 3, 4)), atol=0.05, rtol=0.05)
    part = batches(0, np.random.default_rng(0), range(2, 4))
    torch.testing.assert_close(part.known, hops.known[2:])


def lines_of(part: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines that a part prints with --small."""
    gpu_check.main([part, "--small"])
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(("part", "rows"), [("full", ["full: dit", "gpu: unet"]), ("fp16", ["auto", ""])])
def test_a_part_prints_its_table_with_the_commit(part, rows, capsys, monkeypatch):
    monkeypatch.setenv("COMMIT", "abc1234")
    title, empty, head, _, *found = lines_of(part, capsys)
    assert title.startswith(f"`{part}`, small: commit abc1234, ") and not empty
    assert all(line.startswith(f"| {start}") for line, start in zip(found, rows, strict=True))
    assert {line.count("|") for line in found} == {head.count("|")}


def test_losses_that_are_not_finite_fail_in_one_line(capsys, monkeypatch):
    def loss(self, network, hops, batch_rng):
        return {"loss": next(network.parameters()).sum() * float("nan")}

    monkeypatch.setattr(gpu_check.HopLoss, "__call__", loss)
    for part in ("full", "fp16"):
        with pytest.raises(SystemExit) as stopped:
            gpu_check.main([part, "--small"])
        output = capsys.readouterr()
        assert stopped.value.code == 1 and not output.out
        assert output.err.splitlines()[-1].startswith(f"error: {part}: ")


def test_a_failure_is_one_line_below_the_tables(capsys, monkeypatch):
    def fail(small: bool):
        raise Failed("the compiler failed", [(["a", "b"], [["1", "2"]])])

    monkeypatch.setitem(gpu_check.PARTS, "compile", fail)
    with pytest.raises(SystemExit):
        gpu_check.main(["compile", "--small"])
    output = capsys.readouterr()
    assert output.out.endswith("| 1 | 2 |\n") and output.err == "error: compile: the compiler failed\n"


def test_without_a_gpu_only_small_parts_run(capsys, monkeypatch):
    monkeypatch.setattr(gpu_check, "pick_device", lambda: torch.device("cpu"))
    with pytest.raises(SystemExit):
        gpu_check.main(["full"])
    assert "no GPU is visible to torch" in capsys.readouterr().err


def test_a_curve_reads_losses_and_skipped_steps():
    curve = Curve()
    curve.log({"loss": 0.5, "skipped_steps": 1.0}, 1)
    curve.log({"val_loss": 0.1}, 1)
    assert (curve.losses, curve.skipped) == ([0.5], 1)


@pytest.mark.parametrize(
    ("python", "message"),
    [
        ("/nowhere/python", "error: /nowhere/python: no such interpreter"),
        ("bare", "error: bare lacks einops"),
    ],
)
def test_the_script_names_what_is_missing(python, message, tmp_path):
    bare = tmp_path / "bare"
    bare.write_text("#!/bin/sh\necho einops torch\n")
    bare.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHON": python}
    done = subprocess.run(["bash", SCRIPT, "full"], capture_output=True, text=True, env=environment)
    assert done.returncode == 1 and not done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith(message)
