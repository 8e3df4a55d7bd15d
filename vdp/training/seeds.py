"""Random generators of a step, which depend on the seed and the number of the step only.

A stream is a second word of the seed: the noise of a step does not depend on the draws of its batch.
"""

import numpy as np
import torch

from vdp.core.rng import BatchRng

VAL_BATCH_STREAM, NOISE_STREAM, VAL_NOISE_STREAM, NETWORK_STREAM = 1, 2, 3, 4  # 0: batches


def step_rng(seed: int, step: int, stream: int = 0) -> np.random.Generator:
    """Return the numpy generator of a step."""
    return np.random.default_rng([seed, stream, step])


def step_generator(seed: int, step: int, stream: int, device: torch.device) -> torch.Generator:
    """Return the torch generator of a step."""
    return torch.Generator(device).manual_seed(int(step_rng(seed, step, stream).integers(2**63)))


def noise_rng(seed: int, step: int, rows: range, batch_size: int, device: torch.device) -> BatchRng:
    """Return the random numbers of a training loss for some rows of a batch."""
    return BatchRng(step_generator(seed, step, NOISE_STREAM, device), rows, batch_size)


def seed_network(seed: int, step: int, part: int) -> None:
    """Seed torch's global generator, from which dropout draws; `part` counts over all processes."""
    torch.manual_seed(int(step_rng(seed, step, NETWORK_STREAM).integers(2**62)) + part)


def seed_weights(seed: int) -> None:
    """Seed torch's global generator for the initial weights."""
    torch.manual_seed(seed)
