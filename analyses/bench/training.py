"""Training speed against the machine's own ceiling and against a peer, in one run.

Every contender lives in a process of its own (so that peak memory is its own) and they take turns, round after round, so
that a machine whose speed drifts treats them alike: the ratios are medians over rounds.

    hunyuan            this project's model and optimizer, in the precision named, with and without torch.compile
    transformers       HunYuanMoEV1 of the same shape, the fastest of its experts implementations
    matmul ceiling     the better of torch's and oneDNN's square float32 product
"""

import contextlib
import multiprocessing
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import resource_tracker
from typing import Any, cast

import pandas as pd

from model.config.hunyuan import HunyuanConfig
from model.counts import activated_params, training_flops_per_token
from model.errors import HunyuanError, missing_compiler

# The shape that the README quotes, and that a laptop finishes.
SHAPE = HunyuanConfig(
    vocab_size=4096,
    hidden_size=256,
    intermediate_size=512,
    num_hidden_layers=4,
    num_attention_heads=8,
    num_key_value_heads=2,
    head_dim=32,
    num_experts=8,
)
CEILING = "matmul ceiling"
PEER_EXPERTS = ("grouped_mm", "eager")  # its batched_mm copies weights per token: 40 times slower here


@dataclass(frozen=True)
class Workload:
    """What every contender computes in a step."""

    config: HunyuanConfig = SHAPE
    batch: int = 8  # sequences
    sequence_length: int = 256  # tokens
    device: str = "cpu"
    threads: int = 2

    @property
    def tokens(self) -> int:
        return self.batch * self.sequence_length


