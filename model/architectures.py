"""Other people's config.json as a ModelShape: the architectures that can be counted and budgeted; no torch.

    load_shape("mixtral-8x22b")          a preset (model/presets.py)
    load_shape("downloads/some-model")   a config.json, or the folder that holds one, of a known model_type or of a run

One reader per family of model types. Key names and defaults are those of transformers' configuration classes; a key whose
default there is the size of some particular model has none here.
"""

import difflib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from model.config import HunyuanConfig, unknown_key
from model.errors import ConfigError
from model.presets import COMPARED, PRESETS
from model.shape import Attention, FeedForward, LatentAttention, Layer, ModelShape, shape_of


def load_values(name_or_path: str | Path) -> dict[str, Any]:
    """The keys of a preset or of a config.json, unchecked."""
    name = str(name_or_path)
    if name in PRESETS or name in COMPARED:
        return dict(PRESETS.get(name) or COMPARED[name])
    path = Path(name_or_path)
    if not path.exists():
        known = [*PRESETS, *COMPARED]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(known)}, or name a config.json"
        raise ConfigError([f"there is no model and no file named {name!r}: {hint}"])
    path = path / "config.json" if path.is_dir() else path
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError([f"{path} cannot be read: {error.strerror}"]) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError([f"{path} is not a JSON document: {error}"]) from error
    if not isinstance(values, dict):
        raise ConfigError([f"{path} holds a {type(values).__name__}, not an object of settings"])
    return values


def load_shape(name_or_path: str | Path, changes: Mapping[str, Any] | None = None) -> ModelShape:
    """The shape of a preset, a config.json, or a folder that holds one, with some keys changed.

    ConfigError lists everything that is wrong.
    """
    return read_shape(load_values(name_or_path) | dict(changes or {}), str(name_or_path), changed=changes or {})


def read_shape(values: dict[str, Any], name: str, *, changed: Iterable[str] = ()) -> ModelShape:
    """The shape that a config.json describes: one of READERS by its model_type, this project's own where it has none.

    A config.json holds much that has no bearing on sizes; a key in `changed` that is not read is refused.
    """
    if "model_type" not in values:
        return shape_of(HunyuanConfig.from_dict(values), name)
    kind = values["model_type"]
    if not isinstance(kind, str) or kind not in READERS:
        raise ConfigError([f"{name} has the model type {kind!r}, which is not known: known are {', '.join(READERS)}"])
    keys = _Keys(values)
    layers = READERS[kind](keys, range(keys.size("num_hidden_layers", most=10_000)))
    shape = ModelShape(
        name=name,
        model_type=kind,
        vocab_size=keys.size("vocab_size"),
        hidden_size=keys.size("hidden_size"),
        layers=tuple(layers),
        tied=keys.flag("tie_word_embeddings", False),
        max_position_embeddings=keys.size("max_position_embeddings"),
    )
    keys.problems += [unknown_key(key, sorted(keys.read), "model") for key in changed if key not in keys.read]
    if keys.problems:
        raise ConfigError([f"{name} cannot be counted: {problem}" for problem in dict.fromkeys(keys.problems)])
    return shape


def buildable_config(values: dict[str, Any], name: str) -> HunyuanConfig:
    """The configuration that builds this project's block at the sizes of a config.json; ConfigError says why none does.

    What the model computes may differ where only sizes are alike: Qwen3 normalises queries and keys before the rotation,
    Llama 3.1 scales its rotation, A13B always renormalises its expert weights.
    """
    if "model_type" not in values:
        return HunyuanConfig.from_dict(values)
    shape = read_shape(values, name)
    first = shape.layers[0]
    owners = [index for index, layer in enumerate(shape.layers) if layer.attention.owns_cache]
    attention, block = first.attention, first.feed_forward
    if not isinstance(attention, Attention):
        raise ConfigError([f"{name} is counted but not built here: it has multi-head latent attention"])
    if attention.window is not None or any(layer.feed_forward != block for layer in shape.layers):
        what = "sliding windows" if attention.window is not None else "layers that are not alike"
        raise ConfigError([f"{name} is counted but not built here: it has {what}"])
    width = block.routed_size or block.shared_size
    sizes = {
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": width,
        "num_hidden_layers": len(shape.layers),
        "num_attention_heads": attention.heads,
        "num_key_value_heads": attention.kv_heads,
        "head_dim": attention.head_dim,
        "max_position_embeddings": shape.max_position_embeddings,
        "tie_word_embeddings": shape.tied,
        "attention_bias": attention.output_bias,
        "use_qk_norm": attention.qk_norm,
        "cla_share_factor": owners[1] if len(owners) > 1 else len(shape.layers),
        "num_experts": block.num_experts or 1,
        "num_shared_expert": block.shared_size // width if block.num_experts else 0,
        "moe_topk": block.topk or 1,
    }
    alike = {key: values[key] for key in ("rope_theta", "rms_norm_eps", "initializer_range") if key in values}
    config = HunyuanConfig.from_dict(sizes | alike)
    if shape_of(config).layers != shape.layers:
        raise ConfigError([f"{name} is counted but not built here: its layers differ from this project's block"])
    return config


