"""Attention of the newest tokens of a sequence over all of it so far, without a mask: torch's flash kernel on a GPU.

The public product of torch aligns queries and keys at their first token, so a part of a prompt needs a mask of S x S' places:
2 GiB for 8,192 tokens at 256K, and kernels that take one compute what it hides and repeat the keys of a group for its heads.
The flash kernel aligns the two at their last token and takes grouped heads as they are. The oracle is the product with the
mask (model/layers/attention.py), which serves wherever the kernel does not.

B batch, H query heads, G key-value heads, S new tokens, S' tokens so far, P head size.
"""

import torch
from torch import Tensor

LARGEST_HEAD = 256


def continues(keys: Tensor) -> bool:
    """Whether the kernel serves queries over these keys: half precision on a GPU from Ampere on, and a head that it knows."""
    if not keys.is_cuda or keys.dtype not in (torch.bfloat16, torch.float16):
        return False
    known_head = keys.shape[-1] % 8 == 0 and keys.shape[-1] <= LARGEST_HEAD
    recent = torch.cuda.get_device_capability(keys.device) >= (8, 0)
    return known_head and recent and torch.backends.cuda.is_flash_attention_available()


def attend_at_the_end(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """queries (B, H, S, P), keys and values (B, G, S', P), S <= S' -> (B, H, S, P); the last query sees all."""
    attended: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(queries, keys, values, 0.0, is_causal=True)[0]
    return attended