def training_table(
    work: Workload,
    *,
    rounds: int = 5,
    steps: int = 3,
    peer: bool = False,
    compiled: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> pd.DataFrame:
    """One row a contender: tokens/s (median, least, most), FLOP/s, ratios to the ceiling and to the fastest peer, memory."""
    names = contenders(peer=peer, compiled=compiled)
    rates: dict[str, list[float]] = {name: [] for name in names}
    memory = {}
    with contextlib.ExitStack() as stack:
        workers = {name: stack.enter_context(worker(name, work, _contender)) for name in names}
        for _ in range(rounds):
            for name, ask in workers.items():
                seconds, memory[name] = ask(steps)
                rates[name].append(1 / statistics.median(seconds))
                progress(1)
    return _table(work, rates, memory)


def contenders(*, peer: bool, compiled: bool) -> list[str]:
    """The names of those that take part; compilation needs a C++ compiler, the peer its extra."""
    names = [CEILING, "hunyuan float32", "hunyuan bfloat16"]
    names += ["hunyuan float32 compiled"] if compiled else []
    return names + ([f"transformers {experts} float32" for experts in PEER_EXPERTS] if peer else [])


def _table(work: Workload, rates: dict[str, list[float]], memory: dict[str, int]) -> pd.DataFrame:
    """rates: steps per second of each round (of the ceiling, FLOP/s)."""
    peers = [name for name in rates if name.startswith("transformers")]
    best = max(peers, key=lambda name: statistics.median(rates[name]), default=None)
    step_flops = work.tokens * training_flops_per_token(work.config, work.sequence_length)
    rows = []
    for name, values in rates.items():
        flops = values if name == CEILING else [rate * step_flops for rate in values]
        row: dict[str, Any] = {"contender": name}
        if name != CEILING:
            speeds = [rate * work.tokens for rate in values]
            row |= {"tokens_per_second": statistics.median(speeds), "least": min(speeds), "most": max(speeds)}
        row |= {"flops_per_second": statistics.median(flops)}
        if name != CEILING:
            row |= {"of_ceiling": _paired(flops, rates[CEILING]), "peak_memory_bytes": memory[name]}
        if best is not None and name.startswith("hunyuan"):
            row |= {"of_peer": _paired(values, rates[best])}
        rows.append(row)
    return pd.DataFrame(rows)


def _paired(values: list[float], base: list[float]) -> float:
    """The median over rounds of one contender's rate over another's in the same round."""
    return statistics.median(value / other for value, other in zip(values, base, strict=True))


def describe(work: Workload) -> dict[str, Any]:
    """The facts that a reader needs beside the table."""
    return {
        "device": work.device,
        "threads": work.threads,
        "batch": work.batch,
        "sequence_length": work.sequence_length,
        "activated_params": activated_params(work.config),
        "training_flops_per_token": training_flops_per_token(work.config, work.sequence_length),
    }


# --- contenders, each in its own process ---------------------------------------------------------------------------


Step = Callable[[], float | None]  # what a contender does in a turn; a rate of its own, or None to be timed


@contextlib.contextmanager
def worker(
    name: str, work: Any, build: Callable[[str, Any, Any], Step]
) -> Iterator[Callable[[int], tuple[list[float], int]]]:
    """A process that is ready to run the steps of one contender; yields the function that asks it for some.

    `work` is a workload, with its `device` and `threads`; `build(name, work, device)` makes the step, in that process.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(name, work, build, there), daemon=True)
    # Ctrl-C is for this process, which ends that one: what is blocked here stays blocked there. The tracker of resources is
    # started before, for its start lets SIGINT through again.
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    there.close()

    def ask(steps: int) -> tuple[list[float], int]:
        here.send(steps)
        try:
            answer = here.recv()
        except (EOFError, ConnectionError) as error:
            raise RuntimeError(f"the process of {name!r} ended early") from error
        if isinstance(answer, Exception):
            raise answer
        seconds, memory = answer
        return seconds, memory

    try:
        ask(2)  # warm up
        yield ask
    finally:
        process.terminate()  # first: a process that finds the pipe closed would complain
        process.join()
        here.close()


def _serve(name: str, work: Any, build: Callable[[str, Any, Any], Step], pipe: Any) -> None:
    import torch

    from model.device import synchronize

    torch.set_num_threads(work.threads)
    device = torch.device(work.device)
    with contextlib.suppress(EOFError):  # the asker is done
        try:
            run = build(name, work, device)
            while True:
                seconds = []
                for _ in range(pipe.recv()):
                    synchronize(device)
                    start = time.perf_counter()
                    rate = run()
                    synchronize(device)
                    seconds.append(time.perf_counter() - start if rate is None else 1 / rate)
                pipe.send((seconds, _peak_memory(device)))
        except EOFError:  # the asker is done
            return
        except HunyuanError as error:
            pipe.send(error)
        except Exception as error:
            reason = missing_compiler(error) or " ".join(str(error).split())[:200]
            pipe.send(HunyuanError(f"{name} cannot run here ({reason}): leave it out"))


def _contender(name: str, work: Workload, device: Any) -> Step:
    """One step of a contender as a function; the ceiling's returns its FLOP/s."""
    import torch

    from model.device import measure_peak_flops

    if name == CEILING:
        return lambda: measure_peak_flops(device, torch.float32)
    generator = torch.Generator().manual_seed(0)
    shape = (work.batch, work.sequence_length + 1)
    ids = torch.randint(work.config.vocab_size, shape, generator=generator).to(device)
    if name.startswith("hunyuan"):
        return _hunyuan_step(work, name.split()[1], ids, device, compiled=name.endswith("compiled"))
    return _peer_step(work, name.split()[1], ids, device)


def _hunyuan_step(work: Workload, precision: str, ids: Any, device: Any, *, compiled: bool) -> Callable[[], None]:
    import torch

    from model.device import autocast, compute_dtype, keep_freed_memory
    from model.training.config import Precision, TrainingConfig
    from model.training.optimizer import build_optimizer
    from model.training.prepare import prepare
    from model.transformer import Hunyuan

    keep_freed_memory(device)
    training = TrainingConfig(precision=cast(Precision, precision), compile=compiled)
    net = Hunyuan(work.config, torch.Generator().manual_seed(0)).to(device).train()
    prepare(net, training, device)
    optimizer = build_optimizer(net, work.config, training)
    dtype = compute_dtype(training.precision, device)

    def step() -> None:
        with autocast(device, dtype):
            output = net(ids[:, :-1], ids[:, 1:])
        (output.loss + output.aux_loss).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _peer_step(work: Workload, experts: str, ids: Any, device: Any) -> Callable[[], None]:
    import torch

    net = peer_model(work.config, experts, device).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, fused=True)
    inputs = ids[:, :-1].contiguous()

    def step() -> None:
        net(input_ids=inputs, labels=inputs, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def peer_model(config: HunyuanConfig, experts: str, device: Any) -> Any:
    """transformers' HunYuanMoEV1 of the same shape, with one of its experts implementations."""
    import torch

    from model.errors import MissingExtraError

    try:
        import transformers
    except ImportError as error:
        raise MissingExtraError("transformers", "hf", "the peer in the benchmark") from error

    shared = (
        "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim"
    )
    sizes = {key: getattr(config, key) for key in f"{shared} num_experts moe_topk max_position_embeddings".split()}
    peer_config = transformers.HunYuanMoEV1Config(**sizes, tie_word_embeddings=True, pad_token_id=0)
    torch.manual_seed(0)
    net = transformers.HunYuanMoEV1ForCausalLM(peer_config).to(device)
    net.set_experts_implementation(experts)
    return net


def _peak_memory(device: Any) -> int:
    """Most bytes this process held: resident memory, or the accelerator's."""
    import resource
    import sys

    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # Linux counts in KiB