# --- readers ---------------------------------------------------------------------------------------------------------


class _Keys:
    """Checked access to the keys of a config.json; a bad value becomes a problem, and reading goes on with a harmless 1."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values
        self.problems: list[str] = []
        self.read: set[str] = set()

    def find(self, *names: str) -> tuple[str, Any]:
        """The first of these names that is there, and its value; null counts as not there."""
        self.read.update(names)
        key = next((name for name in names if self.values.get(name) is not None), names[0])
        return key, self.values.get(key)

    def refuse(self, key: str, expected: str) -> int:
        shown = f"{key} is {self.values[key]!r}" if key in self.values else f"{key} is missing"
        self.problems.append(f"{shown}: it must be {expected}")
        return 1

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
        whole = all(isinstance(item, int) and not isinstance(item, bool) and least <= item <= 10**9 for item in value)
        if len(value) != len(layers) or not whole:
            self.refuse(key, f"one whole number, or a list of {len(layers)}")
            return [1] * len(layers)
        return value

    def heads(self) -> tuple[int, int, int]:
        """Query heads, key-value heads and head size, which must agree with each other."""
        heads = self.size("num_attention_heads")
        kv_heads = self.size("num_key_value_heads", default=heads)
        if heads % kv_heads:
            self.refuse("num_key_value_heads", f"a divisor of the {heads} attention heads")
        if self.find("head_dim")[1] is not None:
            return heads, kv_heads, self.size("head_dim")
        hidden = self.size("hidden_size")
        if hidden % heads:
            self.refuse("num_attention_heads", f"a divisor of hidden_size {hidden} where head_dim is not given")
        return heads, kv_heads, max(1, hidden // heads)

    def windows(self, layers: range, *, switched: bool = False) -> list[int | None]:
        """The sliding window of each layer. `switched`: Qwen's use_sliding_window turns it on, from max_window_layers on."""
        window = self.optional_size("sliding_window")
        _, kinds = self.find("layer_types")
        if kinds is not None:
            known = ("full_attention", "sliding_attention")
            if not isinstance(kinds, list) or len(kinds) != len(layers) or any(kind not in known for kind in kinds):
                self.refuse("layer_types", f"a list of {len(layers)} of {' and '.join(known)}")
            elif window is None and known[1] in kinds:
                self.refuse("sliding_window", "given where layer_types has sliding_attention")
            else:
                return [window if kind == known[1] else None for kind in kinds]
            return [None] * len(layers)
        if switched and not self.flag("use_sliding_window", False):
            return [None] * len(layers)
        first = self.size("max_window_layers", default=0, least=0) if switched else 0
        return [window if index >= first else None for index in layers]

    def experts(self, *names: str) -> tuple[int, int]:
        """Routed experts, and how many of them take a token."""
        count = self.size(*names)
        topk = self.size("num_experts_per_tok", default=2 if names[0] == "num_local_experts" else None)
        if topk > count:
            self.refuse("num_experts_per_tok", f"between 1 and the {count} experts")
        return count, topk


def _llama(keys: _Keys, layers: range, *, qk_norm: bool = False, switched: bool = False) -> Iterable[Layer]:
    """Dense: Llama, Mistral, Qwen3, Hunyuan's dense models."""
    if keys.flag("mlp_bias", False):
        keys.problems.append("mlp_bias is true: biases of the MLP are not counted here")
    heads, kv_heads, head_dim = keys.heads()
    bias = keys.flag("attention_bias", False)
    block = FeedForward(shared_size=keys.size("intermediate_size"))
    for window in keys.windows(layers, switched=switched):
        attention = Attention(
            heads=heads, kv_heads=kv_heads, head_dim=head_dim, window=window, qk_norm=qk_norm, qkv_bias=bias, output_bias=bias
        )  # fmt: skip
        yield Layer(attention=attention, feed_forward=block)


def _qwen3(keys: _Keys, layers: range) -> Iterable[Layer]:
    return _llama(keys, layers, qk_norm=True, switched=True)


def _hunyuan_dense(keys: _Keys, layers: range) -> Iterable[Layer]:
    return _llama(keys, layers, qk_norm=True)


