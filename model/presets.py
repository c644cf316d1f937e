"""Named configurations, as data.

`toy` learns the embedded corpus in minutes on a laptop and `toy-dense` is its dense peer: the same activated parameters
(less the router) and FLOPs. The ladder has one family of shapes from 0.3M to about 1B activated parameters for isoFLOP grids,
each less than twice the one below.
"""

from typing import Any

_REPORT_STYLE = {"num_experts": 16, "num_shared_expert": 1, "moe_topk": 1, "cla_share_factor": 2}

_TOY: dict[str, Any] = _REPORT_STYLE | {
    "vocab_size": 2048, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
    "initializer_range": 0.04,  # of 0.02, 0.04 and 0.08 the best for mixture and dense alike
}  # fmt: skip


def _ladder(hidden_size: int, num_hidden_layers: int, head_dim: int) -> dict[str, Any]:
    heads = hidden_size // head_dim
    key_value_heads = max(g for g in range(1, max(1, heads // 4) + 1) if heads % g == 0)
    return _REPORT_STYLE | {
        "vocab_size": 4096, "hidden_size": hidden_size, "intermediate_size": 3 * hidden_size,
        "num_hidden_layers": num_hidden_layers, "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads, "head_dim": head_dim, "max_position_embeddings": 8192,
        "initializer_range": round(0.45 * hidden_size**-0.5, 4),  # the toy's at its width
    }  # fmt: skip


PRESETS: dict[str, dict[str, Any]] = {
    "toy": _TOY,
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
        "moe_routing": "recycle", "rope_scaling": {"type": "dynamic", "alpha": 1000.0, "factor": 1.0},
    },
    "ladder-48": _ladder(48, 2, 16),
    "ladder-64": _ladder(64, 2, 32),
    "ladder-80": _ladder(80, 2, 16),
    "ladder-96": _ladder(96, 2, 32),
    "ladder-112": _ladder(112, 2, 16),
    "ladder-128": _ladder(128, 2, 32),
    "ladder-160": _ladder(160, 3, 32),
    "ladder-192": _ladder(192, 4, 32),
    "ladder-224": _ladder(224, 4, 32),
    "ladder-256": _ladder(256, 4, 32),
    "ladder-320": _ladder(320, 5, 32),
    "ladder-384": _ladder(384, 6, 64),
    "ladder-448": _ladder(448, 7, 64),
    "ladder-512": _ladder(512, 8, 64),
    "ladder-640": _ladder(640, 10, 64),
    "ladder-768": _ladder(768, 12, 64),
    "ladder-896": _ladder(896, 14, 64),
    "ladder-1024": _ladder(1024, 16, 64),
    "ladder-1280": _ladder(1280, 20, 128),
    "ladder-1536": _ladder(1536, 24, 128),
}  # fmt: skip

# Systems of other people, in the keys of their released config.json (model/architectures.py reads them): the report's
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
