"""A checkpoint larger than the memory it is given: routed experts read from disk as tokens choose them.

    python examples/experts_on_disk.py --folder /tmp/large --cache 0.5 --output examples/experts_on_disk.json

Writes a random checkpoint in the released layout, layer by layer, answers from it with the experts on disk, and compares the
logits of a prompt with those of the model in memory (--check, which needs the memory for it).
"""

import argparse
import json
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from model import Hunyuan, HunyuanConfig, KVCache
from model.checkpoint.released_names import parts_of
from model.config.released import write_config
from model.generation.generate import GenerationStats, generate_batch
from model.generation.request import Request
from model.generation.sampling import Sampling

CONFIG = HunyuanConfig.from_name(
    "hunyuan-large", vocab_size=4096, hidden_size=1024, intermediate_size=2816, num_attention_heads=16,
    num_key_value_heads=4, head_dim=64, num_hidden_layers=24,
)  # fmt: skip


def write_checkpoint(folder: Path, config: HunyuanConfig, generator: torch.Generator) -> int:
    """A layer a shard, bfloat16 but for the routers; returns the bytes of all weights."""
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in Hunyuan(config).state_dict().items()}
    weight_map, total = {}, 0
    layers = ["", *(f"layers.{index}." for index in range(config.num_hidden_layers))]
    folder.mkdir(parents=True, exist_ok=True)
    for number, layer in enumerate(layers):
        file, tensors = f"model-{number + 1:05d}-of-{len(layers):05d}.safetensors", {}
        for native in (
            name for name in shapes if (name.startswith(layer) if layer else not name.startswith("layers."))
        ):
            for part in parts_of(native, shapes[native], config.num_experts):
                dtype = torch.float32 if "gate.wg" in part.name else torch.bfloat16
                tensor = torch.ones(part.shape)
                if len(part.shape) > 1:
                    tensor.normal_(0, 0.02, generator=generator)
                tensors[part.name] = tensor.to(dtype)
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
        total += sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(write_config(config, "hunyuan", "bfloat16", {})))
    return total


def anonymous_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="where the checkpoint is, or is written")
    parser.add_argument("--layers", type=int, default=CONFIG.num_hidden_layers)
    parser.add_argument("--cache", type=float, default=0.5, help="gigabytes of experts held in memory")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--check", action="store_true", help="compare with the model in memory")
    parser.add_argument("--output", type=Path, help="write the figures here")
    options = parser.parse_args()
    config = CONFIG.replace(num_hidden_layers=options.layers)
    if not (options.folder / "config.json").exists():
        write_checkpoint(options.folder, config, torch.Generator().manual_seed(0))
    size = sum(path.stat().st_size for path in options.folder.glob("*.safetensors"))
    net = Hunyuan.from_checkpoint(options.folder, expert_cache_bytes=int(options.cache * 1e9))
    cache = net.layers[0].mlp.experts.cache
    prompt = torch.randint(config.vocab_size, (32,), generator=torch.Generator().manual_seed(1)).tolist()
    request, stats, peak = Request(prompt, options.new_tokens), GenerationStats(), 0
    start = time.perf_counter()
    for _ in generate_batch(net, [request], sampling=Sampling(), stats=stats):
        peak = max(peak, anonymous_bytes())
    reads = cache.stats.to_dict()
    figures = {
        "checkpoint_bytes": size, "expert_cache_bytes": int(options.cache * 1e9), "peak_anonymous_bytes": peak,
        "new_tokens": stats.new_tokens, "seconds": time.perf_counter() - start,
        "decode_tokens_per_second": stats.to_dict()["decode_tokens_per_second"],
        "bytes_read_per_new_token": reads["bytes_read"] / stats.new_tokens, **reads,
    }  # fmt: skip
    if options.check:
        logits = [_logits(model, prompt) for model in (net, Hunyuan.from_checkpoint(options.folder))]
        figures["largest_logit_difference"] = (logits[0] - logits[1]).abs().max().item()
    text = json.dumps(figures, indent=2) + "\n"
    print(text, end="")
    if options.output:
        options.output.write_text(text)


@torch.inference_mode()
def _logits(net: Hunyuan, prompt: list[int]) -> torch.Tensor:
    cache = KVCache(net.config, batch=1, max_tokens=len(prompt), dtype=torch.bfloat16)
    return net(torch.tensor([prompt]), cache=cache).logits.float()


if __name__ == "__main__":
    main()
