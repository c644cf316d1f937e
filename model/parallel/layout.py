"""How the processes of one training run share out the work and the weights; no torch.

    Layout(processes=8, expert_parallel=4, context_parallel=2, shard=8)

A rank is the number of a process, from 0. Every rank takes part in all four ways of sharing:

    data      micro-batches go round by turns: dp = processes / context_parallel of them are under way at a time
    context   the `context_parallel` neighbours of a data index share the tokens of its micro-batch
    experts   `expert_parallel` neighbours hold all routed experts between them, E / expert_parallel each
    weights   `shard` neighbours hold one copy of the dense weights between them (FSDP); 1: everyone has a copy (replicate),
              `processes`: there is one copy (FSDP), between the two: several (HSDP)

Neighbours have consecutive ranks, so that the busiest exchange stays inside a machine. The micro-batch is the unit of work:
its routing, capacity and losses do not depend on how many processes there are. The layout is therefore no setting of a run,
and a resumed run may have another.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from model.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Sizes of the groups; ConfigError lists all that do not fit together, each with sizes that do."""

    processes: int = 1
    expert_parallel: int = 1
    context_parallel: int = 1
    shard: int = 0  # processes that share out one copy of the weights; 0: all

    def __post_init__(self) -> None:
        if self.shard == 0 < self.processes:
            object.__setattr__(self, "shard", self.processes)
        if problems := list(_problems(self)):
            raise ConfigError(problems)

    @property
    def is_one_process(self) -> bool:
        return self.processes == 1

    @property
    def data_parallel(self) -> int:
        """Micro-batches under way at a time."""
        return self.processes // self.context_parallel

    @property
    def replicate(self) -> int:
        """Copies of the dense weights."""
        return self.processes // self.shard

    @property
    def expert_shard(self) -> int:
        """Ranks among which one expert-parallel part of the experts is shared out in turn."""
        return max(1, self.shard // self.expert_parallel)

    @property
    def expert_replicate(self) -> int:
        """Copies of the routed experts."""
        return self.processes // (self.expert_parallel * self.expert_shard)

    def data_index(self, rank: int) -> int:
        """Which of the data_parallel micro-batches under way a rank works on."""
        return rank // self.context_parallel

    def context_index(self, rank: int) -> int:
        """Which part of its micro-batch's tokens a rank works on."""
        return rank % self.context_parallel

    def expert_index(self, rank: int) -> int:
        """Which expert-parallel part of the experts a rank holds."""
        return rank % self.expert_parallel

    def micro_batches_of(self, rank: int, micro_batches: int) -> range:
        """The micro-batches of a step, by their numbers in it, that a rank works on."""
        return range(self.data_index(rank), micro_batches, self.data_parallel)

    def experts_of(self, rank: int, num_experts: int) -> range:
        """The routed experts of which a rank holds at least a part."""
        each = num_experts // self.expert_parallel
        return range(self.expert_index(rank) * each, (self.expert_index(rank) + 1) * each)

    def expert_shard_dim(self, num_experts: int) -> int:
        """The dimension along which stacked experts (E, O, I) are shared out within `expert_shard`.

        0 where every rank gets as many experts, else 1: ranks without an expert would leave all memory to the others.
        """
        return 0 if num_experts // self.expert_parallel % self.expert_shard == 0 else 1

    def check_fits(
        self,
        *,
        micro_batches: int | None = None,
        num_experts: int | None = None,
        expert_rows: tuple[int, ...] = (),
        sequence_length: int | None = None,
    ) -> None:
        """ConfigError for a model or a batch that cannot be shared out so.

        `num_experts` is 0 for a dense model, `expert_rows` are the sizes of its experts' dimension 1.
        """
        problems = []
        parallel, turns = self.expert_parallel, self.data_parallel
        if num_experts == 0 and parallel > 1:
            problems.append(f"--expert-parallel is {parallel} and the model has no routed experts: leave it out")
        elif num_experts and num_experts % parallel:
            problems.append(
                f"--expert-parallel is {parallel} and must divide the {num_experts} experts: "
                f"{one_of(d for d in divisors(num_experts) if self.processes % d == 0)} fit {self.processes} processes"
            )
        elif num_experts and self.expert_shard_dim(num_experts) == 1:
            problems += [
                f"{self.expert_shard} processes cannot share out an expert's {rows} rows evenly: take a larger "
                "--expert-parallel or a smaller --shard"
                for rows in sorted(set(expert_rows))
                if rows % self.expert_shard
            ]
        if micro_batches is not None and micro_batches % turns:
            least = turns * -(-micro_batches // turns)
            problems.append(
                f"a step has {micro_batches} micro-batches, which {turns} processes cannot take in equal turns: "
                f"{one_of(d * self.context_parallel for d in divisors(micro_batches))} processes fit, or lower "
                f"training.micro_batch_size or raise training.global_batch_tokens to have {least} micro-batches"
            )
        if sequence_length is not None and self.context_parallel > 1 and sequence_length % (2 * self.context_parallel):
            problems.append(
                f"--context-parallel is {self.context_parallel} and needs a sequence of a multiple of "
                f"{2 * self.context_parallel} tokens: training.sequence_length is {sequence_length}"
            )
        if problems:
            raise ConfigError(problems)

    def describe(self) -> str:
        """The layout in a few words."""
        copies = f"{self.replicate} copies of the weights" if self.replicate > 1 else "weights shared out"
        parts = [f"{self.processes} processes", copies]
        if self.expert_parallel > 1:
            parts.append(f"expert-parallel {self.expert_parallel}")
        if self.context_parallel > 1:
            parts.append(f"context-parallel {self.context_parallel}")
        return ", ".join(parts)


def divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]


def _problems(layout: Layout) -> Iterator[str]:
    sizes = {
        "--processes": layout.processes,
        "--expert-parallel": layout.expert_parallel,
        "--context-parallel": layout.context_parallel,
        "--shard": layout.shard,
    }
    if layout.processes < 1:
        del sizes["--shard"]
    wrong = {name: size for name, size in sizes.items() if size < 1}
    yield from (f"{name} is {size}: it must be 1 or more" for name, size in wrong.items())
    if wrong:
        return
    fits = one_of(divisors(layout.processes))
    apart = {name: size for name, size in sizes.items() if layout.processes % size}
    yield from (f"{name} is {size} and must divide the {layout.processes} processes: {fits} fit"
                for name, size in apart.items())  # fmt: skip
    parallel, shard = layout.expert_parallel, layout.shard
    if not apart and shard % parallel and parallel % shard:
        good = (d for d in divisors(layout.processes) if d % parallel == 0 or parallel % d == 0)
        yield f"--shard is {shard} and --expert-parallel {parallel}: one must divide the other; {one_of(good)} fit as --shard"


def one_of(sizes: Iterator[int] | list[int]) -> str:
    """The sizes in order, as a sentence lists them."""
    found = sorted(set(sizes))
    return ", ".join(map(str, found[:-1])) + f" and {found[-1]}" if len(found) > 1 else f"only {found[0]}"
