"""What is done to a finished model from outside: device, precision, recomputation, compilation; and the device's ceiling."""

import contextlib
import ctypes
import functools
import os
import platform
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch.utils.checkpoint import checkpoint

from model.config import HunyuanConfig
from model.errors import ConfigError
from model.layers import cpu
from model.layers.transformer import Hunyuan
from model.memory import state_bytes
from model.training.config import TrainingConfig


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


def compute_dtype(config: TrainingConfig, device: torch.device) -> torch.dtype:
    """The precision of matrix products."""
    if config.precision == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[config.precision]


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """The context of a forward pass: weights stay float32, products run in `dtype`."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype)


def prepare(net: Hunyuan, config: TrainingConfig, device: torch.device) -> None:
    """Recomputation and compilation of every block, in place; parameter names stay."""
    check_grouped_product(net.config, config, device)
    for layer in net.layers:
        if config.recompute:
            layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)
        if config.compile:
            layer.compile()


def check_memory(model: HunyuanConfig, device: torch.device) -> None:
    """Refuses a model whose weights, gradients and two AdamW moments are more than the device has."""
    if device.type == "cuda":
        there = torch.cuda.get_device_properties(device).total_memory
    elif hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    else:
        return
    needed = state_bytes(model)
    if needed > there:
        sizes = f"{needed / 1e9:,.0f} GB before activations and {device.type} has {there / 1e9:,.0f} GB"
        raise ConfigError([f"training this model takes {sizes}: take a smaller model"])


def check_grouped_product(model: HunyuanConfig, config: TrainingConfig, device: torch.device) -> None:
    """Refuses what torch's grouped product cannot do, before a step fails inside it; oneDNN takes everything."""
    dtype = compute_dtype(config, device)
    if model.is_dense or (cpu.ONEDNN and device.type == "cpu" and dtype == torch.float32):
        return
    multiple = 16 // dtype.itemsize  # rows must be aligned to 16 bytes
    precision = str(dtype).removeprefix("torch.")
    problems = [
        f"model.{name} is {getattr(model, name)}: in {precision} the experts need a multiple of {multiple} on {device.type}"
        for name in ("hidden_size", "intermediate_size")
        if getattr(model, name) % multiple
    ]
    if config.compile and dtype != torch.bfloat16:
        problems.append(
            "training.compile needs training.precision bfloat16 here: torch traces its grouped product in no other"
        )
    if problems:
        raise ConfigError(problems)


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
    if cpu.onednn_applies(a, b):
        products.append(lambda: cpu.product(a, b))
    best = 0.0
    for multiply in products:
        for _ in range(8):
            synchronize(device)
            start = time.perf_counter()
            multiply()
            synchronize(device)
            best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best
