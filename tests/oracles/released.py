"""What the released Hunyuan code computes, written out, and folders laid out as it is released.

Three families, named by config.json's model_type: hunyuan (Hunyuan-Large, arXiv:2411.02265), hunyuan_v1_moe
(Hunyuan-A13B) and hunyuan_v1_dense (the dense Hunyuans). It is an oracle: one position, head and token at a time, in float64,
with the release's own rounding where that shows; it shares no code with `model`.

    CASES[name] -> config                  random_tensors(config, seed) -> tensors
    logits(config, tensors, input_ids)     write_folder(folder, config, tensors, shards)

S sequence, D hidden, P head size, V vocabulary.
"""

import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

ALPHA = {"rope_scaling": {"type": "dynamic", "alpha": 20.0, "factor": 1.0}}
SIZES = {
    "vocab_size": 61, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "hidden_act": "silu", "max_position_embeddings": 64, "rms_norm_eps": 1e-3,
    "tie_word_embeddings": False, "rope_theta": 100.0, "rope_scaling": None, "attention_bias": False,
    "attention_dropout": 0.0, "torch_dtype": "float32",
}  # fmt: skip
HUNYUAN = SIZES | ALPHA | {
    "model_type": "hunyuan", "architectures": ["HunYuanForCausalLM"], "use_qk_norm": True, "use_cla": True,
    "cla_share_factor": 2, "num_experts": 4, "use_mixed_mlp_moe": True, "num_shared_expert": 1, "moe_topk": 1,
    "capacity_factor": 1.0, "moe_drop_tokens": False, "moe_random_routing_dropped_token": False,
}  # fmt: skip
A13B = SIZES | {
    "model_type": "hunyuan_v1_moe", "architectures": ["HunYuanMoEV1ForCausalLM"], "head_dim": 10, "num_experts": 4,
    "moe_topk": 1, "num_shared_expert": 1, "use_mixed_mlp_moe": True, "use_qk_norm": True, "use_cla": False,
    "cla_share_factor": 2, "moe_intermediate_size": 20,
}  # fmt: skip
DENSE = SIZES | {
    "model_type": "hunyuan_v1_dense", "architectures": ["HunYuanDenseV1ForCausalLM"], "head_dim": 10, "use_qk_norm": True,
    "use_cla": False,
}  # fmt: skip
TIED, NO_SCALING, BIAS = {"tie_word_embeddings": True}, {"rope_scaling": None}, {"attention_bias": True}
A13B_SCALING = {"rope_scaling": {
    "type": "dynamic", "alpha": 20.0, "factor": 1.0, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0,
    "mscale_all_dim": 1.0}}  # fmt: skip

CASES = {
    "large": HUNYUAN | TIED,  # as released: GQA, CLA of 2 over 3 layers, top-1, alpha
    "large-cla3": HUNYUAN | {"cla_share_factor": 3, "num_hidden_layers": 4, "num_key_value_heads": 4},
    "large-no-scaling": HUNYUAN | TIED | NO_SCALING | {"head_dim": 10},
    "large-top2": HUNYUAN | {"moe_topk": 2},
    "large-topk-list": HUNYUAN | {"moe_topk": [3, 1, 2], "use_cla": False},
    "large-bias": HUNYUAN | BIAS | {"rms_norm_eps": 0.05},
    "large-two-shared": HUNYUAN | TIED | {"num_shared_expert": 2},
    "large-no-shared": HUNYUAN | {"use_mixed_mlp_moe": False},
    "large-one-expert": HUNYUAN | NO_SCALING | {"num_experts": 1},
    "large-mqa": HUNYUAN | {"num_key_value_heads": 1, "cla_share_factor": 1},
    "large-plain-qk": HUNYUAN | BIAS | {"use_qk_norm": False},
    "large-drop-flags": HUNYUAN | {"moe_drop_tokens": True, "moe_random_routing_dropped_token": True},  # no token is
    "a13b": A13B,
    "a13b-top2": A13B | {"moe_topk": 2},
    "a13b-topk-list": A13B | {
        "moe_topk": [1, 3, 2], "num_shared_expert": [1, 1, 1], "moe_intermediate_size": [20, 20, 20]},
    "a13b-alpha": A13B | A13B_SCALING | {"moe_topk": 3, "head_dim": 8, "num_key_value_heads": 1},
    "a13b-bias-tied": A13B | BIAS | TIED | {"rms_norm_eps": 0.05},
    "dense": DENSE | A13B_SCALING | TIED,
    "dense-no-scaling": DENSE | BIAS | {"num_key_value_heads": 4},
}  # fmt: skip


def head_size(config: dict) -> int:
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def topk(config: dict, layer: int) -> int:
    return config["moe_topk"][layer] if isinstance(config["moe_topk"], list) else config["moe_topk"]


