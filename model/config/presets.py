"""Named configurations, as data.

`toy` learns the embedded corpus in minutes on a laptop and `toy-dense` is its dense peer: the same activated parameters
(less the router) and FLOPs. `toy-hf` can be converted for transformers. The ladder has one family of shapes from 0.1M to
about 1B activated parameters for isoFLOP grids, each less than twice the one below; `ladder-N-dense` is a rung's dense peer.
"""

import math
from typing import Any

_REPORT_STYLE = {"num_experts": 16, "num_shared_expert": 1, "moe_topk": 1, "cla_share_factor": 2}

_TOY: dict[str, Any] = _REPORT_STYLE | {
    "vocab_size": 2048, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
    "initializer_range": 0.04,  # of 0.02, 0.04 and 0.08 the best for mixture and dense alike
}  # fmt: skip


def ladder(hidden_size: int, num_hidden_layers: int | None = None) -> dict[str, Any]:
    """One recipe at every width: depth 1 to 64 of it, four query heads to a key-value head, heads of at most 64, later 128.

    Keys and values are a quarter as wide as the model on every rung, and depth steps by one where models are small: what
    jumps from rung to rung bends the losses of an isoFLOP study. Heads double in number where they would pass 64.
    """
    widest = 64 if hidden_size <= 1536 else 128
    groups = 2 ** max(0, math.ceil(math.log2(hidden_size / (4 * widest))))
    return _REPORT_STYLE | {
        "vocab_size": 4096, "hidden_size": hidden_size, "intermediate_size": 3 * hidden_size,
        "num_hidden_layers": num_hidden_layers or max(2, math.ceil(hidden_size / 64)), "num_attention_heads": 4 * groups,
        "num_key_value_heads": groups, "head_dim": hidden_size // (4 * groups), "max_position_embeddings": 8192,
        "initializer_range": round(0.45 * hidden_size**-0.5, 4),  # the toy's at its width
    }  # fmt: skip


LADDER = (
    24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 896, 1024, 1280, 1536
)  # fmt: skip

PRESETS: dict[str, dict[str, Any]] = {
    "toy": _TOY,
    "toy-hf": _TOY | {"cla_share_factor": 1, "moe_topk": 2},  # what transformers' HunYuanMoEV1 computes as well
    "toy-dense": _TOY | {"num_experts": 1, "num_shared_expert": 0, "intermediate_size": 512},
    "small": _REPORT_STYLE | {
        "vocab_size": 8192, "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8,
        "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 4096,
    },
    "base": _REPORT_STYLE | {
        "vocab_size": 32768, "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 12,
        "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 64, "max_position_embeddings": 8192,
    },
    # arXiv:2411.02265, table 1; intermediate_size, embedding rows and RoPE from the released config.json.
    "hunyuan-large": _REPORT_STYLE | {
        "vocab_size": 129_024, "hidden_size": 6400, "intermediate_size": 18_304, "num_hidden_layers": 64,
        "num_attention_heads": 80, "num_key_value_heads": 8, "head_dim": 80, "max_position_embeddings": 262_144,
        "moe_routing": "recycle", "convention": "hunyuan-large",
        "rope_scaling": {"type": "dynamic", "alpha": 1000.0, "factor": 1.0},
    },
}  # fmt: skip
PRESETS |= {f"ladder-{width}": ladder(width) for width in LADDER}
# One expert instead of many, as wide as the two that a token visits: the same activated parameters, less the router.
_DENSE: dict[str, Any] = {"num_experts": 1, "num_shared_expert": 0}
PRESETS |= {f"ladder-{w}-dense": ladder(w) | _DENSE | {"intermediate_size": 6 * w} for w in LADDER}

# Systems of other people, in the keys of their released config.json (model/config/architectures.py reads them): the report's
# compared ones and what its readers compare with today.
_LLAMA: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 128_256, "num_key_value_heads": 8, "max_position_embeddings": 131_072,
    "rope_theta": 500_000.0,
}  # fmt: skip
_DEEPSEEK: dict[str, Any] = {
    "num_attention_heads": 128, "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64, "v_head_dim": 128, "max_position_embeddings": 163_840,
}  # fmt: skip
_DEEPSEEK_V2 = _DEEPSEEK | {
    "model_type": "deepseek_v2", "vocab_size": 102_400, "hidden_size": 5120, "intermediate_size": 12_288,
    "moe_intermediate_size": 1536, "num_hidden_layers": 60, "n_routed_experts": 160, "n_shared_experts": 2,
    "num_experts_per_tok": 6, "first_k_dense_replace": 1,
}  # fmt: skip
_QWEN3: dict[str, Any] = {
    "model_type": "qwen3_moe", "vocab_size": 151_936, "num_key_value_heads": 4, "head_dim": 128, "num_experts": 128,
    "num_experts_per_tok": 8, "max_position_embeddings": 40_960, "rope_theta": 1_000_000.0, "rms_norm_eps": 1e-6,
}  # fmt: skip

COMPARED: dict[str, dict[str, Any]] = {
    "hunyuan-a13b": {
        "model_type": "hunyuan_v1_moe", "vocab_size": 128_167, "hidden_size": 4096, "intermediate_size": 3072,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "num_experts": 64,
        "num_shared_expert": 1, "moe_topk": 8, "use_qk_norm": True, "tie_word_embeddings": True,
        "max_position_embeddings": 32_768,
    },
    "llama-3.1-8b": _LLAMA | {
        "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32, "num_attention_heads": 32,
    },
    "llama-3.1-70b": _LLAMA | {
        "hidden_size": 8192, "intermediate_size": 28_672, "num_hidden_layers": 80, "num_attention_heads": 64,
    },
    "llama-3.1-405b": _LLAMA | {
        "hidden_size": 16_384, "intermediate_size": 53_248, "num_hidden_layers": 126, "num_attention_heads": 128,
    },
    "mixtral-8x7b": {
        "model_type": "mixtral", "vocab_size": 32_000, "hidden_size": 4096, "intermediate_size": 14_336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "num_local_experts": 8,
        "num_experts_per_tok": 2, "max_position_embeddings": 32_768, "rope_theta": 1_000_000.0,
    },
    "mixtral-8x22b": {
        "model_type": "mixtral", "vocab_size": 32_000, "hidden_size": 6144, "intermediate_size": 16_384,
        "num_hidden_layers": 56, "num_attention_heads": 48, "num_key_value_heads": 8, "num_local_experts": 8,
        "num_experts_per_tok": 2, "max_position_embeddings": 65_536, "rope_theta": 1_000_000.0,
    },
    "deepseek-v2": _DEEPSEEK_V2,
    "deepseek-v2.5": _DEEPSEEK_V2,  # V2 trained further: the same shape
    "deepseek-v3": _DEEPSEEK | {
        "model_type": "deepseek_v3", "vocab_size": 129_280, "hidden_size": 7168, "intermediate_size": 18_432,
        "moe_intermediate_size": 2048, "num_hidden_layers": 61, "n_routed_experts": 256, "n_shared_experts": 1,
        "num_experts_per_tok": 8, "first_k_dense_replace": 3,
    },
    "qwen3-30b-a3b": _QWEN3 | {
        "hidden_size": 2048, "intermediate_size": 6144, "moe_intermediate_size": 768, "num_hidden_layers": 48,
        "num_attention_heads": 32,
    },
    "qwen3-235b-a22b": _QWEN3 | {
        "hidden_size": 4096, "intermediate_size": 12_288, "moe_intermediate_size": 1536, "num_hidden_layers": 94,
        "num_attention_heads": 64,
    },
}  # fmt: skip
