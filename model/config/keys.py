"""Checked reading of other people's config.json: every problem noted, one sentence each (model/config/architectures.py)."""

import difflib
import reprlib
from typing import Any


class ConfigKeys:
    """Checked access to the keys of a config.json; a bad value becomes a problem, and reading goes on with a 1 in its place."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values
        self.problems: list[str] = []
        self.refused: set[str] = set()
        self.read: set[str] = set()

    def find(self, *names: str) -> tuple[str, Any]:
        """The first of these names that is there, and its value; null counts as not there."""
        self.read.update(names)
        key = next((name for name in names if self.values.get(name) is not None), names[0])
        return key, self.values.get(key)

    def refuse(self, key: str, expected: str, *, beside: str = "") -> int:
        """Notes a problem, unless the key `beside` which this one is measured has one of its own."""
        if beside not in self.refused:
            shown = f"{key} is {reprlib.repr(self.values[key])}" if key in self.values else f"{key} is missing"
            self.problems.append(f"{shown}: it must be {expected}")
            self.refused.add(key)
        return 1

    def need(self, *keys: str) -> None:
        """Keys that must be there, though they may be null."""
        for key in keys:
            if key not in self.values:
                self.refuse(key, "given, or null")

    def size(self, *names: str, default: int | None = None, least: int = 1, most: int = 10**9) -> int:
        """A whole number."""
        key, value = self.find(*names)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            return self.refuse(key, f"a whole number from {least} to {most:,}")
        return value

    def optional_size(self, key: str) -> int | None:
        return self.size(key) if self.find(key)[1] is not None else None

    def flag(self, key: str, default: bool) -> bool:
        value = self.find(key)[1]
        if value is not None and not isinstance(value, bool):
            self.refuse(key, "true or false")
        return default if value is None else bool(value)

    def per_layer(self, *names: str, layers: range, default: int, least: int = 1) -> list[int]:
        """One number for all layers, or a list with one for each."""
        key, value = self.find(*names)
        if not isinstance(value, list):
            return [self.size(key, default=default, least=least)] * len(layers)
        if not all(isinstance(item, int) and not isinstance(item, bool) and least <= item <= 10**9 for item in value):
            self.refuse(key, f"one whole number from {least} to {10**9:,}, or a list of them")
        elif len(value) != len(layers):
            self.refuse(key, f"one whole number, or a list of {len(layers)}", beside="num_hidden_layers")
        else:
            return value
        return [1] * len(layers)

    def heads(self, *needed: str) -> tuple[int, int, int]:
        """Query heads, key-value heads and head size, which must agree with each other."""
        self.need(*needed)
        heads = self.size("num_attention_heads", most=100_000)
        kv_heads = self.size("num_key_value_heads", default=heads)
        if heads % kv_heads:
            self.refuse(
                "num_key_value_heads", f"a divisor of the {heads} attention heads", beside="num_attention_heads"
            )
        if self.find("head_dim")[1] is not None:
            return heads, kv_heads, self.size("head_dim")
        hidden = self.size("hidden_size")
        if hidden % heads:
            expected = f"a divisor of hidden_size {hidden} where head_dim is not given"
            self.refuse("num_attention_heads", expected, beside="hidden_size")
        return heads, kv_heads, max(1, hidden // heads)

    def window(self, *, switched: bool = False) -> int | None:
        """The sliding window, which has no usual value. `switched`: Qwen's, in force where use_sliding_window is true."""
        in_force = not switched or self.flag("use_sliding_window", False)
        if in_force:
            self.need("sliding_window")
        window = self.optional_size("sliding_window")
        return window if in_force else None

    def windows(self, layers: range, window: int | None, start: int = 0) -> list[int | None]:
        """The window of each layer: of those that layer_types names, or without it from layer `start` on."""
        known = ("full_attention", "sliding_attention")
        key, kinds = self.find("layer_types")
        if kinds is None:
            return [window if index >= start else None for index in layers]
        if not isinstance(kinds, list) or any(kind not in known for kind in kinds):
            self.refuse(key, f"a list of {' and '.join(known)}")
        elif len(kinds) != len(layers):
            self.refuse(key, f"a list of {len(layers)}", beside="num_hidden_layers")
        elif window is None and known[1] in kinds:
            self.refuse("sliding_window", "in force where layer_types has sliding_attention", beside="sliding_window")
        else:
            return [window if kind == known[1] else None for kind in kinds]
        return [None] * len(layers)

    def experts(self, *names: str, topk: int | None = None) -> tuple[int, int]:
        """Routed experts, and how many of them take a token, by default `topk`."""
        key, _ = self.find(*names)
        count = self.size(key)
        topk = self.size("num_experts_per_tok", default=topk)
        if topk > count:
            self.refuse("num_experts_per_tok", f"between 1 and the {count} experts", beside=key)
        return count, topk

    def refuse_misspelt(self, known: set[str]) -> None:
        """Notes every key, but those `known` to be looked at elsewhere, that nearly is one that was looked for in vain.

        Alike by 0.9, which num_key_value_head is and moe_intermediate_size is not: configurations are full of relatives.
        """
        missing = [key for key in self.read if key not in self.values]
        for key in self.values.keys() - self.read - known:
            if near := difflib.get_close_matches(str(key), missing, n=1, cutoff=0.9):
                self.problems.append(f"{key} is not read: did you mean {near[0]}?")

    def no_mlp_bias(self) -> None:
        if self.flag("mlp_bias", False):
            self.problems.append("mlp_bias is true: biases of the MLP are not counted here")
