"""Whether a kernel in Triton serves a tensor; the oracle beside each serves everywhere else.

Triton comes with torch where torch has CUDA. Modules that import it (`*_triton.py`) are imported where they are used, so that
a processor never waits for it.
"""

from importlib.util import find_spec

from torch import Tensor

TRITON = find_spec("triton") is not None  # looked for, not imported


def uses_triton(tensor: Tensor) -> bool:
    """Whether it lies on a GPU for which Triton is installed."""
    return tensor.is_cuda and has_triton()


def has_triton() -> bool:
    """Whether Triton is installed."""
    return TRITON
