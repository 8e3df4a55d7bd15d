"""The engine in one process: what it refuses, and settings that do not change a training."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.training.process import Job, run
from tests.training.small import engine_params, fit_line, fit_params, line_training, regression
from vdp.core.errors import UserError
from vdp.core.rng import BatchRng
from vdp.training.engine import launch
from vdp.training.seeds import seed_weights

pytestmark = pytest.mark.slow

NETWORKS = ["vae", "unet-features+scheduled", "transformer", "interaction", "dit-one_way+scheduled"]
Curves = list[tuple[int, dict[str, float]]]

every_network = pytest.mark.parametrize("name", NETWORKS)


def losses(result: dict[str, object], name: str = "loss") -> list[float]:
    curves: Curves = result["curves"]
    return [line[name] for _, line in curves if name in line]


def assert_close(one: dict[str, object], other: dict[str, object], within: float) -> None:
    for name in ("loss", "val_loss"):
        assert len(losses(one, name)) > 0
        assert losses(one, name) == pytest.approx(losses(other, name), abs=within)


# --- What it refuses -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "changes", "expected"),
    [
        ({"WORLD_SIZE": "2"}, {}, "engine.devices=1 x engine.num_nodes=1: expected 2"),
        (
            {"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"},
            {"devices": "auto"},
            "engine.devices=auto.*expected 8",
        ),
        (
            {"SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_TASKS_PER_NODE": "4(x2)"},
            {"devices": "auto"},
            "engine.devices=auto.*expected 8",
        ),
        ({"SLURM_STEP_NUM_TASKS": "3"}, {}, "engine.devices=1 .*expected 3"),
        ({}, {"num_nodes": 2}, "engine.num_nodes=2: .*torchrun"),
        ({}, {"strategy": "fsdp"}, "engine.strategy=fsdp: expected several processes"),
        ({}, {"precision": 16}, "engine.precision=16: expected a GPU"),
    ],
)
def test_params_that_do_not_fit_the_processes_are_refused(monkeypatch, environment, changes, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=expected):
        launch(engine_params(**changes))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"precision": 16, "strategy": "fsdp", "devices": 2}, "engine.precision=16: .*engine.strategy=fsdp"),
        ({"devices": 3}, "engine.devices=3: expected at most 2"),
    ],
)
def test_params_that_do_not_fit_the_gpus_are_refused(monkeypatch, changes, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match=expected):
        launch(engine_params(**changes))


# --- What it does not change -----------------------------------------------------------------------------


@every_network
def test_a_batch_in_four_parts_gives_the_losses_of_the_whole_one(name):
    params = {"steps": 6, "validate_every": 3}
    assert_close(run(Job(name, params={**params, "accumulate": 4})), run(Job(name, params=params)), 1e-6)


def test_gradients_of_parts_add_up_to_their_mean():
    """AdamW is invariant to the scale of a gradient, but for one as small as its epsilon."""

    def faint(network: nn.Module, batch: Tensor, batch_rng: BatchRng) -> dict[str, Tensor]:
        return {"loss": 1e-8 * regression(network, batch, batch_rng)["loss"]}

    weights = []
    for accumulate in (1, 4):
        seed_weights(0)
        weights.append(fit_line(line_training(faint), fit_params(accumulate=accumulate)).network.weight)
    torch.testing.assert_close(*weights, atol=1e-5, rtol=0)


def test_recomputed_activations_do_not_change_a_training():
    params = {"steps": 4, "validate_every": 2}
    plain, again = (run(Job(NETWORKS[-1], {"checkpointing": on}, params)) for on in (False, True))
    assert again.pop("flops") > plain.pop("flops")  # what is computed again counts
    assert again == plain


def test_a_checkpoint_can_be_resumed_with_and_without_recomputed_activations(tmp_path):
    plain = run(Job("dit-one_way", params={"steps": 6}))
    del plain["flops"]  # more where activations are computed again
    for first, then in ((True, False), (False, True)):
        folder = str(tmp_path / f"{first}")
        engines = [{"save_steps": 3, "checkpointing": checkpointing} for checkpointing in (first, then)]
        run(Job("dit-one_way", engines[0], {"steps": 6}, folder, fault="leave", step=5))
        assert [path.stem for path in Path(folder).glob("*.json")] == ["000000003"]
        resumed = run(Job("dit-one_way", engines[1], {"steps": 6}, folder))
        del resumed["flops"]
        assert resumed == plain


@pytest.mark.parametrize("name", ["transformer", "classifier"])
def test_a_training_of_objects_resumes_to_the_bytes_of_an_uninterrupted_one(tmp_path, name):
    params, engine = {"steps": 6, "validate_every": 3, "accumulate": 2}, {"save_steps": 2}
    run(Job(name, engine, params, str(tmp_path), fault="leave", step=5))
    assert [path.stem for path in sorted(tmp_path.glob("*.json"))] == ["000000002", "000000004"]
    assert run(Job(name, engine, params, str(tmp_path))) == run(Job(name, params=params))


def test_compiled_blocks_give_the_same_losses_and_names(tmp_path, monkeypatch):
    """Without a C++ compiler, which takes a minute."""
    compile_module = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda module: compile_module(module, backend="aot_eager"))
    plain = run(Job("vae", params={"steps": 4}))
    run(Job("vae", {"save_steps": 2}, {"steps": 4}, str(tmp_path), fault="leave", step=3))
    compiled = run(Job("vae", {"compile": True}, {"steps": 4}, str(tmp_path)))
    assert_close(compiled, plain, 1e-4)
    assert compiled["names"] == plain["names"]
