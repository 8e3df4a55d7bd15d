"""What to tell a user whose training does not fit into memory: which params to lower, and to which values."""

import gc
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

# Texts of errors that have no class of their own: torch's allocator on the CPU, CUDA's libraries, C++.
TEXTS = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "std::bad_alloc",
)
UNITS = {"byte": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
GUESS = 0.5  # share of memory to come down to where nothing has fitted, so that nothing is known
NAMED = 2  # knobs in a message, beside the batch


@dataclass(frozen=True)
class Knob:
    """A param that a training's memory grows with, about as value**power.

    Attributes:
        name: of the param, dotted.
        value: as it is now.
        power: of the growth.
        multiple: of which new values are to be.
        beside: further params that are scaled alike, as `clip.width` beside `clip.height`, and their values;
            `power` is then that of all of them together.
    """

    name: str
    value: int
    power: float
    multiple: int
    beside: Mapping[str, int] = field(default_factory=dict)

    def scaled(self, share: float) -> dict[str, int]:
        """Values that take about `share` of the memory; empty where none is lower than now.

        Several params keep their ratio where a multiple allows it.
        """
        params = {self.name: self.value, **self.beside}
        factor = share ** (1 / self.power) + 1e-9  # a root must not fall short of the whole number that it is
        parts = math.gcd(*params.values())
        unit = {name: value // parts for name, value in params.items()}
        fitting = (
            {name: value * count for name, value in unit.items()}
            for count in range(int(parts * factor), 0, -1)
            if all(value * count % self.multiple == 0 for value in unit.values())
        )
        apart = {
            name: max(int(value * factor) // self.multiple, 1) * self.multiple
            for name, value in params.items()
        }
        new = next(fitting, apart)
        return new if all(new[name] < value for name, value in params.items()) else {}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is used up: the GPU's, or that of this process."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in TEXTS)


def largest_that_fits(attempt: Callable[[int], None], samples: int) -> int:
    """The largest number of samples, up to `samples`, with which an attempt does not run out of memory.

    Found by bisection, so in about log2(samples) attempts. To be called where nothing holds on to the
    tensors of what failed before: after its `except` block, or with its traceback's frames cleared.

    Args:
        attempt: computes a step with so many samples, and keeps nothing of it.
        samples: the most to try.

    Returns:
        0 if not even one fits.

    Raises:
        Whatever `attempt` raises but the lack of memory.
    """
    fits, most = 0, samples
    while fits < most:
        count = (fits + most + 1) // 2
        if _fits(attempt, count):
            fits = count
        else:
            most = count - 1
    return fits


def _fits(attempt: Callable[[int], None], count: int) -> bool:
    release()
    try:
        attempt(count)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        fitted = False
    else:
        fitted = True
    release()  # not in the block above: until its end the traceback holds the tensors
    return fitted


def release() -> None:
    """Give memory back that nothing refers to."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def advice(
    section: str,
    batch_size: int,
    parts: int,
    fits: int,
    knobs: Sequence[Knob],
    reason: str = "",
    processes: int = 1,
    tried: bool = True,
) -> str:
    """One line: that memory is out, and what to lower to which value.

    Args:
        section: of params.yaml, whose `batch_size` and `accumulate` are meant.
        batch_size: samples of one optimiser step.
        parts: in how many it is computed: processes x accumulated parts.
        fits: samples of one part that fit, fewer than one has; 0 if not even one does.
        knobs: params that memory grows with beside the batch, the one to lower first in front.
        reason: the error's text, of which the sizes are told.
        processes: among which a step is shared.
        tried: whether `fits` was found by trying, or guessed.
    """
    part = batch_size // parts
    head = f"{section}: out of memory{_sizes(reason)}: "
    lower = _lower(knobs, fits / part if fits else GUESS)
    if not fits:
        return f"{head}not even one sample fits: try {'; or '.join([*lower, 'engine.checkpointing=true'])}"
    ways = [f"set {section}.batch_size={fits * parts}"]
    if accumulate := _accumulate(batch_size, processes, fits):
        ways.append(f"with the same batch, {section}.accumulate={accumulate}")
    ways += [f"about {way}" for way in lower]
    samples = f"{fits} sample{'s' * (fits > 1)}"
    return f"{head}{samples} at once {'would' if tried else 'may'} fit, not {part}: {'; or '.join(ways)}"


def _lower(knobs: Sequence[Knob], share: float) -> list[str]:
    """What the first knobs that can be lowered would be, as `name=value and name=value`."""
    found = [new for knob in knobs if (new := knob.scaled(share))][:NAMED]
    return [" and ".join(f"{name}={value}" for name, value in new.items()) for new in found]


def _accumulate(batch_size: int, processes: int, fits: int) -> int | None:
    """The fewest equal parts of a process's share of a batch that have no more than `fits` samples each."""
    own = batch_size // processes
    if batch_size % processes:
        return None
    return next(parts for parts in range(1, own + 1) if own % parts == 0 and own // parts <= fits)


def _sizes(reason: str) -> str:
    """What was asked for and what there is, from the text of torch's error; '' where it tells nothing."""
    asked = _gigabytes(reason, r"(?:ried to allocate|Requested size:)")
    there = _gigabytes(reason, r"total capacity of")
    told = [f"{asked} more were asked for"] if asked else []
    told += [f"the device has {there}"] if there else []
    return f" ({', '.join(told)})" if told else ""


def _gigabytes(text: str, before: str) -> str:
    match = re.search(rf"{before} ([\d.]+) (byte|KiB|MiB|GiB)", text)
    if match is None:
        return ""
    size = float(match[1]) * UNITS[match[2]]
    return f"{size / 2**30:.1f} GB" if size >= 2**30 else f"{size / 2**20:.0f} MB"