def has_experts(config: dict) -> bool:
    return config["model_type"] != "hunyuan_v1_dense" and config["num_experts"] > 1


def has_qk_norm(config: dict) -> bool:
    return config["model_type"] != "hunyuan" or config["use_qk_norm"]


def owner(config: dict, layer: int) -> int:
    """The layer whose keys and values this one attends to."""
    if config["model_type"] == "hunyuan" and config["use_cla"]:
        return layer - layer % config["cla_share_factor"]
    return layer


def shared_width(config: dict) -> int:
    if config["model_type"] == "hunyuan":
        return config["intermediate_size"] * (config["num_shared_expert"] if config["use_mixed_mlp_moe"] else 0)
    return config["intermediate_size"]


def layout(config: dict) -> dict[str, tuple[int, ...]]:
    """Every tensor that the release has, and its shape: rows are outputs."""
    hidden, width, size = config["hidden_size"], config["intermediate_size"], head_size(config)
    queries, keys = config["num_attention_heads"] * size, config["num_key_value_heads"] * size
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}

    def add_mlp(name: str, width: int) -> None:
        shapes[f"{name}.gate_proj.weight"] = shapes[f"{name}.up_proj.weight"] = (width, hidden)
        shapes[f"{name}.down_proj.weight"] = (hidden, width)

    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        linears = {"q_proj": (queries, hidden), "o_proj": (hidden, queries)}
        if owner(config, layer) == layer:
            linears |= {"k_proj": (keys, hidden), "v_proj": (keys, hidden)}
        for name, shape in linears.items():
            shapes[f"{at}.self_attn.{name}.weight"] = shape
            if config["attention_bias"]:
                shapes[f"{at}.self_attn.{name}.bias"] = shape[:1]
        if has_qk_norm(config):
            shapes[f"{at}.self_attn.query_layernorm.weight"] = (size,)
            shapes[f"{at}.self_attn.key_layernorm.weight"] = (size,)
        shapes[f"{at}.input_layernorm.weight"] = shapes[f"{at}.post_attention_layernorm.weight"] = (hidden,)
        if not has_experts(config):
            add_mlp(f"{at}.mlp", width)
            continue
        shapes[f"{at}.mlp.gate.wg.weight"] = (config["num_experts"], hidden)
        if shared_width(config):
            add_mlp(f"{at}.mlp.shared_mlp", shared_width(config))
        for expert in range(config["num_experts"]):
            add_mlp(f"{at}.mlp.experts.{expert}", width)
    shapes["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    return shapes


def random_tensors(
    config: dict, seed: int, dtype: torch.dtype = torch.float32, scale: float = 1.5
) -> dict[str, Tensor]:
    """The layout's tensors, large enough that attention and routing have opinions. A router is float32 always."""
    generator, tensors = torch.Generator().manual_seed(seed), {}
    for name, shape in layout(config).items():
        value = torch.randn(shape, generator=generator)
        if name.endswith("norm.weight"):
            value = 1 + 0.3 * value
        elif name.endswith(".bias"):
            value = 0.3 * value
        else:
            value = value * scale / math.sqrt(shape[1])
        tensors[name] = value if name.endswith(".gate.wg.weight") else value.to(dtype)
    return tensors


def inverse_frequencies(config: dict) -> Tensor:
    """(P/2,) float32. Hunyuan-Large's code rounds them to bfloat16 where it does not scale them."""
    size, theta, scaling = head_size(config), config["rope_theta"], config["rope_scaling"]
    powers = torch.arange(0, size, 2, dtype=torch.float32) / size
    if scaling is None:
        frequencies = 1 / theta**powers
        return frequencies.bfloat16().float() if config["model_type"] == "hunyuan" else frequencies
    assert scaling["type"] == "dynamic"
    return 1 / (theta * scaling["alpha"] ** (size / (size - 2))) ** powers


def turned(head: Tensor, position: int, frequencies: Tensor) -> Tensor:
    """One head (P,) after rotate_half: pair (i, i + P/2) turns by its angle, which is float32."""
    angles = (torch.tensor(position, dtype=torch.float32) * frequencies).double()
    first, second = head.chunk(2)
    return torch.cat((first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()))


def rmsnorm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * x / (x.square().mean(-1, keepdim=True) + eps).sqrt()


def mlp(weights: dict[str, Tensor], at: str, x: Tensor) -> Tensor:
    gate, up = x @ weights[f"{at}.gate_proj.weight"].t(), x @ weights[f"{at}.up_proj.weight"].t()
    return (gate * gate.sigmoid() * up) @ weights[f"{at}.down_proj.weight"].t()


def linear(weights: dict[str, Tensor], at: str, x: Tensor) -> Tensor:
    return x @ weights[f"{at}.weight"].t() + weights.get(f"{at}.bias", 0)


def attention(config: dict, weights: dict[str, Tensor], layer: int, x: Tensor, keys_values: dict) -> Tensor:
    """x (S, D) -> (S, D). An owner leaves its rotated keys, not yet normalised, and its values in keys_values."""
    at, size, frequencies = f"model.layers.{layer}.self_attn", head_size(config), inverse_frequencies(config)
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]

    def norm(head: Tensor, name: str) -> Tensor:
        return rmsnorm(head, weights[f"{at}.{name}.weight"], config["rms_norm_eps"]) if has_qk_norm(config) else head

    if owner(config, layer) == layer:
        keys = linear(weights, f"{at}.k_proj", x).unflatten(-1, (groups, size))
        values = linear(weights, f"{at}.v_proj", x).unflatten(-1, (groups, size))
        rotated = [[turned(keys[j, g], j, frequencies) for g in range(groups)] for j in range(len(x))]
        keys_values[layer] = rotated, values
    rotated, values = keys_values[owner(config, layer)]
    keys = torch.stack([torch.stack([norm(key, "key_layernorm") for key in row]) for row in rotated])  # (S, groups, P)
    queries = linear(weights, f"{at}.q_proj", x).unflatten(-1, (heads, size))
    rows = []
    for i in range(len(x)):
        outputs = []
        for h in range(heads):
            g = h // (heads // groups)
            query = norm(turned(queries[i, h], i, frequencies), "query_layernorm")
            shares = (keys[: i + 1, g] @ query / math.sqrt(size)).softmax(0)
            outputs.append(shares @ values[: i + 1, g])
        rows.append(torch.cat(outputs))
    return linear(weights, f"{at}.o_proj", torch.stack(rows))


