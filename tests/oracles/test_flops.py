"""FLOPs in closed form against torch's counter on the built model: equal as integers, forward and training.

The counter knows mm and bmm, but neither oneDNN's product nor the grouped product nor the processor's attention kernel, so
the model runs here through plain products: torch's linear, the loop over experts and the math form of attention.
"""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from model.config import HunyuanConfig
from model.counts import forward_flops_per_token, training_flops_per_token
from model.moe.experts import loop_experts
from model.moe.place_keys import routing_key
from model.transformer import Hunyuan

SMALL = {"vocab_size": 61, "hidden_size": 24, "intermediate_size": 20, "head_dim": 8, "num_experts": 4}
VARIANTS = {
    "toy": {},
    "dense": {"num_experts": 1},
    "dense-two-shared": {"num_experts": 1, "num_shared_expert": 2},
    "no-shared": {"num_shared_expert": 0},
    "two-shared": {"num_shared_expert": 2},
    "MHA": {"num_key_value_heads": 4, "cla_share_factor": 1},
    "MQA": {"num_key_value_heads": 1, "cla_share_factor": 1},
    "CLA-3": {"cla_share_factor": 3},
    "top-2": {"moe_topk": 2},
    "untied": {"tie_word_embeddings": False},
    "bias": {"attention_bias": True},
    "recycle": {"moe_routing": "recycle", "capacity_factor": 1.0},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_flops_equal_torchs_counter(variant, monkeypatch):
    monkeypatch.setattr("model.kernels.onednn.onednn_applies", lambda *_: False)
    monkeypatch.setattr("model.moe.experts.grouped_experts", lambda *operands: loop_experts(*operands[:4]))  # no scales
    config = HunyuanConfig.from_name("toy", **SMALL | VARIANTS[variant])
    net, context, key = Hunyuan(config), 9, routing_key(0)
    input_ids, labels = torch.randint(config.vocab_size, (2, 2, context))

    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as forward:
        net(input_ids, routing_key=key)
    assert forward_flops_per_token(config, context) * input_ids.numel() == forward.get_total_flops()

    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as training:
        output = net(input_ids, labels, routing_key=key)
        (output.loss + output.aux_loss).backward()
    assert training_flops_per_token(config, context) * input_ids.numel() == training.get_total_flops()
