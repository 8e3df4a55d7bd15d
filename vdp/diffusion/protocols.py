"""Protocols of a denoiser, with any number of context and target frames at any index, and of its data."""

from typing import Protocol, TypeVar, runtime_checkable

from torch import Tensor

from vdp.diffusion.process import Process

ContextT = TypeVar("ContextT")


@runtime_checkable
class Denoiser(Protocol[ContextT]):
    """B clips, C channels, K context frames, N target frames, R noise draws per target frame."""

    @property
    def joint(self) -> bool:
        """Whether the target frames of a hop attend to each other; if not, each is denoised independently."""
        ...

    def move(self, frames: Tensor, index: Tensor, target_index: Tensor) -> Tensor | None:
        """Move context frames to the targets; they are further context frames, at the targets' indices.

        Args:
            frames: latents of the context frames, (B, C, K, h, w).
            index: real-valued frame index of each context frame, (B, K).
            target_index: real-valued frame index of each target frame, (B, N).

        Returns:
            (B, C, N, h, w); None from a denoiser that does not move frames, or without any.
        """
        ...

    def context(
        self, frames: Tensor, index: Tensor, level: Tensor, dropped: Tensor, target_index: Tensor
    ) -> ContextT:
        """Encode the context frames once for all sampling steps and noise draws.

        Args:
            frames: latents of the context frames, (B, C, K, h, w), K >= 1.
            index: real-valued frame index of each context frame, (B, K).
            level: standard deviation of the noise added to each context frame, (B, K); 0 is clean.
            dropped: (B,) bool, True where the context frames are masked and only their indices are used
                (Ho & Salimans 2022, arXiv:2207.12598).
            target_index: real-valued frame index of each target frame, (B, N).
        """
        ...

    def __call__(self, xt: Tensor, t: Tensor, context: ContextT) -> Tensor:
        """Predict the quantity that `diffusion.prediction` names, (B, C, N*R, h, w) in fp32.

        Args:
            xt: noised target frames, (B, C, N*R, h, w); the draws of one target frame are adjacent.
            t: diffusion time of each, (B, N*R), in [0, 1].
            context: output of `context` for the same clips and target frames.
        """
        ...


class DiffusedData(Protocol):
    """The process, and the mapping between frames and the clean data x0 that it diffuses."""

    @property
    def process(self) -> Process: ...

    def channels(self, frame_channels: int) -> int:
        """Return the channels of x0 for frames of `frame_channels` channels."""
        ...

    def base(self, known: Tensor, index: Tensor, target_index: Tensor) -> Tensor:
        """Compute the frames that x0 changes: (B, C, K, h, w), (B, K), (B, N) -> (B, C, N, h, w)."""
        ...

    def to_data(self, frames: Tensor, base: Tensor) -> Tensor:
        """Convert frames (B, C, N, h, w) to x0."""
        ...

    def to_frames(self, x0: Tensor, base: Tensor) -> Tensor:
        """Invert `to_data`."""
        ...
