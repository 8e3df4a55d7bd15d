"""The weights of a trained model as those that a training starts from (`init_from`)."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from vdp.config.schema import Params
from vdp.core.errors import UserError
from vdp.core.model_files import CONFIG, initial_file
from vdp.core.rank import process_rank

MAX_DIFFERENCES = 6  # in a message
MAX_CHARS = 24  # of a shown value


@dataclass(frozen=True)
class InitialWeights:
    """Weights of a trained model; a call reads them, to the CPU.

    Attributes:
        section: of the training.
        file: of the weights, beside the model's config.
        ignored: prefixes of names that either network may lack: parts that depend on the data.
    """

    section: str
    file: Path
    ignored: tuple[str, ...] = ()

    def __call__(self) -> dict[str, Tensor]:
        """Read the weights."""
        if process_rank() == 0:
            print(f"{self.section}: starts from the weights of {self.file}", file=sys.stderr)
        return load_file(self.file)

    def check(self, network: nn.Module, config: Params) -> None:
        """Check that the weights fit a network, and print how the config of their training differs.

        Raises:
            UserError: if names or shapes differ; names the first of them and the params that differ.
        """
        found, expected = self._shapes(), {k: list(v.shape) for k, v in network.state_dict().items()}
        both = sorted(found.keys() & expected.keys())
        others = sorted(name for name in found.keys() ^ expected.keys() if not name.startswith(self.ignored))
        problems = {
            "of another shape": [
                f"{name} {found[name]} (expected {expected[name]})"
                for name in both
                if found[name] != expected[name]
            ],
            "missing": [name for name in others if name in expected],
            "unknown": [name for name in others if name in found],
        }
        differences = config_differences(
            json.loads((self.file.parent / CONFIG).read_text()), config.model_dump(mode="json")
        )
        listed = [f"{len(names)} {kind}, such as {names[0]}" for kind, names in problems.items() if names]
        differs = f"its config differs: {_first(differences)}" if differences else ""
        if listed:
            raise UserError(
                f"{self.section}.init_from: weights of {self.file} do not fit the network: "
                f"{'; '.join([*listed, *filter(None, [differs])])}; train the same network, or set it to null"
            )
        if differs and process_rank() == 0:
            print(f"{self.section}.init_from: {self.file.parent}: {differs}", file=sys.stderr)

    def _shapes(self) -> dict[str, list[int]]:
        try:
            with safe_open(self.file, "pt") as weights:
                return {name: list(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise UserError(
                f"{self.section}.init_from: {self.file}: is damaged ({error}); copy it again"
            ) from None


def find_initial(
    section: str, init_from: Path | None, output: Path, ignored: tuple[str, ...] = ()
) -> InitialWeights | None:
    """Find the weights of `<section>.init_from`, as `initial_file`; None without them."""
    file = initial_file(section, init_from, output)
    return None if file is None else InitialWeights(section, file, ignored)


def config_differences(there: JsonValue, here: JsonValue, name: str = "") -> list[str]:
    """List the values that differ between two configs, by dotted name; long values by their name only."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        return [
            line
            for key in sorted(there.keys() | here.keys())
            for line in config_differences(there.get(key), here.get(key), f"{name}.{key}".removeprefix("."))
        ]
    if there == here:
        return []
    shown, own = json.dumps(there), json.dumps(here)
    return [name if len(shown) + len(own) > 2 * MAX_CHARS else f"{name}={shown} (here {own})"]


def _first(lines: Sequence[str]) -> str:
    more = f" and {len(lines) - MAX_DIFFERENCES} more" if len(lines) > MAX_DIFFERENCES else ""
    return ", ".join(lines[:MAX_DIFFERENCES]) + more
