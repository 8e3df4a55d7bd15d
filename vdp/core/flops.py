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
    from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop, sdpa_flop

    # torch counts the fused attention of GPUs only
    attention = {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: sdpa_flop,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: sdpa_backward_flop,
    }
    # eager: a part that is first called while a mode is active would never be compiled. Without a compiled
    # part the compiler is not loaded, which takes seconds.
    compiles = "torch._dynamo" in sys.modules
    stance = torch.compiler.set_stance("force_eager") if compiles else nullcontext()
    with stance, FlopCounterMode(display=False, custom_mapping=attention) as counter:
        yield counter


def format_tflop(tflop: float) -> str:
    """0.0012, 0.31, 4.7, 31.2, 1,234."""
    if tflop >= 100:
        return f"{tflop:,.0f}"
    return f"{tflop:.1f}" if tflop >= 1 else f"{tflop:.2g}"