def _mixtral(keys: _Keys, layers: range) -> Iterable[Layer]:
    count, topk = keys.experts("num_local_experts", "num_experts")
    block = FeedForward(routed_size=keys.size("intermediate_size"), num_experts=count, topk=topk)
    for layer in _llama(keys, layers):
        yield Layer(attention=layer.attention, feed_forward=block)


def _qwen3_moe(keys: _Keys, layers: range) -> Iterable[Layer]:
    """A mixture in every decoder_sparse_step-th layer, but for mlp_only_layers."""
    count, topk = keys.experts("num_experts", "num_local_experts")
    block = FeedForward(routed_size=keys.size("moe_intermediate_size"), num_experts=count, topk=topk)
    step, dense = keys.size("decoder_sparse_step", default=1), keys.find("mlp_only_layers")[1] or []
    if not isinstance(dense, list):
        keys.refuse("mlp_only_layers", "a list of layers")
        dense = []
    for index, layer in enumerate(_qwen3(keys, layers)):
        mixture = index not in dense and (index + 1) % step == 0
        yield Layer(attention=layer.attention, feed_forward=block if mixture else layer.feed_forward)


def _deepseek(keys: _Keys, layers: range, *, router_bias: bool = False) -> Iterable[Layer]:
    """Latent attention; the first layers dense, then fine-grained experts beside shared ones."""
    attention = LatentAttention(
        heads=keys.size("num_attention_heads"),
        q_lora_rank=keys.optional_size("q_lora_rank"),
        kv_lora_rank=keys.size("kv_lora_rank"),
        qk_nope_head_dim=keys.size("qk_nope_head_dim"),
        qk_rope_head_dim=keys.size("qk_rope_head_dim"),
        v_head_dim=keys.size("v_head_dim"),
        bias=keys.flag("attention_bias", False),
    )
    count, topk = keys.experts("n_routed_experts", "num_experts", "num_local_experts")
    expert = keys.size("moe_intermediate_size")
    shared = keys.size("n_shared_experts", default=0, least=0)
    mixture = FeedForward(
        shared_size=shared * expert, routed_size=expert, num_experts=count, topk=topk, router_bias=router_bias
    )
    dense = FeedForward(shared_size=keys.size("intermediate_size"))
    first, step = keys.size("first_k_dense_replace", default=0, least=0), keys.size("moe_layer_freq", default=1)
    for index in layers:
        is_mixture = index >= first and index % step == 0
        yield Layer(attention=attention, feed_forward=mixture if is_mixture else dense)


def _deepseek_v3(keys: _Keys, layers: range) -> Iterable[Layer]:
    return _deepseek(keys, layers, router_bias=True)


def _hunyuan(keys: _Keys, layers: range) -> Iterable[Layer]:
    """As released: Hunyuan-Large, and A13B, whose expert counts and widths may be lists, one entry a layer."""
    heads, kv_heads, head_dim = keys.heads()
    bias = keys.flag("attention_bias", False)
    qk_norm = keys.flag("use_qk_norm", keys.values["model_type"] == "hunyuan_v1_moe")
    share = keys.size("cla_share_factor", default=1) if keys.flag("use_cla", False) else 1
    count = keys.size("num_experts", default=1)
    width = keys.size("intermediate_size")
    widths = keys.per_layer("moe_intermediate_size", layers=layers, default=width)
    topk = keys.per_layer("moe_topk", "num_experts_per_tok", layers=layers, default=1)
    shared = keys.per_layer("num_shared_expert", layers=layers, default=1, least=0)
    if max(topk, default=1) > count:
        keys.refuse("moe_topk", f"between 1 and the {count} experts")
    mixed = keys.flag("use_mixed_mlp_moe", True)
    for index in layers:
        attention = Attention(
            heads=heads, kv_heads=kv_heads, head_dim=head_dim, owns_cache=index % share == 0,
            qk_norm=qk_norm, qkv_bias=bias, output_bias=bias,
        )  # fmt: skip
        mixture = FeedForward(
            shared_size=shared[index] * widths[index] * mixed,
            routed_size=widths[index],
            num_experts=count,
            topk=topk[index],
        )
        yield Layer(attention=attention, feed_forward=mixture if count > 1 else FeedForward(shared_size=width))


READERS: dict[str, Callable[[_Keys, range], Iterable[Layer]]] = {
    "hunyuan": _hunyuan,
    "hunyuan_v1_moe": _hunyuan,
    "hunyuan_v1_dense": _hunyuan_dense,
    "llama": _llama,
    "mistral": _llama,
    "mixtral": _mixtral,
    "deepseek_v2": _deepseek,
    "deepseek_v3": _deepseek_v3,
    "qwen3": _qwen3,
    "qwen3_moe": _qwen3_moe,
}
