"""Other people's config.json as a ModelShape: the architectures that can be counted and budgeted; no torch.

One reader per family of model types. Key names and defaults are those of transformers' configuration classes, and what its
model does not read is not read here either; a key whose default there is the size of some particular model has none here.
"""

import dataclasses
import reprlib
from collections.abc import Callable, Iterable
from typing import Any

from model.config.checks import unknown_key
from model.config.hunyuan import HunyuanConfig
from model.config.keys import ConfigKeys
from model.config.shape import Attention, FeedForward, LatentAttention, Layer, ModelShape, shape_of
from model.errors import ConfigError


def read_shape(values: dict[str, Any], name: str, *, changed: Iterable[str] = ()) -> ModelShape:
    """The shape that a config.json describes: one of READERS by its model_type, this project's own where it has none.

    Most keys of a config.json have no bearing on sizes. A key in `changed` that is not read is refused, and one in the file
    that is all but the name of a key which is not there.
    """
    if "model_type" not in values:
        return shape_of(_own_config(values, name), name)
    kind = values["model_type"]
    if not isinstance(kind, str) or kind not in READERS:
        raise ConfigError(
            [
                f"{name} has the model type {reprlib.repr(kind)}, which is not known: known are {', '.join(READERS)}; "
                "--as counts it as one of them"
            ]
        )
    keys = ConfigKeys(values)
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
    keys.refuse_misspelt(set(changed))
    if keys.problems:
        raise ConfigError([f"{name} cannot be counted: {problem}" for problem in dict.fromkeys(keys.problems)])
    return shape


def _own_config(values: dict[str, Any], name: str) -> HunyuanConfig:
    """This project's configuration; a file of mostly other keys is somebody else's, which one sentence says."""
    fields = {field.name for field in dataclasses.fields(HunyuanConfig)}
    others = [str(key) for key in values if key not in fields]
    if 3 * len(others) > len(values) or (others and not fields & values.keys()):
        shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        raise ConfigError(
            [
                f"{name} has no model_type, and keys that are not this project's ({shown}): take the config.json that "
                "transformers reads, or say with --as which type it is"
            ]
        )
    return HunyuanConfig.from_dict(values)


def buildable_config(values: dict[str, Any], name: str) -> HunyuanConfig:
    """The configuration that builds this project's block at the sizes of a config.json; ConfigError says why none does.

    What the model computes may differ where only sizes are alike: Qwen3 normalises queries and keys before the rotation,
    Llama 3.1 scales its rotation. Of the Hunyuan families it is the same (model/config/released.py).
    """
    if "model_type" not in values:
        return _own_config(values, name)
    shape = read_shape(values, name)
    first = shape.layers[0]
    owners = [index for index, layer in enumerate(shape.layers) if layer.attention.owns_cache]
    attention, block = first.attention, first.feed_forward
    if not isinstance(attention, Attention):
        raise ConfigError([f"{name} is counted but not built here: it has multi-head latent attention"])
    alike = all(dataclasses.replace(layer.feed_forward, topk=block.topk) == block for layer in shape.layers)
    if attention.window is not None or not alike:
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
        "moe_topk": [layer.feed_forward.topk or 1 for layer in shape.layers],
    }
    rope = values.get("rope_parameters")  # where transformers 5 writes rope_theta
    given = (rope if isinstance(rope, dict) else {}) | values
    others = {key: given[key] for key in ("rope_theta", "rms_norm_eps", "initializer_range") if key in given}
    config = HunyuanConfig.from_dict(sizes | others)
    if shape_of(config).layers != shape.layers:
        raise ConfigError([f"{name} is counted but not built here: its layers differ from this project's block"])
    return config


# --- readers ---------------------------------------------------------------------------------------------------------


def _dense(
    keys: ConfigKeys,
    layers: range,
    *needed: str,
    windows: Iterable[int | None] = (),
    qk_norm: bool = False,
    biased: bool = True,
) -> Iterable[Layer]:
    """Attention and a dense block in every layer. `needed` keys have no usual value; `biased`: attention_bias is read."""
    heads, kv_heads, head_dim = keys.heads(*needed)
    bias = biased and keys.flag("attention_bias", False)
    block = FeedForward(shared_size=keys.size("intermediate_size"))
    for window in windows or [None] * len(layers):
        attention = Attention(
            heads=heads, kv_heads=kv_heads, head_dim=head_dim, window=window, qk_norm=qk_norm, qkv_bias=bias, output_bias=bias
        )  # fmt: skip
        yield Layer(attention=attention, feed_forward=block)


def _llama(keys: ConfigKeys, layers: range) -> Iterable[Layer]:
    keys.no_mlp_bias()
    return _dense(keys, layers)


def _mistral(keys: ConfigKeys, layers: range) -> Iterable[Layer]:
    """With layer_types it is what transformers calls ministral."""
    return _dense(keys, layers, "num_key_value_heads", windows=keys.windows(layers, keys.window()), biased=False)


def _qwen3(keys: ConfigKeys, layers: range) -> Iterable[Layer]:
    window = keys.window(switched=True)
    by_start = window is not None and keys.find("layer_types")[1] is None
    start = keys.size("max_window_layers", least=0) if by_start else 0
    windows = keys.windows(layers, window, start)
    return _dense(keys, layers, "num_key_value_heads", "head_dim", windows=windows, qk_norm=True)


def _hunyuan_dense(keys: ConfigKeys, layers: range) -> Iterable[Layer]:
    _released_head_dim(keys)
    _refuse_unknown_sizes(keys, latent=False)
    return _dense(keys, layers, qk_norm=True)


def _mixtral(keys: ConfigKeys, layers: range) -> Iterable[Layer]:
    count, topk = keys.experts("num_local_experts", "num_experts", topk=2)
    block = FeedForward(routed_size=keys.size("intermediate_size"), num_experts=count, topk=topk)
    windows = [keys.optional_size("sliding_window")] * len(layers)
    for layer in _dense(keys, layers, "num_key_value_heads", windows=windows, biased=False):
        yield Layer(attention=layer.attention, feed_forward=block)


def _qwen3_moe(keys: ConfigKeys, layers: range) -> Iterable[Layer]:
    """A mixture in every decoder_sparse_step-th layer, but for mlp_only_layers; its window is for all layers."""
    count, topk = keys.experts("num_experts", "num_local_experts")
    block = FeedForward(routed_size=keys.size("moe_intermediate_size"), num_experts=count, topk=topk)
    step, (_, dense) = keys.size("decoder_sparse_step", default=1), keys.find("mlp_only_layers")
    if dense is not None and (not isinstance(dense, list) or any(type(index) is not int for index in dense)):
        keys.refuse("mlp_only_layers", "a list of layers")
    dense = set(dense) if isinstance(dense, list) and "mlp_only_layers" not in keys.refused else set()
    window = keys.window(switched=True)
    attentions = _dense(keys, layers, "num_key_value_heads", windows=[window] * len(layers), qk_norm=True)
    for index, layer in enumerate(attentions):
        mixture = index not in dense and (index + 1) % step == 0
        yield Layer(attention=layer.attention, feed_forward=block if mixture else layer.feed_forward)


def _latent_attention(keys: ConfigKeys) -> LatentAttention:
    return LatentAttention(
        heads=keys.size("num_attention_heads", most=100_000),
        q_lora_rank=keys.optional_size("q_lora_rank"),
        kv_lora_rank=keys.size("kv_lora_rank"),
        qk_nope_head_dim=keys.size("qk_nope_head_dim"),
        qk_rope_head_dim=keys.size("qk_rope_head_dim"),
        v_head_dim=keys.size("v_head_dim"),
        bias=keys.flag("attention_bias", False),
    )


def _deepseek(keys: ConfigKeys, layers: range, *, router_bias: bool = False) -> Iterable[Layer]:
    """Latent attention; the first layers dense, then fine-grained experts beside shared ones."""
    keys.no_mlp_bias()
    keys.need("q_lora_rank", "n_shared_experts", *(("first_k_dense_replace",) if router_bias else ()))
    attention = _latent_attention(keys)
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


def _deepseek_v3(keys: ConfigKeys, layers: range) -> Iterable[Layer]:
    return _deepseek(keys, layers, router_bias=True)


