"""Training speed against the machine's own ceiling and against a peer, in one run.

Every contender lives in a process of its own. On a processor they take turns, round after round, so that a machine whose speed
drifts treats them alike. On a GPU they follow one another, for the card holds one at a time, with the ceiling timed before
every turn. A share of the ceiling is the median over rounds; the ratio to the peer is that of the shares. FLOPs count the full
square of attention, by the field's convention; of_ceiling_causal counts the half that a causal model has to compute.

    hunyuan            this project's model and optimizer; on a processor in the precision named, with and without
                       torch.compile, on a GPU the whole step of `hunyuan train`
    transformers       HunYuanMoEV1 of the same shape, on a processor the faster of two of its experts implementations, on a GPU
                       compiled, with weights and moments in bfloat16 (its grouped product takes no float32 there)
    matmul ceiling     a square product: the better of torch's and oneDNN's in float32, on a GPU in bfloat16
"""

import contextlib
import itertools
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from analyses.bench.worker import Step, machine, worker
from model.config.hunyuan import HunyuanConfig
from model.counts import activated_params, training_flops_per_token

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


@dataclass(frozen=True)
class Workload:
    """What every contender computes in a step."""

    config: HunyuanConfig = SHAPE
    batch: int = 8  # sequences
    sequence_length: int = 256  # tokens
    device: str = "cpu"
    threads: int = 2
    shape: str = "small"

    @property
    def tokens(self) -> int:
        return self.batch * self.sequence_length

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")


def workload(shape: str | None, device: str, threads: int) -> Workload:
    """small: 5M activated parameters. large: 273M, 1.83B in all. toy: the preset. None: large on a GPU, else small."""
    shape = shape or ("large" if device.startswith("cuda") else "small")
    if shape == "large":
        config = HunyuanConfig.from_name("base", cla_share_factor=1, max_position_embeddings=2048)
        return Workload(config, 16, 2048, device, threads, shape)
    if shape == "toy":
        return Workload(HunyuanConfig.from_name("toy"), 16, 256, device, threads, shape)
    return Workload(SHAPE, 8, 256, device, threads, shape)


@dataclass(frozen=True)
class Ours:
    """How one of this project's contenders differs from a run with nothing set."""

    model: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)


OURS = {
    "hunyuan float32": Ours(training={"precision": "float32", "compile": False}),
    "hunyuan bfloat16": Ours(training={"precision": "bfloat16", "compile": False}),
    "hunyuan float32 compiled": Ours(training={"precision": "float32", "compile": True}),
    "hunyuan dropless": Ours(),
    "hunyuan dropless eager": Ours(training={"compile": False, "graph": False}),
    "hunyuan recycle 1.25": Ours(model={"moe_routing": "recycle", "capacity_factor": 1.25}),
    "hunyuan bfloat16 moments": Ours(training={"moments": "bfloat16"}),
}


def contenders(work: Workload, *, peer: bool, compiled: bool) -> list[str]:
    """The names of those that take part; compilation needs a C++ compiler, the peer its extra.

    The peer's batched_mm is left out: it copies weights for each token, and is 40 times slower. On a GPU all are compiled.
    """
    if work.on_gpu:
        names = [CEILING, "hunyuan dropless", "hunyuan recycle 1.25", "hunyuan bfloat16 moments"]
        names += ["hunyuan dropless eager"] if work.shape == "toy" else []  # what a recorded step is compared with
        return names + (["transformers grouped_mm bfloat16 compiled"] if peer else [])
    names = [CEILING, "hunyuan float32", "hunyuan bfloat16"]
    names += ["hunyuan float32 compiled"] if compiled else []
    return names + (["transformers grouped_mm float32", "transformers eager float32"] if peer else [])


def turns(work: Workload, names: list[str], rounds: int) -> int:
    """How often training_table calls its `progress`."""
    return rounds * (2 * len(names[1:]) if work.on_gpu else len(names))


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
    names = contenders(work, peer=peer, compiled=compiled)[1:]
    rates: dict[str, list[float]] = {name: [] for name in [CEILING, *names]}
    ceilings: dict[str, list[float]] = {name: [] for name in names}
    memory = {}
    with worker(CEILING, work, _contender) as ask_ceiling:
        for together in [[name] for name in names] if work.on_gpu else [names]:
            with contextlib.ExitStack() as stack:
                workers = {name: stack.enter_context(worker(name, work, _contender)) for name in together}
                for _ in range(rounds):
                    rates[CEILING].append(1 / statistics.median(ask_ceiling(steps)[0]))
                    progress(1)
                    for name, ask in workers.items():
                        seconds, memory[name] = ask(steps)
                        rates[name].append(1 / statistics.median(seconds))
                        ceilings[name].append(rates[CEILING][-1])
                        progress(1)
    return _table(work, rates, ceilings, memory)