def mixture(config: dict, weights: dict[str, Tensor], layer: int, x: Tensor) -> Tensor:
    """x (S, D) -> (S, D): the shared expert, unweighted, and each token's chosen experts. No token is dropped."""
    at, count = f"model.layers.{layer}.mlp", topk(config, layer)
    rows = []
    for token in x:
        probabilities = (weights[f"{at}.gate.wg.weight"] @ token).softmax(0)
        chosen = probabilities.argsort(descending=True)[:count]
        shares = probabilities[chosen]
        if count > 1 or config["model_type"] != "hunyuan":  # Hunyuan-Large's one expert keeps its probability
            shares = shares / shares.sum()
        row = mlp(weights, f"{at}.shared_mlp", token) if shared_width(config) else torch.zeros_like(token)
        for share, expert in zip(shares, chosen.tolist(), strict=True):
            row = row + share * mlp(weights, f"{at}.experts.{expert}", token)
        rows.append(row)
    return torch.stack(rows)


@torch.no_grad()
def logits(config: dict, tensors: dict[str, Tensor], input_ids: list[int]) -> Tensor:
    """(S, V) in float64, of a config in the release's spelling."""
    weights = {name: tensor.double() for name, tensor in tensors.items()}
    eps, keys_values = config["rms_norm_eps"], dict[int, tuple]()
    hidden = weights["model.embed_tokens.weight"][input_ids]  # (S, D)
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        x = rmsnorm(hidden, weights[f"{at}.input_layernorm.weight"], eps)
        hidden = hidden + attention(config, weights, layer, x, keys_values)
        x = rmsnorm(hidden, weights[f"{at}.post_attention_layernorm.weight"], eps)
        hidden = hidden + (mixture(config, weights, layer, x) if has_experts(config) else mlp(weights, f"{at}.mlp", x))
    head = "model.embed_tokens.weight" if config["tie_word_embeddings"] else "lm_head.weight"
    return rmsnorm(hidden, weights["model.norm.weight"], eps) @ weights[head].t()


def transformers5_keys(config: dict) -> dict:
    """The config as transformers 5 writes it: what RoPE needs is in one place, and torch_dtype is dtype."""
    config = dict(config)
    scaling = config.pop("rope_scaling") or {}
    rope = scaling | {"rope_theta": config.pop("rope_theta"), "rope_type": scaling.get("type", "default")}
    return config | {"rope_parameters": rope, "dtype": config.pop("torch_dtype")}


def write_folder(
    folder: Path, config: dict, tensors: dict[str, Tensor], shards: int = 1, extra_files: dict[str, str] | None = None
) -> Path:
    """A folder as it is downloaded: config.json, the weights in one file or in shards with their index, and other files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {"config.json": json.dumps(config, indent=2)} | (extra_files or {})
    names, weight_map = list(tensors), dict[str, str]()
    for shard in range(shards):
        # Every shards-th name: a layer's tensors, an owner's and its followers', lie in different files.
        part = {name: tensors[name].contiguous() for name in names[shard::shards]}
        file = "model.safetensors" if shards == 1 else f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    if shards > 1:
        index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": weight_map}
        files["model.safetensors.index.json"] = json.dumps(index, indent=2)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder
