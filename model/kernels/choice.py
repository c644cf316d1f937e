"""Whether a kernel in Triton serves a tensor; the oracle beside each serves everywhere else.

Triton comes with torch where torch has CUDA. Modules that import it (`*_triton.py`) are imported where they are used, so that
a processor never waits for it.
"""

from functools import cache
from importlib.util import find_spec

from torch import Tensor


def uses_triton(tensor: Tensor) -> bool:
    """Whether it lies on a GPU for which Triton is installed."""
    return tensor.is_cuda and _installed()


@cache
def _installed() -> bool:
    return find_spec("triton") is not None
