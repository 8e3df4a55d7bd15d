"""The recipes of the project: what their head comments say of them."""

from pathlib import Path

import pytest
import torch

from vdp.config.recipes import merged
from vdp.config.yaml_file import read_file
from vdp.models.denoisers.factory import build_denoiser
from vdp.models.denoisers.params import DenoiserParams

REPO = Path(__file__).parents[2]


@pytest.mark.parametrize("path", sorted((REPO / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_says_first_what_it_is_for(path):
    assert path.read_text().startswith("# ")


def test_full_has_the_denoiser_and_the_frames_that_it_says():
    data = merged(read_file(REPO / "params.yaml"), read_file(REPO / "recipes" / "full.yaml"))
    with torch.device("meta"):
        network = build_denoiser(
            DenoiserParams.model_validate(data["denoiser"]), data["vae"]["latent_channels"]
        )
    assert 35e6 < sum(parameter.numel() for parameter in network.parameters()) < 45e6
    for section in ("clip", "simulate"):
        assert (data[section]["height"], data[section]["width"]) == (160, 240)
    assert (data["simulate"]["train"], data["simulate"]["unlabeled"]) == (1000, 13000)


def test_the_parts_of_full_are_whole_on_eight_gpus_and_on_one():
    data = read_file(REPO / "recipes" / "full.yaml")
    train = data["train_denoiser"]
    assert train["batch_size"] % (8 * train["accumulate"]) == 0
    assert (
        train["batch_size"] // (8 * train["accumulate"]) == train["batch_size"] // 16
    )  # accumulate=16 on one