# The switches of the Hunyuan families: the values under which this project computes what the released code does
# (model/config/released.py refuses others before a model is built), and whether others change the sizes, too.
SWITCHES: dict[str, tuple[tuple[Any, ...], bool]] = {
    "hidden_act": (("silu",), False),
    "mlp_bias": ((False,), True),
    "use_mla": ((False,), True),
    "use_rotary_pos_emb": ((True,), True),
    "norm_type": (("rms", "hf_rms", "fused"), True),
    "group_limited_greedy": ((False,), False),
    "routed_scaling_factor": ((False, 1.0), False),
    "moe_layer_num_skipped": ((0,), True),
    "moe_router_use_sigmoid": ((False,), True),
    "add_classification_head": ((False,), True),
}
_COUNTED = {"use_mla", "moe_layer_num_skipped"}  # of those, what _hunyuan counts at any value


def _refuse_unknown_sizes(keys: ConfigKeys, *, latent: bool = True) -> None:
    """Notes every switch at a value whose parameters are not counted here."""
    for key, (allowed, sizes) in SWITCHES.items():
        value = keys.find(key)[1]
        if sizes and value is not None and value not in allowed and not (latent and key in _COUNTED):
            keys.refuse(key, f"{str(allowed[0]).lower()} for its parameters to be known here")


def _released_head_dim(keys: ConfigKeys) -> None:
    """attention_head_dim is the release's other name of head_dim; both must agree."""
    if keys.find("attention_head_dim")[1] is None:
        return
    size = keys.size("attention_head_dim")
    if keys.find("head_dim")[1] not in (None, size):
        keys.refuse("attention_head_dim", f"the same as head_dim, {reprlib.repr(keys.values['head_dim'])}")
    else:
        keys.values = keys.values | {"head_dim": size}


def _hunyuan(keys: ConfigKeys, layers: range) -> Iterable[Layer]:
    """As released: Hunyuan-Large, and A13B. Counts and widths of experts may be lists, one entry a layer.

    The first moe_layer_num_skipped layers are dense; use_mla takes latent attention.
    """
    _refuse_unknown_sizes(keys)
    _released_head_dim(keys)
    share = keys.size("cla_share_factor", default=1) if keys.flag("use_cla", False) else 1
    own = _latent_attention(keys) if keys.flag("use_mla", False) else _released_attention(keys)
    counts = keys.per_layer("num_experts", layers=layers, default=1)
    skipped = keys.size("moe_layer_num_skipped", default=0, least=0) if max(counts, default=1) > 1 else len(layers)
    width = keys.size("intermediate_size")
    widths = keys.per_layer("moe_intermediate_size", layers=layers, default=width)
    topk_key, _ = keys.find("moe_topk", "num_experts_per_tok")
    topk = keys.per_layer(topk_key, layers=layers, default=1)
    shared = keys.per_layer("num_shared_expert", layers=layers, default=1, least=0)
    few = next((count for count, chosen in zip(counts, topk, strict=True) if chosen > count), None)
    if few is not None:
        keys.refuse(topk_key, f"between 1 and the {few} experts", beside="num_experts")
    mixed = keys.flag("use_mixed_mlp_moe", True)
    for index in layers:
        mixture = FeedForward(
            shared_size=shared[index] * widths[index] * mixed,
            routed_size=widths[index],
            num_experts=counts[index],
            topk=topk[index],
        )
        yield Layer(
            attention=dataclasses.replace(own, owns_cache=index % share == 0),
            feed_forward=mixture if index >= skipped else FeedForward(shared_size=width),
        )


def _released_attention(keys: ConfigKeys) -> Attention:
    heads, kv_heads, head_dim = keys.heads()
    bias = keys.flag("attention_bias", False)
    qk_norm = keys.flag("use_qk_norm", keys.values["model_type"] == "hunyuan_v1_moe")
    return Attention(
        heads=heads, kv_heads=kv_heads, head_dim=head_dim, qk_norm=qk_norm, qkv_bias=bias, output_bias=bias
    )


READERS: dict[str, Callable[[ConfigKeys, range], Iterable[Layer]]] = {
    "hunyuan": _hunyuan,
    "hunyuan_v1_moe": _hunyuan,
    "hunyuan_v1_dense": _hunyuan_dense,
    "llama": _llama,
    "mistral": _mistral,
    "mixtral": _mixtral,
    "deepseek_v2": _deepseek,
    "deepseek_v3": _deepseek_v3,
    "qwen3": _qwen3,
    "qwen3_moe": _qwen3_moe,
}
