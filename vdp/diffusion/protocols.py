"""What the loss and the rollout expect of a denoiser: any number of known frames and targets, any times."""

from typing import Protocol, TypeVar

from torch import Tensor

ContextT = TypeVar("ContextT")


class Denoiser(Protocol[ContextT]):
    """What every denoiser offers. B clips, C channels, K known frames, N targets, R noise draws of each."""

    @property
    def joint(self) -> bool:
        """Whether the targets of one hop see each other; if not, each is denoised as if it were alone."""
        ...

    def context(
        self, frames: Tensor, index: Tensor, level: Tensor, dropped: Tensor, target_index: Tensor
    ) -> ContextT:
        """Encode the known frames once for all sampling steps and noise draws.

        Args:
            frames: latents of the known frames, (B, C, K, h, w), K >= 1.
            index: real-valued time of each known frame, (B, K), in frames.
            level: standard deviation of the noise that was added to each known frame, (B, K); 0 is clean.
            dropped: (B,) bool, True where the pictures are withheld: the network then knows times alone
                (Ho & Salimans 2022, arXiv:2207.12598).
            target_index: real-valued time of each target, (B, N).
        """
        ...

    def __call__(self, xt: Tensor, t: Tensor, context: ContextT) -> Tensor:
        """What `diffusion.prediction` names, of noised targets: (B, C, N*R, h, w) in fp32.

        Args:
            xt: noised targets, (B, C, N*R, h, w); the draws of one target stand side by side.
            t: diffusion time of each, (B, N*R), in [0, 1].
            context: what `context` gave for the same clips and targets.
        """
        ...
