"""One token of one sequence as one program: the whole model through torch.compile.

A batch of one reads every activated weight once and computes next to nothing, so its speed is that of reading memory. Eager
products of a single row stop and start a hundred times a token; here each is a sum over rows that the compiler fuses with what
stands around it, reading weights in one stream. The program is `Hunyuan.step` as it stands, over all places of a cache, so that
its shapes are the same at every token. Compilation takes half a minute or more, and a C++ compiler. It is for a processor: on
a GPU steps are recorded (model/generation/session.py).

V vocabulary.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from model.errors import ConfigError, missing_compiler
from model.layers.kv_cache import CachePass, KVCache, visible
from model.moe.experts import Experts
from model.moe.layer import MoE
from model.transformer import Hunyuan

Slots = dict[int, tuple[Tensor, Tensor]]


class CompiledStep:
    """token (1,) after the tokens in a cache of one sequence -> logits (1, V); ConfigError where it cannot be compiled."""

    def __init__(self, net: Hunyuan) -> None:
        mixtures = [layer.mlp for layer in net.layers if isinstance(layer.mlp, MoE)]
        if any(not isinstance(mixture.experts, Experts) for mixture in mixtures):
            raise ConfigError(["a compiled step needs its experts in memory: leave out --compile, or --experts disk"])
        self._net = net
        self._program = _program()

    def __call__(self, token: Tensor, cache: KVCache) -> Tensor:
        try:
            logits: Tensor = self._program(self._net, token, cache.begin(1).positions, cache.slots)
        except torch._dynamo.exc.TorchDynamoException as error:  # what the compiler of programs and that of C++ raise
            reason = " ".join(str(error).split())[:200]
            said = missing_compiler(error) or f"the step cannot be compiled here ({reason}): leave out --compile"
            raise ConfigError([said]) from error
        cache.advance(1)
        return logits


@cache
def _program() -> Any:
    """The one program of this process; torch keeps a version of it for each model and size of cache."""
    return torch.compile(_step, fullgraph=True)


def _step(net: Hunyuan, token: Tensor, position: Tensor, slots: Slots) -> Tensor:
    mask = visible(position, next(iter(slots.values()))[0].shape[2])  # all places, filled or not, are looked at
    return net.step(token[None], CachePass(slots, position, mask))[:, 0]
