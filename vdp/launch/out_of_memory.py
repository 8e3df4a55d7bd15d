"""Messages for a stage that runs out of memory: which params to lower, and to which values."""

import gc
import math
import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import torch

from vdp.core.errors import UserError, one_line

# Errors without a class: torch's allocator on the CPU, CUDA's libraries, C++.
TEXTS = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "std::bad_alloc",
)
SIZES = re.compile(r"(tried to allocate|total capacity of) [\d.]+ \w+", re.IGNORECASE)  # in torch's errors
DEFAULT_SHARE = 0.5  # of the memory, where no batch fits and nothing is measured
MAX_PARAMS = 2  # in a message, beside the batch size


@dataclass(frozen=True)
class MemoryParam:
    """A param that determines the memory of a training, about in proportion to value**power."""

    name: str  # dotted
    value: int
    power: float  # of all params in `scaled_with` together
    multiple: int  # of which new values have to be
    scaled_with: Mapping[str, int] = field(default_factory=dict)  # params that keep their ratio to this one

    def scaled(self, share: float) -> dict[str, int]:
        """Return values that take about `share` of the memory; empty where none is lower than now."""
        params = {self.name: self.value, **self.scaled_with}
        factor = share ** (1 / self.power) + 1e-9  # against rounding below a whole number
        divisor, multiple = math.gcd(*params.values()), self.multiple
        rounded = {n: max(int(v * factor) // multiple, 1) * multiple for n, v in params.items()}
        counts = range(int(divisor * factor), 0, -1)
        same_ratio = ({n: v // divisor * count for n, v in params.items()} for count in counts)
        new = next((new for new in same_ratio if not any(v % multiple for v in new.values())), rounded)
        return new if all(new[name] < value for name, value in params.items()) else {}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is about the memory of the GPU or of this process."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in TEXTS)


@contextmanager
def _catch_out_of_memory(message: Callable[[str], str]) -> Iterator[None]:
    """Raise a UserError if memory is full in the block; `message` gets the text of the error."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # they hold the tensors
        raise UserError(message(one_line(ValueError(str(error))))) from None


def report_out_of_memory(section: str, memory_params: Sequence[MemoryParam]) -> AbstractContextManager[None]:
    """Raise a UserError if memory is full outside of a step: in loading, validating or saving."""
    names = " or ".join(param.name for param in memory_params) or "the size of the network"
    text = f"{section}: out of memory outside of a step: lower {names}"
    return _catch_out_of_memory(lambda reason: f"{text} ({reason})")


def advise_batch(
    param: str, unit: int, parts: int, attempt: Callable[[int], object]
) -> AbstractContextManager[None]:
    """Raise a UserError with the largest batch that fits if memory is full in the block.

    Args:
        param: dotted name of the size of the batch.
        unit: what one part counts in `param`, such as the samples of a clip.
        parts: of the batch in the block, at least 1.
        attempt: computes so many parts.
    """

    def message(reason: str) -> str:
        fits = largest_that_fits(attempt, parts - 1)
        sizes = ", ".join(match[0] for match in SIZES.finditer(reason))
        head = f"{param}: out of memory{f' ({sizes})' if sizes else ''} with a batch of {parts * unit}: "
        if not fits:
            return f"{head}{unit} does not fit either; use a device with more memory, or smaller frames"
        return f"{head}set it to {fits * unit}, the largest that fits"

    return _catch_out_of_memory(message)


class MemoryAdvisor:
    """Suggests lower params if memory is full in a step: the batch size, then `memory_params`.

    `try_samples` computes some samples, to find a batch that fits; with several processes it is estimated.
    """

    def __init__(
        self,
        memory_params: Sequence[MemoryParam],
        section: str,
        batch_size: int,
        part: int,
        processes: int,
        try_samples: Callable[[int], None],
    ) -> None:
        self.memory_params, self.section, self.part = memory_params, section, part
        self.batch_size, self.processes, self.try_samples = batch_size, processes, try_samples

    def suggest_params(self) -> AbstractContextManager[None]:
        """Raise a UserError with lower params if memory is full in the block."""
        return _catch_out_of_memory(self._measured_message)

    def _measured_message(self, reason: str) -> str:
        if self.processes > 1:
            return self.message(self.part // 2, reason, measured=False)
        return self.message(largest_that_fits(self.try_samples, self.part - 1), reason)

    def message(self, fits: int, reason: str = "", measured: bool = True) -> str:
        """Return one line with the params to lower.

        `fits` samples of a part fit, measured or estimated; `reason` is the text of the error.
        """
        sizes = ", ".join(match[0] for match in SIZES.finditer(reason))
        head = f"{self.section}: out of memory{f' ({sizes})' if sizes else ''}: "
        share = fits / self.part if fits else DEFAULT_SHARE
        scaled = [new for param in self.memory_params if (new := param.scaled(share))][:MAX_PARAMS]
        lower = [" and ".join(f"{name}={value}" for name, value in new.items()) for new in scaled]
        if not fits:
            return f"{head}no sample fits: try {'; or '.join([*lower, 'engine.checkpointing=true'])}"
        size, rest = divmod(self.batch_size, self.processes)
        ways = [f"set {self.section}.batch_size={self.batch_size // self.part * fits}"]
        if rest == 0:  # the fewest equal parts with at most `fits` samples each
            accumulate = next(n for n in range(1, size + 1) if size % n == 0 and size // n <= fits)
            ways.append(f"with the same batch, {self.section}.accumulate={accumulate}")
        ways += [f"about {way}" for way in lower]
        samples = f"{fits} sample{'s' * (fits > 1)} of {self.part}"
        return f"{head}{samples} {'would' if measured else 'may'} fit: {'; or '.join(ways)}"


def largest_that_fits(attempt: Callable[[int], object], samples: int) -> int:
    """Return the largest number of samples, up to `samples`, that `attempt` computes in memory; 0: none.

    Bisection: about log2(samples) attempts. Other errors of `attempt` are raised.
    """
    fits, upper = 0, samples
    while fits < upper:
        count = (fits + upper + 1) // 2
        release_memory()  # outside of the except block, in which the traceback holds the tensors
        try:
            attempt(count)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            upper = count - 1
        else:
            fits = count
    release_memory()
    return fits


def release_memory() -> None:
    """Free unreferenced memory."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
