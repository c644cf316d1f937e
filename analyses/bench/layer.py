"""Speed of one mixture layer, forward and backward, against a dense SwiGLU of equal FLOPs and against a peer, in one run.

The contenders take turns in one process, so that the weights of a large layer are there once; ratios are medians over rounds.

    matmul ceiling     a square product, timed between the contenders
    dense SwiGLU       as wide as the experts that a token visits together
    hunyuan            this project's layer, dropless and with recycle routing at capacity factor 1.25
    transformers       the block of HunYuanMoEV1 with its grouped products

On a GPU all but the ceiling are compiled, in bfloat16; on a processor they run as they are, in float32.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analyses.bench.training import CEILING
from model.config.hunyuan import HunyuanConfig
from model.errors import MissingExtraError

DENSE, DROPLESS, RECYCLE, PEER = "dense SwiGLU", "hunyuan dropless", "hunyuan recycle 1.25", "transformers grouped_mm"


@dataclass(frozen=True)
class LayerWork:
    """One layer's sizes, and the tokens of a pass."""

    hidden_size: int
    intermediate_size: int
    tokens: int
    num_experts: int = 16
    device: str = "cpu"

    @property
    def config(self) -> HunyuanConfig:
        return HunyuanConfig(
            vocab_size=256,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=1,
            num_attention_heads=self.hidden_size // 128 or 1,
            num_key_value_heads=1,
            head_dim=min(128, self.hidden_size),
            num_experts=self.num_experts,
            capacity_factor=1.25,
        )

    @property
    def flops(self) -> int:
        """Of the products of the experts that a token visits, the shared one and one routed: forward once, backward twice."""
        return 6 * self.tokens * 3 * self.hidden_size * 2 * self.intermediate_size


def workloads(device: str) -> list[LayerWork]:
    """On a GPU a layer of a 2B-activated model and one of Hunyuan-Large's sizes (arXiv:2411.02265); else a small one."""
    if device.startswith("cuda"):
        return [LayerWork(2048, 5632, 16_384, device=device), LayerWork(6400, 18_304, 8192, device=device)]
    return [LayerWork(256, 512, 2048, 8, device)]


def contenders(*, peer: bool) -> list[str]:
    return [CEILING, DENSE, DROPLESS, RECYCLE, *([PEER] if peer else [])]


