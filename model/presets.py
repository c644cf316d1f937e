"""Named configurations, as data.

`toy` learns the embedded corpus in minutes on a laptop and `toy-dense` is its dense peer: the same activated parameters
(less the router) and FLOPs. The ladder has one family of shapes from 0.4M to about 1B activated parameters for isoFLOP grids.
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
    return _REPORT_STYLE | {
        "vocab_size": 4096, "hidden_size": hidden_size, "intermediate_size": 3 * hidden_size,
        "num_hidden_layers": num_hidden_layers, "num_attention_heads": heads,
        "num_key_value_heads": max(1, heads // 4), "head_dim": head_dim, "max_position_embeddings": 8192,
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
    "ladder-64": _ladder(64, 2, 32),
    "ladder-96": _ladder(96, 2, 32),
    "ladder-128": _ladder(128, 2, 32),
    "ladder-192": _ladder(192, 4, 32),
    "ladder-256": _ladder(256, 4, 32),
    "ladder-384": _ladder(384, 6, 64),
    "ladder-512": _ladder(512, 8, 64),
    "ladder-768": _ladder(768, 12, 64),
    "ladder-1024": _ladder(1024, 16, 64),
    "ladder-1536": _ladder(1536, 24, 128),
}  # fmt: skip
