"""humaneval, mbpp and their kin: lm-eval's own tasks, whose programs run confined.

Those tasks fetch the metric code_eval as they are loaded and run programs with it. Here they are handed one of the same
interface, which runs each program by model.data.confinement: no files, no network, no other process.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from model.data import confinement

SECONDS = 3.0  # for one program, as code_eval has it


class ConfinedCodeEval:
    """pass@k of programs against their tests (Chen et al. 2021, arXiv:2107.03374)."""

    def __init__(self) -> None:
        self.allow_weaker = False  # run also where the kernel lacks a layer of confinement

    def compute(
        self, references: Sequence[str], predictions: Sequence[Sequence[str]], k: Sequence[int] = (1, 10, 100)
    ) -> tuple[dict[str, float], dict[int, list[tuple[int, str]]]]:
        """References are test programs, each with its candidates; ({"pass@1": share}, what each candidate came to)."""
        found = {
            number: [(index, self._status(f"{candidate}\n{test}")) for index, candidate in enumerate(candidates)]
            for number, (test, candidates) in enumerate(zip(references, predictions, strict=True))
        }
        counts = [(len(row), sum(status == "ok" for _, status in row)) for row in found.values()]
        return {
            f"pass@{size}": sum(pass_at(size, n, right) for n, right in counts) / len(counts)
            for size in k
            if all(n >= size for n, _ in counts)
        }, found

    def _status(self, program: str) -> str:
        return confinement.run(program, seconds=SECONDS, allow_weaker=self.allow_weaker).status


def pass_at(k: int, n: int, right: int) -> float:
    """The chance that one of k of n candidates is right, without bias, where `right` of the n are."""
    return 1.0 if n - right < k else 1.0 - math.comb(n - right, k) / math.comb(n, k)


CODE_EVAL = ConfinedCodeEval()  # one for the process: a task that was loaded keeps it


@contextmanager
def confined(*, allow_weaker: bool) -> Iterator[None]:
    """Tasks that are loaded in here get the confined metric. ConfinementError, as they are, where it cannot be had.

    They import the package `evaluate` for it, which takes seconds: another module of that name stands in for it meanwhile.
    """

    def load(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "code_eval":
            return CODE_EVAL
        with _module("evaluate", before):
            import evaluate

            return evaluate.load(name, *arguments, **options)

    before = sys.modules.get("evaluate")
    ours = ModuleType("evaluate")
    ours.load = load  # type: ignore[attr-defined]
    CODE_EVAL.allow_weaker = allow_weaker
    with _module("evaluate", ours):
        yield


@contextmanager
def _module(name: str, module: ModuleType | None) -> Iterator[None]:
    """What `import name` finds meanwhile; with None the installed one."""
    before = sys.modules.pop(name, None)
    if module is not None:
        sys.modules[name] = module
    try:
        yield
    finally:
        sys.modules.pop(name, None)
        if before is not None:
            sys.modules[name] = before
