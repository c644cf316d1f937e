"""Storage formats of cached keys and values and of weights: bits a value, and the scales that go with a group of values.

STORAGE["int4"].with_group(64).row_bytes(640)   320 bytes of values + 10 groups * 4 bytes
"""

import dataclasses
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class Storage:
    """One format. Groups run along a row, the values of one token or of one weight's input; the last may be short."""

    name: str
    bits: int  # of a value
    group_bits: int = 0  # of a group's scale and zero point together
    group_size: int = 0  # values; 0 without groups

    def row_bytes(self, values: int) -> int:
        """Bytes of a row of so many values: whole bytes, and the scales of every group it touches."""
        groups = -(-values // self.group_size) if self.group_size else 0
        return -(-(values * self.bits + groups * self.group_bits) // 8)

    def with_group(self, size: int) -> Self:
        """The same format with another group size; a format without groups stays as it is."""
        return dataclasses.replace(self, group_size=size) if self.group_size else self


# Integers are asymmetric, with a 16-bit scale and a 16-bit zero point per group, as KIVI (arXiv:2402.02750) stores
# caches; its group is 32, serving engines' and Hugging Face's quantised caches take 64 and more. fp8's scales are one per
# tensor, or none: a few bytes a model, left out.
STORAGE = {
    storage.name: storage
    for storage in (
        Storage("fp32", 32),
        Storage("bf16", 16),
        Storage("fp16", 16),
        Storage("fp8", 8),
        Storage("int8", 8, group_bits=32, group_size=64),
        Storage("int4", 4, group_bits=32, group_size=64),
    )
}
BF16 = STORAGE["bf16"]
