"""The device that work runs on: which, in what precision, how much memory, and how fast its matrix products are."""

import contextlib
import ctypes
import os
import platform
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from model.errors import ConfigError
from model.kernels import onednn


def pick_device(name: str) -> torch.device:
    """The device of a name; auto takes a CUDA device where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError([f"device {name!r} is not known: use auto, cpu or cuda"]) from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError([f"device {name!r} is not supported: use auto, cpu or cuda"])
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            [f"device {name!r} is not there: torch sees {torch.cuda.device_count()} CUDA devices; use cpu"]
        )
    return device


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The precision of matrix products; auto is bfloat16 where the device has units for it, as CUDA and newer x86 do."""
    if precision == "auto":
        return torch.bfloat16 if device.type == "cuda" or onednn.has_bfloat16_units() else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]


def dtype_name(dtype: torch.dtype) -> str:
    """float32 for torch.float32, as settings and files have it."""
    return str(dtype).removeprefix("torch.")


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """The context of a forward pass: weights stay float32, products run in `dtype` (on a processor see kernels/onednn.py)."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype)


def matmul_dtype(tensor: Tensor) -> torch.dtype:
    """The precision in which products of this tensor are computed: autocast's where it is on, else its own."""
    device = tensor.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tensor.dtype


def residual_dtype(tensor: Tensor) -> torch.dtype:
    """The precision of the residual stream, and with it of all between products: on a GPU that of the products.

    Every product rounds its inputs to it anyhow, so what is lost is the rounding of the sums; statistics, the router and
    the loss compute in float32 from it. A processor keeps the stream in its own precision.
    """
    return matmul_dtype(tensor) if tensor.is_cuda else tensor.dtype


def memory_bytes(device: torch.device) -> int | None:
    """Bytes of the device's memory, None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def keep_freed_memory(device: torch.device) -> None:
    """Has the C library keep what a step frees for the next one, instead of giving it back and faulting it in again.

    For a processor under glibc (mallopt(3): the mmap threshold at its greatest, no trimming); elsewhere nothing happens.
    """
    if device.type != "cpu" or platform.libc_ver()[0] != "glibc":
        return
    m_trim_threshold, m_mmap_threshold = -1, -3  # malloc.h
    libc = ctypes.CDLL(None)
    libc.mallopt(m_mmap_threshold, 32 * 1024**2)
    libc.mallopt(m_trim_threshold, 2**31 - 1)


def on_its_way(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy on the device, which the host does not wait for; on a processor the tensor itself."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def synchronize(device: torch.device) -> None:
    """Waits for the device, so that a clock read afterwards means something."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """The device's matmul ceiling in FLOP/s: the best of a few square products, on a processor by the faster library."""
    size = 8192 if device.type == "cuda" else 1024
    generator = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(size, size, device=device, generator=generator).to(dtype) for _ in range(2))
    products: list[Callable[[], object]] = [lambda: a @ b.t()]
    if onednn.onednn_applies(a, b):
        products.append(lambda: onednn.product(a, b))
    best = 0.0
    for multiply in products:
        for _ in range(8):
            synchronize(device)
            start = time.perf_counter()
            multiply()
            synchronize(device)
            best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best
