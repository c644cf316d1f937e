"""Whether the cells of a sweep can be trained by several processes each."""

import math
from collections.abc import Sequence

from model.errors import ConfigError
from model.parallel.layout import Layout, divisors, one_of
from model.sweep.plan import Cell
from model.training.held import check_shared


def check_processes(cells: Sequence[Cell], processes: int) -> None:
    """ConfigError where a cell cannot be shared out over so many processes, with what would fit.

    The micro-batch is not lowered here: with capacities and balance losses it is a part of a cell's numbers, and these do not
    depend on how many processes train it.
    """
    turns = math.gcd(*(cell.settings.training.micro_batches for cell in cells)) if processes > 1 else 0
    if turns % processes:
        uneven = next(cell for cell in cells if cell.settings.training.micro_batches % processes)
        count = uneven.settings.training.micro_batches
        size = min(cell.settings.training.batch_sequences for cell in cells) // processes
        raised = f"--set training.micro_batch_size={size}" if size else "a larger sweep.batch_tokens.value"
        even = processes & (processes - 1) == 0  # as the sequences of a batch, which are powers of two
        raise ConfigError([
            f"--cell-processes is {processes} and a step of {uneven.id} has {count} micro-batch{'es' * (count > 1)}, which so "
            f"many cannot take in equal turns: {one_of(divisors(turns))} would fit every cell"
            + (f", or begin the sweep with {raised}" if even else "")
        ])  # fmt: skip
    problems: list[str] = []
    for cell in cells if processes > 1 else []:
        try:
            check_shared(cell.settings, Layout(processes=processes))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