def layer_table(
    works: list[LayerWork],
    *,
    rounds: int = 5,
    steps: int = 3,
    peer: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> pd.DataFrame:
    """One row a layer and contender: milliseconds (median, least, most), FLOP/s, ratios to ceiling, dense block and peer."""
    import torch

    from model.device import synchronize

    rows = []
    for work in works:
        device, seconds = torch.device(work.device), {name: list[float]() for name in contenders(peer=peer)}
        turns = _turns(work, device, peer=peer)
        for turn in turns.values():  # compile and warm up
            turn(), turn()
        for _ in range(rounds):
            for name, turn in turns.items():
                timed = []
                for _ in range(steps):
                    synchronize(device)
                    start = time.perf_counter()
                    flops = turn()
                    synchronize(device)
                    timed.append(time.perf_counter() - start if flops is None else work.flops / flops)
                seconds[name].append(statistics.median(timed))
                progress(1)
        rows += _rows(work, seconds)
        del turns, turn
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return pd.DataFrame(rows)


def _rows(work: LayerWork, seconds: dict[str, list[float]]) -> list[dict[str, Any]]:
    """seconds: of each round; of the ceiling, what the layer's FLOPs take at it."""
    rows = []
    for name, values in seconds.items():
        row: dict[str, Any] = {"layer": f"{work.hidden_size}/{work.intermediate_size}", "tokens": work.tokens}
        row |= {"contender": name, "milliseconds": 1000 * statistics.median(values)}
        row |= {"least": 1000 * min(values), "most": 1000 * max(values)}
        row |= {"flops_per_second": work.flops / statistics.median(values)}
        if name != CEILING:
            row |= {"of_ceiling": _paired(seconds[CEILING], values)}
        if name not in (CEILING, DENSE):
            ratios = [base / value for base, value in zip(seconds[DENSE], values, strict=True)]
            row |= {"of_dense": statistics.median(ratios), "least_of_dense": min(ratios), "most_of_dense": max(ratios)}
        if name in (DROPLESS, RECYCLE) and PEER in seconds:
            row |= {"of_peer": _paired(seconds[PEER], values)}
        rows.append(row)
    return rows


def _paired(base: list[float], values: list[float]) -> float:
    """The median over rounds of how much faster than the base one is in the same round."""
    return statistics.median(other / value for value, other in zip(values, base, strict=True))


# --- contenders ----------------------------------------------------------------------------------------------------


def _turns(work: LayerWork, device: Any, *, peer: bool) -> dict[str, Callable[[], float | None]]:
    """A pass of each contender as a function; the ceiling's returns its FLOP/s."""
    import torch

    from model.device import measure_peak_flops
    from model.layers.mlp import SwiGLU
    from model.moe.layer import MoE

    torch.manual_seed(0)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    hidden = torch.randn(work.tokens, work.hidden_size, device=device, dtype=dtype).requires_grad_()
    cotangent = torch.randn_like(hidden)
    keys = torch.randperm(work.num_experts * work.config.capacity(work.tokens), device=device)

    def turn(module: Any, run: Callable[[Any], Any]) -> Callable[[], None]:
        compiled = torch.compile(run) if device.type == "cuda" else run
        tensors = [hidden, *module.parameters()]
        return lambda: void(torch.autograd.grad(compiled(hidden), tensors, cotangent, allow_unused=True))

    def void(_: Any) -> None:
        return None

    with torch.device(device):
        dense = _filled(SwiGLU(work.hidden_size, 2 * work.intermediate_size).to(dtype))
        dropless = _filled(_in_dtype(MoE(work.config).train(), dtype))
    with torch.device("meta"):
        recycle = MoE(work.config.replace(moe_routing="recycle")).train()
    recycle.router, recycle.experts, recycle.shared_mlp = dropless.router, dropless.experts, dropless.shared_mlp
    turns: dict[str, Callable[[], float | None]] = {
        CEILING: lambda: measure_peak_flops(device, dtype),
        DENSE: turn(dense, dense),
        DROPLESS: turn(dropless, lambda rows: dropless(rows)[0]),
        RECYCLE: turn(recycle, lambda rows: recycle(rows, keys)[0]),
    }
    if peer:
        block = _filled(_peer_block(work, device, dtype))
        turns[PEER] = turn(block, lambda rows: block(rows[None])[0])
    return turns


def _in_dtype(layer: Any, dtype: Any) -> Any:
    """The layer in a precision, its router in float32."""
    layer.experts.to(dtype), layer.shared_mlp.to(dtype)
    return layer


def _filled(module: Any) -> Any:
    """Weights whose products keep the size of their rows."""
    for parameter in module.parameters():
        parameter.data.normal_(std=parameter.shape[-1] ** -0.5)
    return module


def _peer_block(work: LayerWork, device: Any, dtype: Any) -> Any:
    import torch

    try:
        from transformers import HunYuanMoEV1Config
        from transformers.models.hunyuan_v1_moe.modeling_hunyuan_v1_moe import HunYuanMoEV1Moe
    except ImportError as error:
        raise MissingExtraError("transformers", "hf", "the peer in the benchmark") from error

    config = HunYuanMoEV1Config(
        vocab_size=256,
        hidden_size=work.hidden_size,
        intermediate_size=work.intermediate_size,
        num_hidden_layers=1,
        num_experts=work.num_experts,
        moe_topk=1,
        pad_token_id=0,
    )
    config._experts_implementation = "grouped_mm"
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return HunYuanMoEV1Moe(config, layer_idx=0).train()
    finally:
        torch.set_default_dtype(before)
