"""Models of a few thousand weights, one for each switch that changes what is computed, and one with many of them at once."""

import torch

from model.config import HunyuanConfig
from model.transformer import Hunyuan

SMALL = HunyuanConfig.from_name(
    "toy", vocab_size=61, hidden_size=24, intermediate_size=16, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, num_experts=4, cla_share_factor=1, max_position_embeddings=64, rope_theta=100.0,
)  # fmt: skip
LINEAR = {"rope_scaling": {"type": "linear", "factor": 4.0}}
ALPHA = {"rope_scaling": {"type": "dynamic", "alpha": 20.0, "factor": 1.0}}
BIASED = {"expert_bias_update_rate": 0.01}  # gives routers a selection bias, which `build` draws
MANY = ALPHA | BIASED | {
    "cla_share_factor": 2, "moe_topk": (2, 1, 3), "attention_bias": True, "num_shared_expert": 2,
    "tie_word_embeddings": False, "convention": "hunyuan-a13b",
}  # fmt: skip

VARIANTS = {
    "GQA": {},
    "MHA": {"num_key_value_heads": 4},
    "MQA": {"num_key_value_heads": 1},
    "CLA 2": {"cla_share_factor": 2},
    "CLA 3": {"cla_share_factor": 3, "num_hidden_layers": 4},  # a last group of one layer
    "MQA and CLA": {"num_key_value_heads": 1, "cla_share_factor": 3},
    "bias": {"attention_bias": True},
    "plain queries and keys": {"use_qk_norm": False},
    "bias, plain, CLA 2": {"attention_bias": True, "use_qk_norm": False, "cla_share_factor": 2},
    "large eps": {"rms_norm_eps": 0.05},
    "top-2": {"moe_topk": 2},
    "top-k list": {"moe_topk": (3, 1, 2)},
    "every expert": {"moe_topk": 4},
    "no shared": {"num_shared_expert": 0},
    "two shared": {"num_shared_expert": 2},
    "dense": {"num_experts": 1, "num_shared_expert": 0},
    "dense, untied": {"num_experts": 1, "num_shared_expert": 0, "tie_word_embeddings": False, "cla_share_factor": 2},
    "untied": {"tie_word_embeddings": False},
    "linear": LINEAR,
    "alpha": ALPHA,
    "hunyuan-large": {"convention": "hunyuan-large", "cla_share_factor": 2},
    "hunyuan-large alpha top-2": ALPHA | {"convention": "hunyuan-large", "moe_topk": 2},
    "hunyuan-a13b": {"convention": "hunyuan-a13b"},
    "hunyuan-a13b top-2": {"convention": "hunyuan-a13b", "moe_topk": 2},
    "expert bias": BIASED,
    "expert bias top-2": BIASED | {"moe_topk": 2},
    "recycle": {"moe_routing": "recycle", "capacity_factor": 1.0},  # of which an answer knows nothing
    "many": MANY,
}


def build(name: str = "many", seed: int = 0, **changes: object) -> Hunyuan:
    """The model in evaluation mode, every weight, bias and norm random and large enough to have opinions."""
    net, generator = Hunyuan(SMALL.replace(**VARIANTS[name] | changes)).eval(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.dim() == 1:
                mean, spread = (1.0, 0.3) if parameter.mean() == 1 else (0.0, 0.3)
            else:
                mean, spread = 0.0, 1.2 * parameter.shape[-1] ** -0.5
            parameter.normal_(mean, spread, generator=generator)
        for name, buffer in net.named_buffers():
            assert name.endswith("expert_bias")
            buffer.normal_(0.0, 0.3, generator=generator)
    return net


def random_ids(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(SMALL.vocab_size, shape, generator=torch.Generator().manual_seed(seed))
