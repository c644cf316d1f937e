"""A contender in a process of its own, so that its peak memory is its own and nothing of it stays behind.

    with worker(name, work, build) as ask:
        seconds, peak_memory = ask(3)

A number of steps is asked for and their seconds are answered, unless `take` makes another answer. On a processor every step is
timed alone. On a GPU the steps of a turn follow each other as in training, without a wait between them, and each counts as
their mean.
"""

import contextlib
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from typing import Any

from model.errors import HunyuanError, missing_compiler

Step = Callable[[], float | None]  # what a contender does in a turn; a rate of its own, or None to be timed


@contextlib.contextmanager
def worker(
    name: str,
    work: Any,
    build: Callable[[str, Any, Any], Any],
    *,
    take: Callable[[Any, Any, Any], Any] | None = None,
    warm_up: Any = 2,
) -> Iterator[Callable[[Any], tuple[Any, int]]]:
    """A process that is ready to run the steps of one contender; yields the function that asks it for some.

    `work` is a workload, with its `device` and `threads`; `build(name, work, device)` makes the step, in that process, and
    `take(step, asked, device)` what is answered beside the peak memory. `warm_up` is what is asked first.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(name, work, build, take or seconds_of, there), daemon=True)
    # Ctrl-C is for this process, which ends that one: what is blocked here stays blocked there. The tracker of resources is
    # started before, for its start lets SIGINT through again.
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    there.close()

    def ask(asked: Any) -> tuple[Any, int]:
        here.send(asked)
        try:
            answer = here.recv()
        except (EOFError, ConnectionError) as error:
            raise RuntimeError(f"the process of {name!r} ended early") from error
        if isinstance(answer, Exception):
            raise answer
        taken, memory = answer
        return taken, memory

    try:
        ask(warm_up)
        yield ask
    finally:
        process.terminate()  # first: a process that finds the pipe closed would complain
        process.join()
        here.close()


def _serve(name: str, work: Any, build: Callable[[str, Any, Any], Any], take: Callable[..., Any], pipe: Any) -> None:
    import torch

    torch.set_num_threads(work.threads)
    device = torch.device(work.device)
    with contextlib.suppress(EOFError):  # the asker is done
        try:
            run = build(name, work, device)
            while True:
                asked = pipe.recv()
                if device.type == "cuda":  # what warming up needed more is not counted
                    torch.cuda.reset_peak_memory_stats(device)
                pipe.send((take(run, asked, device), peak_memory(device)))
        except EOFError:  # the asker is done
            return
        except HunyuanError as error:
            pipe.send(error)
        except Exception as error:
            reason = missing_compiler(error) or " ".join(str(error).split())[:200]
            pipe.send(HunyuanError(f"{name} cannot run here ({reason}): leave it out"))


def seconds_of(run: Step, steps: int, device: Any) -> list[float]:
    """Of every step."""
    from model.device import synchronize

    if device.type == "cuda":
        synchronize(device)
        start = time.perf_counter()
        rates = [run() for _ in range(steps)]
        synchronize(device)
        mean = (time.perf_counter() - start) / steps
        return [mean if rate is None else 1 / rate for rate in rates]
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        rate = run()
        seconds.append(time.perf_counter() - start if rate is None else 1 / rate)
    return seconds


def peak_memory(device: Any) -> int:
    """Most bytes this process held: resident memory, or the accelerator's since it was asked."""
    import resource
    import sys

    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # Linux counts in KiB


def machine(device: str) -> dict[str, str]:
    """What a reader of figures must know of where they were measured."""
    import torch

    facts = {"device": device, "torch": torch.__version__}
    if device.startswith("cuda"):
        facts |= {"card": torch.cuda.get_device_name(device), "precision": "bfloat16"}
    return facts
