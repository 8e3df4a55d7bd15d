"""Arithmetic in FLOPs, the unit of the ledger; loads torch at the first count."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.utils.flop_counter import FlopCounterMode

TERA = 1e12


@contextmanager
def flop_counter() -> Iterator["FlopCounterMode"]:
    """Count the FLOPs of matmuls, convolutions and fused attention in the block, forward and backward."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

    # torch counts the fused attention of GPUs only; it passes shapes in place of tensors
    def attention(query: torch.Size, key: torch.Size, value: torch.Size, *_: object, **__: object) -> int:
        return sdpa_flop_count(query, key, value)

    def backward(
        grad: torch.Size, query: torch.Size, key: torch.Size, value: torch.Size, *_: object, **__: object
    ) -> int:
        return sdpa_backward_flop_count(grad, query, key, value)

    counted = {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }
    # eager: a part that is first called while a mode is active would never be compiled. Without a compiled
    # part the compiler is not loaded, which takes seconds.
    compiles = "torch._dynamo" in sys.modules
    stance = torch.compiler.set_stance("force_eager") if compiles else nullcontext()
    with stance, FlopCounterMode(display=False, custom_mapping=counted) as counter:
        yield counter


def format_tflop(tflop: float) -> str:
    """0.0012, 0.31, 4.7, 31.2, 1,234."""
    if tflop >= 100:
        return f"{tflop:,.0f}"
    return f"{tflop:.1f}" if tflop >= 1 else f"{tflop:.2g}"
