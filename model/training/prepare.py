"""What is done to a finished model from outside: recomputation and compilation; and what is refused before a step fails."""

import functools
import importlib.util
import os
import shutil
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from model.config.hunyuan import HunyuanConfig
from model.device import autocast, compute_dtype, dtype_name, memory_bytes
from model.errors import ConfigError
from model.kernels import onednn
from model.memory import Precision, state_bytes
from model.moe.place_keys import routing_key
from model.parallel.layout import Layout
from model.training.config import TrainingConfig
from model.training.graph import records
from model.transformer import Hunyuan

COMPILING = "compiling the model: about a minute the first time, less where it was compiled before"


def prepare(net: Hunyuan, config: TrainingConfig, device: torch.device) -> None:
    """Dropout, and recomputation and compilation of every block, in place; parameter names stay.

    What was compiled before in this process is forgotten: torch would take sizes that differ from those of an earlier stage
    for variable ones, and compile slower code, with other rounding than a process has that goes on from the boundary.
    """
    check_grouped_product(net.config, config, device)
    compiled = compiles(net.config, config, device)
    if compiled:
        torch.compiler.reset()
    net.attention_dropout, net.hidden_dropout = config.attention_dropout, config.hidden_dropout
    for layer in net.layers:
        if config.recompute:  # nothing in a block draws from a generator
            layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
        if compiled:
            layer.compile()


def compiles(model: HunyuanConfig, config: TrainingConfig, device: torch.device) -> bool:
    """Whether the blocks of a run are compiled; auto is on for a GPU where Triton and a C compiler are there.

    But not where the step is recorded (graph.py): the host is not what such a step waits for, and it is so small that many a
    run of it takes less time than compiling.
    """
    if config.compile != "auto":
        return config.compile
    if device.type != "cuda" or not (model.is_dense or compute_dtype(config.precision, device) == torch.bfloat16):
        return False  # torch traces its grouped product in bfloat16 alone
    if records(model, config, device):
        return False
    compilers = (os.environ.get("CC", ""), "gcc", "clang", "cc")  # those that Triton looks for
    return importlib.util.find_spec("triton") is not None and any(map(shutil.which, compilers))


def warm_up(
    net: Hunyuan, config: TrainingConfig, device: torch.device, note: Callable[[str], None], *, documents: bool = False
) -> None:
    """Compiles before the first step what auto chose, and goes on without where that fails; `note` takes the sentences.

    One micro-batch goes through the model, as in training and as in evaluation; `documents` says whether the run keeps those
    apart. It leaves nothing behind: no gradient, no random state.
    """
    if not compiles(net.config, config, device):
        return
    note(COMPILING)
    if config.compile != "auto":
        return  # asked for: a failure is told at the first step
    shape = (config.micro_batch_size, config.sequence_length)
    ids = torch.arange(shape[0] * shape[1] + shape[0], device=device).view(shape[0], -1) % net.config.vocab_size
    try:
        with autocast(device, compute_dtype(config.precision, device)):
            given: dict[str, Any] = {"document_ids": torch.zeros_like(ids[:, :-1])} if documents else {}
            key = routing_key(config.seed, device=device)
            output = net.train()(ids[:, :-1], ids[:, 1:], routing_key=key, **given)
            (output.loss + output.aux_loss).backward()
            with torch.no_grad():
                net.eval()(ids[:, :-1], ids[:, 1:], **given)
    except torch.OutOfMemoryError:
        raise  # nor would it fit without
    except Exception as error:
        for layer in net.layers:
            layer._compiled_call_impl = None
        reason = " ".join(str(error).split())[:200]
        note(f"the model cannot be compiled here ({reason}): training goes on without, slower")
    finally:
        net.zero_grad(set_to_none=True)


def check_memory(
    model: HunyuanConfig,
    config: TrainingConfig,
    device: torch.device,
    *,
    beside: int = 0,
    of_what: str = "",
    layout: Layout | None = None,
) -> None:
    """Refuses a model whose weights, gradients and two AdamW moments are more than the device has.

    A processor has them all in float32. A GPU has them as model/training/split_adamw.py does. `beside` are bytes that a stage
    keeps there as well, `of_what` says of what. In a `layout` a GPU has its share of a copy, and a processor all copies.
    """
    there, several = memory_bytes(device), config.micro_batches > 1
    if device.type == "cuda":
        half = compute_dtype(config.precision, device) == torch.bfloat16
        precision: Precision = "bfloat16" if half else "float32"
        needed = state_bytes(model, precision=precision, moments=config.moments, several=several)
    else:
        needed = state_bytes(model)
    if layout is not None:
        needed = -(-needed // layout.shard) if device.type == "cuda" else needed * layout.replicate
    needed += beside
    if there is not None and needed > there:
        kept = f", {beside / 1e9:,.0f} GB of them for {of_what}," if beside else ""
        sizes = f"{needed / 1e9:,.0f} GB{kept} before activations and {device.type} has {there / 1e9:,.0f} GB"
        raise ConfigError([f"training this model takes {sizes}: take a smaller model"])


def check_grouped_product(model: HunyuanConfig, config: TrainingConfig, device: torch.device) -> None:
    """Refuses what torch's grouped product cannot do, before a step fails inside it; a processor with oneDNN takes all."""
    dtype = compute_dtype(config.precision, device)
    if model.is_dense or (onednn.ONEDNN and device.type == "cpu"):
        return
    multiple = 16 // dtype.itemsize  # rows must be aligned to 16 bytes
    precision = dtype_name(dtype)
    problems = [
        f"model.{name} is {getattr(model, name)}: in {precision} the experts need a multiple of {multiple} on {device.type}"
        for name in ("hidden_size", "intermediate_size")
        if getattr(model, name) % multiple
    ]
    if config.compile is True and dtype != torch.bfloat16:
        problems.append(
            "training.compile needs training.precision bfloat16 here: torch traces its grouped product in no other"
        )
    if problems:
        raise ConfigError(problems)