def _table(
    work: Workload, rates: dict[str, list[float]], ceilings: dict[str, list[float]], memory: dict[str, int]
) -> pd.DataFrame:
    """rates: steps per second of each round (of the ceiling, FLOP/s). ceilings: what a contender's rounds found it to be."""
    step_flops = work.tokens * training_flops_per_token(work.config, work.sequence_length)
    causal = causal_flops(work) * work.tokens / step_flops
    shares = {
        name: [rate * step_flops / ceiling for rate, ceiling in zip(rates[name], found, strict=True)]
        for name, found in ceilings.items()
    }
    peers = [name for name in shares if name.startswith("transformers")]
    best = max(peers, key=lambda name: statistics.median(rates[name]), default=None)
    rows: list[dict[str, Any]] = [{"contender": CEILING, "flops_per_second": statistics.median(rates[CEILING])}]
    for name, values in shares.items():
        speeds = [rate * work.tokens for rate in rates[name]]
        row: dict[str, Any] = {"contender": name, "tokens_per_second": statistics.median(speeds)}
        row |= {"least": min(speeds), "most": max(speeds)}
        row |= {"flops_per_second": statistics.median(rates[name]) * step_flops}
        row |= {"of_ceiling": statistics.median(values), "of_ceiling_causal": statistics.median(values) * causal}
        row |= {"peak_memory_bytes": memory[name]}
        if best is not None and name.startswith("hunyuan"):
            row |= {"of_peer": statistics.median(one / other for one, other in zip(values, shares[best], strict=True))}
        rows.append(row)
    return pd.DataFrame(rows)


def causal_flops(work: Workload) -> int:
    """Of a token in training, where the mean query sees half of the sequence."""
    return training_flops_per_token(work.config, work.sequence_length // 2)


def describe(work: Workload) -> dict[str, Any]:
    """The facts that a reader needs beside the table."""
    return machine(work.device) | {
        "threads": work.threads,
        "shape": work.shape,
        "batch": work.batch,
        "sequence_length": work.sequence_length,
        "activated_params": activated_params(work.config),
        "training_flops_per_token": training_flops_per_token(work.config, work.sequence_length),
        "causal_flops_per_token": causal_flops(work),
    }


# --- contenders, each in its own process ---------------------------------------------------------------------------


def _contender(name: str, work: Workload, device: Any) -> Step:
    """One step of a contender as a function; the ceiling's returns its FLOP/s."""
    import torch

    from model.device import measure_peak_flops

    if name == CEILING:
        return lambda: measure_peak_flops(device, torch.bfloat16 if work.on_gpu else torch.float32)
    generator = torch.Generator().manual_seed(0)
    shape = (work.batch, work.sequence_length + 1)
    ids = torch.randint(work.config.vocab_size, shape, generator=generator).to(device)
    return _our_step(work, OURS[name], ids, device) if name in OURS else _peer_step(work, name, ids, device)


def _our_step(work: Workload, ours: Ours, ids: Any, device: Any) -> Callable[[], None]:
    """On a GPU the step of training itself; on a processor without the norm of the gradients, which the peer lacks as well."""
    import torch

    from model.device import autocast, compute_dtype, keep_freed_memory
    from model.training.config import TrainingConfig
    from model.training.optimizer import build_optimizer
    from model.training.prepare import check_memory, prepare
    from model.training.settings import RunSettings
    from model.training.step import TrainStep
    from model.training.task import SameBatch
    from model.transformer import Hunyuan

    keep_freed_memory(device)
    config = work.config.replace(**ours.model)
    sizes: dict[str, Any] = {"sequence_length": work.sequence_length, "micro_batch_size": work.batch}
    training = TrainingConfig(**sizes, **ours.training, global_batch_tokens=work.tokens)
    check_memory(config, training, device)
    with device:
        net = Hunyuan(config, torch.Generator(device).manual_seed(0)).train()
    prepare(net, training, device)
    optimizer = build_optimizer(net, config, training)
    dtype = compute_dtype(training.precision, device)
    if work.on_gpu:
        settings, numbers = RunSettings(model=config, training=training), itertools.count()
        train_step = TrainStep(net, optimizer, settings, SameBatch(ids), device, dtype)
        return lambda: void(train_step(next(numbers), training.learning_rate))

    def step() -> None:
        with autocast(device, dtype):
            output = net(ids[:, :-1], ids[:, 1:])
        (output.loss + output.aux_loss).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def void(_: Any) -> None:
    return None


def _peer_step(work: Workload, name: str, ids: Any, device: Any) -> Callable[[], None]:
    import torch

    _, experts, precision, *compiled = name.split()
    net = peer_model(work.config, experts, device, getattr(torch, precision)).train()
    if compiled:
        net.compile()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, fused=True)
    inputs = ids[:, :-1].contiguous()

    def step() -> None:
        net(input_ids=inputs, labels=inputs, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def peer_model(config: HunyuanConfig, experts: str, device: Any, dtype: Any = None) -> Any:
    """transformers' HunYuanMoEV1 of the same shape, with one of its experts implementations; float32 without `dtype`."""
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
    with device:
        net: Any = transformers.HunYuanMoEV1ForCausalLM(peer_config)
    net.to(dtype or torch.float32)
    net.set_experts_implementation(experts)
    return net
