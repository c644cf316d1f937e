"""The memory of a prefill on a GPU, as measured and in closed form (analyses/memory/serving.py, model/counts.py).

    python examples/serving_memory.py --output serving_memory.json

Prints a JSON row per model and attention variant: what the cache took, and the most that one pass of random tokens into it
held besides, in bfloat16. Without a GPU it says so and stops.
"""

import argparse
import json
import sys
from itertools import product
from pathlib import Path
from typing import Any

import torch

from analyses.memory.serving import Serving, activation_bytes
from model import Hunyuan, HunyuanConfig, KVCache
from model.config.shape import shape_of
from model.config.variants import STANDARD
from model.counts import kv_cache_bytes

WORKLOADS = (("toy", 8, 1024), ("small", 4, 4096), ("base", 1, 8192), ("base", 4, 8192))  # preset, sequences, tokens


def with_variant(config: HunyuanConfig, name: str) -> HunyuanConfig:
    """The configuration with the key-value heads and share factor of MHA, GQA, MQA, CLA or GQA+CLA."""
    heads = {"MHA": config.num_attention_heads, "CLA": config.num_attention_heads, "MQA": 1}
    return config.replace(
        num_key_value_heads=heads.get(name, config.num_key_value_heads), cla_share_factor=2 if "CLA" in name else 1
    )


@torch.no_grad()
def measure(config: HunyuanConfig, batch: int, context: int) -> dict[str, Any]:
    """Bytes of one prefill of batch x context tokens: the cache, and the most that the pass held beside it."""
    net = Hunyuan(config).to("cuda", torch.bfloat16).eval()
    tokens = torch.randint(config.vocab_size, (batch, context), device="cuda")
    before = torch.cuda.memory_allocated()
    cache = KVCache(config, batch=batch, max_tokens=context, dtype=torch.bfloat16, device="cuda")
    allocated = torch.cuda.memory_allocated() - before
    first = KVCache(config, batch=batch, max_tokens=8, dtype=torch.bfloat16, device="cuda")
    net(tokens[:, :8], cache=first)  # libraries take their workspace
    del first
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    net(tokens, cache=cache, last_only=True)
    peak = torch.cuda.max_memory_allocated() - held
    closed = activation_bytes(
        shape_of(config), Serving(prefill_chunk=batch * context), context=batch * context, batch=batch
    )
    return {
        "batch": batch,
        "context": context,
        "cache_bytes": allocated,
        "cache_closed_form_bytes": kv_cache_bytes(config, tokens=context, batch=batch),
        "activations_bytes": peak,
        "activations_closed_form_bytes": closed,
        "ratio": round(closed / peak, 4),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="write the rows to this JSON file")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("torch sees no CUDA device here: nothing was measured", file=sys.stderr)
        return
    rows = []
    for (preset, batch, context), name in product(WORKLOADS, STANDARD):
        row = measure(with_variant(HunyuanConfig.from_name(preset), name), batch, context)
        rows.append({"model": preset, "variant": name} | row)
        print(json.dumps(rows[-1]), flush=True)
    if options.output:
        options.output.write_text(json.dumps({"device": torch.cuda.get_device_name(), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
