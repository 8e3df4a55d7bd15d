"""One process: what the engine refuses, and the ways to compute that change nothing in what is learnt."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.training.process import Job, run
from tests.training.small import engine_of, fitted, params_of, regression, training_of
from vdp.core.errors import UserError
from vdp.core.rng import BatchRng
from vdp.training.engine import launch
from vdp.training.trainer import training_seed

NETWORKS = ["vae", "unet-features+own", "dit+own"]
Curves = list[tuple[int, dict[str, float]]]

every_network = pytest.mark.parametrize("name", NETWORKS)


def losses(result: dict[str, object], name: str = "loss") -> list[float]:
    curves: Curves = result["curves"]
    return [line[name] for _, line in curves if name in line]


def assert_close(one: dict[str, object], other: dict[str, object], within: float) -> None:
    for name in ("loss", "val_loss"):
        assert len(losses(one, name)) > 0
        assert losses(one, name) == pytest.approx(losses(other, name), abs=within)


# --- Where it runs ---------------------------------------------------------------------------------------


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def refusal(**changes: object) -> str:
    with pytest.raises(UserError) as error:
        launch(engine_of(**changes))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("environment", "devices", "started"),
    [
        ({"WORLD_SIZE": "2"}, 1, 2),
        ({"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}, "auto", 8),
        ({"SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_TASKS_PER_NODE": "4(x2)"}, "auto", 8),
        ({"SLURM_STEP_NUM_TASKS": "3"}, 1, 3),
    ],
)
def test_processes_that_the_params_do_not_know_of_are_refused(monkeypatch, environment, devices, started):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    told = refusal(devices=devices)
    assert told.startswith(f"{started} processes were started") and f"engine.devices={devices}" in told


def test_one_process_does_not_wait_for_machines_on_which_nothing_was_started():
    assert "engine.num_nodes=2" in refusal(num_nodes=2) and "torchrun" in refusal(num_nodes=2)


def test_one_process_has_nobody_to_share_its_weights_with():
    assert "engine.strategy=fsdp" in refusal(strategy="fsdp")


def test_half_precision_is_for_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "engine.precision=16 needs a GPU" in refusal(precision=16)


def test_half_precision_does_not_go_with_shared_weights(two_gpus):
    assert "engine.precision=16 does not go with engine.strategy=fsdp" in refusal(
        precision=16, strategy="fsdp", devices=2
    )


def test_more_gpus_than_there_are_are_refused(two_gpus):
    assert "engine.devices=3: this machine has 2" in refusal(devices=3)


# --- How it computes -------------------------------------------------------------------------------------


@every_network
def test_a_batch_in_four_parts_gives_the_losses_of_the_whole_one(name):
    params = {"steps": 6, "validate_every": 3}
    assert_close(run(Job(name, params={**params, "accumulate": 4})), run(Job(name, params=params)), 1e-6)


def test_parts_add_up_to_a_mean():
    """AdamW does not feel a gradient's scale, but for one as small as its epsilon."""

    def faint(network: nn.Linear, batch: Tensor, batch_rng: BatchRng) -> dict[str, Tensor]:
        return {"loss": 1e-8 * regression(network, batch, batch_rng)["loss"]}

    weights = []
    for accumulate in (1, 4):
        training_seed(0)
        weights.append(fitted(training_of(faint), params_of(accumulate=accumulate)).network.weight)
    torch.testing.assert_close(*weights, atol=1e-5, rtol=0)


@every_network
def test_activations_that_are_computed_again_change_nothing(name):
    plain = run(Job(name, params={"steps": 4, "validate_every": 2}))
    again = run(Job(name, {"checkpointing": True}, {"steps": 4, "validate_every": 2}))
    assert again == plain


def test_a_state_is_taken_up_with_and_without_recomputed_activations(tmp_path):
    """Blocks that are wrapped keep the names of their weights."""
    plain = run(Job("dit", params={"steps": 6}))
    for first, then in ((True, False), (False, True)):
        states = str(tmp_path / f"{first}")
        engine: dict[str, object] = {"save_steps": 3}
        run(Job("dit", {**engine, "checkpointing": first}, {"steps": 6}, states, harm="leave", step=5))
        assert [path.stem for path in Path(states).glob("*.json")] == ["000000003"]
        assert run(Job("dit", {**engine, "checkpointing": then}, {"steps": 6}, states)) == plain


def test_compiled_blocks_give_the_same_losses_and_names(tmp_path, monkeypatch):
    """Traced and differentiated as ever, but without a C++ compiler, which takes a minute."""
    compile_module = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda module: compile_module(module, backend="aot_eager"))
    plain = run(Job("vae", params={"steps": 4}))
    run(Job("vae", {"save_steps": 2}, {"steps": 4}, str(tmp_path), harm="leave", step=3))
    compiled = run(Job("vae", {"compile": True}, {"steps": 4}, str(tmp_path)))
    assert_close(compiled, plain, 1e-4)
    assert compiled["names"] == plain["names"]
